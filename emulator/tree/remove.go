package tree

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// UnlinkAt implements vfs.FilesystemImpl.
func (t *Tree[I]) UnlinkAt(ctx context.Context, rp *vfs.ResolvingPath) error {
	return t.removeAt(ctx, rp, false)
}

// RmdirAt implements vfs.FilesystemImpl.
func (t *Tree[I]) RmdirAt(ctx context.Context, rp *vfs.ResolvingPath) error {
	return t.removeAt(ctx, rp, true)
}

func (t *Tree[I]) removeAt(ctx context.Context, rp *vfs.ResolvingPath, dir bool) error {
	var drop []refs.RefCounter
	defer func() { dropAll(ctx, drop) }()
	defer t.fs.Changing()()
	t.renameMu.RLock()
	defer t.renameMu.RUnlock()
	parent, err := t.walkParent(ctx, rp, rp.Start().Impl().(*Dentry[I]))
	if err != nil {
		return err
	}
	drop = append(drop, parent)
	if err := parent.Inode.Allows(rp.Credentials(), vfs.MayExec); err != nil {
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
	if err := t.fs.BeginWrite(rp.Mount()); err != nil {
		return err
	}
	defer t.fs.EndWrite(rp.Mount())

	parent.dirMu.Lock()
	defer parent.dirMu.Unlock()
	child, stale, err := parent.LookupLocked(ctx, name)
	drop = append(drop, stale...)
	if err != nil {
		return err
	}
	// References are dropped when no lock is held: see the first deferred call.
	drop = append(drop, child)
	if err := parent.Inode.AllowsRemoval(rp.Credentials(), child.Inode); err != nil {
		return err
	}
	switch {
	case dir && !child.file.IsDir():
		return linuxerr.ENOTDIR
	case !dir && child.file.IsDir():
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
	if dir {
		child.dirMu.Lock()
		defer child.dirMu.Unlock()
	}
	if err := parent.Inode.Remove(name, child.Inode); err != nil {
		vfsObj.AbortDeleteDentry(&child.vfsd)
		return err
	}
	parent.Unlinked(child)
	drop = append(drop, vfsObj.CommitDeleteDentry(ctx, &child.vfsd)...)
	if dir {
		parent.file.Watches.Notify(ctx, name, linux.IN_DELETE|linux.IN_ISDIR, 0, vfs.InodeEvent, true)
	} else {
		vfs.InotifyRemoveChild(ctx, &child.file.Watches, &parent.file.Watches, name)
	}
	drop = append(drop, t.unbind(child)...)
	return parent.Inode.Changed()
}

// unbind lets go of the socket bound at d, if any, when the file's last name is gone. It
// returns references to be dropped.
func (t *Tree[I]) unbind(d *Dentry[I]) []refs.RefCounter {
	if d.file.endpoint.Load() == nil || d.Inode.Links() != 0 || d.file.endpoint.Swap(nil) == nil {
		return nil
	}
	return []refs.RefCounter{inodeRef[I]{t, d.Inode}}
}
