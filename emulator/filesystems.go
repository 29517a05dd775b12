package emulator

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/devices/memdev"
	"gvisor.dev/gvisor/pkg/sentry/devices/ttydev"
	"gvisor.dev/gvisor/pkg/sentry/devices/tundev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroupfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/dev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devtmpfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/fuse"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/ext4fs"
	"github.com/umlkit/umlkit/emulator/hostfs"
	"github.com/umlkit/umlkit/emulator/overlayfs"
	"github.com/umlkit/umlkit/emulator/procfs"
	"github.com/umlkit/umlkit/emulator/sysfs"
)

// registerFilesystems makes the kernel know its filesystem types.
func (s *sentry) registerFilesystems() error {
	disk := vfs.RegisterFilesystemTypeOptions{AllowUserMount: true, AllowUserList: true, RequiresDevice: true}
	all := vfs.RegisterFilesystemTypeOptions{AllowUserMount: true, AllowUserList: true}
	for _, t := range []struct {
		name string
		typ  vfs.FilesystemType
		opts vfs.RegisterFilesystemTypeOptions
	}{
		{cgroupfs.Name, &cgroupfs.FilesystemType{}, all},
		{cgroup2fs.Name, &cgroup2fs.FilesystemType{}, all},
		{devpts.Name, &ptsType{}, all},
		{dev.Name, &dev.FilesystemType{}, vfs.RegisterFilesystemTypeOptions{}},
		{devtmpfs.Name, &devtmpfs.FilesystemType{}, all},
		{fuse.Name, &fuse.FilesystemType{}, all},
		{overlayfs.Name, &overlayfs.FilesystemType{Logf: s.m.logf, Note: s.sources.NoteOptions}, all},
		{proc.Name, &procfs.FilesystemType{Options: s.procOptions()}, all},
		{sys.Name, &sysfs.FilesystemType{Entries: s.sysEntries()}, all},
		{tmpfs.Name, &tmpfs.FilesystemType{}, all},
		{mqfs.Name, &mqfs.FilesystemType{}, all},
		{ext4fs.Name, s.ext4, disk},
		{hostfs.Name, s.hostfs, all},
		{"ext3", s.ext4.As("ext3"), disk},
		{"ext2", s.ext4.As("ext2"), disk},
	} {
		if err := s.k.VFS().RegisterFilesystemType(t.name, s.sources.Wrap(t.typ), &t.opts); err != nil {
			return fmt.Errorf("register filesystem %s: %w", t.name, err)
		}
	}
	return nil
}

// registerDevices makes the kernel know its devices, so that devtmpfs has their
// nodes.
func (s *sentry) registerDevices() error {
	v := s.k.VFS()
	for _, d := range []struct {
		name     string
		register func(*vfs.VirtualFilesystem) error
	}{
		{"memory", memdev.Register},
		{"tty", ttydev.Register},
		{"tun", tundev.Register},
		{"fuse", fuse.Register},
		{"terminals", s.terminals.Register},
		{"kmsg", s.Log().Register},
		{"ubd", s.m.disks.Register},
		{"hwrng", s.m.generator.Register},
	} {
		if err := d.register(v); err != nil {
			return fmt.Errorf("register device %s: %w", d.name, err)
		}
	}
	return nil
}
