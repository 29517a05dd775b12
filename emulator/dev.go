package emulator

import (
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/dev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devtmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/ubd"
)

// mountDev mounts devtmpfs on /dev before the first program, as kernels do that are
// built with CONFIG_DEVTMPFS_MOUNT. Its nodes are there even when there is no /dev.
func (s *sentry) mountDev() {
	if err := s.makeDev(); err != nil {
		s.m.printk(klog.Err, "devtmpfs: %v", err)
		return
	}
	ctx := s.proc.NewContext(s.k)
	root := s.mounts.Root(ctx)
	defer root.DecRef(ctx)
	err := s.k.VFS().ConnectMountAt(ctx, s.proc.Credentials, s.dev, &vfs.PathOperation{
		Root: root, Start: root, Path: fspath.Parse("/dev"), FollowFinalSymlink: true,
	})
	if err != nil {
		s.m.printk(klog.Info, "devtmpfs: error mounting %d", -int(errnoOf(err)))
		return
	}
	s.m.printk(klog.Info, "devtmpfs: mounted")
}

// makeDev makes the devtmpfs with all its nodes.
func (s *sentry) makeDev() error {
	ctx := s.proc.NewContext(s.k)
	m, err := s.k.VFS().MountDisconnected(ctx, s.proc.Credentials, devtmpfs.Name, devtmpfs.Name,
		&vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}})
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	s.dev = m
	for _, n := range append(s.m.disks.Nodes(), s.m.exports.nodes()...) {
		s.node(n, true)
	}
	if spec, _ := s.m.generator.Describe(""); spec != "" {
		s.generatorNode(true)
	}
	return nil
}

// node makes or removes the node of a disk. One that is the same disk's under its number,
// ubd0, has the name ubd/0 too, which old root filesystems have in their fstab.
func (s *sentry) node(n ubd.Node, added bool) {
	if s.dev == nil {
		return
	}
	if number, ok := strings.CutPrefix(n.Name, "ubd"); ok && n.Link != "" && !strings.HasPrefix(number, "/") {
		old := n
		old.Name, old.Link = "ubd/"+number, "../"+n.Link
		if added {
			s.devDir("ubd")
		}
		s.node(old, added)
	}
	s.deviceNode(n.Name, n.Major, n.Minor, linux.S_IFBLK|linux.FileMode(n.Mode), n.Link, added)
}

// deviceNode makes or removes a node, or a link when there is one.
func (s *sentry) deviceNode(name string, major, minor uint32, mode linux.FileMode, link string, added bool) {
	if s.dev == nil {
		return
	}
	ctx := s.k.SupervisorContext()
	root := vfs.MakeVirtualDentry(s.dev, s.dev.Root())
	root.IncRef()
	defer root.DecRef(ctx)
	creds := s.proc.Credentials
	var err error
	switch {
	case added && link != "":
		err = s.k.VFS().SymlinkAt(ctx, creds, &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name)}, link)
	case added:
		err = dev.CreateDeviceFile(ctx, s.k.VFS(), creds, root, name, major, minor, mode, nil, nil)
	default:
		err = s.k.VFS().UnlinkAt(ctx, creds, &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name)})
	}
	if err != nil {
		s.m.printk(klog.Warning, "devtmpfs: %s: %v", name, err)
	}
}

// devDir makes a directory in devtmpfs, unless it is there.
func (s *sentry) devDir(name string) {
	ctx := s.k.SupervisorContext()
	root := vfs.MakeVirtualDentry(s.dev, s.dev.Root())
	root.IncRef()
	defer root.DecRef(ctx)
	at := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name)}
	err := s.k.VFS().MkdirAt(ctx, s.proc.Credentials, at, &vfs.MkdirOptions{Mode: 0o755})
	if err != nil && !linuxerr.Equals(linuxerr.EEXIST, err) {
		s.m.printk(klog.Warning, "devtmpfs: %s: %v", name, err)
	}
}
