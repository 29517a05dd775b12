package emulator

import (
	"errors"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/cmdline"
	"github.com/umlkit/umlkit/emulator/klog"
)

// applySysctls writes what sysctl.NAME=VALUE says into /proc/sys, before there is a first
// program. One that fails is named in the log in Linux's words.
func (s *sentry) applySysctls() {
	if len(s.m.config.Sysctls) == 0 {
		return
	}
	ctx := s.proc.NewContext(s.k)
	mount, err := s.k.VFS().MountDisconnected(ctx, s.proc.Credentials, "proc", proc.Name,
		&vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}})
	if err != nil {
		s.m.printk(klog.Err, "Failed to mount procfs to set sysctl from command line: %v", err)
		return
	}
	defer mount.DecRef(ctx)
	for _, c := range s.m.config.Sysctls {
		err := s.applySysctl(ctx, mount, c)
		if err == nil {
			continue
		}
		why := "error " + err.Error()
		switch errno := errnoOf(err); errno {
		case unix.ENOENT, unix.ENOTDIR:
			why = "parameter not found"
		case unix.EACCES, unix.EPERM, unix.EIO: // EIO is a file that takes no writing
			why = "permission denied"
		case unix.EINVAL:
			why = "invalid value"
		}
		s.m.printk(klog.Err, "Failed to set sysctl parameter '%s=%s': %s", c.Name, c.Value, why)
	}
}

func (s *sentry) applySysctl(ctx context.Context, mount *vfs.Mount, c cmdline.Sysctl) error {
	root := vfs.MakeVirtualDentry(mount, mount.Root())
	at := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse("sys/" + c.Path()), FollowFinalSymlink: true}
	file, err := s.k.VFS().OpenAt(ctx, s.proc.Credentials, at, &vfs.OpenOptions{Flags: linux.O_WRONLY})
	if err != nil {
		return err
	}
	defer file.DecRef(ctx)
	n, err := file.Write(ctx, usermem.BytesIOSequence([]byte(c.Value)), vfs.WriteOptions{})
	if err == nil && n != int64(len(c.Value)) {
		err = errors.New("not all of it was written")
	}
	return err
}
