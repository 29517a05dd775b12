package tree

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// ListXattrAt implements vfs.FilesystemImpl.
func (t *Tree[I]) ListXattrAt(ctx context.Context, rp *vfs.ResolvingPath, size uint64) ([]string, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	return d.Inode.ListXattr(rp.Credentials(), size)
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
