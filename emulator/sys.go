package emulator

import (
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"

	"github.com/umlkit/umlkit/emulator/sysfs"
	"github.com/umlkit/umlkit/emulator/ubd"
	"github.com/umlkit/umlkit/emulator/uevent"
)

// sysEntries are the machine's devices in /sys.
func (s *sentry) sysEntries() []sysfs.Entry {
	disks := s.m.disks
	each := func(entry func(ubd.Info) sysfs.Entry) func() []sysfs.Entry {
		return func() []sysfs.Entry {
			var entries []sysfs.Entry
			for _, d := range disks.List() {
				entries = append(entries, entry(d))
			}
			return entries
		}
	}
	whole := func(entry func(ubd.Info) sysfs.Entry) func() []sysfs.Entry {
		return func() []sysfs.Entry {
			var entries []sysfs.Entry
			for _, d := range disks.List() {
				if d.Partition.Number == 0 {
					entries = append(entries, entry(d))
				}
			}
			return entries
		}
	}
	to := func(prefix string) func(d ubd.Info) sysfs.Entry {
		return func(d ubd.Info) sysfs.Entry {
			return sysfs.Entry{Name: d.Name, Link: prefix + diskPath(d)}
		}
	}
	return []sysfs.Entry{
		{Name: "block", Dir: whole(to("../"))},
		sysfs.Directory("class",
			sysfs.Entry{Name: "block", Dir: each(to("../../"))},
			sysfs.Entry{Name: "misc", Dir: s.miscLinks},
			sysfs.Entry{Name: "net", Dir: s.netLinks},
			sysfs.Entry{Name: "tty", Dir: s.ttyLinks}),
		sysfs.Directory("dev",
			sysfs.Entry{Name: "block", Dir: each(func(d ubd.Info) sysfs.Entry {
				return sysfs.Entry{Name: fmt.Sprintf("%d:%d", d.Major, d.Minor), Link: "../../" + diskPath(d)}
			})},
			sysfs.Entry{Name: "char", Dir: s.ttyNumbers}),
		{Name: "firmware", Dir: s.m.firmware},
		sysfs.Directory("kernel", sysfs.Entry{Name: "uevent_seqnum", Read: func() string {
			return fmt.Sprintf("%d\n", s.uevents.Number())
		}}),
		sysfs.Directory("devices",
			sysfs.Entry{Name: "platform", Dir: whole(func(d ubd.Info) sysfs.Entry {
				return s.platformDevice(disks, d)
			})},
			sysfs.Directory("virtual",
				sysfs.Entry{Name: "misc", Dir: s.miscDevices},
				sysfs.Entry{Name: "net", Dir: s.netEntries},
				sysfs.Entry{Name: "tty", Dir: s.ttyDevices})),
	}
}

// diskUnit is a disk's number.
func diskUnit(d ubd.Info) uint32 { return d.Minor / ubd.Minors }

// diskEvent is what udev hears of a disk, but for what happened.
func diskEvent(d ubd.Info) uevent.Event {
	kind := "disk"
	if d.Partition.Number > 0 {
		kind = "partition"
	}
	return uevent.Event{
		Path:      "/" + diskPath(d),
		Subsystem: "block",
		Env: append([]string{fmt.Sprintf("MAJOR=%d", d.Major), fmt.Sprintf("MINOR=%d", d.Minor), "DEVNAME=" + d.Name,
			"DEVTYPE=" + kind, fmt.Sprintf("DISKSEQ=%d", diskUnit(d)+1)}, partitionEnv(d)...),
	}
}

// ueventFile is a device's uevent file: its variables, and what announces it again.
func (s *sentry) ueventFile(e uevent.Event) sysfs.Entry {
	return sysfs.Entry{
		Name: "uevent",
		Read: func() string { return strings.Join(e.Env, "\n") + "\n" },
		Write: func(text string) error {
			event, ok := e.Synthetic(text)
			if !ok {
				return linuxerr.EINVAL
			}
			s.uevents.Send(event)
			return nil
		},
	}
}

// diskPath is where a disk is below /sys.
func diskPath(d ubd.Info) string {
	path := fmt.Sprintf("devices/platform/uml-blkdev.%d/block/%s", diskUnit(d), diskOf(d))
	if d.Partition.Number > 0 {
		path += "/" + d.Name
	}
	return path
}

// platformDevice is the device that a disk belongs to, as real kernels have it.
func (s *sentry) platformDevice(disks *ubd.Disks, d ubd.Info) sysfs.Entry {
	entries := []sysfs.Entry{
		s.ueventFile(uevent.Event{
			Path:      fmt.Sprintf("/devices/platform/uml-blkdev.%d", diskUnit(d)),
			Subsystem: "platform",
			Env:       []string{"DRIVER=uml-blkdev", "MODALIAS=platform:uml-blkdev"},
		}),
		sysfs.File("modalias", "platform:uml-blkdev\n"),
		sysfs.File("driver_override", "(null)\n"),
		sysfs.Directory("block", s.diskEntry(disks, d)),
	}
	if d.Serial != "" {
		// lsblk looks for it here, others beside the disk.
		entries = append(entries, sysfs.File("serial", d.Serial+"\n"))
	}
	return sysfs.Directory(fmt.Sprintf("uml-blkdev.%d", diskUnit(d)), entries...)
}

