package hostfs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// fileDescription is what open regular files and directories have in common. Each has a
// descriptor of the host for itself.
type fileDescription struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.LockFD

	host int
}

func (fd *fileDescription) dentry() *dentry { return fd.vfsfd.Dentry().Impl().(*dentry) }
func (fd *fileDescription) inode() *inode   { return fd.dentry().inode }

// Release implements vfs.FileDescriptionImpl.
func (fd *fileDescription) Release(ctx context.Context) {
	if fd.host >= 0 {
		fd.inode().fs.typ.fds.closeFile(fd.host)
	}
}

// Stat implements vfs.FileDescriptionImpl.
func (fd *fileDescription) Stat(ctx context.Context, opts vfs.StatOptions) (linux.Statx, error) {
	return fd.dentry().statxIn(fd.vfsfd.Mount())
}

// SetStat implements vfs.FileDescriptionImpl.
func (fd *fileDescription) SetStat(ctx context.Context, opts vfs.SetStatOptions) error {
	host := -1
	if fd.vfsfd.IsWritable() {
		host = fd.host
	}
	return fd.change(func() error {
		return fd.dentry().setStat(ctx, auth.CredentialsFromContext(ctx), &opts, host)
	})
}

// change runs f as a writer of the mount.
func (fd *fileDescription) change(f func() error) error {
	mnt := fd.vfsfd.Mount()
	if err := fd.inode().fs.beginWrite(mnt); err != nil {
		return err
	}
	defer fd.inode().fs.endWrite(mnt)
	return f()
}

// StatFS implements vfs.FileDescriptionImpl.
func (fd *fileDescription) StatFS(ctx context.Context) (linux.Statfs, error) {
	return fd.inode().statfs(fd.vfsfd.Mount())
}

// ListXattr implements vfs.FileDescriptionImpl.
func (fd *fileDescription) ListXattr(ctx context.Context, size uint64) ([]string, error) {
	return fd.inode().listXattr(size)
}

// GetXattr implements vfs.FileDescriptionImpl.
func (fd *fileDescription) GetXattr(ctx context.Context, opts vfs.GetXattrOptions) (string, error) {
	return fd.inode().getXattr(auth.CredentialsFromContext(ctx), &opts)
}

// SetXattr implements vfs.FileDescriptionImpl.
func (fd *fileDescription) SetXattr(ctx context.Context, opts vfs.SetXattrOptions) error {
	return fd.change(func() error {
		return fd.inode().setXattr(auth.CredentialsFromContext(ctx), &opts)
	})
}

// RemoveXattr implements vfs.FileDescriptionImpl.
func (fd *fileDescription) RemoveXattr(ctx context.Context, name string) error {
	return fd.change(func() error {
		return fd.inode().removeXattr(auth.CredentialsFromContext(ctx), name)
	})
}

// GetPosixACL implements vfs.FileDescriptionImpl.
func (fd *fileDescription) GetPosixACL(ctx context.Context, t vfs.ACLType) (*vfs.PosixACL, error) {
	return nil, nil
}

