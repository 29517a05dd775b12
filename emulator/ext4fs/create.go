package ext4fs

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4"
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
	defer fs.changing()()
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	parent, err := fs.walkParent(ctx, rp, rp.Start().Impl().(*dentry))
	if err != nil {
		return err
	}
	defer parent.DecRef(ctx)
	child, err := fs.createLocked(ctx, rp, parent, dir, create)
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

func (fs *filesystem) createLocked(ctx context.Context, rp *vfs.ResolvingPath, parent *dentry, dir bool, create func(parent *dentry, name string) (*dentry, error)) (*dentry, error) {
	// The order of the checks shows in which error a caller gets.
	if err := parent.inode.allows(rp.Credentials(), vfs.MayExec); err != nil {
		return nil, err
	}
	name := rp.Component()
	if name == "." || name == ".." {
		return nil, linuxerr.EEXIST
	}
	if len(name) > linux.NAME_MAX {
		return nil, linuxerr.ENAMETOOLONG
	}
	parent.dirMu.Lock()
	defer parent.dirMu.Unlock()
	switch child, err := parent.lookupLocked(name); err {
	case nil:
		return child, linuxerr.EEXIST
	case enoent:
	default:
		return nil, err
	}
	if !dir && rp.MustBeDir() || parent.deleted.Load() {
		return nil, enoent
	}
	if err := rp.Mount().CheckBeginWrite(); err != nil {
		return nil, err
	}
	defer rp.Mount().EndWrite()
	if err := fs.writable(); err != nil {
		return nil, err
	}
	if err := parent.inode.allows(rp.Credentials(), vfs.MayWrite); err != nil {
		return nil, err
	}
	return create(parent, name)
}

// create makes a file in parent, whose dirMu is held for writing, and returns its
// dentry with a reference.
func (fs *filesystem) create(ctx context.Context, creds *auth.Credentials, parent *dentry, name string, f newFile) (*dentry, error) {
	n, def, err := fs.inherit(creds, parent, f)
	if err != nil {
		return nil, err
	}
	if def != nil {
		n.Mode = beforeUmask(ctx, n.Mode)
	}
	node, err := parent.inode.node.Create(name, n)
	if err != nil {
		return nil, fs.errno(err)
	}
	i, err := fs.inodeOf(node)
	if err != nil {
		return nil, err
	}
	child := newDentry(i)
	parent.attach(child, name)
	if def != nil {
		if _, err := i.inheritACL(def, n.Mode); err != nil {
			// As Linux does, the file goes again rather than be too open.
			parent.removeCreated(child)
			return child, err
		}
	}
	i.noCaps.Store(true)
	if f.endpoint != nil {
		i.incRef()
		i.endpoint.Store(f.endpoint)
	}
	if fs.mustSyncDir(parent.inode) {
		if err := parent.inode.node.Sync(false); err != nil {
			return child, fs.errno(err)
		}
	}
	return child, nil
}

// removeCreated takes back the creation of child. Parent's dirMu is held.
func (d *dentry) removeCreated(child *dentry) {
	name := child.name
	d.unlinked(child)
	if child.inode.isDir() {
		d.inode.node.Rmdir(name)
	} else {
		d.inode.node.Unlink(name)
	}
}

// inherit says what a file made in parent by creds gets from its directory: the
// group and, for a directory, the set-group-ID bit; the flags are the engine's to
// inherit. It returns the default ACL, if there is one for the file.
func (fs *filesystem) inherit(creds *auth.Credentials, parent *dentry, f newFile) (ext4.NewInode, *vfs.PosixACL, error) {
	n := ext4.NewInode{
		Mode:   f.mode,
		UID:    uint32(creds.EffectiveKUID),
		GID:    uint32(creds.EffectiveKGID),
		Major:  f.major,
		Minor:  f.minor,
		Target: f.target,
	}
	a := parent.inode.node.Attr()
	kind := f.mode & linux.S_IFMT
	switch {
	case fs.options().grpid:
		n.GID = a.GID
	case a.Mode&linux.S_ISGID != 0:
		n.GID = a.GID
		switch {
		case kind == linux.S_IFDIR:
			n.Mode |= linux.S_ISGID
		case n.Mode&(linux.S_ISGID|linux.ModeGroupExec) == linux.S_ISGID|linux.ModeGroupExec &&
			!creds.InGroup(auth.KGID(a.GID)) && !creds.HasCapabilityOnFile(linux.CAP_FSETID, creds.EffectiveKUID, auth.KGID(a.GID)):
			n.Mode &^= linux.S_ISGID
		}
	}
	if kind == linux.S_IFLNK {
		return n, nil, nil
	}
	s, err := parent.inode.aclState()
	if err != nil {
		return n, nil, err
	}
	return n, s.def, nil
}

