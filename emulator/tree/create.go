package tree

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// NewFile is a file to be made: type and permissions after the umask, and what
// belongs to its type.
type NewFile struct {
	Mode         uint16
	Major, Minor uint32
	Target       string

	// Made is there where a regular file is to be opened as well. It takes a descriptor of
	// the host, open for reading and writing whatever the mode, where making the file left
	// one, and goes to Filesystem.OpenRegular.
	Made *int
}

// createAt resolves the directory of rp, checks that a file may be made there, and
// calls create with the directory's dirMu held for writing.
func (t *Tree[I]) createAt(ctx context.Context, rp *vfs.ResolvingPath, dir bool, create func(parent *Dentry[I], name string) (*Dentry[I], error)) error {
	defer t.fs.Changing()()
	t.renameMu.RLock()
	defer t.renameMu.RUnlock()
	parent, err := t.walkParent(ctx, rp, rp.Start().Impl().(*Dentry[I]))
	if err != nil {
		return err
	}
	defer parent.DecRef(ctx)
	child, drop, err := t.createLocked(ctx, rp, parent, dir, create)
	defer dropAll(ctx, drop)
	if child != nil {
		defer child.DecRef(ctx)
	}
	if err != nil {
		return err
	}
	ev := uint32(linux.IN_CREATE)
	if dir {
		ev |= linux.IN_ISDIR
	}
	parent.file.Watches.Notify(ctx, rp.Component(), ev, 0, vfs.InodeEvent, false)
	return nil
}

func (t *Tree[I]) createLocked(ctx context.Context, rp *vfs.ResolvingPath, parent *Dentry[I], dir bool, create func(parent *Dentry[I], name string) (*Dentry[I], error)) (child *Dentry[I], drop []refs.RefCounter, err error) {
	// The order of the checks shows in which error a caller gets.
	if err := parent.Inode.Allows(rp.Credentials(), vfs.MayExec); err != nil {
		return nil, drop, err
	}
	name := rp.Component()
	if name == "." || name == ".." {
		return nil, drop, linuxerr.EEXIST
	}
	if len(name) > linux.NAME_MAX {
		return nil, drop, linuxerr.ENAMETOOLONG
	}
	parent.dirMu.Lock()
	defer parent.dirMu.Unlock()
	switch child, drop, err = parent.LookupLocked(ctx, name); err {
	case nil:
		return child, drop, linuxerr.EEXIST
	case enoent:
	default:
		return nil, drop, err
	}
	if !dir && rp.MustBeDir() || parent.gone() {
		return nil, drop, enoent
	}
	if err := t.fs.BeginWrite(rp.Mount()); err != nil {
		return nil, drop, err
	}
	defer t.fs.EndWrite(rp.Mount())
	if err := parent.Inode.Allows(rp.Credentials(), vfs.MayWrite); err != nil {
		return nil, drop, err
	}
	if child, err = create(parent, name); err == nil {
		err = parent.Inode.Changed()
	}
	return child, drop, err
}

// MkdirAt implements vfs.FilesystemImpl.
func (t *Tree[I]) MkdirAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.MkdirOptions) error {
	return t.createAt(ctx, rp, true, func(parent *Dentry[I], name string) (*Dentry[I], error) {
		const bits = linux.PermissionsMask | linux.S_ISVTX
		return t.fs.Create(ctx, rp.Credentials(), parent, name, NewFile{Mode: linux.S_IFDIR | uint16(opts.Mode)&bits})
	})
}

// MknodAt implements vfs.FilesystemImpl.
func (t *Tree[I]) MknodAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.MknodOptions) error {
	return t.createAt(ctx, rp, false, func(parent *Dentry[I], name string) (*Dentry[I], error) {
		f := NewFile{Mode: uint16(opts.Mode)}
		switch f.Mode & linux.S_IFMT {
		case 0:
			f.Mode |= linux.S_IFREG
		case linux.S_IFREG, linux.S_IFIFO:
		case linux.S_IFCHR, linux.S_IFBLK:
			f.Major, f.Minor = opts.DevMajor, opts.DevMinor
		case linux.S_IFSOCK:
		case linux.S_IFDIR:
			return nil, linuxerr.EPERM
		default:
			return nil, linuxerr.EINVAL
		}
		child, err := t.fs.Create(ctx, rp.Credentials(), parent, name, f)
		if err == nil && opts.Endpoint != nil && child.file.Kind == linux.S_IFSOCK {
			t.holdInode(child.Inode)
			child.file.endpoint.Store(&endpoint{opts.Endpoint})
		}
		return child, err
	})
}

// SymlinkAt implements vfs.FilesystemImpl.
func (t *Tree[I]) SymlinkAt(ctx context.Context, rp *vfs.ResolvingPath, target string) error {
	return t.createAt(ctx, rp, false, func(parent *Dentry[I], name string) (*Dentry[I], error) {
		return t.fs.Create(ctx, rp.Credentials(), parent, name, NewFile{Mode: linux.S_IFLNK | 0777, Target: target})
	})
}

// LinkAt implements vfs.FilesystemImpl.
func (t *Tree[I]) LinkAt(ctx context.Context, rp *vfs.ResolvingPath, vd vfs.VirtualDentry) error {
	return t.createAt(ctx, rp, false, func(parent *Dentry[I], name string) (*Dentry[I], error) {
		if rp.Mount() != vd.Mount() {
			return nil, linuxerr.EXDEV
		}
		from := vd.Dentry().Impl().(*Dentry[I])
		i, f := from.Inode, from.file
		if f.IsDir() {
			return nil, linuxerr.EPERM
		}
		if err := i.AllowsLink(auth.CredentialsFromContext(ctx)); err != nil {
			return nil, err
		}
		if i.Links() == 0 && !f.Nameless.Load() {
			return nil, enoent
		}
		if err := parent.Inode.Link(name, i); err != nil {
			return nil, err
		}
		f.Nameless.Store(false)
		t.holdInode(i)
		child := parent.Attach(i, name)
		f.Watches.Notify(ctx, "", linux.IN_ATTRIB, 0, vfs.InodeEvent, false)
		return child, nil
	})
}

