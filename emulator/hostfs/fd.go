package hostfs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/tree"
)

// fileDescription is what open regular files and directories have in common. Each has a
// descriptor of the host for itself.
type fileDescription struct {
	tree.FileDescription[*inode]
	host int
}

// Release implements vfs.FileDescriptionImpl.
func (fd *fileDescription) Release(ctx context.Context) {
	if fd.host >= 0 {
		fd.Inode().fs.typ.fds.closeFile(fd.host)
	}
}

// SetStat implements vfs.FileDescriptionImpl.
func (fd *fileDescription) SetStat(ctx context.Context, opts vfs.SetStatOptions) error {
	host := -1
	if fd.VFSFD.IsWritable() {
		host = fd.host
	}
	return fd.Change(func() error {
		return setStat(ctx, auth.CredentialsFromContext(ctx), fd.Dentry(), &opts, host)
	})
}

// hostFlags are the flags of open(2) that the host's descriptor has from the guest's.
const hostFlags = linux.O_ACCMODE | linux.O_DIRECT | linux.O_NOATIME

// Open implements tree.Filesystem. A regular file that the caller has just made comes with
// the descriptor that made it, which is taken over.
func (fs *filesystem) Open(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, opts *vfs.OpenOptions, made *int) (*vfs.FileDescription, error) {
	host := -1
	if made != nil {
		host = *made
	}
	fd, err := openHost(ctx, rp, d, opts, &host)
	if err != nil && host >= 0 {
		unix.Close(host)
	}
	return fd, err
}

// openHost is Open. It sets host to -1 when the descriptor is in the right hands.
func openHost(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, opts *vfs.OpenOptions, host *int) (*vfs.FileDescription, error) {
	i := d.Inode
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
	switch i.Kind {
	case linux.S_IFREG:
		if ats.MayWrite() && i.fs.readOnly.Load() {
			return nil, linuxerr.EROFS
		}
		truncate := *host < 0 && opts.Flags&linux.O_TRUNC != 0
		fd := &regularFD{}
		fd.fileDescription.host = -1
		if err := fd.Init(fd, rp, d, opts.Flags); err != nil {
			return nil, err
		}
		if err := fd.take(i, opts.Flags, host); err != nil {
			fd.VFSFD.DecRef(ctx)
			return nil, err
		}
		if truncate {
			if err := fd.Change(func() error { return i.openTruncate(ctx, fd.host, ats.MayWrite()) }); err != nil {
				fd.VFSFD.DecRef(ctx)
				return nil, err
			}
		}
		return &fd.VFSFD, nil

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
		if err := fd.Init(fd, rp, d, opts.Flags); err != nil {
			return nil, err
		}
		if err := i.fs.typ.fds.openFile(); err != nil {
			fd.VFSFD.DecRef(ctx)
			return nil, err
		}
		fd.fileDescription.host, *host = *host, -1
		return &fd.VFSFD, nil

	case linux.S_IFLNK:
		return nil, linuxerr.ELOOP
	}
	return d.OpenSpecial(ctx, rp, opts)
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
