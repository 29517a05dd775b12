package ext4

import (
	"errors"
	"fmt"
	"strings"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// checkName refuses names that no entry can have.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("ext4: empty name: %w", unix.ENOENT)
	case len(name) > format.MaxName:
		return fmt.Errorf("ext4: name of %d bytes: %w", len(name), unix.ENAMETOOLONG)
	case strings.IndexByte(name, 0) >= 0 || strings.IndexByte(name, '/') >= 0:
		return fmt.Errorf("ext4: name %q: %w", name, unix.EINVAL)
	}
	return nil
}

// prepareDir checks that names in the directory can change, and makes it one with
// blocks. mu is held for writing.
func (n *Inode) prepareDir(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if !n.isDir() {
		return fmt.Errorf("ext4: inode %d: %w", n.ino, unix.ENOTDIR)
	}
	if n.fs.readOnly.Load() {
		return n.fs.refuse()
	}
	if n.d.Links == 0 {
		return fmt.Errorf("ext4: directory %d is removed: %w", n.ino, unix.ENOENT)
	}
	if n.inline() {
		return n.convertInline()
	}
	return nil
}

// Create makes an inode of any type and its name, and takes a reference to it.
func (n *Inode) Create(name string, m NewInode) (*Inode, error) {
	if err := checkNew(m); err != nil {
		return nil, err
	}
	var c *Inode
	err := n.fs.retry(func() (err error) {
		c, err = n.create(name, m)
		return err
	})
	return c, err
}

func checkNew(m NewInode) error {
	switch m.Mode & format.ModeType {
	case format.ModeRegular, format.ModeDir, format.ModeFIFO, format.ModeSocket:
	case format.ModeChar, format.ModeBlock:
		if m.Major > 0xFFF || m.Minor > 0xFFFFF {
			return fmt.Errorf("ext4: device number %d:%d: %w", m.Major, m.Minor, unix.EINVAL)
		}
	case format.ModeSymlink:
		if m.Target == "" {
			return fmt.Errorf("ext4: symlink to nothing: %w", unix.ENOENT)
		}
		if strings.IndexByte(m.Target, 0) >= 0 {
			return fmt.Errorf("ext4: symlink target with NUL: %w", unix.EINVAL)
		}
	default:
		return fmt.Errorf("ext4: mode %#o: %w", m.Mode, unix.EINVAL)
	}
	return nil
}

func (n *Inode) create(name string, m NewInode) (*Inode, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.prepareDir(name); err != nil {
		return nil, err
	}
	if _, ok, err := n.find(name); err != nil {
		return nil, err
	} else if ok {
		return nil, fmt.Errorf("ext4: create %q: %w", name, unix.EEXIST)
	}
	dir := m.Mode&format.ModeType == format.ModeDir
	if dir && !n.canLink(1) {
		return nil, fmt.Errorf("ext4: directory %d: %w", n.ino, unix.EMLINK)
	}
	h, err := n.fs.begin()
	if err != nil {
		return nil, err
	}
	links := uint16(1)
	if dir {
		links = 2
	}
	c, err := h.newInode(n, m, links)
	if err != nil {
		h.end()
		return nil, err
	}
	if err = c.fillNew(h, n, m); err == nil {
		err = n.addEntry(h, name, c.ino, format.TypeOfMode(m.Mode))
	}
	if err == nil && dir {
		err = n.addLinks(h, 1)
	}
	if err != nil { // take it back: the inode goes the way of every unlinked one
		if e := c.abandon(h); e != nil {
			h.end()
			return nil, e
		}
		h.end()
		if e := c.Put(); e != nil {
			return nil, e
		}
		return nil, err
	}
	h.end()
	return c, nil
}

// abandon makes an inode that got no name an orphan, for Put to free.
func (n *Inode) abandon(h *handle) error {
	if err := n.update(h, true, func(d *format.Inode) { d.Links = 0 }); err != nil {
		return err
	}
	return n.fs.settleOrphan(h, n)
}

