package hostfs

import (
	"fmt"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// LinkAt implements vfs.FilesystemImpl.
func (fs *filesystem) LinkAt(ctx context.Context, rp *vfs.ResolvingPath, vd vfs.VirtualDentry) error {
	return fs.createAt(ctx, rp, false, func(parent *dentry, name string) (*dentry, error) {
		if rp.Mount() != vd.Mount() {
			return nil, linuxerr.EXDEV
		}
		i := vd.Dentry().Impl().(*dentry).inode
		if i.isDir() {
			return nil, linuxerr.EPERM
		}
		a, err := i.attr()
		if err != nil {
			return nil, err
		}
		if err := vfs.MayLink(auth.CredentialsFromContext(ctx), linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid)); err != nil {
			return nil, err
		}
		if a.host.Nlink == 0 && !i.nameless.Load() {
			return nil, enoent
		}
		err = parent.inode.withGrant(func() error {
			return unix.Linkat(unix.AT_FDCWD, procPath(i.fd), parent.inode.fd, name, unix.AT_SYMLINK_FOLLOW)
		})
		if err != nil {
			return nil, errno(err)
		}
		i.nameless.Store(false)
		i.incRef()
		child := newDentry(i)
		parent.attach(child, name)
		i.watches.Notify(ctx, "", linux.IN_ATTRIB, 0, vfs.InodeEvent, false)
		return child, nil
	})
}

// OpenAt implements vfs.FilesystemImpl.
func (fs *filesystem) OpenAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if opts.Flags&linux.O_TMPFILE != 0 {
		return fs.openNameless(ctx, rp, &opts)
	}
	if opts.Flags&linux.O_CREAT == 0 {
		d, err := fs.resolve(ctx, rp)
		if err != nil {
			return nil, err
		}
		defer d.DecRef(ctx)
		return d.open(ctx, rp, &opts, -1)
	}
	d, created, err := fs.openOrCreate(ctx, rp, &opts)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	fd, err := d.open(ctx, rp, &opts, created)
	if err == nil && created >= 0 {
		fd.SetCreated()
	}
	return fd, err
}

// openOrCreate returns the file at rp, made if it was not there, with a reference. Of one
// that it made it returns the descriptor that create gave, else -1.
func (fs *filesystem) openOrCreate(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (d *dentry, created int, err error) {
	must := opts.Flags&linux.O_EXCL != 0
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	start := rp.Start().Impl().(*dentry)
	start.IncRef()
	for {
		if rp.Done() {
			if rp.MustBeDir() {
				err = linuxerr.EISDIR
			} else if must {
				err = linuxerr.EEXIST
			}
			if err != nil {
				start.DecRef(ctx)
				return nil, -1, err
			}
			return start, -1, nil
		}
		parent, err := fs.walkParent(ctx, rp, start)
		start.DecRef(ctx)
		if err != nil {
			return nil, -1, err
		}
		if err := parent.inode.allows(rp.Credentials(), vfs.MayExec); err != nil || rp.MustBeDir() {
			parent.DecRef(ctx)
			if err == nil {
				err = linuxerr.EISDIR
			}
			return nil, -1, err
		}
		name := rp.Component()
		child, followed, err := fs.step(ctx, rp, parent)
		switch {
		case followed:
			// The target of a symlink comes next, from the same directory on.
			if must {
				err = linuxerr.EEXIST
			}
			if err != nil {
				if child != nil {
					child.DecRef(ctx)
				}
				parent.DecRef(ctx)
				return nil, -1, err
			}
			parent.DecRef(ctx)
			start = child
			continue
		case err == nil:
			parent.DecRef(ctx)
			if must {
				child.DecRef(ctx)
				return nil, -1, linuxerr.EEXIST
			}
			return child, -1, nil
		case err != enoent:
			parent.DecRef(ctx)
			return nil, -1, err
		}

		if fs.typ.fds.files.Load() >= fs.typ.fds.mostFiles {
			// Before it is made, as it cannot be opened.
			parent.DecRef(ctx)
			return nil, -1, linuxerr.ENFILE
		}
		made := -1
		child, drop, err := fs.createLocked(ctx, rp, parent, false, func(parent *dentry, name string) (d *dentry, err error) {
			const bits = linux.PermissionsMask | linux.S_ISUID | linux.S_ISGID | linux.S_ISVTX
			d, made, err = fs.create(ctx, rp.Credentials(), parent, name, newFile{mode: linux.S_IFREG | uint16(opts.Mode)&bits})
			return d, err
		})
		dropAll(ctx, drop)
		switch {
		case err == nil:
			parent.inode.watches.Notify(ctx, name, linux.IN_CREATE, 0, vfs.PathEvent, false)
			parent.DecRef(ctx)
			return child, made, nil
		case child != nil:
			child.DecRef(ctx)
		}
		if linuxerr.Equals(linuxerr.EEXIST, err) && !must {
			// Someone else made it meanwhile: look again.
			start = parent
			continue
		}
		parent.DecRef(ctx)
		return nil, -1, err
	}
}

// openNameless is open with O_TMPFILE.
func (fs *filesystem) openNameless(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (*vfs.FileDescription, error) {
	dir, err := fs.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer dir.DecRef(ctx)
	if !dir.inode.isDir() {
		return nil, linuxerr.ENOTDIR
	}
	if !vfs.MayWriteFileWithOpenFlags(opts.Flags) {
		return nil, linuxerr.EINVAL
	}
	if err := dir.inode.allows(rp.Credentials(), vfs.MayWrite|vfs.MayExec); err != nil {
		return nil, err
	}
	if err := fs.beginWrite(rp.Mount()); err != nil {
		return nil, err
	}
	defer fs.endWrite(rp.Mount())
	if err := fs.room(); err != nil {
		return nil, err
	}
	o, err := fs.inherit(rp.Credentials(), dir, newFile{mode: linux.S_IFREG | uint16(opts.Mode)&07777})
	if err != nil {
		return nil, err
	}
	mode := uint32(o.mode &^ linux.S_IFMT)
	if fs.opts.remember {
		mode = usable(o.mode)
	}
	made := -1
	err = dir.inode.withGrant(func() (err error) {
		made, err = open(dir.inode.fd, ".", unix.O_TMPFILE|unix.O_RDWR|int(opts.Flags&linux.O_EXCL), mode)
		return err
	})
	if err != nil {
		return nil, errno(err)
	}
	path, err := open(unix.AT_FDCWD, procPath(made), unix.O_PATH, 0)
	if err != nil {
		unix.Close(made)
		return nil, errno(err)
	}
	i, err := fs.inodeOf(ctx, path)
	if err == nil {
		err = i.settle(o)
		if err != nil {
			i.decRef(ctx)
		}
	}
	if err != nil {
		unix.Close(made)
		return nil, err
	}
	d := newDentry(i)
	defer d.DecRef(ctx)
	d.name = fmt.Sprintf("#%d", i.key.ino)
	i.nameless.Store(opts.Flags&linux.O_EXCL == 0)
	with := *opts
	with.Flags &^= linux.O_TMPFILE | linux.O_CREAT | linux.O_EXCL | linux.O_TRUNC
	return d.open(ctx, rp, &with, made)
}
