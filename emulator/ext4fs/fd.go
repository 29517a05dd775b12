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

// Open implements tree.Filesystem.
func (fs *filesystem) Open(ctx context.Context, rp *vfs.ResolvingPath, d *dentry, opts *vfs.OpenOptions, made *int) (*vfs.FileDescription, error) {
	i := d.Inode
	ats := vfs.AccessTypesForOpenFlags(opts)
	if made == nil {
		if err := i.Allows(rp.Credentials(), ats); err != nil {
			return nil, err
		}
		if err := i.checkOpenFlags(rp.Credentials(), ats, opts.Flags); err != nil {
			return nil, err
		}
	}
	switch i.Kind {
	case linux.S_IFREG:
		if ats.MayWrite() {
			if err := fs.writable(); err != nil {
				return nil, err
			}
		}
		fd := &regularFD{}
		if err := fd.Init(fd, rp, d, opts.Flags); err != nil {
			return nil, err
		}
		if made == nil && opts.Flags&linux.O_TRUNC != 0 {
			if err := fd.Change(func() error { return i.openTruncate(ctx) }); err != nil {
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
		fd := &directoryFD{}
		if err := fd.Init(fd, rp, d, opts.Flags); err != nil {
			return nil, err
		}
		return &fd.VFSFD, nil

	case linux.S_IFLNK:
		return nil, linuxerr.ELOOP
	}
	return d.OpenSpecial(ctx, rp, opts)
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
