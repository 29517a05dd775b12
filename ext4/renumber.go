package ext4

import (
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// dirName is a name of an inode.
type dirName struct {
	dir  uint32 // the directory's number before anything moved
	name string
}

// moveInodes gives the inodes of the groups that go numbers in those that stay.
func (s *shrinking) moveInodes() error {
	fs := s.fs
	var list []uint32
	if err := fs.eachInode(s.groups, fs.groupCount(), func(n *Inode) error {
		if n.isValue() {
			return fmt.Errorf("ext4: shrink: inode %d, the value of an attribute (ea_inode), would have to move: %w", n.ino, unix.EOPNOTSUPP)
		}
		list = append(list, n.ino)
		return s.step()
	}); err != nil || len(list) == 0 {
		return err
	}
	limit := s.groups * uint32(fs.ipg)
	if err := fs.eachInode(0, fs.groupCount(), func(n *Inode) error {
		if !n.isDir() {
			return s.step()
		}
		return n.ReadDir(0, func(e DirEntry) bool {
			if e.Ino > limit && e.Name != "." && e.Name != ".." {
				s.names[e.Ino] = append(s.names[e.Ino], dirName{n.ino, e.Name})
			}
			return true
		})
	}); err != nil {
		return err
	}
	for _, ino := range list {
		if err := s.step(); err != nil {
			return err
		}
		if err := s.moveInode(ino); err != nil {
			return err
		}
		s.moved.Inodes++
	}
	return fs.commitIfDirty()
}

// directory takes a reference to a directory, by its number before anything moved. One
// whose entries lie in its inode gets a block for them.
func (s *shrinking) directory(ino uint32) (*Inode, error) {
	if moved := s.numbers[ino]; moved != 0 {
		ino = moved
	}
	n, err := s.fs.iget(ino)
	if err == nil && n.inline() {
		if err = n.convertInline(); err != nil {
			n.unref()
		}
	}
	return n, err
}

// moveInode moves one inode, with every name it has, in one transaction.
func (s *shrinking) moveInode(ino uint32) error {
	fs := s.fs
	old, err := fs.igetSpecial(ino)
	if err != nil {
		return err
	}
	defer old.unref()
	if old.isDir() && old.inline() {
		if err := old.convertInline(); err != nil {
			return err
		}
	}
	var children, parents []*Inode
	defer func() {
		for _, n := range slices.Concat(children, parents) {
			n.unref()
		}
	}()
	for _, name := range s.names[ino] {
		p, err := s.directory(name.dir)
		if err != nil {
			return err
		}
		parents = append(parents, p)
	}
	if old.isDir() {
		if children, err = s.subdirectories(old); err != nil {
			return err
		}
	}
	if len(parents) == 0 {
		return fmt.Errorf("ext4: shrink: inode %d: %w: no directory names it, e2fsck must run first", ino, unix.EUCLEAN)
	}
	blocks := len(parents) + len(children) + 16
	if err := fs.fitsJournal(blocks); err != nil {
		return err
	}
	h, err := fs.beginFor(max(blocks, handleBlocks))
	if err != nil {
		return err
	}
	defer h.end()
	n, err := s.renumber(h, old)
	if err != nil {
		return err
	}
	defer n.unref()
	// From here on an error would leave half of it in the transaction.
	for i, p := range parents {
		if err := p.repoint(h, s.names[ino][i].name, n.ino); err != nil {
			return fs.fail(err)
		}
	}
	if old.isDir() {
		if err := n.repoint(h, ".", n.ino); err != nil {
			return fs.fail(err)
		}
		for _, c := range children {
			if err := c.repoint(h, "..", n.ino); err != nil {
				return fs.fail(err)
			}
		}
	}
	s.numbers[ino] = n.ino
	return nil
}

// subdirectories takes references to the directories below one.
func (s *shrinking) subdirectories(n *Inode) (list []*Inode, err error) {
	var inos []uint32
	if err := n.ReadDir(0, func(e DirEntry) bool {
		if e.Name != "." && e.Name != ".." && (e.Type == 0 || e.Type == format.ModeDir) {
			inos = append(inos, e.Ino)
		}
		return true
	}); err != nil {
		return nil, err
	}
	for _, ino := range inos {
		c, err := s.fs.iget(ino)
		if err != nil {
			return list, err
		}
		if !c.isDir() {
			c.unref()
			continue
		}
		list = append(list, c)
		if c.inline() {
			if err := c.convertInline(); err != nil {
				return list, err
			}
		}
	}
	return list, nil
}

// renumber makes a copy of an inode under a number that stays, and frees the old one.
func (s *shrinking) renumber(h *handle, old *Inode) (*Inode, error) {
	fs := s.fs
	claims, err := old.claims()
	if err != nil {
		return nil, err
	}
	ino := uint32(0)
	for g := uint32(0); g < s.groups && ino == 0; g++ {
		var err error
		if ino, err = h.allocInodeIn(g, old.isDir(), false); err != nil {
			return nil, err
		}
	}
	if ino == 0 {
		return nil, fmt.Errorf("ext4: shrink: no free inode for inode %d: %w", old.ino, unix.ENOSPC)
	}
	n := &Inode{fs: fs, ino: ino, refs: 1, typ: old.typ, value: old.value, iseed: old.iseed, d: old.d, body: slices.Clone(old.body)}
	if fs.csum { // its directory blocks and extent nodes keep their checksums
		n.d.Generation = format.InodeGeneration(fs.seed, ino, old.iseed)
	}
	for _, b := range claims {
		b.seen.Store(b.seen.Load()>>32<<32 | uint64(ino))
	}
	c := &fs.icache
	c.mu.Lock()
	c.m[ino] = n
	old.dead = true
	c.mu.Unlock()
	if err := n.touch(h, true); err != nil {
		return nil, fs.fail(err)
	}
	now := fs.now()
	if err := old.update(h, true, func(d *format.Inode) {
		clear(d.Block[:])
		d.Dtime = max(uint32(now.Sec), 1)
		d.Links, d.Size, d.Blocks, d.FileACL = 0, 0, 0, 0
	}); err != nil {
		return nil, fs.fail(err)
	}
	if err := h.freeInode(old); err != nil {
		return nil, fs.fail(err)
	}
	return n, nil
}

// claims are the blocks in memory that are known as the inode's: those of its directory
// and of its map.
func (n *Inode) claims() (list []*buffer, err error) {
	add := func(nr uint64) {
		if b := n.fs.cache.peek(nr); b != nil && uint32(b.seen.Load()) == n.ino {
			list = append(list, b)
		}
	}
	if !n.hasBlocks() {
		return nil, nil
	}
	for i := uint64(0); n.isDir() && i < n.dirBlocks(); i++ {
		m, err := n.mapBlock(i)
		if err != nil {
			return nil, err
		}
		if m.state == Written {
			add(m.disk)
		}
	}
	nodes, err := n.mapNodes()
	for _, nr := range nodes {
		add(nr)
	}
	return list, err
}

// mapNodes lists the blocks of the file's extent tree or its indirect blocks.
func (n *Inode) mapNodes() (list []uint64, err error) {
	if n.extents() {
		var walk func(e enode) error
		walk = func(e enode) error {
			for i := 0; e.depth() > 0 && i < e.entries(); i++ {
				child, err := n.extentChild(e, i)
				if err != nil {
					return err
				}
				list = append(list, e.index(i).Leaf)
				if err := walk(child); err != nil {
					return err
				}
			}
			return nil
		}
		root, err := n.extentRoot()
		if err != nil {
			return nil, err
		}
		return list, walk(root)
	}
	var walk func(nr uint64, depth int) error
	walk = func(nr uint64, depth int) error {
		if nr == 0 {
			return nil
		}
		b, err := n.indirectBlock(nr)
		if err != nil {
			return err
		}
		list = append(list, nr)
		for i := 0; depth > 1 && i < len(b.data); i += 4 {
			if err := walk(uint64(le.Uint32(b.data[i:])), depth-1); err != nil {
				return err
			}
		}
		return nil
	}
	for depth := 1; depth <= 3; depth++ {
		if err := walk(uint64(le.Uint32(n.d.Block[4*(format.DirectBlocks+depth-1):])), depth); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// repoint makes an entry mean another inode of the same kind, and leaves the times.
func (n *Inode) repoint(h *handle, name string, ino uint32) error {
	p, ok, err := n.find(name)
	if err != nil {
		return err
	}
	if !ok {
		return n.badDir(0, "lost entry", fmt.Sprintf("%q", name))
	}
	kind := kindDirLeaf
	if p.block == 0 && n.indexed() {
		kind = kindDxRoot
	}
	le.PutUint32(p.b.data[p.off:], ino)
	return n.dirtyDir(h, p.b, kind)
}
