package emulator

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/ext4fs"
	"github.com/umlkit/umlkit/emulator/hostfs"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/ubd"
)

// mountRoot makes the first mount namespace: the root, and devtmpfs on its /dev. As in
// Linux a first root without its program gives way to the root that root= names.
func (s *sentry) mountRoot() *ending {
	if s.m.config.Initrd != "" {
		if died := s.mountInitrd(); died != nil {
			return died
		}
	} else if s.m.config.RdInit != "" {
		s.m.printk(klog.Warning, "check access for rdinit=%s failed: %d, ignoring", s.rdInit(), -int(unix.ENOENT))
	}
	if s.mounts == nil {
		if died := s.mountDisk(); died != nil {
			return died
		}
	}
	s.proc.MountNamespace = s.mounts
	s.mountDev()
	return nil
}

// rootTypes are the filesystem types a disk can be mounted as.
var rootTypes = []string{ext4fs.Name, "ext3", "ext2"}

// mountDisk mounts the root device.
func (s *sentry) mountDisk() *ending {
	c := s.m.config
	if c.RootDelay > 0 {
		s.m.printk(klog.Info, "Waiting %d sec before mounting root device...", c.RootDelay)
		if ended := s.wait(time.Duration(c.RootDelay) * time.Second); ended != nil {
			return ended
		}
	}
	major, minor, ended, err := s.waitForRoot()
	if ended != nil {
		return ended
	}
	if export := s.m.exports.at(major, minor); err == nil && export != nil {
		return s.mountHostRoot(export, "/dev/"+unitName(int(minor/ubd.Minors)))
	}
	if c.RootType == hostfs.Name {
		return s.mountHostRoot(nil, "/dev/root")
	}
	if err != nil {
		s.m.printk(klog.Err, "VFS: root=%s: %v", c.Root, err)
		return s.noRoot(major, minor, unix.ENXIO)
	}
	disk, err := s.m.disks.Claim(major, minor)
	if err != nil {
		return s.noRoot(major, minor, errnoOf(err))
	}
	types := rootTypes[:1]
	if c.RootType != "" {
		types = strings.Split(c.RootType, ",")
	}
	errno := unix.ENODEV
	for _, typ := range types {
		write := c.RootWrite
		errno = s.mountAs(typ, disk, write)
		if write && (errno == unix.EACCES || errno == unix.EROFS) {
			// As Linux does with a disk or a filesystem that can only be read.
			if errno == unix.EACCES {
				s.m.printk(klog.Warning, "VFS: %s is write-protected, mounting it read-only", disk.Name)
			}
			write = false
			errno = s.mountAs(typ, disk, write)
		}
		if errno == 0 {
			mode := "readonly "
			if write {
				mode = ""
			}
			s.m.printk(klog.Info, "VFS: Mounted root (%s filesystem) %son device %d:%d.", typ, mode, major, minor)
			return nil
		}
	}
	if disk.Release != nil {
		disk.Release()
	}
	return s.noRoot(major, minor, errno)
}

// mountAs mounts the root as one filesystem type.
func (s *sentry) mountAs(typ string, disk ext4fs.Disk, write bool) unix.Errno {
	c := s.m.config
	known := false
	for _, t := range rootTypes {
		known = known || t == typ
	}
	if !known {
		return unix.ENODEV
	}
	ctx := s.proc.NewContext(s.k)
	ns, err := s.k.VFS().NewMountNamespace(ctx, s.proc.Credentials, "", typ, &vfs.MountOptions{
		ReadOnly: !write,
		GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			InternalData:  disk,
			Data:          rootData(c.RootFlags, write),
		},
	}, s.k)
	if err != nil {
		s.m.printk(klog.Err, "%s: %s: %v", disk.Name, typ, err)
		return errnoOf(err)
	}
	s.mounts = ns
	return 0
}

// rootData are the mount options of the root.
func rootData(flags string, write bool) string {
	if write {
		return flags
	}
	if flags == "" {
		return "ro"
	}
	return flags + ",ro"
}

// noRoot is the panic of a root that cannot be mounted, after the lines that say which
// disks there are.
func (s *sentry) noRoot(major, minor uint32, errno unix.Errno) *ending {
	root := s.m.config.Root
	if root == "" {
		root = fmt.Sprintf("%d:%d", major, minor)
	}
	s.m.printk(klog.Crit, "VFS: Cannot open root device \"%s\" or unknown-block(%d,%d): error %d", root, major, minor, -int(errno))
	s.m.printk(klog.Crit, "Please append a correct \"root=\" boot option; here are the available partitions:")
	for _, d := range s.m.disks.List() {
		indent := ""
		if d.Partition.Number > 0 {
			indent = "  "
		}
		line := fmt.Sprintf("%s%02x%02x %15d %s %s", indent, d.Major, d.Minor, d.Size/1024, d.Name, strings.ToLower(d.Partition.UUID))
		s.m.printk(klog.Crit, "%s", strings.TrimRight(line, " "))
	}
	s.m.printk(klog.Crit, "List of all bdev filesystems:\n %s\n", strings.Join(rootTypes, "\n "))
	return panicked("VFS: Unable to mount root fs on unknown-block(%d,%d)", major, minor)
}