// diskEntry is the directory of a disk. Its partitions come and go.
func (s *sentry) diskEntry(disks *ubd.Disks, d ubd.Info) sysfs.Entry {
	return sysfs.Entry{Name: d.Name, Dir: func() []sysfs.Entry { return s.diskEntries(disks, current(disks, d)) }}
}

func (s *sentry) diskEntries(disks *ubd.Disks, d ubd.Info) []sysfs.Entry {
	number := func(name string, n int64) sysfs.Entry { return sysfs.File(name, fmt.Sprintf("%d\n", n)) }
	discard := int64(0)
	if d.Trim && !d.ReadOnly {
		discard = d.Size
	}
	entries := []sysfs.Entry{
		s.ueventFile(diskEvent(d)),
		sysfs.File("dev", fmt.Sprintf("%d:%d\n", d.Major, d.Minor)),
		live(disks, d, "size", func(d ubd.Info) int64 { return d.Size / 512 }),
		live(disks, d, "ro", func(d ubd.Info) int64 { return flag(d.ReadOnly) }),
		number("removable", 0),
		number("hidden", 0),
		number("range", ubd.Minors),
		number("ext_range", 256),
		number("alignment_offset", 0),
		number("discard_alignment", 0),
		number("diskseq", int64(diskUnit(d)+1)),
		sysfs.File("capability", "0\n"),
		statFile(disks, d),
		sysfs.File("inflight", "       0        0\n"),
		sysfs.Directory("holders"),
		sysfs.Directory("slaves"),
		{Name: "subsystem", Link: "../../../../../class/block"},
		{Name: "device", Link: "../../../uml-blkdev." + fmt.Sprint(diskUnit(d))},
		sysfs.Directory("queue",
			number("logical_block_size", 512),
			number("physical_block_size", 512),
			number("hw_sector_size", 512),
			number("minimum_io_size", 512),
			number("optimal_io_size", 0),
			number("discard_granularity", min(discard, 512)),
			number("discard_max_bytes", discard),
			number("discard_max_hw_bytes", discard),
			number("discard_zeroes_data", 0),
			number("rotational", 0),
			number("nr_requests", 128),
			number("read_ahead_kb", 128),
			number("max_sectors_kb", 1280),
			number("max_hw_sectors_kb", 1280),
			number("dax", 0),
			sysfs.File("scheduler", "[none]\n"),
			sysfs.File("write_cache", "write back\n")),
	}
	if d.Serial != "" {
		entries = append(entries, sysfs.File("serial", d.Serial+"\n"))
	}
	for _, p := range disks.List() {
		if p.Partition.Number > 0 && diskUnit(p) == diskUnit(d) {
			entries = append(entries, s.partitionEntry(disks, p))
		}
	}
	return entries
}

// terminal is a terminal in /sys.
type terminal struct {
	name         string
	major, minor uint32
}

// terminalList are the terminals that /sys shows.
func (s *sentry) terminalList() []terminal {
	list := []terminal{{"tty", 5, 0}, {"console", 5, 1}, {"ptmx", 5, 2}}
	for _, n := range s.terminals.Nodes() {
		list = append(list, terminal{n.Name, n.Major, n.Minor})
	}
	return list
}

// terminalEvent is what udev hears of a terminal, but for what happened.
func terminalEvent(t terminal) uevent.Event {
	return uevent.Event{
		Path:      "/devices/virtual/tty/" + t.name,
		Subsystem: "tty",
		Env:       []string{fmt.Sprintf("MAJOR=%d", t.major), fmt.Sprintf("MINOR=%d", t.minor), "DEVNAME=" + t.name},
	}
}

func (s *sentry) ttyLinks() []sysfs.Entry {
	var entries []sysfs.Entry
	for _, t := range s.terminalList() {
		entries = append(entries, sysfs.Entry{Name: t.name, Link: "../../devices/virtual/tty/" + t.name})
	}
	return entries
}

func (s *sentry) ttyNumbers() []sysfs.Entry {
	var entries []sysfs.Entry
	for _, t := range s.terminalList() {
		entries = append(entries, sysfs.Entry{Name: fmt.Sprintf("%d:%d", t.major, t.minor), Link: "../../devices/virtual/tty/" + t.name})
	}
	return entries
}

func (s *sentry) ttyDevices() []sysfs.Entry {
	console := s.m.consoleName()
	var entries []sysfs.Entry
	for _, t := range s.terminalList() {
		files := []sysfs.Entry{
			sysfs.File("dev", fmt.Sprintf("%d:%d\n", t.major, t.minor)),
			s.ueventFile(terminalEvent(t)),
			{Name: "subsystem", Link: "../../../../class/tty"},
		}
		if t.name == "console" {
			files = append(files, sysfs.File("active", console+"\n"))
		}
		entries = append(entries, sysfs.Directory(t.name, files...))
	}
	return entries
}