// SetPosixACL implements vfs.FileDescriptionImpl.
func (fd *fileDescription) SetPosixACL(ctx context.Context, t vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (*vfs.PosixACL, linux.FileMode, error) {
	return nil, 0, linuxerr.EOPNOTSUPP
}

// hostFlags are the flags of open(2) that the host's descriptor has from the guest's.
const hostFlags = linux.O_ACCMODE | linux.O_DIRECT | linux.O_NOATIME

// open opens the file of d. A file that the caller has just made comes with the descriptor
// that made it, which may do all whatever the mode; else created is -1. It is taken over.
// The caller holds a reference on d, and no locks: opening a FIFO waits for its other end.
func (d *dentry) open(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions, created int) (*vfs.FileDescription, error) {
	host := created
	fd, err := d.openHost(ctx, rp, opts, &host)
	if err != nil && host >= 0 {
		unix.Close(host)
	}
	return fd, err
}

// openHost is open. It sets host to -1 when the descriptor is in the right hands.
func (d *dentry) openHost(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions, host *int) (*vfs.FileDescription, error) {
	i, mnt := d.inode, rp.Mount()
	ats := vfs.AccessTypesForOpenFlags(opts)
	if *host < 0 {
		a, err := i.attr()
		if err != nil {
			return nil, err
		}
		if err := vfs.GenericCheckPermissions(rp.Credentials(), ats, linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid)); err != nil {
			return nil, err
		}
		if opts.Flags&linux.O_NOATIME != 0 && !vfs.CanActAsOwner(rp.Credentials(), auth.KUID(a.uid)) {
			return nil, linuxerr.EPERM
		}
	}
	switch i.kind {
	case linux.S_IFREG:
		if ats.MayWrite() && i.fs.readOnly.Load() {
			return nil, linuxerr.EROFS
		}
		truncate := *host < 0 && opts.Flags&linux.O_TRUNC != 0
		fd := &regularFD{}
		fd.fileDescription.host = -1
		fd.LockFD.Init(&i.locks)
		if err := fd.vfsfd.Init(fd, opts.Flags, rp.Credentials(), mnt, &d.vfsd, &vfs.FileDescriptionOptions{AllowDirectIO: true}); err != nil {
			return nil, err
		}
		if err := fd.take(i, opts.Flags, host); err != nil {
			fd.vfsfd.DecRef(ctx)
			return nil, err
		}
		if truncate {
			if err := fd.change(func() error { return i.openTruncate(ctx, fd.host, ats.MayWrite()) }); err != nil {
				fd.vfsfd.DecRef(ctx)
				return nil, err
			}
		}
		return &fd.vfsfd, nil

	case linux.S_IFDIR:
		if opts.Flags&linux.O_CREAT != 0 || ats.MayWrite() {
			return nil, linuxerr.EISDIR
		}
		if opts.Flags&linux.O_DIRECT != 0 {
			return nil, linuxerr.EINVAL
		}
		err := i.withGrant(func() (err error) {
			*host, err = reopen(i.fd, unix.O_RDONLY|unix.O_DIRECTORY)
			return err
		})
		if err != nil {
			return nil, errno(err)
		}
		fd := &directoryFD{}
		fd.fileDescription.host = -1
		fd.LockFD.Init(&i.locks)
		if err := fd.vfsfd.Init(fd, opts.Flags, rp.Credentials(), mnt, &d.vfsd, &vfs.FileDescriptionOptions{AllowDirectIO: true}); err != nil {
			return nil, err
		}
		if err := i.fs.typ.fds.openFile(); err != nil {
			fd.vfsfd.DecRef(ctx)
			return nil, err
		}
		fd.fileDescription.host, *host = *host, -1
		return &fd.vfsfd, nil

	case linux.S_IFLNK:
		return nil, linuxerr.ELOOP
	}
	return d.openSpecial(ctx, rp, opts)
}

// take gives fd a descriptor of the host: the one that made the file, or a new one.
func (fd *regularFD) take(i *inode, flags uint32, host *int) error {
	fd.direct = flags&linux.O_DIRECT != 0
	if *host >= 0 {
		if fd.direct {
			if err := setDirect(*host, true); err != nil {
				return errno(err)
			}
		}
		if err := i.fs.typ.fds.openFile(); err != nil {
			return err
		}
		fd.fileDescription.host, *host = *host, -1
		return nil
	}
	if err := i.fs.typ.fds.openFile(); err != nil {
		return err
	}
	open := func(flags uint32) error {
		return i.withGrant(func() (err error) {
			fd.fileDescription.host, err = reopen(i.fd, int(flags&hostFlags))
			return err
		})
	}
	err := open(flags)
	if err == unix.EPERM && flags&linux.O_NOATIME != 0 {
		err = open(flags &^ linux.O_NOATIME) // the host's owner is another
	}
	if err != nil {
		fd.fileDescription.host = -1
		i.fs.typ.fds.files.Add(-1)
	}
	return errno(err)
}

// openTruncate is O_TRUNC. A descriptor that is open for writing serves.
func (i *inode) openTruncate(ctx context.Context, host int, writable bool) error {
	if !writable {
		host = -1
	}
	if err := i.dropPrivileges(ctx); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.truncate(0, host)
}
