package tree

import (
	"container/list"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// enoent is compared with ==, with what an Inode fails with too.
var enoent error = linuxerr.ENOENT

// Filesystem is what a filesystem does its own way.
type Filesystem[I Inode[I]] interface {
	// Changing lets the caller change the filesystem until it calls what it gets. It
	// may wait.
	Changing() (done func())

	// BeginWrite begins a change through a mount, which EndWrite ends. It fails where
	// the mount or the filesystem is read-only.
	BeginWrite(mnt *vfs.Mount) error
	EndWrite(mnt *vfs.Mount)

	// ReadOnly says whether the filesystem is read-only, whatever a mount of it is.
	ReadOnly() bool

	// Create makes a file in parent, whose dirMu is held for writing, and returns its
	// dentry with a reference, which it may do along with an error.
	Create(ctx context.Context, creds *auth.Credentials, parent *Dentry[I], name string, f NewFile) (*Dentry[I], error)

	// CreateNameless makes a regular file for dir's filesystem that has no name, and is
	// never to have one unless linkable.
	CreateNameless(ctx context.Context, creds *auth.Credentials, dir I, f NewFile, linkable bool) (I, error)

	// OpenRegular and OpenDirectory open d, on which the caller holds a reference, and no
	// locks. Whether it may be opened so is checked. With made the caller has just made
	// the file; see NewFile.
	OpenRegular(ctx context.Context, rp *vfs.ResolvingPath, d *Dentry[I], flags uint32, ats vfs.AccessTypes, made *int) (*vfs.FileDescription, error)
	OpenDirectory(ctx context.Context, rp *vfs.ResolvingPath, d *Dentry[I], flags uint32) (*vfs.FileDescription, error)

	// Rename renames on the disk. Both directories' dirMu are held for writing. replaced
	// is the zero value where the new name is free; flags are those of renameat2(2).
	Rename(oldDir I, oldName string, newDir I, newName string, replaced I, flags uint32) error

	// SetStat implements chmod, chown, truncate and utimensat between BeginWrite and
	// EndWrite. The caller has checked that what is asked for makes sense. fd is what the
	// guest has d open by, or nil.
	SetStat(ctx context.Context, creds *auth.Credentials, d *Dentry[I], opts *vfs.SetStatOptions, fd *vfs.FileDescription) error
}

// Inode is a file as its filesystem has it. Errors are those that the guest shall see.
type Inode[I any] interface {
	comparable

	// Common is the File that the inode embeds.
	Common() *File

	// Links is how many names the file has.
	Links() uint32

	// Unsaved says whether Save is to be called before the last reference goes. It is
	// called with the table of inodes locked.
	Unsaved() bool
	Save(ctx context.Context)

	// Close ends the inode. Nobody refers to it.
	Close(ctx context.Context)

	// Find returns the inode of a name in a directory, whose dirMu is held for writing,
	// with a reference.
	Find(ctx context.Context, name string) (I, error)

	// Link gives file another name, and Remove takes child's, in a directory whose dirMu
	// is held for writing. Changed makes changes of a directory stable, where they shall
	// be at once.
	Link(name string, file I) error
	Remove(name string, child I) error
	Changed() error

	// Allows checks that creds may access the file so, AllowsOpen that they may open it
	// with flags, AllowsRemoval that they may remove or rename child, a file of the
	// directory, AllowsLink that they may give the file another name.
	Allows(creds *auth.Credentials, ats vfs.AccessTypes) error
	AllowsOpen(creds *auth.Credentials, ats vfs.AccessTypes, flags uint32) error
	AllowsRemoval(creds *auth.Credentials, child I) error
	AllowsLink(creds *auth.Credentials) error

	// Readlink returns the target of a symlink. Device is the numbers of a device.
	Readlink(mnt *vfs.Mount) (string, error)
	Device() (major, minor uint32, err error)

	// Stat is what statx(2) tells but for the mount. StatFS is what statfs(2) tells through mnt,
	// which may be nil.
	Stat() (linux.Statx, error)
	StatFS(mnt *vfs.Mount) (linux.Statfs, error)

	ListXattr(creds *auth.Credentials) ([]string, error)
	GetXattr(creds *auth.Credentials, opts *vfs.GetXattrOptions) (string, error)
	SetXattr(creds *auth.Credentials, opts *vfs.SetXattrOptions) error
	RemoveXattr(creds *auth.Credentials, name string) error
	PosixACL(t vfs.ACLType) (*vfs.PosixACL, error)
	SetPosixACL(creds *auth.Credentials, t vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (*vfs.PosixACL, linux.FileMode, error)
}

// Tree is the names of a filesystem that is mounted. The fields are set before Init and do
// not change.
type Tree[I Inode[I]] struct {
	// VFSFS is the filesystem as the VFS has it.
	VFSFS vfs.Filesystem

	// MostCached is how many unreferenced dentries are kept.
	MostCached int

	// Still says whether a name in dir is child yet. It is nil where nobody but the
	// guest changes names; only then are absent ones remembered.
	Still func(dir, child I, name string) bool

	// Full says whether files that nobody uses shall go before others are looked up. It
	// may be nil.
	Full func() bool

	fs Filesystem[I]

	// renameMu keeps the tree in shape: walks hold it for reading, a rename for
	// writing. ancestryMu protects parent and name of dentries; a rename holds it
	// for writing only while it changes them.
	renameMu   sync.RWMutex
	ancestryMu sync.RWMutex

	root     *Dentry[I] // nil only where the mount failed
	released atomic.Bool

	cacheMu sync.Mutex
	cached  list.List // of *Dentry[I]: the unreferenced ones, latest first

	inodesMu sync.Mutex
	inodes   map[Key]I
}

// Init readies t to hold the files of fs.
func (t *Tree[I]) Init(fs Filesystem[I]) {
	t.fs = fs
	t.inodes = make(map[Key]I)
}

// SetRoot makes i, of which it takes the reference over, the root.
func (t *Tree[I]) SetRoot(i I) { t.root = t.newDentry(i) }

// Root returns the root, which holds a reference as long as the tree.
func (t *Tree[I]) Root() *Dentry[I] { return t.root }

// Inode returns the inode of key with a reference. Where there is none open makes it, with
// all but the references of its File; had says that there was one. It is called with the
// table locked.
func (t *Tree[I]) Inode(key Key, open func() (I, error)) (i I, had bool, err error) {
	t.inodesMu.Lock()
	defer t.inodesMu.Unlock()
	if i, had = t.inodes[key]; !had {
		if i, err = open(); err != nil {
			return i, false, err
		}
		i.Common().key = key
		t.inodes[key] = i
	}
	i.Common().refs++
	return i, had, nil
}

// Inodes returns those that want picks, each with a reference. It is called with the table
// locked.
func (t *Tree[I]) Inodes(want func(I) bool) []I {
	t.inodesMu.Lock()
	defer t.inodesMu.Unlock()
	var picked []I
	for _, i := range t.inodes {
		if want(i) {
			i.Common().refs++
			picked = append(picked, i)
		}
	}
	return picked
}

func (t *Tree[I]) holdInode(i I) {
	t.inodesMu.Lock()
	i.Common().refs++
	t.inodesMu.Unlock()
}

// DropInode drops a reference. An inode that is watched stays as long as it has a name.
func (t *Tree[I]) DropInode(ctx context.Context, i I) {
	f := i.Common()
	t.inodesMu.Lock()
	for f.refs == 1 && i.Unsaved() {
		// Keep the inode until its data is where the next reader looks for it.
		t.inodesMu.Unlock()
		i.Save(ctx)
		t.inodesMu.Lock()
	}
	if f.refs--; f.refs > 0 {
		t.inodesMu.Unlock()
		return
	}
	removed := false
	if f.Watches.Size() != 0 {
		if removed = i.Links() == 0; !removed && !t.released.Load() {
			t.inodesMu.Unlock()
			return
		}
	}
	t.closeLocked(ctx, i, removed)
}

// unwatched ends an inode that only its watches kept.
func (t *Tree[I]) unwatched(ctx context.Context, i I) {
	f := i.Common()
	t.inodesMu.Lock()
	if f.refs != 0 || t.inodes[f.key] != i || f.Watches.Size() != 0 {
		t.inodesMu.Unlock()
		return
	}
	t.closeLocked(ctx, i, false)
}

// closeLocked ends i. It unlocks inodesMu.
func (t *Tree[I]) closeLocked(ctx context.Context, i I, removed bool) {
	f := i.Common()
	delete(t.inodes, f.key)
	t.inodesMu.Unlock()
	if removed {
		f.Watches.HandleDeletion(ctx)
	}
	i.Close(ctx)
}

// inodeRef is a reference on an inode, to be dropped later.
type inodeRef[I Inode[I]] struct {
	t *Tree[I]
	i I
}

func (r inodeRef[I]) IncRef()                    { r.t.holdInode(r.i) }
func (r inodeRef[I]) DecRef(ctx context.Context) { r.t.DropInode(ctx, r.i) }

// ReleaseAll ends all dentries and inodes, those too that a bound socket or a watch has
// kept, when the last mount is gone.
func (t *Tree[I]) ReleaseAll(ctx context.Context) {
	t.released.Store(true)
	for t.evictOldest(ctx) {
	}
	if t.root != nil {
		t.root.DecRef(ctx)
	}
	for _, i := range t.Inodes(func(I) bool { return true }) {
		if i.Common().endpoint.Swap(nil) != nil {
			t.DropInode(ctx, i)
		}
		t.DropInode(ctx, i)
	}
}
