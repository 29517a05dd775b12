package ext4fs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4/format"
)

// fileDescription is what open regular files and directories have in common.
type fileDescription struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.LockFD
}

func (fd *fileDescription) filesystem() *filesystem { return fd.dentry().fs() }
func (fd *fileDescription) dentry() *dentry         { return fd.vfsfd.Dentry().Impl().(*dentry) }
func (fd *fileDescription) inode() *inode           { return fd.dentry().inode }

// Release implements vfs.FileDescriptionImpl.
func (fd *fileDescription) Release(ctx context.Context) {}

// Stat implements vfs.FileDescriptionImpl.
func (fd *fileDescription) Stat(ctx context.Context, opts vfs.StatOptions) (linux.Statx, error) {
	return fd.dentry().statxIn(fd.vfsfd.Mount()), nil
}

// SetStat implements vfs.FileDescriptionImpl.
func (fd *fileDescription) SetStat(ctx context.Context, opts vfs.SetStatOptions) error {
	return fd.change(func() error {
		return fd.inode().setStat(ctx, auth.CredentialsFromContext(ctx), &opts)
	})
}

// change runs f as a writer of the mount.
func (fd *fileDescription) change(f func() error) error {
	defer fd.filesystem().changing()()
	mnt := fd.vfsfd.Mount()
	if err := mnt.CheckBeginWrite(); err != nil {
		return err
	}
	defer mnt.EndWrite()
	return f()
}

// StatFS implements vfs.FileDescriptionImpl.
func (fd *fileDescription) StatFS(ctx context.Context) (linux.Statfs, error) {
	return fd.filesystem().statfs(fd.vfsfd.Mount()), nil
}

// ListXattr implements vfs.FileDescriptionImpl.
func (fd *fileDescription) ListXattr(ctx context.Context, size uint64) ([]string, error) {
	return fd.inode().listXattr(auth.CredentialsFromContext(ctx), size)
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
	return fd.inode().posixACL(t)
}

// SetPosixACL implements vfs.FileDescriptionImpl.
func (fd *fileDescription) SetPosixACL(ctx context.Context, t vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (*vfs.PosixACL, linux.FileMode, error) {
	defer fd.filesystem().changing()()
	return fd.inode().setPosixACL(auth.CredentialsFromContext(ctx), t, acl, clearSGID)
}

// open opens the file of d. With created, the caller has just made it, and may open
// it whatever its mode. The caller holds a reference on d, and no locks: opening a
// FIFO waits for its other end.
func (d *dentry) open(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions, created bool) (*vfs.FileDescription, error) {
	i, mnt := d.inode, rp.Mount()
	ats := vfs.AccessTypesForOpenFlags(opts)
	if !created {
		if err := i.allows(rp.Credentials(), ats); err != nil {
			return nil, err
		}
		if err := i.checkOpenFlags(rp.Credentials(), ats, opts.Flags); err != nil {
			return nil, err
		}
	}
	switch i.kind {
	case linux.S_IFREG:
		if ats.MayWrite() {
			if err := i.fs.writable(); err != nil {
				return nil, err
			}
		}
		fd := &regularFD{}
		fd.LockFD.Init(&i.locks)
		if err := fd.vfsfd.Init(fd, opts.Flags, rp.Credentials(), mnt, &d.vfsd, &vfs.FileDescriptionOptions{AllowDirectIO: true}); err != nil {
			return nil, err
		}
		if !created && opts.Flags&linux.O_TRUNC != 0 {
			if err := d.openTruncate(ctx, rp); err != nil {
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
		fd := &directoryFD{}
		fd.LockFD.Init(&i.locks)
		if err := fd.vfsfd.Init(fd, opts.Flags, rp.Credentials(), mnt, &d.vfsd, &vfs.FileDescriptionOptions{AllowDirectIO: true}); err != nil {
			return nil, err
		}
		return &fd.vfsfd, nil

	case linux.S_IFLNK:
		return nil, linuxerr.ELOOP
	}
	return d.openSpecial(ctx, rp, opts)
}

// checkOpenFlags holds open(2) to the file's append-only flag and O_NOATIME to the
// file's owner. Immutable files are not open to writing at all.
func (i *inode) checkOpenFlags(creds *auth.Credentials, ats vfs.AccessTypes, flags uint32) error {
	a := i.node.Attr()
	if a.Flags&format.FlagAppend != 0 && (ats.MayWrite() && flags&linux.O_APPEND == 0 || flags&linux.O_TRUNC != 0) {
		return linuxerr.EPERM
	}
	if flags&linux.O_NOATIME != 0 && !vfs.CanActAsOwner(creds, auth.KUID(a.UID)) {
		return linuxerr.EPERM
	}
	return nil
}

// openTruncate is O_TRUNC.
func (d *dentry) openTruncate(ctx context.Context, rp *vfs.ResolvingPath) error {
	defer d.fs().changing()()
	if err := rp.Mount().CheckBeginWrite(); err != nil {
		return err
	}
	defer rp.Mount().EndWrite()
	i := d.inode
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.dropPrivileges(ctx); err != nil {
		return err
	}
	if err := i.truncate(ctx, 0); err != nil {
		return err
	}
	return i.touchCMtime()
}