// fillNew gives a new directory its first block and a symlink its target. Nobody else
// knows the inode yet.
func (n *Inode) fillNew(h *handle, parent *Inode, m NewInode) error {
	switch n.typ {
	case format.ModeDir:
		return n.initDir(h, parent.ino)
	case format.ModeSymlink:
		if len(m.Target) < format.InodeBlockSize {
			return n.update(h, true, func(d *format.Inode) {
				copy(d.Block[:], m.Target)
				d.Size = uint64(len(m.Target))
			})
		}
		if len(m.Target) >= n.fs.bs || len(m.Target) > format.MaxSymlink {
			return fmt.Errorf("ext4: symlink target of %d bytes: %w", len(m.Target), unix.ENAMETOOLONG)
		}
		n.initMap()
		r, err := n.fs.setAside(n.fs.fileGoal(n), 1)
		if err != nil {
			return err
		}
		// A target is metadata: it goes through the cache, and so with the inode.
		if err := n.insert(h, 0, r, false); err != nil {
			return err
		}
		b := n.fs.cache.fresh(r.start)
		copy(b.data, m.Target)
		h.dirty(b, kindPlain, 0)
		return n.update(h, true, func(d *format.Inode) { d.Size = uint64(len(m.Target)) })
	}
	return nil
}