// mustSyncDir says whether changes of directory i shall be stable at once.
func (fs *filesystem) mustSyncDir(i *inode) bool {
	o := fs.options()
	return o.sync || o.dirsync || i.node.Attr().Flags&dirSyncFlags != 0
}

// MkdirAt implements vfs.FilesystemImpl.
func (fs *filesystem) MkdirAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.MkdirOptions) error {
	return fs.createAt(ctx, rp, true, func(parent *dentry, name string) (*dentry, error) {
		const bits = linux.PermissionsMask | linux.S_ISVTX
		return fs.create(ctx, rp.Credentials(), parent, name, newFile{mode: linux.S_IFDIR | uint16(opts.Mode)&bits})
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
		return fs.create(ctx, rp.Credentials(), parent, name, f)
	})
}

// SymlinkAt implements vfs.FilesystemImpl.
func (fs *filesystem) SymlinkAt(ctx context.Context, rp *vfs.ResolvingPath, target string) error {
	return fs.createAt(ctx, rp, false, func(parent *dentry, name string) (*dentry, error) {
		if len(target) >= fs.blockSize {
			return nil, linuxerr.ENAMETOOLONG
		}
		return fs.create(ctx, rp.Credentials(), parent, name, newFile{mode: linux.S_IFLNK | 0777, target: target})
	})
}

// LinkAt implements vfs.FilesystemImpl.
func (fs *filesystem) LinkAt(ctx context.Context, rp *vfs.ResolvingPath, vd vfs.VirtualDentry) error {
	return fs.createAt(ctx, rp, false, func(parent *dentry, name string) (*dentry, error) {
		if rp.Mount() != vd.Mount() {
			return nil, linuxerr.EXDEV
		}
		i := vd.Dentry().Impl().(*dentry).inode
		if i.isDir() {
			return nil, linuxerr.EPERM
		}
		a := i.node.Attr()
		if a.Flags&(fixedFlags) != 0 {
			return nil, linuxerr.EPERM
		}
		acl, err := i.accessACL()
		if err != nil {
			return nil, err
		}
		if err := vfs.MayLink(auth.CredentialsFromContext(ctx), linux.FileMode(a.Mode), acl, auth.KUID(a.UID), auth.KGID(a.GID)); err != nil {
			return nil, err
		}
		if a.Links == 0 && !i.nameless.Load() {
			return nil, enoent
		}
		i.mu.Lock()
		err = parent.inode.node.Link(name, i.node)
		i.mu.Unlock()
		if err != nil {
			return nil, fs.errno(err)
		}
		i.nameless.Store(false)
		i.incRef()
		child := newDentry(i)
		parent.attach(child, name)
		i.watches.Notify(ctx, "", linux.IN_ATTRIB, 0, vfs.InodeEvent, false)
		return child, nil
	})
}

// OpenAt implements vfs.FilesystemImpl.
func (fs *filesystem) OpenAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if opts.Flags&linux.O_TMPFILE != 0 {
		return fs.openNameless(ctx, rp, &opts)
	}
	if opts.Flags&linux.O_CREAT == 0 {
		d, err := fs.resolve(ctx, rp)
		if err != nil {
			return nil, err
		}
		defer d.DecRef(ctx)
		return d.open(ctx, rp, &opts, false)
	}
	d, created, err := fs.openOrCreate(ctx, rp, &opts)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	fd, err := d.open(ctx, rp, &opts, created)
	if err == nil && created {
		fd.SetCreated()
	}
	return fd, err
}

