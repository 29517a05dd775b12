package hostfs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// newFile is a file to be made: type and permissions after the umask, and what
// belongs to its type.
type newFile struct {
	mode         uint16
	major, minor uint32
	target       string
	endpoint     *endpoint
}

// createAt resolves the directory of rp, checks that a file may be made there, and
// calls create with the directory's dirMu held for writing.
func (fs *filesystem) createAt(ctx context.Context, rp *vfs.ResolvingPath, dir bool, create func(parent *dentry, name string) (*dentry, error)) error {
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	parent, err := fs.walkParent(ctx, rp, rp.Start().Impl().(*dentry))
	if err != nil {
		return err
	}
	defer parent.DecRef(ctx)
	child, drop, err := fs.createLocked(ctx, rp, parent, dir, create)
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
	parent.inode.watches.Notify(ctx, rp.Component(), ev, 0, vfs.InodeEvent, false)
	return nil
}

func (fs *filesystem) createLocked(ctx context.Context, rp *vfs.ResolvingPath, parent *dentry, dir bool, create func(parent *dentry, name string) (*dentry, error)) (child *dentry, drop []refs.RefCounter, err error) {
	// The order of the checks shows in which error a caller gets.
	if err := parent.inode.allows(rp.Credentials(), vfs.MayExec); err != nil {
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
	switch child, drop, err = parent.lookupLocked(ctx, name); err {
	case nil:
		return child, drop, linuxerr.EEXIST
	case enoent:
	default:
		return nil, drop, err
	}
	if !dir && rp.MustBeDir() {
		return nil, drop, enoent
	}
	if err := fs.beginWrite(rp.Mount()); err != nil {
		return nil, drop, err
	}
	defer fs.endWrite(rp.Mount())
	if err := parent.inode.allows(rp.Credentials(), vfs.MayWrite); err != nil {
		return nil, drop, err
	}
	child, err = create(parent, name)
	return child, drop, err
}

// create makes a file in parent, whose dirMu is held for writing, and returns its
// dentry with a reference. Of a regular file it returns a descriptor too, open for reading
// and writing whatever the mode, which is the caller's to close; else -1.
func (fs *filesystem) create(ctx context.Context, creds *auth.Credentials, parent *dentry, name string, f newFile) (*dentry, int, error) {
	if err := fs.room(); err != nil {
		return nil, -1, err
	}
	o, err := fs.inherit(creds, parent, f)
	if err != nil {
		return nil, -1, err
	}
	fd := -1
	err = parent.inode.withGrant(func() (err error) {
		fd, err = fs.make(parent, name, o, f.target)
		return err
	})
	if err != nil {
		return nil, -1, errno(err)
	}
	child, err := fs.adopt(ctx, parent, name, o, fd)
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return child, -1, err
	}
	if f.endpoint != nil {
		child.inode.incRef()
		child.inode.endpoint.Store(f.endpoint)
	}
	return child, fd, nil
}

// make makes a file on the host. Its errors are the host's.
func (fs *filesystem) make(parent *dentry, name string, o owner, target string) (fd int, err error) {
	dir, mode := parent.inode.fd, uint32(o.mode&^linux.S_IFMT)
	if fs.opts.remember {
		mode = usable(o.mode)
	}
	// What the attribute cannot be set on is native where it needs none.
	native := !fs.opts.remember || o.uid == fs.opts.uid && o.gid == fs.opts.gid
	switch kind := o.mode & linux.S_IFMT; {
	case kind == linux.S_IFREG:
		return open(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDWR, mode)
	case kind == linux.S_IFDIR:
		return -1, unix.Mkdirat(dir, name, mode)
	case kind == linux.S_IFLNK && native:
		return -1, unix.Symlinkat(target, dir, name)
	case kind == linux.S_IFIFO && native, kind == linux.S_IFSOCK && native, !fs.opts.remember:
		return -1, unix.Mknodat(dir, name, uint32(o.mode), int(unix.Mkdev(o.major, o.minor)))
	}
	return -1, fs.placeholder(parent, name, o, target)
}

// adopt gives a file that was just made in parent, whose dirMu is held for writing, the
// owner and mode that it shall have, and returns its dentry with a reference, which it may
// do along with an error. A regular file is the one behind fd, though the host may have
// removed it already; of others the name tells.
func (fs *filesystem) adopt(ctx context.Context, parent *dentry, name string, o owner, fd int) (child *dentry, err error) {
	if fd >= 0 {
		path, err := open(unix.AT_FDCWD, procPath(fd), unix.O_PATH, 0)
		if err != nil {
			return nil, errno(err)
		}
		i, err := fs.inodeOf(ctx, path)
		if err != nil {
			return nil, err
		}
		child = newDentry(i)
		parent.attach(child, name)
	} else if child, _, err = parent.lookupLocked(ctx, name); err != nil {
		// There was no dentry of the name: none is forgotten.
		return nil, err
	}
	if child.inode.kind != o.mode&linux.S_IFMT {
		return child, enoent // the host has put another in its place
	}
	if err := child.inode.settle(o); err != nil {
		// It goes again rather than belong to somebody else.
		flags := 0
		if child.inode.isDir() {
			flags = unix.AT_REMOVEDIR
		}
		_ = unix.Unlinkat(parent.inode.fd, name, flags)
		parent.unlinked(child)
		return child, err
	}
	return child, nil
}

