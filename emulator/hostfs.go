package emulator

import (
	"errors"
	"fmt"
	"os"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/ext4fs"
	"github.com/umlkit/umlkit/emulator/hostfs"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/ubd"
)

// exports are the directories of the host that the command line opens to the guest.
type exports struct {
	// tree is that of hostfs=, without which it is the host's root; nil where it cannot
	// be opened.
	tree *hostfs.Export
	// units are the directories that stand in the place of disks: ubd0=DIR.
	units [ubd.Units]*hostfs.Export
}

// openExports opens what hostfs= names.
func (m *Machine) openExports() {
	dir := m.config.HostDir
	if dir == "" {
		dir = "/"
		if os.Geteuid() == 0 {
			m.printk(klog.Warning, "hostfs: this machine runs as root, and its guest may mount any directory of the host and change it; hostfs=DIR confines it to DIR")
		}
	}
	var err error
	if m.exports.tree, err = hostfs.OpenExport(dir, m.config.HostAppend); err != nil {
		m.printk(klog.Err, "hostfs=%s: %v; no hostfs can be mounted", dir, err)
	}
}

// take makes of the error that a disk is a directory an export in the disk's place. It
// reports whether it did.
func (x *exports) take(err error) bool {
	var directory *ubd.DirectoryError
	if !errors.As(err, &directory) {
		return false
	}
	if x.units[directory.Unit] != nil {
		return false
	}
	x.units[directory.Unit], err = hostfs.OpenExport(directory.Path, false)
	return err == nil
}

func (x *exports) close() {
	x.tree.Close()
	for _, e := range x.units {
		e.Close()
	}
}

// at is the export in the place of the disk with that number, or nil.
func (x *exports) at(major, minor uint32) *hostfs.Export {
	if major != ubd.Major || minor >= ubd.Units*ubd.Minors || minor%ubd.Minors != 0 {
		return nil
	}
	return x.units[minor/ubd.Minors]
}

// first is the number of the first unit that is a directory.
func (x *exports) first() (minor uint32, ok bool) {
	for unit, e := range x.units {
		if e != nil {
			return uint32(unit * ubd.Minors), true
		}
	}
	return 0, false
}

// nodes are the names below /dev of the units that are directories: programs look for
// the device that fstab names, though it is none that could be opened.
func (x *exports) nodes() (nodes []ubd.Node) {
	for unit, e := range x.units {
		if e != nil {
			name, minor := unitName(unit), uint32(unit*ubd.Minors)
			nodes = append(nodes, ubd.Node{Name: name, Major: ubd.Major, Minor: minor, Mode: 0o660},
				ubd.Node{Name: fmt.Sprintf("ubd%d", unit), Major: ubd.Major, Minor: minor, Mode: 0o660, Link: name})
		}
	}
	return nodes
}

// unitName is the name of a unit below /dev.
func unitName(unit int) string { return "ubd" + string(rune('a'+unit)) }

// newHostfs makes the filesystem type for a boot.
func (m *Machine) newHostfs() *hostfs.FilesystemType {
	t := hostfs.New(m.exports.tree)
	t.Errorf = func(format string, args ...any) { m.printk(klog.Err, format, args...) }
	t.Find = m.sourceExport
	return t
}

// sourceExport is the export that the source of a mount names: the node of a unit that is
// a directory.
func (m *Machine) sourceExport(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string) *hostfs.Export {
	if _, some := m.exports.first(); !some {
		return nil
	}
	major, minor, err := ext4fs.BlockDevice(ctx, v, creds, source)
	if err != nil {
		return nil
	}
	return m.exports.at(major, minor)
}

// mountHostRoot mounts a directory of the host as the root: that in the place of a disk,
// or with nil that of hostfs=.
func (s *sentry) mountHostRoot(export *hostfs.Export, source string) *ending {
	c := s.m.config
	ctx := s.proc.NewContext(s.k)
	o := &vfs.MountOptions{ReadOnly: !c.RootWrite, GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, Data: c.RootFlags}}
	if export != nil {
		o.GetFilesystemOptions.InternalData = export
	}
	ns, err := s.k.VFS().NewMountNamespace(ctx, s.proc.Credentials, source, hostfs.Name, o, s.k)
	if err != nil {
		s.m.printk(klog.Err, "hostfs: rootflags=%s: %v", c.RootFlags, err)
		return s.noRoot(0, 0, errnoOf(err))
	}
	s.mounts = ns
	root := ns.Root(ctx)
	defer root.DecRef(ctx)
	mode := "readonly "
	if c.RootWrite {
		mode = ""
	}
	stat, err := s.k.VFS().StatAt(ctx, s.proc.Credentials, &vfs.PathOperation{Root: root, Start: root}, &vfs.StatOptions{})
	if err != nil {
		return s.noRoot(0, 0, errnoOf(err))
	}
	s.m.printk(klog.Info, "VFS: Mounted root (hostfs filesystem) %son device %d:%d.", mode, stat.DevMajor, stat.DevMinor)
	return nil
}