// openOrCreate returns the file at rp, made if it was not there, with a reference.
func (fs *filesystem) openOrCreate(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (d *dentry, created bool, err error) {
	must := opts.Flags&linux.O_EXCL != 0
	defer fs.changing()()
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	start := rp.Start().Impl().(*dentry)
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
				return nil, false, err
			}
			return start, false, nil
		}
		parent, err := fs.walkParent(ctx, rp, start)
		start.DecRef(ctx)
		if err != nil {
			return nil, false, err
		}
		if err := parent.inode.allows(rp.Credentials(), vfs.MayExec); err != nil || rp.MustBeDir() {
			parent.DecRef(ctx)
			if err == nil {
				err = linuxerr.EISDIR
			}
			return nil, false, err
		}
		name := rp.Component()
		child, followed, err := fs.step(ctx, rp, parent)
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
				return nil, false, err
			}
			parent.DecRef(ctx)
			start = child
			continue
		case err == nil:
			parent.DecRef(ctx)
			if must {
				child.DecRef(ctx)
				return nil, false, linuxerr.EEXIST
			}
			return child, false, nil
		case err != enoent:
			parent.DecRef(ctx)
			return nil, false, err
		}

		child, err = fs.createLocked(ctx, rp, parent, false, func(parent *dentry, name string) (*dentry, error) {
			const bits = linux.PermissionsMask | linux.S_ISUID | linux.S_ISGID | linux.S_ISVTX
			return fs.create(ctx, rp.Credentials(), parent, name, newFile{mode: linux.S_IFREG | uint16(opts.Mode)&bits})
		})
		switch {
		case err == nil:
			parent.inode.watches.Notify(ctx, name, linux.IN_CREATE, 0, vfs.PathEvent, false)
			parent.DecRef(ctx)
			return child, true, nil
		case child != nil:
			child.DecRef(ctx)
		}
		if linuxerr.Equals(linuxerr.EEXIST, err) && !must {
			// Someone else made it meanwhile: look again.
			start = parent
			continue
		}
		parent.DecRef(ctx)
		return nil, false, err
	}
}

// openNameless is open with O_TMPFILE.
func (fs *filesystem) openNameless(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (*vfs.FileDescription, error) {
	dir, err := fs.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer dir.DecRef(ctx)
	if !dir.inode.isDir() {
		return nil, linuxerr.ENOTDIR
	}
	if !vfs.MayWriteFileWithOpenFlags(opts.Flags) {
		return nil, linuxerr.EINVAL
	}
	if err := dir.inode.allows(rp.Credentials(), vfs.MayWrite|vfs.MayExec); err != nil {
		return nil, err
	}
	defer fs.changing()()
	if err := rp.Mount().CheckBeginWrite(); err != nil {
		return nil, err
	}
	defer rp.Mount().EndWrite()
	if err := fs.writable(); err != nil {
		return nil, err
	}
	n, def, err := fs.inherit(rp.Credentials(), dir, newFile{mode: linux.S_IFREG | uint16(opts.Mode)&07777})
	if err != nil {
		return nil, err
	}
	if def != nil {
		n.Mode = beforeUmask(ctx, n.Mode)
	}
	node, err := dir.inode.node.CreateUnlinked(n)
	if err != nil {
		return nil, fs.errno(err)
	}
	i, err := fs.inodeOf(node)
	if err != nil {
		return nil, err
	}
	d := newDentry(i)
	defer d.DecRef(ctx)
	d.name = fmt.Sprintf("#%d", i.ino)
	if def != nil {
		if _, err := i.inheritACL(def, n.Mode); err != nil {
			return nil, err
		}
	}
	i.noCaps.Store(true)
	i.nameless.Store(opts.Flags&linux.O_EXCL == 0)
	o := *opts
	o.Flags &^= linux.O_TMPFILE | linux.O_CREAT | linux.O_EXCL | linux.O_TRUNC
	return d.open(ctx, rp, &o, true)
}
