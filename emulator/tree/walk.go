package tree

import (
	"math"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// step goes from d to the next component of rp. It returns the file found, with a
// reference, or d again and true where the component was a symlink to be followed.
// renameMu is held for reading.
func (t *Tree[I]) step(ctx context.Context, rp *vfs.ResolvingPath, d *Dentry[I]) (*Dentry[I], bool, error) {
	if !d.file.IsDir() {
		return nil, false, linuxerr.ENOTDIR
	}
	if err := d.Inode.Allows(rp.Credentials(), vfs.MayExec); err != nil {
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
	if child.file.Kind == linux.S_IFLNK && rp.ShouldFollowSymlink() {
		target, err := child.readlink(rp.Mount())
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
func (d *Dentry[I]) readlink(mnt *vfs.Mount) (string, error) {
	if d.file.Kind != linux.S_IFLNK {
		return "", linuxerr.EINVAL
	}
	return d.Inode.Readlink(mnt)
}

// makeRoom lets go of files that nobody uses while there are too many. No dirMu is held.
func (t *Tree[I]) makeRoom(ctx context.Context) {
	for t.Full != nil && t.Full() && t.evictOldest(ctx) {
	}
}

// walkParent goes from d, of which it does not take over the reference, to the
// directory of rp's last component. renameMu is held for reading or writing.
func (t *Tree[I]) walkParent(ctx context.Context, rp *vfs.ResolvingPath, d *Dentry[I]) (*Dentry[I], error) {
	t.makeRoom(ctx)
	d.IncRef()
	for !rp.Final() {
		next, _, err := t.step(ctx, rp, d)
		d.DecRef(ctx)
		if err != nil {
			return nil, err
		}
		d = next
	}
	if !d.file.IsDir() {
		d.DecRef(ctx)
		return nil, linuxerr.ENOTDIR
	}
	return d, nil
}

// resolve returns the file at rp with a reference.
func (t *Tree[I]) resolve(ctx context.Context, rp *vfs.ResolvingPath) (*Dentry[I], error) {
	t.makeRoom(ctx)
	d := rp.Start().Impl().(*Dentry[I])
	d.IncRef()
	if !rp.Done() {
		t.renameMu.RLock()
		defer t.renameMu.RUnlock()
	} else if d.file.Kind == linux.S_IFLNK && rp.ShouldFollowSymlink() {
		// A descriptor of a symlink itself, opened with O_PATH.
		target, err := d.readlink(rp.Mount())
		if err == nil {
			_, err = rp.HandleSymlink(target)
		}
		if err != nil {
			d.DecRef(ctx)
			return nil, err
		}
	}
	for !rp.Done() {
		next, _, err := t.step(ctx, rp, d)
		d.DecRef(ctx)
		if err != nil {
			return nil, err
		}
		d = next
	}
	if rp.MustBeDir() && !d.file.IsDir() {
		d.DecRef(ctx)
		return nil, linuxerr.ENOTDIR
	}
	return d, nil
}

// AccessAt implements vfs.FilesystemImpl.
func (t *Tree[I]) AccessAt(ctx context.Context, rp *vfs.ResolvingPath, creds *auth.Credentials, ats vfs.AccessTypes) error {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return err
	}
	defer d.DecRef(ctx)
	if ats.MayWrite() && (rp.Mount().ReadOnly() || t.fs.ReadOnly()) {
		switch d.file.Kind {
		case linux.S_IFREG, linux.S_IFDIR, linux.S_IFLNK:
			return linuxerr.EROFS
		}
	}
	return d.Inode.Allows(creds, ats)
}

// GetDentryAt implements vfs.FilesystemImpl.
func (t *Tree[I]) GetDentryAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.GetDentryOptions) (*vfs.Dentry, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	if opts.CheckSearchable {
		err := error(linuxerr.ENOTDIR)
		if d.file.IsDir() {
			err = d.Inode.Allows(rp.Credentials(), vfs.MayExec)
		}
		if err != nil {
			d.DecRef(ctx)
			return nil, err
		}
	}
	return &d.vfsd, nil
}

// GetParentDentryAt implements vfs.FilesystemImpl.
func (t *Tree[I]) GetParentDentryAt(ctx context.Context, rp *vfs.ResolvingPath) (*vfs.Dentry, error) {
	t.renameMu.RLock()
	defer t.renameMu.RUnlock()
	d, err := t.walkParent(ctx, rp, rp.Start().Impl().(*Dentry[I]))
	if err != nil {
		return nil, err
	}
	return &d.vfsd, nil
}

// ReadlinkAt implements vfs.FilesystemImpl.
func (t *Tree[I]) ReadlinkAt(ctx context.Context, rp *vfs.ResolvingPath) (string, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return "", err
	}
	defer d.DecRef(ctx)
	return d.readlink(rp.Mount())
}

// StatAt implements vfs.FilesystemImpl.
func (t *Tree[I]) StatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.StatOptions) (linux.Statx, error) {
	if rp.Done() {
		// The caller has a reference, and may have locks that resolve must not
		// be called with.
		return rp.Start().Impl().(*Dentry[I]).stat(rp.Mount())
	}
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return linux.Statx{}, err
	}
	defer d.DecRef(ctx)
	return d.stat(rp.Mount())
}

