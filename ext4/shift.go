package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// steps is the handle of an operation that fits one, or that goes on in others. An
// operation in one handle is done or not done after a crash. One in several is done in
// part, and the file is sound after each.
type steps struct {
	h    *handle
	once bool
}

// next ends a step. After an error no handle is open.
func (s *steps) next() error {
	if s.once {
		return nil
	}
	fs := s.h.fs
	s.end()
	h, err := fs.begin()
	s.h = h
	return err
}

func (s *steps) end() {
	if s.h != nil {
		s.h.end()
		s.h = nil
	}
}

// shiftSteps opens the handle for moving the extents from block first on, after those
// before block removed of them are freed.
func (n *Inode) shiftSteps(first, removed uint64) (*steps, error) {
	root, err := n.extentRoot()
	if err != nil {
		return nil, err
	}
	// This reads, and so checks, every node that there will be to change.
	nodes, gone, err := n.countNodes(root, uint32(min(first, maxBlocks-1)), removed)
	if err != nil {
		return nil, err
	}
	// A freed extent or node changes bitmaps and descriptors, a split takes a block a
	// level; the quota files are told.
	blocks := nodes + 2*min(gone+nodes, len(*n.fs.groups.Load())) + 2*format.ExtentMaxDepth + quotaBlocks
	once := blocks <= n.fs.txn.limit/2
	if !once {
		blocks = 0
	}
	h, err := n.fs.beginFor(max(blocks, handleBlocks))
	if err != nil {
		return nil, err
	}
	return &steps{h, once}, nil
}

// countNodes counts the blocks below e that cover what lies from block first on, and
// the groups of extents in them that start before block removed.
func (n *Inode) countNodes(e enode, first uint32, removed uint64) (nodes, gone int, err error) {
	for i := max(e.find(first), 0); i < e.entries(); i++ {
		if e.depth() == 0 {
			if uint64(e.key(i)) < removed {
				gone += 2 + int(uint64(e.extent(i).Len)/n.fs.bpg)
			}
			continue
		}
		c, err := n.extentChild(e, i)
		if err != nil {
			return 0, 0, err
		}
		below, freed, err := n.countNodes(c, first, removed)
		if err != nil {
			return 0, 0, err
		}
		nodes += 1 + below
		gone += freed
	}
	return nodes, gone, nil
}

// checkShift says whether [off, off+length) can be taken out of the file or put in.
func (n *Inode) checkShift(off, length int64) error {
	if err := n.checkWrite(off, length); err != nil {
		return err
	}
	if n.inline() {
		if err := n.convertInline(); err != nil {
			return err
		}
	}
	if !n.extents() {
		return fmt.Errorf("ext4: shift in inode %d, which has no extents: %w", n.ino, unix.EOPNOTSUPP)
	}
	if length == 0 || (off|length)&int64(n.fs.bs-1) != 0 {
		return fmt.Errorf("ext4: shift of %d+%d, not in blocks of %d: %w", off, length, n.fs.bs, unix.EINVAL)
	}
	return nil
}

// Collapse takes the range, whole blocks, out of the file: what lies behind it moves to
// off, and the size shrinks. The range must end before the file does. A file with more
// extents than a transaction takes is moved from front to back in several; a crash
// between two leaves it moved in part.
func (n *Inode) Collapse(off, length int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkShift(off, length); err != nil {
		return err
	}
	if off+length >= int64(n.d.Size) {
		return fmt.Errorf("ext4: collapse of %d+%d in a file of %d: %w", off, length, n.d.Size, unix.EINVAL)
	}
	n.dropWindow()
	return n.fs.retry(func() error { return n.collapseRange(off, length) })
}

func (n *Inode) collapseRange(off, length int64) error {
	from, to := uint64(off)>>n.fs.bsBits, uint64(off+length)>>n.fs.bsBits
	s, err := n.shiftSteps(from, to)
	if err != nil {
		return err
	}
	defer s.end()
	for done := false; !done; {
		if done, err = n.removeSome(s.h, &from, to); err != nil {
			return err
		}
		if err := s.next(); err != nil {
			return err
		}
	}
	if err := n.shiftLeft(s, to, uint32(length>>n.fs.bsBits)); err != nil {
		return err
	}
	now := n.fs.now()
	return n.update(s.h, true, func(d *format.Inode) {
		n.setSize(s.h, d.Size-uint64(length))
		d.Mtime, d.Ctime = now, now
	})
}

// Insert makes a hole of length at off: what lies from there on moves behind it, and
// the size grows. Both are in whole blocks, and off is within the file. Large files are
// moved as Collapse does it, from back to front.
func (n *Inode) Insert(off, length int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkShift(off, length); err != nil {
		return err
	}
	if off >= int64(n.d.Size) {
		return fmt.Errorf("ext4: insertion at %d of a file of %d: %w", off, n.d.Size, unix.EINVAL)
	}
	if n.d.Size+uint64(length) > n.maxSize() {
		return fmt.Errorf("ext4: insertion of %d into inode %d: %w", length, n.ino, unix.EFBIG)
	}
	n.dropWindow()
	return n.fs.retry(func() error { return n.insertRange(off, length) })
}

