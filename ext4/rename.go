package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Rename moves an entry. Among other errors: EINVAL for a directory moved below itself,
// ENOTEMPTY, EISDIR, ENOTDIR, EMLINK.
func (fs *FS) Rename(oldDir *Inode, oldName string, newDir *Inode, newName string, f RenameFlags) error {
	if f.Exchange && (f.NoReplace || f.Whiteout) {
		return fmt.Errorf("ext4: rename: %w", unix.EINVAL)
	}
	if oldDir.fs != fs || newDir.fs != fs {
		return fmt.Errorf("ext4: rename %q: %w", oldName, unix.EXDEV)
	}
	for _, name := range []string{oldName, newName} {
		if name == "." || name == ".." {
			return fmt.Errorf("ext4: rename %q: %w", name, unix.EBUSY)
		}
	}
	r := rename{fs: fs, f: f, oldDir: oldDir, newDir: newDir, oldName: oldName, newName: newName}
	return fs.retry(func() error {
		err := r.run()
		for _, n := range r.put { // after the locks: this can free a file
			if e := n.Put(); err == nil {
				err = e
			}
		}
		r.put = nil
		return err
	})
}

// rename is one Rename under way.
type rename struct {
	fs               *FS
	f                RenameFlags
	oldDir, newDir   *Inode
	oldName, newName string

	src, dst *Inode
	from, to place
	target   bool // the new name exists
	put      []*Inode
	locked   []*Inode
}

func (r *rename) lock(list ...*Inode) {
	for _, n := range list {
		if n == nil {
			continue
		}
		held := false
		for _, l := range r.locked {
			held = held || l == n
		}
		if !held {
			n.mu.Lock()
			r.locked = append(r.locked, n)
		}
	}
}

func (r *rename) run() error {
	// One at a time: a rename changes what is above what, on which the order of locks
	// and the search for loops rely.
	r.fs.renameMu.Lock()
	defer r.fs.renameMu.Unlock()
	r.locked = r.locked[:0]
	defer func() {
		for i := len(r.locked) - 1; i >= 0; i-- {
			r.locked[i].mu.Unlock()
		}
	}()
	first, second := r.oldDir, r.newDir
	if first != second {
		above, err := r.fs.isAbove(r.newDir, r.oldDir)
		if err != nil {
			return err
		}
		below, err := r.fs.isAbove(r.oldDir, r.newDir)
		if err != nil {
			return err
		}
		if above || !below && second.ino < first.ino {
			first, second = second, first
		}
	}
	r.lock(first, second)
	if err := r.lookup(); err != nil {
		return err
	}
	if r.target && r.src == r.dst && !r.f.NoReplace {
		return nil // two names of one file: nothing happens
	}
	// Children after their parents, by number.
	a, b := r.src, r.dst
	if b != nil && b.ino < a.ino {
		a, b = b, a
	}
	for _, c := range []*Inode{a, b} {
		if c != nil && c.isDir() {
			r.lock(c)
		}
	}
	if err := r.check(); err != nil {
		return err
	}
	h, err := r.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	if r.f.Exchange {
		return r.exchange(h)
	}
	return r.move(h)
}

// isAbove says whether directory a is an ancestor of b, or b itself.
func (fs *FS) isAbove(a, b *Inode) (bool, error) {
	ino := b.ino
	for range 1 << 16 { // deeper than any path
		if ino == a.ino {
			return true, nil
		}
		if ino == format.RootIno {
			return false, nil
		}
		n, err := fs.iget(ino)
		if err != nil {
			if unixIs(err, unix.ESTALE) { // removed, and still open
				return false, nil
			}
			return false, err
		}
		n.mu.RLock()
		p, ok, err := n.find("..")
		n.mu.RUnlock()
		n.unref()
		if err != nil {
			return false, err
		}
		if !ok || p.ino == ino || p.ino == 0 || p.ino > fs.inodes.Load() {
			return false, n.badDir(0, "entry", `".."`)
		}
		ino = p.ino
	}
	return false, fs.corrupt(&CorruptError{b.what(), "has no end of parents", nil})
}

