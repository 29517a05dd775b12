package emulator

import (
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devtmpfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/klog"
)

// mountRoot makes the first mount namespace: the root, and devtmpfs on its /dev.
func (s *sentry) mountRoot() *ending {
	c := s.m.config
	if c.Initrd != "" {
		if died := s.mountInitrd(); died != nil {
			return died
		}
	} else {
		return panicked("VFS: Unable to mount root fs on unknown-block(%d,%d)", 98, 0)
	}
	s.mountDev()
	return nil
}

// mountInitrd makes a tmpfs the root and unpacks the archive into it.
func (s *sentry) mountInitrd() *ending {
	ctx := s.proc.NewContext(s.k)
	ns, err := s.k.VFS().NewMountNamespace(ctx, s.proc.Credentials, "rootfs", tmpfs.Name,
		&vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, Data: "mode=0755"}}, s.k)
	if err != nil {
		return panicked("VFS: Unable to make the first root: %v", err)
	}
	s.mounts = ns
	s.proc.MountNamespace = ns
	if err := s.unpackInitrd(s.m.config.Initrd); err != nil {
		s.m.printk(klog.Err, "Initramfs unpacking failed: %v", err)
	}
	return nil
}

// mountDev mounts devtmpfs on /dev before the first program, as kernels do that are
// built with CONFIG_DEVTMPFS_MOUNT.
func (s *sentry) mountDev() {
	s.proc.MountNamespace = s.mounts
	ctx := s.proc.NewContext(s.k)
	root := s.mounts.Root(ctx)
	defer root.DecRef(ctx)
	_, err := s.k.VFS().MountAt(ctx, s.proc.Credentials, "devtmpfs", &vfs.PathOperation{
		Root: root, Start: root, Path: fspath.Parse("/dev"), FollowFinalSymlink: true,
	}, devtmpfs.Name, &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}})
	if err != nil {
		s.m.printk(klog.Info, "devtmpfs: error mounting %v", err)
		return
	}
	s.m.printk(klog.Info, "devtmpfs: mounted")
}

// unmount writes out and closes every filesystem.
func (s *sentry) unmount() {
}