func (n *Inode) insertRange(off, length int64) error {
	first, by := uint64(off)>>n.fs.bsBits, uint64(length)>>n.fs.bsBits
	path, err := n.extentPath(maxBlocks - 1)
	if err != nil {
		return err
	}
	if leaf := path[len(path)-1]; leaf.at >= 0 {
		if x := leaf.extent(leaf.at); uint64(x.Block)+uint64(x.Len)+by > maxBlocks { // behind the end
			return fmt.Errorf("ext4: insertion moves block %d of inode %d too far: %w", x.Block, n.ino, unix.EINVAL)
		}
	}
	s, err := n.shiftSteps(first, 0)
	if err != nil {
		return err
	}
	defer s.end()
	if err := n.splitAt(s.h, first); err != nil {
		return err
	}
	now := n.fs.now()
	// The size comes first: no block is behind the end at any time.
	err = n.update(s.h, true, func(d *format.Inode) {
		n.setSize(s.h, d.Size+uint64(length))
		d.Mtime, d.Ctime = now, now
	})
	if err != nil {
		return err
	}
	if err := s.next(); err != nil {
		return err
	}
	return n.shiftRight(s, first, uint32(by))
}

// splitAt makes an extent start at a block that lies within one.
func (n *Inode) splitAt(h *handle, block uint64) error {
	path, err := n.extentPath(uint32(block))
	if err != nil {
		return err
	}
	leaf := path[len(path)-1]
	if leaf.at < 0 {
		return nil
	}
	x := leaf.extent(leaf.at)
	past := block - uint64(x.Block)
	if past == 0 || past >= uint64(x.Len) {
		return nil
	}
	head, tail := x, x
	head.Len = uint16(past)
	tail.Block, tail.Start, tail.Len = uint32(block), x.Start+past, x.Len-uint16(past)
	return n.splitApart(h, path, x, head, tail)
}

// splitApart is splitInto for two parts that must not be merged again: the second has
// to find its place by an insertion, which would join it with the first.
func (n *Inode) splitApart(h *handle, path []step, x, head, tail format.Extent) error {
	for range 3 * (format.ExtentMaxDepth + 1) {
		leaf := path[len(path)-1]
		if leaf.entries() < leaf.max() {
			leaf.put(leaf.at, head)
			leaf.insertSlot(leaf.at + 1)
			leaf.put(leaf.at+1, tail)
			return n.dirtyNode(h, leaf.enode)
		}
		if err := n.makeRoom(h, path); err != nil {
			return err
		}
		var err error
		if path, err = n.extentPath(x.Block); err != nil {
			return err
		}
	}
	return n.bad("extent tree does not split for block", x.Block)
}

// extentFrom walks to the first extent that starts at or behind a block.
func (n *Inode) extentFrom(block uint64) (path []step, found bool, err error) {
	if block >= maxBlocks {
		return nil, false, nil
	}
	if path, err = n.extentPath(uint32(block)); err != nil {
		return nil, false, err
	}
	leaf := &path[len(path)-1]
	if leaf.at >= 0 && uint64(leaf.key(leaf.at)) >= block {
		return path, true, nil
	}
	if leaf.at++; leaf.at < leaf.entries() {
		return path, true, nil
	}
	for k := len(path) - 2; k >= 0; k-- { // the leaf after this one
		if e := path[k]; e.at+1 < e.entries() {
			path, err = n.extentPath(e.key(e.at + 1))
			return path, err == nil, err
		}
	}
	return nil, false, nil
}

// shiftLeft moves the extents from block first on by as many blocks towards the start,
// which are a hole.
func (n *Inode) shiftLeft(s *steps, first uint64, by uint32) error {
	for {
		path, found, err := n.extentFrom(first)
		if err != nil || !found {
			return err
		}
		leaf := path[len(path)-1]
		for i := leaf.at; i < leaf.entries(); i++ {
			x := leaf.extent(i)
			first = uint64(x.Block) + uint64(x.Len)
			x.Block -= by
			leaf.put(i, x)
		}
		if err := n.mergeRight(s.h, path, leaf.at-1); err != nil {
			return err
		}
		if leaf.at == 0 {
			if err := n.fixKeys(s.h, path); err != nil {
				return err
			}
		}
		if err := s.next(); err != nil {
			return err
		}
	}
}

// shiftRight moves the extents from block first on, where one starts or none lies,
// towards the end.
func (n *Inode) shiftRight(s *steps, first uint64, by uint32) error {
	for end := uint64(maxBlocks); end > first; { // what lies from end on is moved
		path, err := n.extentPath(uint32(end - 1))
		if err != nil {
			return err
		}
		leaf := path[len(path)-1]
		i := leaf.at
		for ; i >= 0 && uint64(leaf.key(i)) >= first; i-- {
			x := leaf.extent(i)
			end = uint64(x.Block)
			x.Block += by
			leaf.put(i, x)
		}
		if i == leaf.at {
			return nil
		}
		if err := n.dirtyNode(s.h, leaf.enode); err != nil {
			return err
		}
		if i >= 0 {
			return nil
		}
		if err := n.fixKeys(s.h, path); err != nil {
			return err
		}
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}
