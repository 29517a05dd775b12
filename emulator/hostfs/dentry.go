package hostfs

import (
	"container/list"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// maxCachedDentries is how many unreferenced dentries a filesystem keeps, each with a
// descriptor of the host.
const maxCachedDentries = 4096

// dentry is a name in a directory, and the file it leads to. It implements
// vfs.DentryImpl.
//
// A dentry holds a reference on its parent and on its inode. With refs == 0 it is in
// its parent's children and in the filesystem's cache of unreferenced dentries, from
// which a lookup takes it again; with refs == -1 it is gone. The root has no parent.
type dentry struct {
	vfsd  vfs.Dentry
	inode *inode
	refs  atomic.Int64

	// parent and name change with fs.ancestryMu held for writing.
	parent atomic.Pointer[dentry]
	name   string

	// dirMu serialises what changes the directory here. children holds the dentries of
	// names that were there when someone looked. deleted is set, by a holder of the
	// parent's dirMu, when the name is unlinked or found to be another file.
	dirMu    sync.RWMutex
	children map[string]*dentry
	deleted  atomic.Bool

	// cachingMu protects lru, the dentry's place among the unreferenced.
	cachingMu sync.Mutex
	lru       *list.Element
}

// newDentry returns a dentry with one reference, held by the caller. It takes over
// the caller's reference on i.
func newDentry(i *inode) *dentry {
	d := &dentry{inode: i}
	d.refs.Store(1)
	d.vfsd.Init(d)
	return d
}

func (d *dentry) fs() *filesystem { return d.inode.fs }

// IncRef implements vfs.DentryImpl. The caller holds a reference, or the parent's
// dirMu.
func (d *dentry) IncRef() {
	if d.refs.Add(1) <= 0 {
		panic("hostfs: reference taken on a destroyed dentry")
	}
}

// TryIncRef implements vfs.DentryImpl.
func (d *dentry) TryIncRef() bool {
	for {
		r := d.refs.Load()
		if r <= 0 {
			return false
		}
		if d.refs.CompareAndSwap(r, r+1) {
			return true
		}
	}
}

// DecRef implements vfs.DentryImpl. The caller holds no dirMu and no cachingMu.
func (d *dentry) DecRef(ctx context.Context) {
	switch r := d.refs.Add(-1); {
	case r < 0:
		panic("hostfs: reference dropped on a destroyed dentry")
	case r == 0:
		d.settle(ctx)
	}
}

// settle brings d to where its count of references says: to the unreferenced, out
// of them, or to its end.
func (d *dentry) settle(ctx context.Context) {
	fs := d.fs()
	d.cachingMu.Lock()
	r := d.refs.Load()
	if r != 0 {
		if r > 0 {
			d.uncache()
		}
		d.cachingMu.Unlock()
		return
	}
	if d.parent.Load() == nil || d.deleted.Load() || fs.released.Load() || d.vfsd.IsEvictable() {
		d.evict(ctx)
		return
	}
	fs.cacheMu.Lock()
	if d.lru != nil {
		fs.cached.MoveToFront(d.lru)
	} else {
		d.lru = fs.cached.PushFront(d)
	}
	over := fs.cached.Len() > fs.mostCached
	fs.cacheMu.Unlock()
	d.cachingMu.Unlock()
	if over {
		fs.evictOldest(ctx)
	}
}

// uncache takes d from the unreferenced. d.cachingMu is held.
func (d *dentry) uncache() {
	if d.lru == nil {
		return
	}
	fs := d.fs()
	fs.cacheMu.Lock()
	fs.cached.Remove(d.lru)
	fs.cacheMu.Unlock()
	d.lru = nil
}

// evict ends d unless someone took a reference meanwhile. It unlocks d.cachingMu.
func (d *dentry) evict(ctx context.Context) {
	d.uncache()
	parent := d.lockParent()
	ended := d.refs.CompareAndSwap(0, -1)
	if parent != nil {
		if ended && parent.children[d.name] == d {
			delete(parent.children, d.name)
		}
		parent.dirMu.Unlock()
	}
	d.cachingMu.Unlock()
	if !ended {
		return
	}
	d.inode.decRef(ctx)
	if parent != nil {
		parent.DecRef(ctx)
	}
}

// lockParent returns the parent of d, or nil, with its dirMu held for writing. While
// it is held d stays where it is, and nobody takes a first reference on it.
func (d *dentry) lockParent() *dentry {
	for {
		parent := d.parent.Load()
		if parent == nil {
			return nil
		}
		parent.dirMu.Lock()
		if d.parent.Load() == parent {
			return parent
		}
		parent.dirMu.Unlock()
	}
}

// evictOldest ends the dentry that has been unreferenced for longest. It says
// whether there was one.
func (fs *filesystem) evictOldest(ctx context.Context) bool {
	for {
		fs.cacheMu.Lock()
		e := fs.cached.Back()
		fs.cacheMu.Unlock()
		if e == nil {
			return false
		}
		d := e.Value.(*dentry)
		d.cachingMu.Lock()
		if d.lru != e {
			d.cachingMu.Unlock()
			continue
		}
		d.evict(ctx)
		return true
	}
}

// key asks the host which file a name is.
func (d *dentry) key(name string) (inodeKey, error) {
	var st unix.Stat_t
	err := again(func() error {
		return unix.Fstatat(d.inode.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	})
	return inodeKey{uint64(st.Dev), st.Ino}, err
}

// lookup returns the child of that name with a reference, or ENOENT.
func (d *dentry) lookup(ctx context.Context, name string) (*dentry, error) {
	if !plain(name) {
		return nil, enoent
	}
	key, err := d.key(name)
	d.dirMu.RLock()
	child := d.children[name]
	if child != nil && err == nil && child.inode.key == key {
		child.IncRef()
		d.dirMu.RUnlock()
		return child, nil
	}
	d.dirMu.RUnlock()
	if child == nil && err != nil {
		return nil, errno(err)
	}
	d.dirMu.Lock()
	child, drop, err := d.lookupLocked(ctx, name)
	d.dirMu.Unlock()
	dropAll(ctx, drop)
	return child, err
}

// lookupLocked is lookup with d.dirMu held for writing. Besides it returns references
// that are to be dropped when no dirMu is held.
func (d *dentry) lookupLocked(ctx context.Context, name string) (child *dentry, drop []refs.RefCounter, err error) {
	if !plain(name) {
		return nil, nil, enoent
	}
	if child, ok := d.children[name]; ok {
		key, err := d.key(name)
		if err == nil && child.inode.key == key {
			child.IncRef()
			return child, nil, nil
		}
		// The host has removed or replaced it.
		drop = d.forget(ctx, child)
		if err != nil {
			return nil, drop, errno(err)
		}
	}
	if err := d.fs().room(); err != nil {
		return nil, drop, err
	}
	fd, err := open(d.inode.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, drop, errno(err)
	}
	i, err := d.fs().inodeOf(ctx, fd)
	if err != nil {
		return nil, drop, err
	}
	child = newDentry(i)
	d.attach(child, name)
	return child, drop, nil
}

// forget takes from d a child whose name is no longer that file. d.dirMu is held for
// writing. It returns references to be dropped.
func (d *dentry) forget(ctx context.Context, child *dentry) []refs.RefCounter {
	child.IncRef()
	d.unlinked(child)
	drop := d.fs().vfsfs.VirtualFilesystem().InvalidateDentry(ctx, &child.vfsd)
	return append(drop, child)
}

func dropAll(ctx context.Context, drop []refs.RefCounter) {
	for _, r := range drop {
		r.DecRef(ctx)
	}
}

// attach makes child, which nobody else knows yet, the dentry of name in d. d.dirMu
// is held for writing.
func (d *dentry) attach(child *dentry, name string) {
	d.refs.Add(1)
	child.parent.Store(d)
	child.name = name
	d.insert(child, name)
}

// insert enters child in the children of d. d.dirMu is held for writing.
func (d *dentry) insert(child *dentry, name string) {
	if d.children == nil {
		d.children = make(map[string]*dentry)
	}
	d.children[name] = child
}

// unlinked records that the name of child is gone from d, whose dirMu is held for writing.
func (d *dentry) unlinked(child *dentry) {
	child.deleted.Store(true)
	if d.children[child.name] == child {
		delete(d.children, child.name)
	}
}

// InotifyWithParent implements vfs.DentryImpl.
func (d *dentry) InotifyWithParent(ctx context.Context, events, cookie uint32, et vfs.EventType) {
	if d.inode.isDir() {
		events |= linux.IN_ISDIR
	}
	deleted := d.deleted.Load()
	fs := d.fs()
	fs.ancestryMu.RLock()
	parent, name := d.parent.Load(), d.name
	fs.ancestryMu.RUnlock()
	if parent != nil {
		parent.inode.watches.Notify(ctx, name, events, cookie, et, deleted)
	}
	d.inode.watches.Notify(ctx, "", events, cookie, et, deleted)
}

// Watches implements vfs.DentryImpl. Watches belong to the inode, which outlives an
// evicted dentry as long as it has any.
func (d *dentry) Watches() *vfs.Watches { return &d.inode.watches }

// OnZeroWatches implements vfs.DentryImpl.
func (d *dentry) OnZeroWatches(ctx context.Context) { d.inode.unwatched(ctx) }

// setParentAndName moves d in the tree. fs.renameMu and both directories' dirMu are
// held for writing. It returns the old parent, whose reference the caller drops.
func (d *dentry) setParentAndName(parent *dentry, name string) *dentry {
	fs := d.fs()
	old := d.parent.Load()
	if parent != old {
		parent.refs.Add(1)
	}
	fs.ancestryMu.Lock()
	d.parent.Store(parent)
	d.name = name
	fs.ancestryMu.Unlock()
	if parent == old {
		return nil
	}
	return old
}

// isAncestorOf says whether other lies below d.
func (d *dentry) isAncestorOf(other *dentry) bool {
	return d != other && d.fs().descends(other, &d.vfsd)
}

func (fs *filesystem) descends(d *dentry, top *vfs.Dentry) bool {
	fs.ancestryMu.RLock()
	defer fs.ancestryMu.RUnlock()
	for d != nil && &d.vfsd != top {
		d = d.parent.Load()
	}
	return d != nil
}

// IsDescendant implements vfs.FilesystemImpl.
func (fs *filesystem) IsDescendant(vfsroot, vd vfs.VirtualDentry) bool {
	return fs.descends(vd.Dentry().Impl().(*dentry), vfsroot.Dentry())
}

// PrependPath implements vfs.FilesystemImpl.
func (fs *filesystem) PrependPath(ctx context.Context, vfsroot, vd vfs.VirtualDentry, b *fspath.Builder) error {
	fs.ancestryMu.RLock()
	defer fs.ancestryMu.RUnlock()
	mnt := vd.Mount()
	for d := vd.Dentry().Impl().(*dentry); ; {
		if mnt == vfsroot.Mount() && &d.vfsd == vfsroot.Dentry() {
			return vfs.PrependPathAtVFSRootError{}
		}
		if mnt != nil && &d.vfsd == mnt.Root() {
			return nil
		}
		parent := d.parent.Load()
		if parent == nil {
			if d.name != "" {
				// A file that open(O_TMPFILE) made and nobody linked.
				b.PrependComponent("/" + d.name)
				b.AppendString(" (deleted)")
				return vfs.PrependPathSyntheticError{}
			}
			return vfs.PrependPathAtNonMountRootError{}
		}
		b.PrependComponent(d.name)
		d = parent
	}
}
