package emulator

import (
	"fmt"
	"strings"

	"github.com/umlkit/umlkit/emulator/sysfs"
	"github.com/umlkit/umlkit/emulator/ubd"
)

// diskOf is the name of a disk, or of the one that a partition lies on.
func diskOf(d ubd.Info) string {
	if d.Partition.Number == 0 {
		return d.Name
	}
	return strings.TrimSuffix(d.Name, fmt.Sprint(d.Partition.Number))
}

// partitionEnv are the variables that partitions alone have.
func partitionEnv(d ubd.Info) []string {
	p := d.Partition
	if p.Number == 0 {
		return nil
	}
	env := []string{fmt.Sprintf("PARTN=%d", p.Number)}
	if p.Name != "" {
		// A line end would let a name pretend to be a variable.
		env = append(env, "PARTNAME="+strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '_'
			}
			return r
		}, p.Name))
	}
	if p.UUID != "" {
		env = append(env, "PARTUUID="+strings.ToLower(p.UUID))
	}
	return env
}

// current is what a disk or partition is by now.
func current(disks *ubd.Disks, d ubd.Info) ubd.Info {
	for _, now := range disks.List() {
		if now.Name == d.Name {
			return now
		}
	}
	return d
}

// live is a file with a number of a device, as it is when someone reads.
func live(disks *ubd.Disks, d ubd.Info, name string, n func(ubd.Info) int64) sysfs.Entry {
	return sysfs.Entry{Name: name, Read: func() string { return fmt.Sprintf("%d\n", n(current(disks, d))) }}
}

// statFile is the file of a device's counters.
func statFile(disks *ubd.Disks, d ubd.Info) sysfs.Entry {
	return sysfs.Entry{Name: "stat", Read: func() string { return current(disks, d).Stat + "\n" }}
}

// partitionEntry is the directory of a partition, in that of its disk. Another partition
// may have its name by the time that someone reads.
func (s *sentry) partitionEntry(disks *ubd.Disks, d ubd.Info) sysfs.Entry {
	uevent := func() sysfs.Entry { return s.ueventFile(diskEvent(current(disks, d))) }
	zero := func(ubd.Info) int64 { return 0 }
	return sysfs.Directory(d.Name,
		sysfs.Entry{Name: "uevent", Read: func() string { return uevent().Read() }, Write: func(text string) error { return uevent().Write(text) }},
		sysfs.File("dev", fmt.Sprintf("%d:%d\n", d.Major, d.Minor)),
		live(disks, d, "partition", func(d ubd.Info) int64 { return int64(d.Partition.Number) }),
		live(disks, d, "start", func(d ubd.Info) int64 { return d.Partition.Start / 512 }),
		live(disks, d, "size", func(d ubd.Info) int64 { return d.Size / 512 }),
		live(disks, d, "ro", func(d ubd.Info) int64 { return flag(d.ReadOnly) }),
		live(disks, d, "alignment_offset", zero),
		live(disks, d, "discard_alignment", zero),
		statFile(disks, d),
		sysfs.File("inflight", "       0        0\n"),
		sysfs.Directory("holders"),
		sysfs.Entry{Name: "subsystem", Link: "../../../../../../class/block"})
}