// settle gives a new file the owner and mode that it shall have, as far as the host made
// it with others.
func (i *inode) settle(o owner) error {
	a, err := i.attr()
	if err != nil {
		return err
	}
	switch {
	case i.kind == linux.S_IFLNK || a.noted:
		return nil
	case i.fs.opts.remember && (i.hostKind == linux.S_IFREG || i.hostKind == linux.S_IFDIR):
		if a.owner == o {
			return nil
		}
		return i.note(o)
	}
	// The machine's own umask is not the guest's. Where the host's filesystem has no such
	// modes the file stays as it is.
	if want := o.mode | a.mode&linux.S_ISGID; want != a.mode {
		_ = unix.Fchmodat(unix.AT_FDCWD, procPath(i.fd), uint32(want&^linux.S_IFMT), 0)
	}
	return nil
}

// inherit says what a file made in parent by creds has: where owners are remembered, the
// directory's group and set-group-ID bit as on every filesystem.
func (fs *filesystem) inherit(creds *auth.Credentials, parent *dentry, f newFile) (owner, error) {
	o := owner{uid: uint32(creds.EffectiveKUID), gid: uint32(creds.EffectiveKGID), mode: f.mode, major: f.major, minor: f.minor}
	a, err := parent.inode.attr()
	if err != nil {
		return o, err
	}
	if fs.opts.remember && a.mode&linux.S_ISGID != 0 {
		o.gid = a.gid
		switch {
		case f.mode&linux.S_IFMT == linux.S_IFDIR:
			o.mode |= linux.S_ISGID
		case f.mode&(linux.S_ISGID|linux.ModeGroupExec) == linux.S_ISGID|linux.ModeGroupExec &&
			!creds.InGroup(auth.KGID(a.gid)) && !creds.HasCapabilityOnFile(linux.CAP_FSETID, creds.EffectiveKUID, auth.KGID(a.gid)):
			o.mode &^= linux.S_ISGID
		}
	}
	return o, nil
}

// MkdirAt implements vfs.FilesystemImpl.
func (fs *filesystem) MkdirAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.MkdirOptions) error {
	return fs.createAt(ctx, rp, true, func(parent *dentry, name string) (*dentry, error) {
		const bits = linux.PermissionsMask | linux.S_ISVTX
		d, _, err := fs.create(ctx, rp.Credentials(), parent, name, newFile{mode: linux.S_IFDIR | uint16(opts.Mode)&bits})
		return d, err
	})
}

// MknodAt implements vfs.FilesystemImpl.
func (fs *filesystem) MknodAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.MknodOptions) error {
	return fs.createAt(ctx, rp, false, func(parent *dentry, name string) (*dentry, error) {
		f := newFile{mode: uint16(opts.Mode)}
		switch f.mode & linux.S_IFMT {
		case 0:
			f.mode |= linux.S_IFREG
		case linux.S_IFREG, linux.S_IFIFO:
		case linux.S_IFCHR, linux.S_IFBLK:
			f.major, f.minor = opts.DevMajor, opts.DevMinor
		case linux.S_IFSOCK:
			if opts.Endpoint != nil {
				f.endpoint = &endpoint{opts.Endpoint}
			}
		case linux.S_IFDIR:
			return nil, linuxerr.EPERM
		default:
			return nil, linuxerr.EINVAL
		}
		d, fd, err := fs.create(ctx, rp.Credentials(), parent, name, f)
		if fd >= 0 {
			unix.Close(fd)
		}
		return d, err
	})
}

// SymlinkAt implements vfs.FilesystemImpl.
func (fs *filesystem) SymlinkAt(ctx context.Context, rp *vfs.ResolvingPath, target string) error {
	return fs.createAt(ctx, rp, false, func(parent *dentry, name string) (*dentry, error) {
		if len(target) >= linux.PATH_MAX {
			return nil, linuxerr.ENAMETOOLONG
		}
		d, _, err := fs.create(ctx, rp.Credentials(), parent, name, newFile{mode: linux.S_IFLNK | 0777, target: target})
		return d, err
	})
}
