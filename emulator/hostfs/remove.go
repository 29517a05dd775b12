package hostfs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// UnlinkAt implements vfs.FilesystemImpl.
func (fs *filesystem) UnlinkAt(ctx context.Context, rp *vfs.ResolvingPath) error {
	return fs.removeAt(ctx, rp, false)
}

// RmdirAt implements vfs.FilesystemImpl.
func (fs *filesystem) RmdirAt(ctx context.Context, rp *vfs.ResolvingPath) error {
	return fs.removeAt(ctx, rp, true)
}

func (fs *filesystem) removeAt(ctx context.Context, rp *vfs.ResolvingPath, dir bool) error {
	var drop []refs.RefCounter
	defer func() { dropAll(ctx, drop) }()
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	parent, err := fs.walkParent(ctx, rp, rp.Start().Impl().(*dentry))
	if err != nil {
		return err
	}
	drop = append(drop, parent)
	if err := parent.inode.allows(rp.Credentials(), vfs.MayExec); err != nil {
		return err
	}
	name := rp.Component()
	switch {
	case name == "." && dir:
		return linuxerr.EINVAL
	case name == ".." && dir:
		return linuxerr.ENOTEMPTY
	case name == "." || name == "..":
		return linuxerr.EISDIR
	case len(name) > linux.NAME_MAX:
		return linuxerr.ENAMETOOLONG
	}
	if err := fs.beginWrite(rp.Mount()); err != nil {
		return err
	}
	defer fs.endWrite(rp.Mount())
	if fs.grow && !dir {
		return linuxerr.EPERM
	}

	parent.dirMu.Lock()
	defer parent.dirMu.Unlock()
	child, stale, err := parent.lookupLocked(ctx, name)
	drop = append(drop, stale...)
	if err != nil {
		return err
	}
	// References are dropped when no lock is held: see the first deferred call.
	drop = append(drop, child)
	if err := parent.inode.allowsRemoval(rp.Credentials(), child.inode); err != nil {
		return err
	}
	switch {
	case dir && !child.inode.isDir():
		return linuxerr.ENOTDIR
	case !dir && child.inode.isDir():
		return linuxerr.EISDIR
	case !dir && rp.MustBeDir():
		return linuxerr.ENOTDIR
	}
	vfsObj := rp.VirtualFilesystem()
	mntns := vfs.MountNamespaceFromContext(ctx)
	defer mntns.DecRef(ctx)
	if err := vfsObj.PrepareDeleteDentry(mntns, &child.vfsd); err != nil {
		return err
	}
	i := child.inode
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	err = parent.inode.withGrant(func() error { return unix.Unlinkat(parent.inode.fd, name, flags) })
	if err != nil {
		vfsObj.AbortDeleteDentry(&child.vfsd)
		return errno(err)
	}
	parent.unlinked(child)
	drop = append(drop, vfsObj.CommitDeleteDentry(ctx, &child.vfsd)...)
	if dir {
		parent.inode.watches.Notify(ctx, name, linux.IN_DELETE|linux.IN_ISDIR, 0, vfs.InodeEvent, true)
	} else {
		vfs.InotifyRemoveChild(ctx, &i.watches, &parent.inode.watches, name)
	}
	if i.endpoint.Load() != nil && i.links() == 0 {
		if ep := i.endpoint.Swap(nil); ep != nil {
			drop = append(drop, inodeRef{i})
		}
	}
	return nil
}

// inodeRef is a reference on an inode, to be dropped later.
type inodeRef struct{ i *inode }

func (r inodeRef) IncRef()                    { r.i.incRef() }
func (r inodeRef) DecRef(ctx context.Context) { r.i.decRef(ctx) }