// lookup finds both names.
func (r *rename) lookup() error {
	for _, d := range []struct {
		n    *Inode
		name string
	}{{r.oldDir, r.oldName}, {r.newDir, r.newName}} {
		if err := d.n.prepareDir(d.name); err != nil {
			return err
		}
	}
	var ok bool
	var err error
	if r.from, ok, err = r.oldDir.find(r.oldName); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("ext4: rename %q: %w", r.oldName, unix.ENOENT)
	}
	if r.src, err = r.oldDir.child(r.from.ino); err != nil {
		return err
	}
	r.put = append(r.put, r.src)
	r.dst = nil
	if r.to, r.target, err = r.newDir.find(r.newName); err != nil {
		return err
	}
	if r.target {
		if r.dst, err = r.newDir.child(r.to.ino); err != nil {
			return err
		}
		r.put = append(r.put, r.dst)
	}
	return nil
}

// check decides whether the rename is allowed.
func (r *rename) check() error {
	wrap := func(no unix.Errno) error { return fmt.Errorf("ext4: rename %q to %q: %w", r.oldName, r.newName, no) }
	if r.target && r.f.NoReplace {
		return wrap(unix.EEXIST)
	}
	if !r.target && r.f.Exchange {
		return wrap(unix.ENOENT)
	}
	other := r.oldDir != r.newDir
	// A directory must not come to lie below itself.
	loop := func(dir, below *Inode) error {
		if !dir.isDir() {
			return nil
		}
		if dir == below {
			return wrap(unix.EINVAL)
		}
		if !other {
			return nil
		}
		ino := below.ino
		for range 1 << 16 {
			if ino == dir.ino {
				return wrap(unix.EINVAL)
			}
			if ino == format.RootIno {
				return nil
			}
			up, err := r.parent(ino)
			if err != nil {
				return err
			}
			if up == ino || up == 0 {
				return nil
			}
			ino = up
		}
		return wrap(unix.ELOOP)
	}
	if err := loop(r.src, r.newDir); err != nil {
		return err
	}
	if r.f.Exchange {
		if err := loop(r.dst, r.oldDir); err != nil {
			return err
		}
	} else if r.target {
		switch {
		case r.dst == r.oldDir || r.dst == r.newDir: // not empty: it holds a name of the rename
			return wrap(unix.ENOTEMPTY)
		case r.src.isDir() && !r.dst.isDir():
			return wrap(unix.ENOTDIR)
		case !r.src.isDir() && r.dst.isDir():
			return wrap(unix.EISDIR)
		}
	}
	if r.newDir.crossesProject(r.src) || r.f.Exchange && r.oldDir.crossesProject(r.dst) {
		return errOtherProject("rename", r.oldName)
	}
	if r.target && !r.f.Exchange {
		if r.dst.isDir() {
			if empty, err := r.dst.isEmpty(); err != nil {
				return err
			} else if !empty {
				return wrap(unix.ENOTEMPTY)
			}
		}
	}
	if other && r.src.isDir() && !(r.target && r.dst.isDir()) && !r.newDir.canLink(1) {
		return wrap(unix.EMLINK)
	}
	if other && r.f.Exchange && r.dst.isDir() && !r.src.isDir() && !r.oldDir.canLink(1) {
		return wrap(unix.EMLINK)
	}
	for _, d := range []*Inode{r.src, r.dst} { // their dots may have to change
		if d != nil && other && d.isDir() && d.inline() {
			if err := d.convertInline(); err != nil {
				return err
			}
		}
	}
	return nil
}

