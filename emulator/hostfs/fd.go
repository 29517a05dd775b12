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

// reopen gives fd a descriptor of the host.
func (fd *fileDescription) reopen(i *inode, flags int) error {
	fds := i.fs.typ.fds
	if err := fds.openFile(); err != nil {
		return err
	}
	open := func(flags int) error {
		return i.withGrant(func() (err error) {
			fd.host, err = reopen(i.fd, flags)
			return err
		})
	}
	err := open(flags)
	if err == unix.EPERM && flags&unix.O_NOATIME != 0 {
		err = open(flags &^ unix.O_NOATIME) // the host's owner is another
	}
	if err != nil {
		fd.host = -1
		fds.files.Add(-1)
	}
	return errno(err)
}

// AllowsOpen implements tree.Inode.
func (i *inode) AllowsOpen(creds *auth.Credentials, ats vfs.AccessTypes, flags uint32) error {
	a, err := i.attr()
	if err != nil {
		return err
	}
	if err := vfs.GenericCheckPermissions(creds, ats, linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid)); err != nil {
		return err
	}
	if flags&linux.O_NOATIME != 0 && !vfs.CanActAsOwner(creds, auth.KUID(a.uid)) {
		return linuxerr.EPERM
	}
	return nil
}

// OpenRegular implements tree.Filesystem. A file that the caller has just made comes with
// the descriptor that made it, which is taken over.
func (fs *filesystem) OpenRegular(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, flags uint32, ats vfs.AccessTypes, made *int) (*vfs.FileDescription, error) {
	host := -1
	if made != nil {
		host = *made
	}
	fd, err := fs.openRegular(ctx, rp, d, flags, ats, &host)
	if err != nil && host >= 0 {
		unix.Close(host)
	}
	return fd, err
}

// openRegular is OpenRegular. It sets host to -1 when the descriptor is in the right hands.
func (fs *filesystem) openRegular(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, flags uint32, ats vfs.AccessTypes, host *int) (*vfs.FileDescription, error) {
	i, writable := d.Inode, ats.MayWrite()
	if writable {
		if err := fs.writable(); err != nil {
			return nil, err
		}
	}
	truncate := *host < 0 && flags&linux.O_TRUNC != 0
	fd := &regularFD{}
	fd.host = -1
	if err := fd.Init(fd, rp, d, flags); err != nil {
		return nil, err
	}
	err := fd.take(i, flags, host)
	if err == nil && truncate {
		err = fd.Change(func() error { return i.openTruncate(ctx, fd.host, writable) })
	}
	if err != nil {
		fd.VFSFD.DecRef(ctx)
		return nil, err
	}
	return &fd.VFSFD, nil
}

// take gives fd a descriptor of the host: the one that made the file, or a new one.
func (fd *regularFD) take(i *inode, flags uint32, host *int) error {
	// What the host's descriptor has from the guest's.
	const hostFlags = linux.O_ACCMODE | linux.O_DIRECT | linux.O_NOATIME
	fd.direct = flags&linux.O_DIRECT != 0
	if *host < 0 {
		return fd.reopen(i, int(flags&hostFlags))
	}
	if fd.direct {
		if err := setDirect(*host, true); err != nil {
			return errno(err)
		}
	}
	if err := i.fs.typ.fds.openFile(); err != nil {
		return err
	}
	fd.host, *host = *host, -1
	return nil
}

// OpenDirectory implements tree.Filesystem.
func (fs *filesystem) OpenDirectory(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, flags uint32) (*vfs.FileDescription, error) {
	fd := &directoryFD{}
	fd.host = -1
	if err := fd.Init(fd, rp, d, flags); err != nil {
		return nil, err
	}
	if err := fd.reopen(d.Inode, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		fd.VFSFD.DecRef(ctx)
		return nil, err
	}
	return &fd.VFSFD, nil
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
