package hostfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// enoent is compared with ==.
var enoent error = linuxerr.ENOENT

// step goes from d to the next component of rp. It returns the file found, with a
// reference, or d again and true where the component was a symlink to be followed.
// renameMu is held for reading.
func (fs *filesystem) step(ctx context.Context, rp *vfs.ResolvingPath, d *dentry) (*dentry, bool, error) {
	if !d.inode.isDir() {
		return nil, false, linuxerr.ENOTDIR
	}
	if err := d.inode.allows(rp.Credentials(), vfs.MayExec); err != nil {
		return nil, false, err
	}
	name := rp.Component()
	switch {
	case name == ".":
		rp.Advance()
		d.IncRef()
		return d, false, nil
	case name == "..":
		parent := d.parent.Load()
		if isRoot, err := rp.CheckRoot(ctx, &d.vfsd); err != nil {
			return nil, false, err
		} else if isRoot || parent == nil {
			rp.Advance()
			d.IncRef()
			return d, false, nil
		}
		if err := rp.CheckMount(ctx, &parent.vfsd); err != nil {
			return nil, false, err
		}
		rp.Advance()
		parent.IncRef()
		return parent, false, nil
	case len(name) > linux.NAME_MAX:
		return nil, false, linuxerr.ENAMETOOLONG
	}
	child, err := d.lookup(ctx, name)
	if err != nil {
		return nil, false, err
	}
	if err := rp.CheckMount(ctx, &child.vfsd); err != nil {
		child.DecRef(ctx)
		return nil, false, err
	}
	if child.inode.kind == linux.S_IFLNK && rp.ShouldFollowSymlink() {
		target, err := child.readlink()
		child.DecRef(ctx)
		if err != nil {
			return nil, false, err
		}
		followed, err := rp.HandleSymlink(target)
		if err != nil {
			return nil, followed, err
		}
		d.IncRef()
		return d, followed, nil
	}
	rp.Advance()
	return child, false, nil
}

// readlink returns the target of a symlink.
func (d *dentry) readlink() (string, error) {
	if d.inode.kind != linux.S_IFLNK {
		return "", linuxerr.EINVAL
	}
	return d.inode.readlink()
}

// walkParent goes from d, of which it does not take over the reference, to the
// directory of rp's last component. renameMu is held for reading or writing.
func (fs *filesystem) walkParent(ctx context.Context, rp *vfs.ResolvingPath, d *dentry) (*dentry, error) {
	fs.makeRoom(ctx)
	d.IncRef()
	for !rp.Final() {
		next, _, err := fs.step(ctx, rp, d)
		d.DecRef(ctx)
		if err != nil {
			return nil, err
		}
		d = next
	}
	if !d.inode.isDir() {
		d.DecRef(ctx)
		return nil, linuxerr.ENOTDIR
	}
	return d, nil
}

// resolve returns the file at rp with a reference.
func (fs *filesystem) resolve(ctx context.Context, rp *vfs.ResolvingPath) (*dentry, error) {
	d := rp.Start().Impl().(*dentry)
	d.IncRef()
	fs.makeRoom(ctx)
	if !rp.Done() {
		fs.renameMu.RLock()
		defer fs.renameMu.RUnlock()
	} else if d.inode.kind == linux.S_IFLNK && rp.ShouldFollowSymlink() {
		// A descriptor of a symlink itself, opened with O_PATH.
		target, err := d.readlink()
		if err == nil {
			_, err = rp.HandleSymlink(target)
		}
		if err != nil {
			d.DecRef(ctx)
			return nil, err
		}
	}
	for !rp.Done() {
		next, _, err := fs.step(ctx, rp, d)
		d.DecRef(ctx)
		if err != nil {
			return nil, err
		}
		d = next
	}
	if rp.MustBeDir() && !d.inode.isDir() {
		d.DecRef(ctx)
		return nil, linuxerr.ENOTDIR
	}
	return d, nil
}

// AccessAt implements vfs.FilesystemImpl.
func (fs *filesystem) AccessAt(ctx context.Context, rp *vfs.ResolvingPath, creds *auth.Credentials, ats vfs.AccessTypes) error {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return err
	}
	defer d.DecRef(ctx)
	if ats.MayWrite() && (rp.Mount().ReadOnly() || fs.readOnly.Load()) {
		switch d.inode.kind {
		case linux.S_IFREG, linux.S_IFDIR, linux.S_IFLNK:
			return linuxerr.EROFS
		}
	}
	return d.inode.allows(creds, ats)
}

// GetDentryAt implements vfs.FilesystemImpl.
func (fs *filesystem) GetDentryAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.GetDentryOptions) (*vfs.Dentry, error) {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	if opts.CheckSearchable {
		err := error(linuxerr.ENOTDIR)
		if d.inode.isDir() {
			err = d.inode.allows(rp.Credentials(), vfs.MayExec)
		}
		if err != nil {
			d.DecRef(ctx)
			return nil, err
		}
	}
	return &d.vfsd, nil
}

// GetParentDentryAt implements vfs.FilesystemImpl.
func (fs *filesystem) GetParentDentryAt(ctx context.Context, rp *vfs.ResolvingPath) (*vfs.Dentry, error) {
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	d, err := fs.walkParent(ctx, rp, rp.Start().Impl().(*dentry))
	if err != nil {
		return nil, err
	}
	return &d.vfsd, nil
}

// ReadlinkAt implements vfs.FilesystemImpl.
func (fs *filesystem) ReadlinkAt(ctx context.Context, rp *vfs.ResolvingPath) (string, error) {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return "", err
	}
	defer d.DecRef(ctx)
	return d.readlink()
}

// StatAt implements vfs.FilesystemImpl.
func (fs *filesystem) StatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.StatOptions) (linux.Statx, error) {
	if rp.Done() {
		// The caller has a reference, and may have locks that resolve must not
		// be called with.
		return rp.Start().Impl().(*dentry).statxIn(rp.Mount())
	}
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return linux.Statx{}, err
	}
	defer d.DecRef(ctx)
	return d.statxIn(rp.Mount())
}

// SetStatAt implements vfs.FilesystemImpl.
func (fs *filesystem) SetStatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.SetStatOptions) error {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return err
	}
	defer d.DecRef(ctx)
	if err := fs.beginWrite(rp.Mount()); err != nil {
		return err
	}
	err = d.setStat(ctx, rp.Credentials(), &opts, -1)
	fs.endWrite(rp.Mount())
	if err != nil {
		return err
	}
	if ev := vfs.InotifyEventFromStatMask(opts.Stat.Mask); ev != 0 {
		d.InotifyWithParent(ctx, ev, 0, vfs.InodeEvent)
	}
	return nil
}

// StatFSAt implements vfs.FilesystemImpl.
func (fs *filesystem) StatFSAt(ctx context.Context, rp *vfs.ResolvingPath) (linux.Statfs, error) {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return linux.Statfs{}, err
	}
	defer d.DecRef(ctx)
	return d.inode.statfs(rp.Mount())
}
