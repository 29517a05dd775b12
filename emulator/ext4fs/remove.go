package ext4fs

import (
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
	defer func() {
		for _, r := range drop {
			r.DecRef(ctx)
		}
	}()
	defer fs.changing()()
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
	if err := rp.Mount().CheckBeginWrite(); err != nil {
		return err
	}
	defer rp.Mount().EndWrite()
	if err := fs.writable(); err != nil {
		return err
	}

	parent.dirMu.Lock()
	defer parent.dirMu.Unlock()
	child, err := parent.lookupLocked(name)
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
	if dir {
		child.dirMu.Lock()
		defer child.dirMu.Unlock()
		err = parent.inode.node.Rmdir(name)
	} else {
		i.mu.Lock()
		err = parent.inode.node.Unlink(name)
		i.mu.Unlock()
	}
	if err != nil {
		vfsObj.AbortDeleteDentry(&child.vfsd)
		return fs.errno(err)
	}
	parent.unlinked(child)
	drop = append(drop, vfsObj.CommitDeleteDentry(ctx, &child.vfsd)...)
	if dir {
		parent.inode.watches.Notify(ctx, name, linux.IN_DELETE|linux.IN_ISDIR, 0, vfs.InodeEvent, true)
	} else {
		vfs.InotifyRemoveChild(ctx, &i.watches, &parent.inode.watches, name)
	}
	if i.node.Attr().Links == 0 {
		if ep := i.endpoint.Swap(nil); ep != nil {
			drop = append(drop, inodeRef{i})
		}
	}
	if fs.mustSyncDir(parent.inode) {
		return fs.errno(parent.inode.node.Sync(false))
	}
	return nil
}

// inodeRef is a reference on an inode, to be dropped later.
type inodeRef struct{ i *inode }

func (r inodeRef) IncRef()                    { r.i.incRef() }
func (r inodeRef) DecRef(ctx context.Context) { r.i.decRef(ctx) }