// OpenAt implements vfs.FilesystemImpl.
func (t *Tree[I]) OpenAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if opts.Flags&linux.O_TMPFILE != 0 {
		return t.openNameless(ctx, rp, &opts)
	}
	if opts.Flags&linux.O_CREAT == 0 {
		d, err := t.resolve(ctx, rp)
		if err != nil {
			return nil, err
		}
		defer d.DecRef(ctx)
		return d.open(ctx, rp, &opts, nil)
	}
	d, made, err := t.openOrCreate(ctx, rp, &opts)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	fd, err := d.open(ctx, rp, &opts, made)
	if err == nil && made != nil {
		fd.SetCreated()
	}
	return fd, err
}

// open opens d, on which the caller holds a reference, and no locks: opening a FIFO waits
// for its other end. With made the caller has just made the file, and may open it whatever
// its mode; see NewFile.
func (d *Dentry[I]) open(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions, made *int) (*vfs.FileDescription, error) {
	ats := vfs.AccessTypesForOpenFlags(opts)
	if made == nil {
		if err := d.Inode.AllowsOpen(rp.Credentials(), ats, opts.Flags); err != nil {
			return nil, err
		}
	}
	switch d.file.Kind {
	case linux.S_IFREG:
		return d.tree.fs.OpenRegular(ctx, rp, d, opts.Flags, ats, made)
	case linux.S_IFDIR:
		switch {
		case opts.Flags&linux.O_CREAT != 0 || ats.MayWrite():
			return nil, linuxerr.EISDIR
		case opts.Flags&linux.O_DIRECT != 0:
			return nil, linuxerr.EINVAL
		}
		return d.tree.fs.OpenDirectory(ctx, rp, d, opts.Flags)
	case linux.S_IFLNK:
		return nil, linuxerr.ELOOP
	}
	return d.openSpecial(ctx, rp, opts)
}

// openOrCreate returns the file at rp, made if it was not there, with a reference. Where it
// made it, made is that of NewFile, else nil.
func (t *Tree[I]) openOrCreate(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (d *Dentry[I], made *int, err error) {
	must := opts.Flags&linux.O_EXCL != 0
	defer t.fs.Changing()()
	t.renameMu.RLock()
	defer t.renameMu.RUnlock()
	start := rp.Start().Impl().(*Dentry[I])
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
				return nil, nil, err
			}
			return start, nil, nil
		}
		parent, err := t.walkParent(ctx, rp, start)
		start.DecRef(ctx)
		if err != nil {
			return nil, nil, err
		}
		if err := parent.Inode.Allows(rp.Credentials(), vfs.MayExec); err != nil || rp.MustBeDir() {
			parent.DecRef(ctx)
			if err == nil {
				err = linuxerr.EISDIR
			}
			return nil, nil, err
		}
		name := rp.Component()
		child, followed, err := t.step(ctx, rp, parent)
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
				return nil, nil, err
			}
			parent.DecRef(ctx)
			start = child
			continue
		case err == nil:
			parent.DecRef(ctx)
			if must {
				child.DecRef(ctx)
				return nil, nil, linuxerr.EEXIST
			}
			return child, nil, nil
		case err != enoent:
			parent.DecRef(ctx)
			return nil, nil, err
		}

		made = new(int)
		child, drop, err := t.createLocked(ctx, rp, parent, false, func(parent *Dentry[I], name string) (*Dentry[I], error) {
			const bits = linux.PermissionsMask | linux.S_ISUID | linux.S_ISGID | linux.S_ISVTX
			return t.fs.Create(ctx, rp.Credentials(), parent, name, NewFile{Mode: linux.S_IFREG | uint16(opts.Mode)&bits, Made: made})
		})
		dropAll(ctx, drop)
		switch {
		case err == nil:
			parent.file.Watches.Notify(ctx, name, linux.IN_CREATE, 0, vfs.PathEvent, false)
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
		return nil, nil, err
	}
}

// openNameless is open with O_TMPFILE.
func (t *Tree[I]) openNameless(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (*vfs.FileDescription, error) {
	dir, err := t.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer dir.DecRef(ctx)
	if !dir.file.IsDir() {
		return nil, linuxerr.ENOTDIR
	}
	if !vfs.MayWriteFileWithOpenFlags(opts.Flags) {
		return nil, linuxerr.EINVAL
	}
	if err := dir.Inode.Allows(rp.Credentials(), vfs.MayWrite|vfs.MayExec); err != nil {
		return nil, err
	}
	defer t.fs.Changing()()
	if err := t.fs.BeginWrite(rp.Mount()); err != nil {
		return nil, err
	}
	defer t.fs.EndWrite(rp.Mount())
	made, linkable := new(int), opts.Flags&linux.O_EXCL == 0
	f := NewFile{Mode: linux.S_IFREG | uint16(opts.Mode)&07777, Made: made}
	i, err := t.fs.CreateNameless(ctx, rp.Credentials(), dir.Inode, f, linkable)
	if err != nil {
		return nil, err
	}
	d := t.newDentry(i)
	defer d.DecRef(ctx)
	d.name = fmt.Sprintf("#%d", d.file.Ino())
	d.file.Nameless.Store(linkable)
	o := *opts
	o.Flags &^= linux.O_TMPFILE | linux.O_CREAT | linux.O_EXCL | linux.O_TRUNC
	return d.open(ctx, rp, &o, made)
}
