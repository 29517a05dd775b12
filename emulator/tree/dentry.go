package tree

import (
	"container/list"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// maxAbsent is how many absent names a directory remembers. Past it the
// directory forgets all of them.
const maxAbsent = 512

// Dentry is a name in a directory, and the file it leads to. It implements
// vfs.DentryImpl.
//
// A dentry holds a reference on its parent and on its inode. With refs == 0 it is in
// its parent's children and in the filesystem's cache of unreferenced dentries, from
// which a lookup takes it again; with refs == -1 it is gone. The root has no parent.
type Dentry[I Inode[I]] struct {
	Inode I

	vfsd vfs.Dentry
	tree *Tree[I]
	file *File // that of Inode
	refs atomic.Int64

	// parent and name change with Tree.ancestryMu held for writing.
	parent atomic.Pointer[Dentry[I]]
	name   string

	// dirMu serialises lookups of names that are not in children yet, and
	// everything that changes the directory. children holds the dentries of
	// existing names, absent the names known to be absent. deleted is set, by a
	// holder of the parent's dirMu and of dirMu, when the name is unlinked, or by one of
	// the parent's when it is found to be another file.
	dirMu    sync.RWMutex
	children map[string]*Dentry[I]
	absent   map[string]struct{}
	deleted  atomic.Bool

	// cachingMu protects lru, the dentry's place among the unreferenced.
	cachingMu sync.Mutex
	lru       *list.Element
}

// newDentry returns a dentry with one reference, held by the caller. It takes over
// the caller's reference on i.
func (t *Tree[I]) newDentry(i I) *Dentry[I] {
	d := &Dentry[I]{Inode: i, tree: t, file: i.Common()}
	d.refs.Store(1)
	d.vfsd.Init(d)
	return d
}

// VFS is d as the VFS has it.
func (d *Dentry[I]) VFS() *vfs.Dentry { return &d.vfsd }

// Lock keeps everyone else from looking up and changing names in the directory d.
func (d *Dentry[I]) Lock()   { d.dirMu.Lock() }
func (d *Dentry[I]) Unlock() { d.dirMu.Unlock() }

// Parent is the directory that d is a name in, nil for the root.
func (d *Dentry[I]) Parent() *Dentry[I] { return d.parent.Load() }

// Name is d's name. The parent is locked.
func (d *Dentry[I]) Name() string { return d.name }

// Deleted says whether the name was removed.
func (d *Dentry[I]) Deleted() bool { return d.deleted.Load() }

// IncRef implements vfs.DentryImpl. The caller holds a reference, or the parent's
// dirMu.
func (d *Dentry[I]) IncRef() {
	if d.refs.Add(1) <= 0 {
		panic("tree: reference taken on a destroyed dentry")
	}
}

// TryIncRef implements vfs.DentryImpl.
func (d *Dentry[I]) TryIncRef() bool {
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
func (d *Dentry[I]) DecRef(ctx context.Context) {
	switch r := d.refs.Add(-1); {
	case r < 0:
		panic("tree: reference dropped on a destroyed dentry")
	case r == 0:
		d.settle(ctx)
	}
}

// settle brings d to where its count of references says: to the unreferenced, out
// of them, or to its end.
func (d *Dentry[I]) settle(ctx context.Context) {
	t := d.tree
	d.cachingMu.Lock()
	r := d.refs.Load()
	if r != 0 {
		if r > 0 {
			d.uncache()
		}
		d.cachingMu.Unlock()
		return
	}
	if d.parent.Load() == nil || d.deleted.Load() || t.released.Load() || d.vfsd.IsEvictable() {
		d.evict(ctx)
		return
	}
	t.cacheMu.Lock()
	if d.lru != nil {
		t.cached.MoveToFront(d.lru)
	} else {
		d.lru = t.cached.PushFront(d)
	}
	over := t.cached.Len() > t.MostCached
	t.cacheMu.Unlock()
	d.cachingMu.Unlock()
	if over {
		t.evictOldest(ctx)
	}
}

// uncache takes d from the unreferenced. d.cachingMu is held.
func (d *Dentry[I]) uncache() {
	if d.lru == nil {
		return
	}
	t := d.tree
	t.cacheMu.Lock()
	t.cached.Remove(d.lru)
	t.cacheMu.Unlock()
	d.lru = nil
}

// evict ends d unless someone took a reference meanwhile. It unlocks d.cachingMu.
func (d *Dentry[I]) evict(ctx context.Context) {
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
	d.tree.DropInode(ctx, d.Inode)
	if parent != nil {
		parent.DecRef(ctx)
	}
}

// lockParent returns the parent of d, or nil, with its dirMu held for writing. While
// it is held d stays where it is, and nobody takes a first reference on it.
func (d *Dentry[I]) lockParent() *Dentry[I] {
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
func (t *Tree[I]) evictOldest(ctx context.Context) bool {
	for {
		t.cacheMu.Lock()
		e := t.cached.Back()
		t.cacheMu.Unlock()
		if e == nil {
			return false
		}
		d := e.Value.(*Dentry[I])
		d.cachingMu.Lock()
		if d.lru != e {
			d.cachingMu.Unlock()
			continue
		}
		d.evict(ctx)
		return true
	}
}

// lookup returns the child of that name with a reference, or ENOENT.
func (d *Dentry[I]) lookup(ctx context.Context, name string) (*Dentry[I], error) {
	d.dirMu.RLock()
	if child, ok := d.children[name]; ok {
		child.IncRef()
		d.dirMu.RUnlock()
		if d.still(child, name) {
			return child, nil
		}
		child.DecRef(ctx)
	} else {
		_, absent := d.absent[name]
		d.dirMu.RUnlock()
		if absent {
			return nil, enoent
		}
	}
	d.dirMu.Lock()
	child, drop, err := d.LookupLocked(ctx, name)
	d.dirMu.Unlock()
	dropAll(ctx, drop)
	return child, err
}

// still says whether name in d is child yet.
func (d *Dentry[I]) still(child *Dentry[I], name string) bool {
	return d.tree.Still == nil || d.tree.Still(d.Inode, child.Inode, name)
}

// LookupLocked is lookup with d.dirMu held for writing. Besides it returns references
// that are to be dropped when no dirMu is held.
func (d *Dentry[I]) LookupLocked(ctx context.Context, name string) (child *Dentry[I], drop []refs.RefCounter, err error) {
	if child, ok := d.children[name]; ok {
		if d.still(child, name) {
			child.IncRef()
			return child, nil, nil
		}
		// Somebody else has removed or replaced it.
		child.IncRef()
		d.Unlinked(child)
		drop = append(d.tree.VFSFS.VirtualFilesystem().InvalidateDentry(ctx, &child.vfsd), child)
	}
	if _, ok := d.absent[name]; ok || d.gone() {
		return nil, drop, enoent
	}
	i, err := d.Inode.Find(ctx, name)
	if err != nil {
		if err == enoent && d.tree.Still == nil {
			if len(d.absent) >= maxAbsent || d.absent == nil {
				d.absent = make(map[string]struct{})
			}
			d.absent[name] = struct{}{}
		}
		return nil, drop, err
	}
	return d.Attach(i, name), drop, nil
}

// gone says whether d is a directory that was removed, not merely moved by somebody else.
func (d *Dentry[I]) gone() bool { return d.deleted.Load() && d.Inode.Links() == 0 }

func dropAll(ctx context.Context, drop []refs.RefCounter) {
	for _, r := range drop {
		r.DecRef(ctx)
	}
}

// Attach makes a dentry of name in d, whose dirMu is held for writing, and returns it with
// a reference. It takes over the caller's reference on i.
func (d *Dentry[I]) Attach(i I, name string) *Dentry[I] {
	child := d.tree.newDentry(i)
	d.refs.Add(1)
	child.parent.Store(d)
	child.name = name
	d.insert(child, name)
	return child
}

// insert enters child in the children of d. d.dirMu is held for writing.
func (d *Dentry[I]) insert(child *Dentry[I], name string) {
	if d.children == nil {
		d.children = make(map[string]*Dentry[I])
	}
	d.children[name] = child
	delete(d.absent, name)
}

// Unlinked records that the name of child is gone from d. Both dirMu are held for
// writing where child is a directory, else that of d.
func (d *Dentry[I]) Unlinked(child *Dentry[I]) {
	child.deleted.Store(true)
	if d.children[child.name] == child {
		delete(d.children, child.name)
	}
}

// InotifyWithParent implements vfs.DentryImpl.
func (d *Dentry[I]) InotifyWithParent(ctx context.Context, events, cookie uint32, et vfs.EventType) {
	if d.file.IsDir() {
		events |= linux.IN_ISDIR
	}
	deleted := d.deleted.Load()
	t := d.tree
	t.ancestryMu.RLock()
	parent, name := d.parent.Load(), d.name
	t.ancestryMu.RUnlock()
	if parent != nil {
		parent.file.Watches.Notify(ctx, name, events, cookie, et, deleted)
	}
	d.file.Watches.Notify(ctx, "", events, cookie, et, deleted)
}

// Watches implements vfs.DentryImpl. Watches belong to the inode, which outlives an
// evicted dentry as long as it has any.
func (d *Dentry[I]) Watches() *vfs.Watches { return &d.file.Watches }

// OnZeroWatches implements vfs.DentryImpl.
func (d *Dentry[I]) OnZeroWatches(ctx context.Context) { d.tree.unwatched(ctx, d.Inode) }

// setParentAndName moves d in the tree. t.renameMu and both directories' dirMu are
// held for writing. It returns the old parent, whose reference the caller drops.
func (d *Dentry[I]) setParentAndName(parent *Dentry[I], name string) *Dentry[I] {
	t := d.tree
	old := d.parent.Load()
	if parent != old {
		parent.refs.Add(1)
	}
	t.ancestryMu.Lock()
	d.parent.Store(parent)
	d.name = name
	t.ancestryMu.Unlock()
	if parent == old {
		return nil
	}
	return old
}

// isAncestorOf says whether other lies below d.
func (d *Dentry[I]) isAncestorOf(other *Dentry[I]) bool {
	return d != other && d.tree.descends(other, &d.vfsd)
}

func (t *Tree[I]) descends(d *Dentry[I], top *vfs.Dentry) bool {
	t.ancestryMu.RLock()
	defer t.ancestryMu.RUnlock()
	for d != nil && &d.vfsd != top {
		d = d.parent.Load()
	}
	return d != nil
}

// IsDescendant implements vfs.FilesystemImpl.
func (t *Tree[I]) IsDescendant(vfsroot, vd vfs.VirtualDentry) bool {
	return t.descends(vd.Dentry().Impl().(*Dentry[I]), vfsroot.Dentry())
}

// PrependPath implements vfs.FilesystemImpl.
func (t *Tree[I]) PrependPath(ctx context.Context, vfsroot, vd vfs.VirtualDentry, b *fspath.Builder) error {
	t.ancestryMu.RLock()
	defer t.ancestryMu.RUnlock()
	mnt := vd.Mount()
	for d := vd.Dentry().Impl().(*Dentry[I]); ; {
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
