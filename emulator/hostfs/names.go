package hostfs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"

	"github.com/umlkit/umlkit/emulator/tree"
)

// Find implements tree.Inode.
func (i *inode) Find(ctx context.Context, name string) (*inode, error) {
	if !plain(name) {
		return nil, enoent
	}
	fd, err := open(i.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, errno(err)
	}
	if i.fs.typ.fds.full() {
		unix.Close(fd)
		return nil, linuxerr.ENFILE
	}
	return i.fs.inodeOf(fd)
}

// Create implements tree.Filesystem.
func (fs *filesystem) Create(ctx context.Context, creds *auth.Credentials, parent *dentry, name string, f tree.NewFile) (*dentry, error) {
	switch fds := fs.typ.fds; {
	case fds.full(), f.Made != nil && fds.files.Load() >= fds.mostFiles:
		// Before it is made, as it cannot be opened.
		return nil, linuxerr.ENFILE
	case len(f.Target) >= linux.PATH_MAX:
		return nil, linuxerr.ENAMETOOLONG
	}
	o, err := fs.inherit(creds, parent.Inode, f)
	if err != nil {
		return nil, err
	}
	fd := -1
	err = parent.Inode.withGrant(func() (err error) {
		fd, err = fs.make(parent.Inode, name, o, f.Target)
		return err
	})
	if err != nil {
		return nil, errno(err)
	}
	child, err := fs.adopt(ctx, parent, name, o, fd)
	if err == nil && f.Made != nil {
		*f.Made = fd
	} else if fd >= 0 {
		unix.Close(fd)
	}
	return child, err
}

// CreateNameless implements tree.Filesystem.
func (fs *filesystem) CreateNameless(ctx context.Context, creds *auth.Credentials, dir *inode, f tree.NewFile, linkable bool) (*inode, error) {
	if fs.typ.fds.full() {
		return nil, linuxerr.ENFILE
	}
	o, err := fs.inherit(creds, dir, f)
	if err != nil {
		return nil, err
	}
	mode, flags := uint32(o.mode&^linux.S_IFMT), unix.O_TMPFILE|unix.O_RDWR
	if fs.opts.remember {
		mode = usable(o.mode)
	}
	if !linkable {
		flags |= unix.O_EXCL
	}
	made := -1
	err = dir.withGrant(func() (err error) {
		made, err = open(dir.fd, ".", flags, mode)
		return err
	})
	if err != nil {
		return nil, errno(err)
	}
	i, err := fs.inodeMade(made)
	if err == nil {
		if err = i.settle(o); err != nil {
			fs.DropInode(ctx, i)
		}
	}
	if err != nil {
		unix.Close(made)
		return nil, err
	}
	*f.Made = made
	return i, nil
}

// inodeMade is inodeOf for a file that was just made, by a descriptor that stays the
// caller's.
func (fs *filesystem) inodeMade(fd int) (*inode, error) {
	path, err := open(unix.AT_FDCWD, procPath(fd), unix.O_PATH, 0)
	if err != nil {
		return nil, errno(err)
	}
	return fs.inodeOf(path)
}

// make makes a file on the host. Its errors are the host's.
func (fs *filesystem) make(parent *inode, name string, o owner, target string) (fd int, err error) {
	dir, mode := parent.fd, uint32(o.mode&^linux.S_IFMT)
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
		i, err := fs.inodeMade(fd)
		if err != nil {
			return nil, err
		}
		child = parent.Attach(i, name)
	} else if child, _, err = parent.LookupLocked(ctx, name); err != nil {
		// There was no dentry of the name: none is forgotten.
		return nil, err
	}
	if child.Inode.Kind != o.mode&linux.S_IFMT {
		return child, enoent // the host has put another in its place
	}
	if err := child.Inode.settle(o); err != nil {
		// It goes again rather than belong to somebody else.
		flags := 0
		if child.Inode.IsDir() {
			flags = unix.AT_REMOVEDIR
		}
		_ = unix.Unlinkat(parent.Inode.fd, name, flags)
		parent.Unlinked(child)
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
	case i.Kind == linux.S_IFLNK || a.noted:
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
func (fs *filesystem) inherit(creds *auth.Credentials, parent *inode, f tree.NewFile) (owner, error) {
	o := owner{uid: uint32(creds.EffectiveKUID), gid: uint32(creds.EffectiveKGID), mode: f.Mode, major: f.Major, minor: f.Minor}
	a, err := parent.attr()
	if err != nil {
		return o, err
	}
	if fs.opts.remember && a.mode&linux.S_ISGID != 0 {
		o.gid = a.gid
		switch {
		case f.Mode&linux.S_IFMT == linux.S_IFDIR:
			o.mode |= linux.S_ISGID
		case f.Mode&(linux.S_ISGID|linux.ModeGroupExec) == linux.S_ISGID|linux.ModeGroupExec &&
			!creds.InGroup(auth.KGID(a.gid)) && !creds.HasCapabilityOnFile(linux.CAP_FSETID, creds.EffectiveKUID, auth.KGID(a.gid)):
			o.mode &^= linux.S_ISGID
		}
	}
	return o, nil
}

// Changed implements tree.Inode.
func (i *inode) Changed() error { return nil }

// Link implements tree.Inode.
func (i *inode) Link(name string, file *inode) error {
	return errno(i.withGrant(func() error {
		return unix.Linkat(unix.AT_FDCWD, procPath(file.fd), i.fd, name, unix.AT_SYMLINK_FOLLOW)
	}))
}

// Remove implements tree.Inode.
func (i *inode) Remove(name string, child *inode) error {
	flags := 0
	if child.IsDir() {
		flags = unix.AT_REMOVEDIR
	} else if i.fs.grow {
		return linuxerr.EPERM
	}
	return errno(i.withGrant(func() error { return unix.Unlinkat(i.fd, name, flags) }))
}

// Rename implements tree.Filesystem.
func (fs *filesystem) Rename(oldDir *inode, oldName string, newDir *inode, newName string, replaced *inode, flags uint32) error {
	if fs.grow && replaced != nil && !replaced.IsDir() && flags&unix.RENAME_EXCHANGE == 0 {
		return linuxerr.EPERM
	}
	host := func() error { return unix.Renameat2(oldDir.fd, oldName, newDir.fd, newName, uint(flags)) }
	err := oldDir.withGrant(host)
	if err == unix.EACCES && newDir != oldDir {
		err = newDir.withGrant(host)
	}
	return errno(err)
}