// parent finds what ".." of a directory says, whether its lock is held here or not.
func (r *rename) parent(ino uint32) (uint32, error) {
	n, err := r.fs.iget(ino)
	if err != nil {
		if unixIs(err, unix.ESTALE) {
			return 0, nil
		}
		return 0, err
	}
	defer n.unref()
	for _, l := range r.locked {
		if l == n {
			p, _, err := n.find("..")
			return p.ino, err
		}
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	p, _, err := n.find("..")
	return p.ino, err
}

// reparent makes ".." of a directory say another parent.
func (r *rename) reparent(h *handle, dir, parent *Inode) error {
	p, ok, err := dir.find("..")
	if err != nil {
		return err
	}
	if !ok {
		return dir.badDir(0, "entry", `".." is missing`)
	}
	kind := kindDirLeaf
	if dir.indexed() {
		kind = kindDxRoot
	}
	le.PutUint32(p.b.data[p.off:], parent.ino)
	return dir.dirtyDir(h, p.b, kind)
}

func (r *rename) changed(h *handle, n *Inode) error {
	now := r.fs.now()
	return n.update(h, true, func(d *format.Inode) { d.Ctime = now })
}

// move renames to a name that is free or gives way. What can find no room on the disk
// comes first.
func (r *rename) move(h *handle) error {
	typ := format.TypeOfMode(r.src.typ)
	var white *Inode
	if r.f.Whiteout {
		var err error
		white, err = h.newInode(r.oldDir, NewInode{Mode: format.ModeChar}, 1)
		if err != nil {
			return err
		}
		r.put = append(r.put, white)
	}
	if r.target {
		if err := r.newDir.setEntry(h, r.to, r.src.ino, typ); err != nil {
			return err
		}
	} else if err := r.newDir.addEntry(h, r.newName, r.src.ino, typ); err != nil {
		if white != nil {
			if e := white.abandon(h); e != nil {
				return e
			}
		}
		return err
	}
	// The insertion can have moved the old entry.
	from, ok, err := r.oldDir.find(r.oldName)
	if err != nil {
		return err
	}
	if !ok {
		return r.oldDir.badDir(0, "lost entry", fmt.Sprintf("%q", r.oldName))
	}
	if white != nil {
		err = r.oldDir.setEntry(h, from, white.ino, format.TypeChar)
	} else {
		err = r.oldDir.removeEntry(h, from)
	}
	if err != nil {
		return err
	}
	if err := r.changed(h, r.src); err != nil {
		return err
	}
	other := r.oldDir != r.newDir
	if r.src.isDir() && other {
		if err := r.reparent(h, r.src, r.newDir); err != nil {
			return err
		}
		if err := r.oldDir.addLinks(h, -1); err != nil {
			return err
		}
		if err := r.newDir.addLinks(h, 1); err != nil {
			return err
		}
	}
	if !r.target {
		return nil
	}
	if r.dst.isDir() {
		return r.fs.dropDir(h, r.newDir, r.dst)
	}
	return r.fs.dropLink(h, r.dst)
}

// exchange swaps two names.
func (r *rename) exchange(h *handle) error {
	if err := r.newDir.setEntry(h, r.to, r.src.ino, format.TypeOfMode(r.src.typ)); err != nil {
		return err
	}
	if err := r.oldDir.setEntry(h, r.from, r.dst.ino, format.TypeOfMode(r.dst.typ)); err != nil {
		return err
	}
	if err := r.changed(h, r.src); err != nil {
		return err
	}
	if err := r.changed(h, r.dst); err != nil {
		return err
	}
	if r.oldDir == r.newDir {
		return nil
	}
	for _, m := range []struct{ dir, from, to *Inode }{{r.src, r.oldDir, r.newDir}, {r.dst, r.newDir, r.oldDir}} {
		if !m.dir.isDir() {
			continue
		}
		if err := r.reparent(h, m.dir, m.to); err != nil {
			return err
		}
		if err := m.from.addLinks(h, -1); err != nil {
			return err
		}
		if err := m.to.addLinks(h, 1); err != nil {
			return err
		}
	}
	return nil
}
