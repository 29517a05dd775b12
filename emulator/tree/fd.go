package tree

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// FileDescription is what open regular files and directories have in common.
type FileDescription[I Inode[I]] struct {
	VFSFD vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.LockFD
}

// Init makes impl, in which fd is embedded, an open file of d.
func (fd *FileDescription[I]) Init(impl vfs.FileDescriptionImpl, rp *vfs.ResolvingPath, d *Dentry[I], flags uint32) error {
	fd.LockFD.Init(&d.file.Locks)
	return fd.VFSFD.Init(impl, flags, rp.Credentials(), rp.Mount(), &d.vfsd, &vfs.FileDescriptionOptions{AllowDirectIO: true})
}

// Dentry is what is open.
func (fd *FileDescription[I]) Dentry() *Dentry[I] { return fd.VFSFD.Dentry().Impl().(*Dentry[I]) }

// Inode is the file that is open.
func (fd *FileDescription[I]) Inode() I { return fd.Dentry().Inode }

// Change runs f as a writer of the mount.
func (fd *FileDescription[I]) Change(f func() error) error {
	return fd.Dentry().tree.change(fd.VFSFD.Mount(), f)
}

// Release implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) Release(ctx context.Context) {}

// Stat implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) Stat(ctx context.Context, opts vfs.StatOptions) (linux.Statx, error) {
	return fd.Dentry().stat(fd.VFSFD.Mount())
}

// SetStat implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) SetStat(ctx context.Context, opts vfs.SetStatOptions) error {
	return fd.Change(func() error {
		return fd.Dentry().setStat(ctx, auth.CredentialsFromContext(ctx), &opts, &fd.VFSFD)
	})
}

// StatFS implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) StatFS(ctx context.Context) (linux.Statfs, error) {
	return fd.Inode().StatFS(fd.VFSFD.Mount())
}

// ListXattr implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) ListXattr(ctx context.Context, size uint64) ([]string, error) {
	return fd.Dentry().listXattr(auth.CredentialsFromContext(ctx), size)
}

// GetXattr implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) GetXattr(ctx context.Context, opts vfs.GetXattrOptions) (string, error) {
	return fd.Inode().GetXattr(auth.CredentialsFromContext(ctx), &opts)
}

// SetXattr implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) SetXattr(ctx context.Context, opts vfs.SetXattrOptions) error {
	return fd.Change(func() error {
		return fd.Inode().SetXattr(auth.CredentialsFromContext(ctx), &opts)
	})
}

// RemoveXattr implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) RemoveXattr(ctx context.Context, name string) error {
	return fd.Change(func() error {
		return fd.Inode().RemoveXattr(auth.CredentialsFromContext(ctx), name)
	})
}

// GetPosixACL implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) GetPosixACL(ctx context.Context, t vfs.ACLType) (*vfs.PosixACL, error) {
	return fd.Inode().PosixACL(t)
}

// SetPosixACL implements vfs.FileDescriptionImpl.
func (fd *FileDescription[I]) SetPosixACL(ctx context.Context, t vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (*vfs.PosixACL, linux.FileMode, error) {
	defer fd.Dentry().tree.fs.Changing()()
	return fd.Inode().SetPosixACL(auth.CredentialsFromContext(ctx), t, acl, clearSGID)
}
