package ext4

import (
	"errors"
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// movesPerHandle is how many blocks of metadata a handle moves at most.
const movesPerHandle = 32

// moveChunk is how much data is moved at once, in bytes.
const moveChunk = 4 << 20

// eachInode visits the inodes in use in groups [from, to), by number. The visitor gets a
// reference that it does not keep.
func (fs *FS) eachInode(from, to uint32, visit func(n *Inode) error) error {
	for g := from; g < to; g++ {
		gr := fs.group(g)
		if uint64(gr.desc.FreeInodes) == fs.ipg {
			continue
		}
		gr.mu.Lock()
		b, err := fs.inodeBitmap(g)
		if err != nil {
			gr.mu.Unlock()
			return err
		}
		used := append([]byte(nil), b.data[:(fs.ipg+7)/8]...)
		gr.mu.Unlock()
		for bit := range uint32(fs.ipg) {
			if used[bit/8]>>(bit%8)&1 == 0 {
				continue
			}
			ino := g*uint32(fs.ipg) + bit + 1
			n, err := fs.igetSpecial(ino)
			if err != nil {
				if ino < fs.firstIno && unixIs(err, unix.ESTALE) {
					continue // reserved, and without content
				}
				return err
			}
			err = visit(n)
			n.unref()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// checkBadBlocks refuses a filesystem with a list of bad blocks: what it names cannot move.
func (fs *FS) checkBadBlocks() error {
	block, off, _ := fs.inodePlace(format.BadBlocksIno)
	b, err := fs.cache.get(block)
	if err != nil {
		return err
	}
	var d format.Inode
	if err := d.Decode(b.data[off : off+fs.inodeSize]); err != nil {
		return err
	}
	if d.Blocks != 0 {
		return fmt.Errorf("ext4: shrink: %w: the filesystem has a list of bad blocks", unix.EOPNOTSUPP)
	}
	return nil
}

// moveBlocks moves every block of a file that lies in the part that goes.
func (s *shrinking) moveBlocks() error {
	fs := s.fs
	err := fs.eachInode(0, s.groups, func(n *Inode) error {
		if err := s.step(); err != nil {
			return err
		}
		switch {
		case n.ino == format.ResizeIno:
			return s.moveResizeInode(n)
		case fs.jnl != nil && !fs.jnl.lent && n.ino == fs.sb.JournalInum:
			return nil // moved already
		}
		if n.d.FileACL >= s.cut {
			if err := s.moveXattrs(n); err != nil {
				return err
			}
		}
		if !n.hasBlocks() {
			return nil
		}
		if err := s.moveMaps(n); err != nil {
			return err
		}
		return s.moveData(n)
	})
	if err != nil {
		return err
	}
	return fs.commitIfDirty()
}

// allocate takes a block for metadata in the part that stays.
func (s *shrinking) allocate(h *handle) (uint64, error) {
	nr, err := h.allocBlock(s.goal)
	if err == nil {
		s.goal = nr + 1
		s.moved.Blocks++
	}
	return nr, err
}

// moveBlock copies a block of metadata to a new place and frees the old one.
func (s *shrinking) moveBlock(h *handle, old uint64, kind bufKind, n *Inode) (*buffer, error) {
	src, err := s.fs.cache.get(old)
	if err != nil {
		return nil, err
	}
	nr, err := s.allocate(h)
	if err != nil {
		return nil, err
	}
	b := s.fs.cache.fresh(nr)
	copy(b.data, src.data)
	h.dirty(b, kind, n.iseed)
	return b, h.free(old, 1, true)
}

// moveResizeInode moves the only block that the resize inode has of its own.
func (s *shrinking) moveResizeInode(n *Inode) error {
	nr := uint64(le.Uint32(n.d.Block[4*format.DoubleBlock:]))
	if nr < s.cut {
		return nil
	}
	h, err := s.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	b, err := s.moveBlock(h, nr, kindPlain, n)
	if err != nil {
		return err
	}
	le.PutUint32(n.d.Block[4*format.DoubleBlock:], uint32(b.nr))
	return n.touch(h, true)
}

// moveMaps moves the nodes of the file's extent tree, or its indirect blocks.
func (s *shrinking) moveMaps(n *Inode) error {
	for {
		h, err := s.fs.begin()
		if err != nil {
			return err
		}
		left := movesPerHandle
		if n.extents() {
			var root enode
			if root, err = n.extentRoot(); err == nil {
				err = s.moveNodes(h, n, root, &left)
			}
		} else {
			err = s.moveIndirects(h, n, &left)
		}
		h.end()
		if err != nil || left == movesPerHandle {
			return err
		}
	}
}

func (s *shrinking) moveIndirects(h *handle, n *Inode, left *int) error {
	for depth := 1; depth <= 3; depth++ {
		slot := n.d.Block[4*(format.DirectBlocks+depth-1):][:4]
		if err := s.moveIndirect(h, n, nil, slot, depth, left); err != nil {
			return err
		}
	}
	return nil
}

func (s *shrinking) moveNodes(h *handle, n *Inode, e enode, left *int) error {
	for i := 0; e.depth() > 0 && i < e.entries() && *left > 0; i++ {
		child, err := n.extentChild(e, i)
		if err != nil {
			return err
		}
		if x := e.index(i); x.Leaf >= s.cut {
			b, err := s.moveBlock(h, x.Leaf, kindExtent, n)
			if err != nil {
				return err
			}
			b.seen.Store(uint64(kindExtent)<<32 | uint64(n.ino))
			x.Leaf, child = b.nr, enode{b, b.data}
			_ = x.Encode(e.slot(i))
			if err := n.dirtyNode(h, e); err != nil {
				return err
			}
			*left--
		}
		if err := s.moveNodes(h, n, child, left); err != nil {
			return err
		}
	}
	return nil
}

// moveIndirect moves the block that slot names, which lies in holder (nil: the inode),
// and those below it.
func (s *shrinking) moveIndirect(h *handle, n *Inode, holder *buffer, slot []byte, depth int, left *int) error {
	nr := uint64(le.Uint32(slot))
	if nr == 0 || *left <= 0 {
		return nil
	}
	b, err := n.indirectBlock(nr)
	if err != nil {
		return err
	}
	if nr >= s.cut {
		if b, err = s.moveBlock(h, nr, kindIndirect, n); err != nil {
			return err
		}
		b.settle(kindIndirect, n.ino)
		le.PutUint32(slot, uint32(b.nr))
		if err := n.dirtySlot(h, holder); err != nil {
			return err
		}
		*left--
	}
	for i := 0; depth > 1 && i < len(b.data); i += 4 {
		if err := s.moveIndirect(h, n, b, b.data[i:i+4], depth-1, left); err != nil {
			return err
		}
	}
	return nil
}

// moveData moves what a file's map points to.
func (s *shrinking) moveData(n *Inode) error {
	limit := uint64(maxBlocks)
	if !n.extents() {
		limit = s.fs.mapLimit()
	}
	for at := uint64(0); at < limit; {
		m, err := n.mapBlock(at)
		if err != nil {
			return err
		}
		if m.state == Hole || m.disk+m.count <= s.cut {
			at += m.count
			continue
		}
		if m.disk < s.cut {
			skip := s.cut - m.disk
			m.block, m.disk, m.count = m.block+skip, m.disk+skip, m.count-skip
		}
		if err := s.step(); err != nil {
			return err
		}
		if err := s.moveRun(n, &m); err != nil {
			return err
		}
		at = m.block + m.count
	}
	return nil
}

// moveRun moves the start of a run of one mapping and makes m what was moved. Data is
// where it goes before the map says so.
func (s *shrinking) moveRun(n *Inode, m *mapping) error {
	fs := s.fs
	most := uint64(moveChunk >> fs.bsBits)
	own := n.isRegular() && fs.own(n.ino) // quotas, or the orphan file
	cached := own || n.metadata()
	if cached {
		most = movesPerHandle
	}
	r, err := fs.setAside(s.goal, min(m.count, most))
	if err != nil {
		return err
	}
	m.count = r.count
	s.goal = r.end()
	if !cached && m.state == Written {
		if err := fs.copyBlocks(m.disk, r); err != nil {
			fs.giveBack(r)
			return err
		}
	}
	h, err := fs.begin()
	if err != nil {
		fs.giveBack(r)
		return err
	}
	defer h.end()
	if err := h.claim(r); err != nil {
		fs.giveBack(r)
		return err
	}
	if err := n.redirectAny(h, m, r); err != nil {
		if e := h.free(r.start, r.count, false); e != nil {
			return e
		}
		return err
	}
	for i := uint64(0); cached && m.state == Written && i < r.count; i++ {
		src, err := fs.cache.get(m.disk + i)
		if err != nil {
			return fs.fail(err) // the map points to what is not there
		}
		b := fs.cache.fresh(r.start + i)
		copy(b.data, src.data)
		kind := kindPlain // its checksum is in it, and does not tell its place
		switch {
		case own && n.ino == fs.orphanInode:
			kind = kindOrphan // whose does
		case own:
			kind = kindQuota
			b.settle(kindQuota, n.ino)
		}
		h.dirty(b, kind, n.iseed)
	}
	if own {
		fs.quotas.forget()
	}
	s.moved.Blocks += r.count
	return h.free(m.disk, r.count, cached)
}

// copyBlocks copies data to another place on the disk.
func (fs *FS) copyBlocks(from uint64, to run) error {
	p := make([]byte, min(to.count<<fs.bsBits, 1<<20))
	for done, size := int64(0), int64(to.count)<<fs.bsBits; done < size; {
		p = p[:min(int64(len(p)), size-done)]
		if err := fs.readData(p, int64(from)<<fs.bsBits+done); err != nil {
			return fmt.Errorf("ext4: move block %d: %w", from, err)
		}
		if _, err := fs.dev.WriteAt(p, int64(to.start)<<fs.bsBits+done); err != nil {
			return fmt.Errorf("ext4: move block %d to %d: %w", from, to.start, ioError(err))
		}
		done += int64(len(p))
	}
	return nil
}

// redirectAny makes a run of one mapping lie at r.
func (n *Inode) redirectAny(h *handle, m *mapping, r run) error {
	if n.extents() {
		return n.redirect(h, m, r)
	}
	return n.redirectIndirect(h, m, r)
}

// redirect makes a run of one extent lie at r.
func (n *Inode) redirect(h *handle, m *mapping, r run) error {
	path, err := n.extentPath(uint32(m.block))
	if err != nil {
		return err
	}
	leaf := path[len(path)-1]
	x := leaf.extent(leaf.at)
	lo, hi := uint32(m.block), uint32(m.block+r.count)
	var parts []format.Extent
	if lo > x.Block {
		parts = append(parts, format.Extent{Block: x.Block, Len: uint16(lo - x.Block), Unwritten: x.Unwritten, Start: x.Start})
	}
	parts = append(parts, format.Extent{Block: lo, Len: uint16(hi - lo), Unwritten: x.Unwritten, Start: r.start})
	if end := x.Block + uint32(x.Len); hi < end {
		parts = append(parts, format.Extent{Block: hi, Len: uint16(end - hi), Unwritten: x.Unwritten, Start: x.Start + uint64(hi-x.Block)})
	}
	if err := n.splitInto(h, path, x, parts...); err != nil {
		return err
	}
	if path, err = n.extentPath(lo); err != nil { // the run may continue the one before it
		return err
	}
	leaf = path[len(path)-1]
	return n.mergeRight(h, path, leaf.at-1)
}

// redirectIndirect does the same in a map of block numbers.
func (n *Inode) redirectIndirect(h *handle, m *mapping, r run) error {
	for i := range r.count {
		slot, b, err := n.indirectSlot(h, m.block+i, 0, false)
		if err != nil {
			return err
		}
		le.PutUint32(slot, uint32(r.start+i))
		if err := n.dirtySlot(h, b); err != nil {
			return err
		}
	}
	return nil
}

// moveXattrs gives the inode a block of attributes in the part that stays. Inodes that
// share one go over to its copy one by one; both count those they have, and values in
// inodes of their own count both.
func (s *shrinking) moveXattrs(n *Inode) (err error) {
	fs := s.fs
	list, err := n.blockXattrs()
	if err != nil {
		return err
	}
	values, err := n.values(list)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, values.put()) }() // after the handle
	h, err := fs.beginFor(handleBlocks + len(values))
	if err != nil {
		return err
	}
	defer h.end()
	old, err := n.xattrBlock()
	if err != nil {
		return err
	}
	refs := le.Uint32(old.data[4:])
	var b *buffer
	known := s.xattrs[old.nr] != 0
	if nr := s.xattrs[old.nr]; nr != 0 {
		if b, err = fs.cache.get(nr); err != nil {
			return err
		}
		le.PutUint32(b.data[4:], le.Uint32(b.data[4:])+1)
	} else {
		nr, err := s.allocate(h)
		if err != nil {
			return err
		}
		b = fs.cache.fresh(nr)
		copy(b.data, old.data)
		le.PutUint32(b.data[4:], 1)
		b.settle(kindXattr, 0)
		s.xattrs[old.nr] = nr
	}
	h.dirty(b, kindXattr, 0)
	for _, x := range list {
		switch last := refs == 1; {
		case !x.outside || known != last: // as many blocks as before have the entry
		case last:
			err = h.dropValueRef(n, x, values)
		default:
			var ok bool
			if ok, err = h.addValueRef(values[x.inode]); err == nil && !ok {
				err = n.bad("removed attribute in inode", x.inode)
			}
		}
		if err != nil {
			return fs.fail(err)
		}
	}
	if err := n.update(h, true, func(d *format.Inode) { d.FileACL = b.nr }); err != nil {
		return err
	}
	if refs > 1 {
		le.PutUint32(old.data[4:], refs-1)
		h.dirty(old, kindXattr, 0)
		return nil
	}
	return h.free(old.nr, 1, true)
}
