package ext4fs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4"
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
	flags            ext4.RenameFlags
}

// RenameAt implements vfs.FilesystemImpl.
func (fs *filesystem) RenameAt(ctx context.Context, rp *vfs.ResolvingPath, oldParentVD vfs.VirtualDentry, oldName string, opts vfs.RenameOptions) error {
	const whiteout = 4
	if opts.Flags&^(linux.RENAME_NOREPLACE|linux.RENAME_EXCHANGE|whiteout) != 0 ||
		opts.Flags&linux.RENAME_EXCHANGE != 0 && opts.Flags&^uint32(linux.RENAME_EXCHANGE) != 0 {
		return linuxerr.EINVAL
	}
	r := &renaming{fs: fs, rp: rp, oldName: oldName, mustBeDir: opts.MustBeDir}
	r.flags.NoReplace = opts.Flags&linux.RENAME_NOREPLACE != 0
	r.flags.Exchange = opts.Flags&linux.RENAME_EXCHANGE != 0
	r.flags.Whiteout = opts.Flags&whiteout != 0

	// References are dropped when no lock is held.
	var drop []refs.RefCounter
	defer func() {
		for _, ref := range drop {
			ref.DecRef(ctx)
		}
	}()
	defer fs.changing()()
	fs.renameMu.Lock()
	defer fs.renameMu.Unlock()
	var err error
	if r.newDir, err = fs.walkParent(ctx, rp, rp.Start().Impl().(*dentry)); err != nil {
		return err
	}
	drop = append(drop, r.newDir)
	r.newName = rp.Component()
	if r.newName == "." || r.newName == ".." {
		if r.flags.NoReplace {
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
	if err := mnt.CheckBeginWrite(); err != nil {
		return err
	}
	defer mnt.EndWrite()
	if err := fs.writable(); err != nil {
		return err
	}
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
	if r.renamed, err = r.oldDir.lookupLocked(r.oldName); err != nil {
		return nil, err
	}
	if r.newDir.deleted.Load() {
		return append(drop, r.renamed), enoent
	}
	drop = append(drop, r.renamed)
	switch r.replaced, err = r.newDir.lookupLocked(r.newName); err {
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
	if err := r.fs.engine.Rename(r.oldDir.inode.node, r.oldName, r.newDir.inode.node, r.newName, r.flags); err != nil {
		vfsObj.AbortRenameDentry(&handle, &r.renamed.vfsd, replaced)
		return drop, r.fs.errno(err)
	}

	delete(r.oldDir.children, r.oldName)
	if r.flags.Exchange {
		delete(r.newDir.children, r.newName)
		drop = appendDentry(drop, r.renamed.setParentAndName(r.newDir, r.newName))
		drop = appendDentry(drop, r.replaced.setParentAndName(r.oldDir, r.oldName))
		r.newDir.insert(r.renamed, r.newName)
		r.oldDir.insert(r.replaced, r.oldName)
		vfsObj.CommitRenameExchangeDentry(&handle, &r.renamed.vfsd, replaced)
	} else {
		if r.replaced != nil {
			r.newDir.unlinked(r.replaced)
			if i := r.replaced.inode; i.node.Attr().Links == 0 && i.endpoint.Swap(nil) != nil {
				drop = append(drop, inodeRef{i})
			}
		}
		drop = appendDentry(drop, r.renamed.setParentAndName(r.newDir, r.newName))
		r.newDir.insert(r.renamed, r.newName)
		if r.flags.Whiteout {
			delete(r.oldDir.negative, r.oldName)
		}
		drop = append(drop, vfsObj.CommitRenameReplaceDentry(ctx, &handle, &r.renamed.vfsd, replaced)...)
	}
	r.notify(ctx)
	for _, d := range []*dentry{r.oldDir, r.newDir} {
		if r.fs.mustSyncDir(d.inode) {
			if err := d.inode.node.Sync(false); err != nil {
				return drop, r.fs.errno(err)
			}
		}
	}
	return drop, nil
}

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
	case r.flags.NoReplace && replaced != nil:
		return false, linuxerr.EEXIST
	case r.flags.Exchange && replaced == nil:
		return false, enoent
	}
	// A slash at the end of either name asks for a directory.
	if !renamed.inode.isDir() {
		if r.mustBeDir || !r.flags.Exchange && r.rp.MustBeDir() {
			return false, linuxerr.ENOTDIR
		}
	}
	if r.flags.Exchange && r.rp.MustBeDir() && !replaced.inode.isDir() {
		return false, linuxerr.ENOTDIR
	}
	if renamed == r.newDir || renamed.isAncestorOf(r.newDir) {
		return false, linuxerr.EINVAL
	}
	if replaced != nil && (replaced == r.oldDir || replaced.isAncestorOf(r.oldDir)) {
		if r.flags.Exchange {
			return false, linuxerr.EINVAL
		}
		return false, linuxerr.ENOTEMPTY
	}
	if replaced != nil && replaced.inode == renamed.inode {
		return true, nil
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
		if !r.flags.Exchange {
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
		if r.flags.Exchange {
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
	case r.flags.Exchange:
		vfs.InotifyRename(ctx, &r.replaced.inode.watches, newDir, oldDir, r.newName, r.oldName, r.replaced.inode.isDir())
	default:
		r.replaced.inode.watches.Notify(ctx, "", linux.IN_ATTRIB, 0, vfs.InodeEvent, true)
	}
}