// stat is what statx(2) tells of d seen through mnt.
func (d *Dentry[I]) stat(mnt *vfs.Mount) (linux.Statx, error) {
	const mountRoot = 0x2000
	stat, err := d.Inode.Stat()
	if err != nil {
		return stat, err
	}
	stat.Mask |= linux.STATX_MNT_ID
	stat.MntID = mnt.ID
	stat.AttributesMask |= mountRoot
	if mnt.Root() == &d.vfsd {
		stat.Attributes |= mountRoot
	}
	return stat, nil
}

// change runs f as a writer of the mount.
func (t *Tree[I]) change(mnt *vfs.Mount, f func() error) error {
	defer t.fs.Changing()()
	if err := t.fs.BeginWrite(mnt); err != nil {
		return err
	}
	defer t.fs.EndWrite(mnt)
	return f()
}

// setStat checks that what is asked for makes sense before the filesystem does it.
func (d *Dentry[I]) setStat(ctx context.Context, creds *auth.Credentials, opts *vfs.SetStatOptions, fd *vfs.FileDescription) error {
	const known = linux.STATX_MODE | linux.STATX_UID | linux.STATX_GID | linux.STATX_ATIME | linux.STATX_MTIME | linux.STATX_CTIME | linux.STATX_SIZE
	sized := opts.Stat.Mask&linux.STATX_SIZE != 0
	switch {
	case opts.Stat.Mask == 0:
		return nil
	case opts.Stat.Mask&^uint32(known) != 0:
		return linuxerr.EPERM
	case sized && d.file.IsDir():
		return linuxerr.EISDIR
	case sized && (d.file.Kind != linux.S_IFREG || opts.Stat.Size > math.MaxInt64):
		return linuxerr.EINVAL
	}
	return d.tree.fs.SetStat(ctx, creds, d, opts, fd)
}

// SetStatAt implements vfs.FilesystemImpl.
func (t *Tree[I]) SetStatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.SetStatOptions) error {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return err
	}
	defer d.DecRef(ctx)
	err = t.change(rp.Mount(), func() error { return d.setStat(ctx, rp.Credentials(), &opts, nil) })
	if err != nil {
		return err
	}
	if ev := vfs.InotifyEventFromStatMask(opts.Stat.Mask); ev != 0 {
		d.InotifyWithParent(ctx, ev, 0, vfs.InodeEvent)
	}
	return nil
}

// StatFSAt implements vfs.FilesystemImpl.
func (t *Tree[I]) StatFSAt(ctx context.Context, rp *vfs.ResolvingPath) (linux.Statfs, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return linux.Statfs{}, err
	}
	defer d.DecRef(ctx)
	return d.Inode.StatFS(rp.Mount())
}