// CreateUnlinked makes an inode without a name (O_TMPFILE) near directory n and takes
// a reference to it. Link may name it later.
func (n *Inode) CreateUnlinked(m NewInode) (*Inode, error) {
	if err := checkNew(m); err != nil {
		return nil, err
	}
	if m.Mode&format.ModeType == format.ModeDir {
		return nil, fmt.Errorf("ext4: directory without a name: %w", unix.EISDIR)
	}
	var c *Inode
	err := n.fs.retry(func() (err error) {
		h, err := n.fs.begin()
		if err != nil {
			return err
		}
		if c, err = h.newInode(n, m, 0); err != nil {
			h.end()
			return err
		}
		err = c.fillNew(h, n, m)
		if e := n.fs.settleOrphan(h, c); e != nil {
			err = e
		}
		h.end()
		if err != nil {
			_ = c.Put()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// canLink says whether the link count can grow. A directory with dir_nlink need not
// count.
func (n *Inode) canLink(more int) bool {
	if n.isDir() && n.fs.roCompat&format.RoDirNlink != 0 {
		return true
	}
	n.amu.Lock()
	defer n.amu.Unlock()
	return int(n.d.Links)+more <= format.MaxLinks
}

// addLinks changes the link count. That of a directory with too many stays at 1.
func (n *Inode) addLinks(h *handle, by int) error {
	now := n.fs.now()
	return n.update(h, true, func(d *format.Inode) {
		d.Ctime = now
		if n.isDir() && d.Links == 1 {
			return // not counted
		}
		l := int(d.Links) + by
		if n.isDir() && l >= format.MaxLinks {
			l = 1
		}
		d.Links = uint16(max(l, 0))
	})
}

// Link gives target a further name.
func (n *Inode) Link(name string, target *Inode) error {
	return n.fs.retry(func() error { return n.link(name, target) })
}

func (n *Inode) link(name string, target *Inode) error {
	if target.fs != n.fs {
		return fmt.Errorf("ext4: link %q: %w", name, unix.EXDEV)
	}
	if target.isDir() {
		return fmt.Errorf("ext4: link %q to a directory: %w", name, unix.EPERM)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.prepareDir(name); err != nil {
		return err
	}
	if _, ok, err := n.find(name); err != nil {
		return err
	} else if ok {
		return fmt.Errorf("ext4: link %q: %w", name, unix.EEXIST)
	}
	if n.crossesProject(target) {
		return errOtherProject("link", name)
	}
	h, err := n.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	if err := target.takeLink(h, "link", name); err != nil {
		return err
	}
	if err := n.addEntry(h, name, target.ino, format.TypeOfMode(target.typ)); err != nil {
		return errors.Join(err, n.fs.dropLink(h, target))
	}
	return n.fs.settleOrphan(h, target)
}

// takeLink counts a name that a file is about to get by the operation what. Others may
// count at the same time, from other directories: where the count ends is decided here.
func (n *Inode) takeLink(h *handle, what, name string) error {
	now := n.fs.now()
	var refused error
	err := n.update(h, true, func(d *format.Inode) {
		switch {
		case d.Links >= format.MaxLinks:
			refused = fmt.Errorf("ext4: %s %q: %w", what, name, unix.EMLINK)
		case d.Links == 0 && !n.orphan.on:
			refused = fmt.Errorf("ext4: %s %q to a removed file: %w", what, name, unix.ENOENT)
		default:
			d.Links++
			d.Ctime = now
		}
	})
	return errors.Join(err, refused)
}

// Unlink removes a name that is not a directory's.
func (n *Inode) Unlink(name string) error {
	return putAlso(n.unlink(name))
}

// unlink returns the inode that lost its name, for the caller to put.
func (n *Inode) unlink(name string) (*Inode, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, c, err := n.named("unlink", name)
	if err != nil {
		return nil, err
	}
	if c.isDir() {
		return c, fmt.Errorf("ext4: unlink %q: %w", name, unix.EISDIR)
	}
	h, err := n.fs.begin()
	if err != nil {
		return c, err
	}
	defer h.end()
	if err := n.removeEntry(h, p); err != nil {
		return c, err
	}
	return c, n.fs.dropLink(h, c)
}

// named finds a name that is to be changed, by the operation what, and returns its inode
// for the caller to put. mu is held.
func (n *Inode) named(what, name string) (p place, c *Inode, err error) {
	if err := n.prepareDir(name); err != nil {
		return p, nil, err
	}
	p, ok, err := n.find(name)
	if err != nil {
		return p, nil, err
	}
	if !ok {
		return p, nil, fmt.Errorf("ext4: %s %q: %w", what, name, unix.ENOENT)
	}
	c, err = n.child(p.ino)
	return p, c, err
}

// putAlso puts the inode that an operation returned with its error, if any. It can free
// the file, so that no lock may be held.
func putAlso(c *Inode, err error) error {
	if c != nil {
		if e := c.Put(); err == nil {
			err = e
		}
	}
	return err
}

// dropLink takes one link of a file away; the last makes it an orphan.
func (fs *FS) dropLink(h *handle, c *Inode) error {
	if err := c.addLinks(h, -1); err != nil {
		return err
	}
	return fs.settleOrphan(h, c)
}

// Rmdir removes an empty directory.
func (n *Inode) Rmdir(name string) error {
	return putAlso(n.rmdir(name))
}

func (n *Inode) rmdir(name string) (*Inode, error) {
	switch name {
	case ".":
		return nil, fmt.Errorf("ext4: rmdir %q: %w", name, unix.EINVAL)
	case "..":
		return nil, fmt.Errorf("ext4: rmdir %q: %w", name, unix.ENOTEMPTY)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p, c, err := n.named("rmdir", name)
	if err != nil {
		return nil, err
	}
	if !c.isDir() {
		return c, fmt.Errorf("ext4: rmdir %q: %w", name, unix.ENOTDIR)
	}
	if c == n {
		return c, n.badDir(p.block, "entry for the directory itself", fmt.Sprintf("%q", name))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if empty, err := c.isEmpty(); err != nil {
		return c, err
	} else if !empty {
		return c, fmt.Errorf("ext4: rmdir %q: %w", name, unix.ENOTEMPTY)
	}
	h, err := n.fs.begin()
	if err != nil {
		return c, err
	}
	defer h.end()
	if err := n.removeEntry(h, p); err != nil {
		return c, err
	}
	return c, n.fs.dropDir(h, n, c)
}

// dropDir makes a directory that lost its name an orphan, and takes its link from the
// parent.
func (fs *FS) dropDir(h *handle, parent, c *Inode) error {
	now := fs.now()
	if err := c.update(h, true, func(d *format.Inode) {
		d.Links = 0
		d.Ctime = now
	}); err != nil {
		return err
	}
	if err := fs.settleOrphan(h, c); err != nil {
		return err
	}
	return parent.addLinks(h, -1)
}

// Put gives a reference back. The last one of an inode without links frees it.
func (n *Inode) Put() error {
	c := &n.fs.icache
	c.mu.Lock()
	if n.refs > 1 {
		n.refs--
		c.mu.Unlock()
		return nil
	}
	n.amu.Lock()
	links := n.d.Links
	orphan := n.orphan.on
	n.amu.Unlock()
	if links > 0 || !orphan || n.dead || n.fs.readOnly.Load() || n.fs.closed.Load() {
		c.mu.Unlock()
		n.dropWindow()
		n.unref()
		return nil
	}
	n.dead = true // nobody gets it any more
	c.mu.Unlock()
	n.dropWindow()
	err := n.fs.evict(n)
	n.unref()
	return err
}
