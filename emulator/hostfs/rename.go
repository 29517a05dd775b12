package hostfs

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
type renaming struct {
	fs               *filesystem
	rp               *vfs.ResolvingPath
	oldDir, newDir   *dentry
	oldName, newName string
	renamed          *dentry
	replaced         *dentry // nil where the new name is free
	mustBeDir        bool
	flags            uint32
}

// RenameAt implements vfs.FilesystemImpl.
func (fs *filesystem) RenameAt(ctx context.Context, rp *vfs.ResolvingPath, oldParentVD vfs.VirtualDentry, oldName string, opts vfs.RenameOptions) error {
	if opts.Flags&^(linux.RENAME_NOREPLACE|linux.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 ||
		opts.Flags&linux.RENAME_EXCHANGE != 0 && opts.Flags&^uint32(linux.RENAME_EXCHANGE) != 0 {
		return linuxerr.EINVAL
	}
	r := &renaming{fs: fs, rp: rp, oldName: oldName, mustBeDir: opts.MustBeDir, flags: opts.Flags}

	// References are dropped when no lock is held.
	var drop []refs.RefCounter
	defer func() { dropAll(ctx, drop) }()
	fs.renameMu.Lock()
	defer fs.renameMu.Unlock()
	var err error
	if r.newDir, err = fs.walkParent(ctx, rp, rp.Start().Impl().(*dentry)); err != nil {
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
	if err := fs.beginWrite(mnt); err != nil {
		return err
	}
	defer fs.endWrite(mnt)
	r.oldDir = oldParentVD.Dentry().Impl().(*dentry)
	if !r.oldDir.inode.isDir() {
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
func (r *renaming) run(ctx context.Context) (drop []refs.RefCounter, err error) {
	if err := r.oldDir.inode.allows(r.rp.Credentials(), vfs.MayWrite|vfs.MayExec); err != nil {
		return nil, err
	}
	r.renamed, drop, err = r.oldDir.lookupLocked(ctx, r.oldName)
	if err != nil {
		return drop, err
	}
	drop = append(drop, r.renamed)
	if r.newDir.deleted.Load() && r.newDir.inode.links() == 0 {
		return drop, enoent
	}
	var stale []refs.RefCounter
	r.replaced, stale, err = r.newDir.lookupLocked(ctx, r.newName)
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
	if r.replaced != nil {
		replaced = &r.replaced.vfsd
	}
	handle, err := vfsObj.PrepareRenameDentry(mntns, &r.renamed.vfsd, replaced)
	if err != nil {
		return drop, err
	}
	vfsObj.RenameBegin(&handle)
	host := func() error {
		return unix.Renameat2(r.oldDir.inode.fd, r.oldName, r.newDir.inode.fd, r.newName, uint(r.flags))
	}
	if err = r.oldDir.inode.withGrant(host); err == unix.EACCES && r.newDir != r.oldDir {
		err = r.newDir.inode.withGrant(host)
	}
	if err != nil {
		vfsObj.AbortRenameDentry(&handle, &r.renamed.vfsd, replaced)
		return drop, errno(err)
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
			r.newDir.unlinked(r.replaced)
			if i := r.replaced.inode; i.endpoint.Load() != nil && i.links() == 0 && i.endpoint.Swap(nil) != nil {
				drop = append(drop, inodeRef{i})
			}
		}
		drop = appendDentry(drop, r.renamed.setParentAndName(r.newDir, r.newName))
		r.newDir.insert(r.renamed, r.newName)
		drop = append(drop, vfsObj.CommitRenameReplaceDentry(ctx, &handle, &r.renamed.vfsd, replaced)...)
	}
	r.notify(ctx)
	return drop, nil
}

// exchange says whether the two names change places.
func (r *renaming) exchange() bool { return r.flags&linux.RENAME_EXCHANGE != 0 }

func appendDentry(drop []refs.RefCounter, d *dentry) []refs.RefCounter {
	if d != nil {
		drop = append(drop, d)
	}
	return drop
}

// check says whether the rename is allowed, and whether both names are the same file
// already, in which case nothing happens. The order of the checks is Linux's as far
// as it shows.
func (r *renaming) check() (same bool, err error) {
	renamed, replaced := r.renamed, r.replaced
	creds := r.rp.Credentials()
	if err := r.newDir.inode.allows(creds, vfs.MayExec); err != nil {
		return false, err
	}
	switch {
	case r.flags&linux.RENAME_NOREPLACE != 0 && replaced != nil:
		return false, linuxerr.EEXIST
	case r.exchange() && replaced == nil:
		return false, enoent
	}
	// A slash at the end of either name asks for a directory.
	if !renamed.inode.isDir() {
		if r.mustBeDir || !r.exchange() && r.rp.MustBeDir() {
			return false, linuxerr.ENOTDIR
		}
	}
	if r.exchange() && r.rp.MustBeDir() && !replaced.inode.isDir() {
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
	if replaced != nil && replaced.inode == renamed.inode {
		return true, nil
	}
	if replaced != nil && r.fs.grow && !r.exchange() && !replaced.inode.isDir() {
		return false, linuxerr.EPERM
	}
	if err := r.oldDir.inode.allowsRemoval(creds, renamed.inode); err != nil {
		return false, err
	}
	if replaced == nil {
		if err := r.newDir.inode.allows(creds, vfs.MayWrite|vfs.MayExec); err != nil {
			return false, err
		}
	} else {
		if err := r.newDir.inode.allowsRemoval(creds, replaced.inode); err != nil {
			return false, err
		}
		if !r.exchange() {
			switch {
			case renamed.inode.isDir() && !replaced.inode.isDir():
				return false, linuxerr.ENOTDIR
			case !renamed.inode.isDir() && replaced.inode.isDir():
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

func allowsMove(creds *auth.Credentials, d *dentry) error {
	if !d.inode.isDir() {
		return nil
	}
	return d.inode.allows(creds, vfs.MayWrite)
}

// notify tells those who watch.
func (r *renaming) notify(ctx context.Context) {
	oldDir, newDir := &r.oldDir.inode.watches, &r.newDir.inode.watches
	vfs.InotifyRename(ctx, &r.renamed.inode.watches, oldDir, newDir, r.oldName, r.newName, r.renamed.inode.isDir())
	switch {
	case r.replaced == nil:
	case r.exchange():
		vfs.InotifyRename(ctx, &r.replaced.inode.watches, newDir, oldDir, r.newName, r.oldName, r.replaced.inode.isDir())
	default:
		r.replaced.inode.watches.Notify(ctx, "", linux.IN_ATTRIB, 0, vfs.InodeEvent, true)
	}
}
