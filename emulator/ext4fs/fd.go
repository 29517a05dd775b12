package ext4fs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/tree"
	"github.com/umlkit/umlkit/ext4/format"
)

// fileDescription is what open regular files and directories have in common.
type fileDescription struct {
	tree.FileDescription[*inode]
}

// OpenRegular implements tree.Filesystem.
func (fs *filesystem) OpenRegular(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, flags uint32, ats vfs.AccessTypes, made *int) (*vfs.FileDescription, error) {
	if ats.MayWrite() {
		if err := fs.writable(); err != nil {
			return nil, err
		}
	}
	fd := &regularFD{}
	if err := fd.Init(fd, rp, d, flags); err != nil {
		return nil, err
	}
	if made == nil && flags&linux.O_TRUNC != 0 {
		if err := fd.Change(func() error { return d.Inode.openTruncate(ctx) }); err != nil {
			fd.VFSFD.DecRef(ctx)
			return nil, err
		}
	}
	return &fd.VFSFD, nil
}

// OpenDirectory implements tree.Filesystem.
func (fs *filesystem) OpenDirectory(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, flags uint32) (*vfs.FileDescription, error) {
	fd := &directoryFD{}
	if err := fd.Init(fd, rp, d, flags); err != nil {
		return nil, err
	}
	return &fd.VFSFD, nil
}

// AllowsOpen implements tree.Inode. It holds open(2) to the file's append-only flag and
// O_NOATIME to the file's owner. Immutable files are not open to writing at all.
func (i *inode) AllowsOpen(creds *auth.Credentials, ats vfs.AccessTypes, flags uint32) error {
	if err := i.Allows(creds, ats); err != nil {
		return err
	}
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
func (i *inode) openTruncate(ctx context.Context) error {
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