// findRoot reads what root= names. The numbers are good for a message even when there
// is an error.
func (m *Machine) findRoot(root string) (major, minor uint32, err error) {
	name := strings.TrimPrefix(root, "/dev/")
	if unit, ok := strings.CutPrefix(name, "ubd/"); ok {
		name = "ubd" + unit
	}
	switch {
	case name == "" || name == "root":
		return m.firstDisk()
	case strings.HasPrefix(name, "UUID="), strings.HasPrefix(name, "LABEL="):
		return m.diskWith(name)
	case strings.HasPrefix(name, "PARTUUID="), strings.HasPrefix(name, "PARTLABEL="):
		return m.partitionWith(name)
	case strings.HasPrefix(name, "ubd"):
		return diskNumber(name)
	}
	if a, b, ok := strings.Cut(name, ":"); ok {
		major, errA := strconv.ParseUint(a, 10, 12)
		minor, errB := strconv.ParseUint(b, 10, 20)
		if errA == nil && errB == nil {
			return uint32(major), uint32(minor), nil
		}
	}
	if n, err := strconv.ParseUint(name, 16, 32); err == nil {
		// The old form: a device number in hexadecimal digits.
		return uint32(n >> 8 & 0xfff), uint32(n&0xff | n>>12&0xfff00), nil
	}
	return 0, 0, fmt.Errorf("names no device: write /dev/ubda, /dev/ubda1, 98:0, UUID=…, LABEL=…, PARTUUID=… or PARTLABEL=…")
}

// firstDisk is the root when the line names none.
func (m *Machine) firstDisk() (major, minor uint32, err error) {
	directory, some := m.exports.first()
	disks := m.disks.List()
	if some && (len(disks) == 0 || directory < disks[0].Minor) {
		return ubd.Major, directory, nil
	}
	if len(disks) > 0 {
		return disks[0].Major, disks[0].Minor, nil
	}
	return ubd.Major, 0, nil
}

// diskNumber reads ubda, ubd0, ubda1.
func diskNumber(name string) (major, minor uint32, err error) {
	unit := strings.TrimPrefix(name, "ubd")
	part := uint64(0)
	var disk uint64
	if unit != "" && unit[0] >= 'a' && unit[0] < 'a'+ubd.Units {
		disk = uint64(unit[0] - 'a')
		if len(unit) > 1 {
			if part, err = strconv.ParseUint(unit[1:], 10, 8); err != nil || part >= ubd.Minors {
				return ubd.Major, 0, fmt.Errorf("%q is no partition of a disk", name)
			}
		}
	} else if disk, err = strconv.ParseUint(unit, 10, 8); err != nil || disk >= ubd.Units {
		return ubd.Major, 0, fmt.Errorf("%q is no disk: they are ubda to ubdp, ubd0 to ubd15", name)
	}
	return ubd.Major, uint32(disk*ubd.Minors + part), nil
}

// The superblock of ext2, ext3 and ext4, as far as it names the filesystem.
const (
	superOffset = 1024
	superMagic  = 0x38
	superUUID   = 0x68
	superLabel  = 0x78
	superEnd    = superLabel + 16
)

// diskWith finds the disk whose filesystem has a UUID or a label.
func (m *Machine) diskWith(name string) (major, minor uint32, err error) {
	key, want, _ := strings.Cut(name, "=")
	for _, d := range m.disks.List() {
		disk, err := m.disks.Claim(d.Major, d.Minor)
		if err != nil {
			continue
		}
		var super [superEnd]byte
		_, err = disk.Device.ReadAt(super[:], superOffset)
		if disk.Release != nil {
			disk.Release()
		}
		if err != nil || d.Partition.Extended || super[superMagic] != 0x53 || super[superMagic+1] != 0xef {
			continue
		}
		have := string(bytes.TrimRight(super[superLabel:superEnd], "\x00"))
		if key == "UUID" {
			id := hex.EncodeToString(super[superUUID : superUUID+16])
			have = strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")
			want = strings.ToLower(want)
		}
		if have == want {
			return d.Major, d.Minor, nil
		}
	}
	return 0, 0, fmt.Errorf("no disk has a filesystem with this %s", key)
}

// unmount writes out and closes every filesystem, so that the images are clean
// whatever still held them.
func (s *sentry) unmount() {
	if err := s.ext4.CloseAll(s.ctx); err != nil {
		s.m.printk(klog.Err, "unmount: %v", err)
	}
	if err := s.m.disks.Detach(); err != nil {
		s.m.printk(klog.Err, "unmount: %v", err)
	}
}
