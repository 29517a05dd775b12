package tree

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// renaming is a rename under way.
type renaming[I Inode[I]] struct {
	t                *Tree[I]
	rp               *vfs.ResolvingPath
	oldDir, newDir   *Dentry[I]
	oldName, newName string
	renamed          *Dentry[I]
	replaced         *Dentry[I] // nil where the new name is free
	mustBeDir        bool
	flags            uint32
}

// RenameAt implements vfs.FilesystemImpl.
func (t *Tree[I]) RenameAt(ctx context.Context, rp *vfs.ResolvingPath, oldParentVD vfs.VirtualDentry, oldName string, opts vfs.RenameOptions) error {
	if opts.Flags&^(linux.RENAME_NOREPLACE|linux.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 ||
		opts.Flags&linux.RENAME_EXCHANGE != 0 && opts.Flags&^uint32(linux.RENAME_EXCHANGE) != 0 {
		return linuxerr.EINVAL
	}
	r := &renaming[I]{t: t, rp: rp, oldName: oldName, mustBeDir: opts.MustBeDir, flags: opts.Flags}

	// References are dropped when no lock is held.
	var drop []refs.RefCounter
	defer func() { dropAll(ctx, drop) }()
	defer t.fs.Changing()()
	t.renameMu.Lock()
	defer t.renameMu.Unlock()
	var err error
	if r.newDir, err = t.walkParent(ctx, rp, rp.Start().Impl().(*Dentry[I])); err != nil {
		return err
	}
	drop = append(drop, r.newDir)
	r.newName = rp.Component()
	if r.newName == "." || r.newName == ".." {
		if r.flags&linux.RENAME_NOREPLACE != 0 {
			return linuxerr.EEXIST
		}
		return linuxerr.EBUSY
	}
	if len(r.newName) > linux.NAME_MAX || len(oldName) > linux.NAME_MAX {
		return linuxerr.ENAMETOOLONG
	}
	mnt := rp.Mount()
	if mnt != oldParentVD.Mount() {
		return linuxerr.EXDEV
	}
	if err := t.fs.BeginWrite(mnt); err != nil {
		return err
	}
	defer t.fs.EndWrite(mnt)
	r.oldDir = oldParentVD.Dentry().Impl().(*Dentry[I])
	if !r.oldDir.file.IsDir() {
		return linuxerr.ENOTDIR
	}

	// No other task walks or renames, so both directories can be locked in any order.
	r.oldDir.dirMu.Lock()
	defer r.oldDir.dirMu.Unlock()
	if r.newDir != r.oldDir {
		r.newDir.dirMu.Lock()
		defer r.newDir.dirMu.Unlock()
	}
	dropped, err := r.run(ctx)
	drop = append(drop, dropped...)
	return err
}

// run checks and does the rename. Both directories' dirMu are held. It returns the
// references to be dropped.
func (r *renaming[I]) run(ctx context.Context) (drop []refs.RefCounter, err error) {
	if err := r.oldDir.Inode.Allows(r.rp.Credentials(), vfs.MayWrite|vfs.MayExec); err != nil {
		return nil, err
	}
	r.renamed, drop, err = r.oldDir.LookupLocked(ctx, r.oldName)
	if err != nil {
		return drop, err
	}
	drop = append(drop, r.renamed)
	if r.newDir.gone() {
		return drop, enoent
	}
	var stale []refs.RefCounter
	r.replaced, stale, err = r.newDir.LookupLocked(ctx, r.newName)
	drop = append(drop, stale...)
	switch err {
	case nil:
		drop = append(drop, r.replaced)
	case enoent:
		r.replaced = nil
	default:
		return drop, err
	}
	same, err := r.check()
	if err != nil || same {
		return drop, err
	}

	vfsObj := r.rp.VirtualFilesystem()
	mntns := vfs.MountNamespaceFromContext(ctx)
	defer mntns.DecRef(ctx)
	var replaced *vfs.Dentry
	var gone I
	if r.replaced != nil {
		replaced, gone = &r.replaced.vfsd, r.replaced.Inode
	}
	handle, err := vfsObj.PrepareRenameDentry(mntns, &r.renamed.vfsd, replaced)
	if err != nil {
		return drop, err
	}
	vfsObj.RenameBegin(&handle)
	if err := r.t.fs.Rename(r.oldDir.Inode, r.oldName, r.newDir.Inode, r.newName, gone, r.flags); err != nil {
		vfsObj.AbortRenameDentry(&handle, &r.renamed.vfsd, replaced)
		return drop, err
	}

	delete(r.oldDir.children, r.oldName)
	if r.exchange() {
		delete(r.newDir.children, r.newName)
		drop = appendDentry(drop, r.renamed.setParentAndName(r.newDir, r.newName))
		drop = appendDentry(drop, r.replaced.setParentAndName(r.oldDir, r.oldName))
		r.newDir.insert(r.renamed, r.newName)
		r.oldDir.insert(r.replaced, r.oldName)
		vfsObj.CommitRenameExchangeDentry(&handle, &r.renamed.vfsd, replaced)
	} else {
		if r.replaced != nil {
			r.newDir.Unlinked(r.replaced)
			drop = append(drop, r.t.unbind(r.replaced)...)
		}
		drop = appendDentry(drop, r.renamed.setParentAndName(r.newDir, r.newName))
		r.newDir.insert(r.renamed, r.newName)
		delete(r.oldDir.absent, r.oldName) // a whiteout may be there
		drop = append(drop, vfsObj.CommitRenameReplaceDentry(ctx, &handle, &r.renamed.vfsd, replaced)...)
	}
	r.notify(ctx)
	for _, d := range []*Dentry[I]{r.oldDir, r.newDir} {
		if err := d.Inode.Changed(); err != nil {
			return drop, err
		}
	}
	return drop, nil
}

// exchange says whether the two names change places.
func (r *renaming[I]) exchange() bool { return r.flags&linux.RENAME_EXCHANGE != 0 }

func appendDentry[I Inode[I]](drop []refs.RefCounter, d *Dentry[I]) []refs.RefCounter {
	if d != nil {
		drop = append(drop, d)
	}
	return drop
}

// check says whether the rename is allowed, and whether both names are the same file
// already, in which case nothing happens. The order of the checks is Linux's as far
// as it shows.
func (r *renaming[I]) check() (same bool, err error) {
	renamed, replaced := r.renamed, r.replaced
	creds := r.rp.Credentials()
	if err := r.newDir.Inode.Allows(creds, vfs.MayExec); err != nil {
		return false, err
	}
	switch {
	case r.flags&linux.RENAME_NOREPLACE != 0 && replaced != nil:
		return false, linuxerr.EEXIST
	case r.exchange() && replaced == nil:
		return false, enoent
	}
	// A slash at the end of either name asks for a directory.
	if !renamed.file.IsDir() {
		if r.mustBeDir || !r.exchange() && r.rp.MustBeDir() {
			return false, linuxerr.ENOTDIR
		}
	}
	if r.exchange() && r.rp.MustBeDir() && !replaced.file.IsDir() {
		return false, linuxerr.ENOTDIR
	}
	if renamed == r.newDir || renamed.isAncestorOf(r.newDir) {
		return false, linuxerr.EINVAL
	}
	if replaced != nil && (replaced == r.oldDir || replaced.isAncestorOf(r.oldDir)) {
		if r.exchange() {
			return false, linuxerr.EINVAL
		}
		return false, linuxerr.ENOTEMPTY
	}
	if replaced != nil && replaced.Inode == renamed.Inode {
		return true, nil
	}
	if err := r.oldDir.Inode.AllowsRemoval(creds, renamed.Inode); err != nil {
		return false, err
	}
	if replaced == nil {
		if err := r.newDir.Inode.Allows(creds, vfs.MayWrite|vfs.MayExec); err != nil {
			return false, err
		}
	} else {
		if err := r.newDir.Inode.AllowsRemoval(creds, replaced.Inode); err != nil {
			return false, err
		}
		if !r.exchange() {
			switch {
			case renamed.file.IsDir() && !replaced.file.IsDir():
				return false, linuxerr.ENOTDIR
			case !renamed.file.IsDir() && replaced.file.IsDir():
				return false, linuxerr.EISDIR
			}
		}
	}
	if r.oldDir != r.newDir {
		// A directory's ".." changes, which takes the right to write it.
		if err := allowsMove(creds, renamed); err != nil {
			return false, err
		}
		if r.exchange() {
			if err := allowsMove(creds, replaced); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func allowsMove[I Inode[I]](creds *auth.Credentials, d *Dentry[I]) error {
	if !d.file.IsDir() {
		return nil
	}
	return d.Inode.Allows(creds, vfs.MayWrite)
}

// notify tells those who watch.
func (r *renaming[I]) notify(ctx context.Context) {
	oldDir, newDir := &r.oldDir.file.Watches, &r.newDir.file.Watches
	vfs.InotifyRename(ctx, &r.renamed.file.Watches, oldDir, newDir, r.oldName, r.newName, r.renamed.file.IsDir())
	switch {
	case r.replaced == nil:
	case r.exchange():
		vfs.InotifyRename(ctx, &r.replaced.file.Watches, newDir, oldDir, r.newName, r.oldName, r.replaced.file.IsDir())
	default:
		r.replaced.file.Watches.Notify(ctx, "", linux.IN_ATTRIB, 0, vfs.InodeEvent, true)
	}
}
