package ext4fs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/tree"
	"github.com/umlkit/umlkit/ext4"
)

// Find implements tree.Inode.
func (i *inode) Find(ctx context.Context, name string) (*inode, error) {
	node, err := i.node.Lookup(name)
	if err != nil {
		return nil, i.fs.errno(err)
	}
	return i.fs.inodeOf(node)
}

// Create implements tree.Filesystem.
func (fs *filesystem) Create(ctx context.Context, creds *auth.Credentials, parent *dentry, name string, f tree.NewFile) (*dentry, error) {
	if len(f.Target) >= fs.blockSize {
		return nil, linuxerr.ENAMETOOLONG
	}
	n, def, err := fs.inherit(creds, parent.Inode, f)
	if err != nil {
		return nil, err
	}
	if def != nil {
		n.Mode = beforeUmask(ctx, n.Mode)
	}
	node, err := parent.Inode.node.Create(name, n)
	if err != nil {
		return nil, fs.errno(err)
	}
	i, err := fs.inodeOf(node)
	if err != nil {
		return nil, err
	}
	child := parent.Attach(i, name)
	if def != nil {
		if _, err := i.inheritACL(def, n.Mode); err != nil {
			// As Linux does, the file goes again rather than be too open.
			parent.Unlinked(child)
			if i.IsDir() {
				parent.Inode.node.Rmdir(name)
			} else {
				parent.Inode.node.Unlink(name)
			}
			return child, err
		}
	}
	i.noCaps.Store(true)
	return child, nil
}

// CreateNameless implements tree.Filesystem.
func (fs *filesystem) CreateNameless(ctx context.Context, creds *auth.Credentials, dir *inode, f tree.NewFile, linkable bool) (*inode, error) {
	n, def, err := fs.inherit(creds, dir, f)
	if err != nil {
		return nil, err
	}
	if def != nil {
		n.Mode = beforeUmask(ctx, n.Mode)
	}
	node, err := dir.node.CreateUnlinked(n)
	if err != nil {
		return nil, fs.errno(err)
	}
	i, err := fs.inodeOf(node)
	if err != nil {
		return nil, err
	}
	if def != nil {
		if _, err := i.inheritACL(def, n.Mode); err != nil {
			fs.DropInode(ctx, i)
			return nil, err
		}
	}
	i.noCaps.Store(true)
	return i, nil
}

// inherit says what a file made in parent by creds gets from its directory: the
// group and, for a directory, the set-group-ID bit; the flags are the engine's to
// inherit. It returns the default ACL, if there is one for the file.
func (fs *filesystem) inherit(creds *auth.Credentials, parent *inode, f tree.NewFile) (ext4.NewInode, *vfs.PosixACL, error) {
	n := ext4.NewInode{
		Mode:   f.Mode,
		UID:    uint32(creds.EffectiveKUID),
		GID:    uint32(creds.EffectiveKGID),
		Major:  f.Major,
		Minor:  f.Minor,
		Target: f.Target,
	}
	a := parent.node.Attr()
	kind := f.Mode & linux.S_IFMT
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
	s, err := parent.aclState()
	if err != nil {
		return n, nil, err
	}
	return n, s.def, nil
}

// Changed implements tree.Inode: whether changes of a directory shall be stable at once the
// mount's options and the directory's flags say.
func (i *inode) Changed() error {
	o := i.fs.options()
	if !o.sync && !o.dirsync && i.node.Attr().Flags&dirSyncFlags == 0 {
		return nil
	}
	return i.fs.errno(i.node.Sync(false))
}

// Link implements tree.Inode.
func (i *inode) Link(name string, file *inode) error {
	file.mu.Lock()
	defer file.mu.Unlock()
	return i.fs.errno(i.node.Link(name, file.node))
}

// Remove implements tree.Inode.
func (i *inode) Remove(name string, child *inode) error {
	if child.IsDir() {
		return i.fs.errno(i.node.Rmdir(name))
	}
	child.mu.Lock()
	defer child.mu.Unlock()
	return i.fs.errno(i.node.Unlink(name))
}

// Rename implements tree.Filesystem.
func (fs *filesystem) Rename(oldDir *inode, oldName string, newDir *inode, newName string, _ *inode, flags uint32) error {
	return fs.errno(fs.engine.Rename(oldDir.node, oldName, newDir.node, newName, ext4.RenameFlags{
		NoReplace: flags&linux.RENAME_NOREPLACE != 0,
		Exchange:  flags&linux.RENAME_EXCHANGE != 0,
		Whiteout:  flags&unix.RENAME_WHITEOUT != 0,
	}))
}
