package tree

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// ListXattrAt implements vfs.FilesystemImpl.
func (t *Tree[I]) ListXattrAt(ctx context.Context, rp *vfs.ResolvingPath, size uint64) ([]string, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	return d.listXattr(rp.Credentials(), size)
}

// listXattr is listxattr(2) with a buffer of size bytes, 0 for one that is large enough.
func (d *Dentry[I]) listXattr(creds *auth.Credentials, size uint64) ([]string, error) {
	names, err := d.Inode.ListXattr(creds)
	total := uint64(0)
	for _, n := range names {
		total += uint64(len(n)) + 1
	}
	if err == nil && size != 0 && total > size {
		return nil, linuxerr.ERANGE
	}
	return names, err
}

// GetXattrAt implements vfs.FilesystemImpl.
func (t *Tree[I]) GetXattrAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.GetXattrOptions) (string, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return "", err
	}
	defer d.DecRef(ctx)
	return d.Inode.GetXattr(rp.Credentials(), &opts)
}

// SetXattrAt implements vfs.FilesystemImpl.
func (t *Tree[I]) SetXattrAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.SetXattrOptions) error {
	return t.changeXattr(ctx, rp, func(i I) error { return i.SetXattr(rp.Credentials(), &opts) })
}

// RemoveXattrAt implements vfs.FilesystemImpl.
func (t *Tree[I]) RemoveXattrAt(ctx context.Context, rp *vfs.ResolvingPath, name string) error {
	return t.changeXattr(ctx, rp, func(i I) error { return i.RemoveXattr(rp.Credentials(), name) })
}

func (t *Tree[I]) changeXattr(ctx context.Context, rp *vfs.ResolvingPath, change func(I) error) error {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return err
	}
	defer d.DecRef(ctx)
	err = t.change(rp.Mount(), func() error { return change(d.Inode) })
	if err == nil {
		d.InotifyWithParent(ctx, linux.IN_ATTRIB, 0, vfs.InodeEvent)
	}
	return err
}

// GetPosixACLAt implements vfs.FilesystemImpl.
func (t *Tree[I]) GetPosixACLAt(ctx context.Context, rp *vfs.ResolvingPath, kind vfs.ACLType) (*vfs.PosixACL, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	return d.Inode.PosixACL(kind)
}

// SetPosixACLAt implements vfs.FilesystemImpl.
func (t *Tree[I]) SetPosixACLAt(ctx context.Context, rp *vfs.ResolvingPath, kind vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (*vfs.PosixACL, linux.FileMode, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return nil, 0, err
	}
	defer d.DecRef(ctx)
	defer t.fs.Changing()()
	return d.Inode.SetPosixACL(rp.Credentials(), kind, acl, clearSGID)
}
