package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// step is a node on the way from the root of an extent tree to a leaf, and the entry
// taken in it: -1 in a leaf when the block looked for comes before all entries.
type step struct {
	enode
	at int
}

// extentPath walks to the leaf that covers, or would cover, a block. mu is held.
func (n *Inode) extentPath(block uint32) ([]step, error) {
	e, err := n.extentRoot()
	if err != nil {
		return nil, err
	}
	path := make([]step, 0, format.ExtentMaxDepth+1)
	for {
		s := step{e, e.find(block)}
		if e.depth() == 0 {
			return append(path, s), nil
		}
		s.at = max(s.at, 0)
		path = append(path, s)
		if e, err = n.extentChild(e, s.at); err != nil {
			return nil, err
		}
	}
}

// dirtyNode puts a node on the transaction.
func (n *Inode) dirtyNode(h *handle, e enode) error {
	if e.b == nil {
		return n.touch(h, true)
	}
	h.dirty(e.b, kindExtent, n.iseed)
	return n.touch(h, true) // fsync of the file waits for it
}

func maxLen(unwritten bool) uint32 {
	if unwritten {
		return format.ExtentMaxLenUnwritten
	}
	return format.ExtentMaxLen
}

// follows says whether y continues x, so that both fit one extent.
func follows(x, y format.Extent) bool {
	return x.Unwritten == y.Unwritten && uint64(x.Block)+uint64(x.Len) == uint64(y.Block) &&
		x.Start+uint64(x.Len) == y.Start && uint32(x.Len)+uint32(y.Len) <= maxLen(x.Unwritten)
}

func (e enode) put(i int, x format.Extent) { _ = x.Encode(e.slot(i)) }

// insertSlot makes room for an entry at i.
func (e enode) insertSlot(i int) {
	n := e.entries()
	from := format.ExtentHeaderSize + i*format.ExtentSize
	end := format.ExtentHeaderSize + n*format.ExtentSize
	copy(e.data[from+format.ExtentSize:end+format.ExtentSize], e.data[from:end])
	e.setEntries(n + 1)
}

// removeSlot drops entry i.
func (e enode) removeSlot(i int) {
	n := e.entries()
	from := format.ExtentHeaderSize + i*format.ExtentSize
	end := format.ExtentHeaderSize + n*format.ExtentSize
	copy(e.data[from:], e.data[from+format.ExtentSize:end])
	clear(e.data[end-format.ExtentSize : end])
	e.setEntries(n - 1)
}

// fixKeys makes the keys above a leaf tell its first entry, after that has changed.
func (n *Inode) fixKeys(h *handle, path []step) error {
	key := path[len(path)-1].key(0)
	for i := len(path) - 2; i >= 0; i-- {
		le.PutUint32(path[i].slot(path[i].at), key)
		if err := n.dirtyNode(h, path[i].enode); err != nil {
			return err
		}
		if path[i].at > 0 {
			break
		}
	}
	return nil
}

// insertExtent adds an extent over a hole, merged with its neighbours where they touch.
// mu is held for writing.
func (n *Inode) insertExtent(h *handle, x format.Extent) error {
	for range 3 * (format.ExtentMaxDepth + 1) {
		path, err := n.extentPath(x.Block)
		if err != nil {
			return err
		}
		leaf := &path[len(path)-1]
		if leaf.at >= 0 {
			if p := leaf.extent(leaf.at); uint64(p.Block)+uint64(p.Len) > uint64(x.Block) {
				return n.bad("insertion over mapped block", x.Block)
			} else if follows(p, x) {
				p.Len += x.Len
				leaf.put(leaf.at, p)
				return n.mergeRight(h, path, leaf.at)
			}
		}
		if i := leaf.at + 1; i < leaf.entries() {
			if y := leaf.extent(i); follows(x, y) {
				y.Block, y.Start, y.Len = x.Block, x.Start, y.Len+x.Len
				leaf.put(i, y)
				if err := n.dirtyNode(h, leaf.enode); err != nil {
					return err
				}
				if i == 0 {
					return n.fixKeys(h, path)
				}
				return nil
			}
		}
		if leaf.entries() < leaf.max() {
			leaf.insertSlot(leaf.at + 1)
			leaf.put(leaf.at+1, x)
			if err := n.dirtyNode(h, leaf.enode); err != nil {
				return err
			}
			if leaf.at+1 == 0 {
				return n.fixKeys(h, path)
			}
			return nil
		}
		if err := n.makeRoom(h, path); err != nil {
			return err
		}
	}
	return n.bad("extent tree does not split for block", x.Block)
}

// mergeRight joins entry i of the leaf with the one after it when they touch, and puts
// the leaf on the transaction.
func (n *Inode) mergeRight(h *handle, path []step, i int) error {
	leaf := path[len(path)-1]
	if i >= 0 && i+1 < leaf.entries() {
		if x, y := leaf.extent(i), leaf.extent(i+1); follows(x, y) {
			x.Len += y.Len
			leaf.put(i, x)
			leaf.removeSlot(i + 1)
		}
	}
	return n.dirtyNode(h, leaf.enode)
}

// allocNode takes a block for a node.
func (n *Inode) allocNode(h *handle, near uint64) (enode, error) {
	nr, err := h.allocBlock(near)
	if err != nil {
		return enode{}, err
	}
	b := h.fs.cache.fresh(nr)
	b.seen.Store(uint64(kindExtent)<<32 | uint64(n.ino))
	h.dirty(b, kindExtent, n.iseed)
	return enode{b, b.data}, n.addBlocks(h, 1)
}

// makeRoom splits the deepest full node whose parent has room, or lets the tree grow.
// It has to be called until the leaf has room.
func (n *Inode) makeRoom(h *handle, path []step) error {
	k := len(path) - 1
	for k >= 0 && path[k].entries() >= path[k].max() {
		k--
	}
	if k < 0 {
		return n.growTree(h, path[0])
	}
	parent, full := path[k], path[k+1]
	near := uint64(0)
	if full.b != nil {
		near = full.b.nr
	}
	right, err := n.allocNode(h, near)
	if err != nil {
		return err
	}
	// Blocks are mostly appended: then leave the old node full.
	count := full.entries()
	split := count / 2
	if full.at >= count-1 {
		split = count - 1
	}
	head := format.ExtentHeader{
		Magic: format.ExtentMagic, Entries: uint16(count - split),
		Max: uint16(format.ExtentNodeMax(h.fs.bs)), Depth: uint16(full.depth()),
	}
	_ = head.Encode(right.data)
	from := format.ExtentHeaderSize + split*format.ExtentSize
	end := format.ExtentHeaderSize + count*format.ExtentSize
	copy(right.data[format.ExtentHeaderSize:], full.data[from:end])
	clear(full.data[from:end])
	full.setEntries(split)
	if err := n.dirtyNode(h, full.enode); err != nil {
		return err
	}
	parent.insertSlot(parent.at + 1)
	x := format.ExtentIndex{Block: right.key(0), Leaf: right.b.nr}
	_ = x.Encode(parent.slot(parent.at + 1))
	return n.dirtyNode(h, parent.enode)
}

// growTree moves the root's entries to a new block below it.
func (n *Inode) growTree(h *handle, root step) error {
	if root.depth() >= format.ExtentMaxDepth {
		return fmt.Errorf("ext4: extent tree of inode %d is full: %w", n.ino, unix.EFBIG)
	}
	near := h.fs.fileGoal(n)
	if root.depth() == 0 {
		near = root.extent(0).Start
	}
	child, err := n.allocNode(h, near)
	if err != nil {
		return err
	}
	copy(child.data, n.d.Block[:])
	le.PutUint16(child.data[4:], uint16(format.ExtentNodeMax(h.fs.bs)))
	first := root.key(0)
	clear(n.d.Block[format.ExtentHeaderSize:])
	root.setEntries(1)
	le.PutUint16(n.d.Block[6:], uint16(root.depth()+1))
	x := format.ExtentIndex{Block: first, Leaf: child.b.nr}
	_ = x.Encode(root.slot(0))
	return n.touch(h, true)
}

// dropEntry removes entry i of the leaf, and the nodes that become empty.
func (n *Inode) dropEntry(h *handle, path []step, i int) error {
	for k := len(path) - 1; ; k-- {
		e := path[k]
		e.removeSlot(i)
		if err := n.dirtyNode(h, e.enode); err != nil {
			return err
		}
		if e.entries() > 0 {
			if i == 0 && k > 0 {
				if err := n.fixKeys(h, path[:k+1]); err != nil {
					return err
				}
			}
			break
		}
		if k == 0 { // the tree is empty
			le.PutUint16(n.d.Block[6:], 0)
			break
		}
		if err := h.free(e.b.nr, 1, true); err != nil {
			return err
		}
		if err := n.addBlocks(h, -1); err != nil {
			return err
		}
		i = path[k-1].at
	}
	return n.shrinkTree(h)
}

// shrinkTree takes the only child of the root into it while it fits.
func (n *Inode) shrinkTree(h *handle) error {
	for {
		root, err := n.extentRoot()
		if err != nil || root.depth() == 0 || root.entries() != 1 {
			return err
		}
		child, err := n.extentChild(root, 0)
		if err != nil {
			return err
		}
		if child.entries() > format.ExtentRootMax {
			return nil
		}
		copy(n.d.Block[:], child.data[:format.ExtentHeaderSize+child.entries()*format.ExtentSize])
		clear(n.d.Block[format.ExtentHeaderSize+child.entries()*format.ExtentSize:])
		le.PutUint16(n.d.Block[4:], format.ExtentRootMax)
		if err := h.free(child.b.nr, 1, true); err != nil {
			return err
		}
		if err := n.addBlocks(h, -1); err != nil {
			return err
		}
	}
}

// groupsPerStep is over how many groups a step of a removal goes at most, for each has a
// bitmap to change. Where groups are small an extent can lie over a hundred.
const groupsPerStep = 16

// removeExtent frees the last run of blocks mapped in [from, to), all or part of one
// extent; done is true when there is none.
func (n *Inode) removeExtent(h *handle, from, to uint64) (done bool, err error) {
	if from >= to || from >= maxBlocks {
		return true, nil
	}
	to = min(to, maxBlocks)
	path, err := n.extentPath(uint32(to - 1))
	if err != nil {
		return true, err
	}
	leaf := path[len(path)-1]
	i := leaf.at
	if i < 0 {
		return true, nil
	}
	x := leaf.extent(i)
	begin, end := uint64(x.Block), uint64(x.Block)+uint64(x.Len)
	if end <= from {
		return true, nil
	}
	lo, hi := max(begin, from), min(end, to)
	if most := groupsPerStep * n.fs.bpg; hi-lo > most {
		lo = hi - most
	}
	gone := run{x.Start + lo - begin, hi - lo}
	if err := n.touch(h, true); err != nil {
		return true, err
	}
	switch {
	case lo == begin && hi == end:
		err = n.dropEntry(h, path, i)
	case hi == end:
		x.Len = uint16(lo - begin)
		leaf.put(i, x)
		err = n.dirtyNode(h, leaf.enode)
	case lo == begin:
		x.Block, x.Start, x.Len = uint32(hi), x.Start+hi-begin, uint16(end-hi)
		leaf.put(i, x)
		if err = n.dirtyNode(h, leaf.enode); err == nil && i == 0 {
			err = n.fixKeys(h, path)
		}
	default:
		head, tail := x, x
		head.Len = uint16(lo - begin)
		tail.Block, tail.Start, tail.Len = uint32(hi), x.Start+hi-begin, uint16(end-hi)
		err = n.splitInto(h, path, x, head, tail)
	}
	if err != nil {
		return true, err
	}
	if err := h.free(gone.start, gone.count, n.metadata()); err != nil {
		return true, err
	}
	return lo == from, n.addBlocks(h, -int64(gone.count))
}

// splitInto replaces x, the entry at the end of path, by the parts given, in order. It
// undoes the first when there is no room for a later one.
func (n *Inode) splitInto(h *handle, path []step, x format.Extent, parts ...format.Extent) error {
	leaf := path[len(path)-1]
	leaf.put(leaf.at, parts[0])
	if err := n.dirtyNode(h, leaf.enode); err != nil {
		return err
	}
	for i, p := range parts[1:] {
		err := n.insertExtent(h, p)
		if err == nil {
			continue
		}
		// Put x back: take away the parts that went in, then let the first be whole.
		for _, q := range parts[1 : 1+i] {
			if path, e := n.extentPath(q.Block); e == nil && path[len(path)-1].at >= 0 {
				leaf := path[len(path)-1]
				if y := leaf.extent(leaf.at); y == q {
					_ = n.dropEntry(h, path, leaf.at)
				}
			}
		}
		if path, e := n.extentPath(x.Block); e == nil && path[len(path)-1].at >= 0 {
			leaf := path[len(path)-1]
			leaf.put(leaf.at, x)
			_ = n.dirtyNode(h, leaf.enode)
		}
		return err
	}
	return nil
}

// convert changes the state of the blocks of [from, to) that have the other one. A
// range of many extents can be too much for one handle: see convertNext.
func (n *Inode) convert(h *handle, from, to uint64, unwritten bool) (err error) {
	for at := from; at < to && err == nil; {
		at, err = n.convertNext(h, at, to, unwritten)
	}
	return err
}

// convertNext does what convert does for the first mapping of [at, to), and gives where
// it ends.
func (n *Inode) convertNext(h *handle, at, to uint64, unwritten bool) (uint64, error) {
	m, err := n.mapExtent(at)
	if err != nil {
		return at, err
	}
	end := min(at+m.count, to)
	if m.state == Hole || (m.state == Unwritten) == unwritten {
		return end, nil
	}
	return end, n.convertRun(h, at, end, unwritten)
}

// convertRun changes the state of a part of one extent.
func (n *Inode) convertRun(h *handle, lo, hi uint64, unwritten bool) error {
	path, err := n.extentPath(uint32(lo))
	if err != nil {
		return err
	}
	leaf := path[len(path)-1]
	x := leaf.extent(leaf.at)
	begin, end := uint64(x.Block), uint64(x.Block)+uint64(x.Len)
	part := func(a, b uint64, u bool) format.Extent {
		return format.Extent{Block: uint32(a), Len: uint16(b - a), Unwritten: u, Start: x.Start + a - begin}
	}
	if unwritten && hi-lo > format.ExtentMaxLenUnwritten { // a written extent can be one longer
		if err := n.convertRun(h, lo, hi-1, true); err != nil {
			return err
		}
		return n.convertRun(h, hi-1, hi, true)
	}
	mid := part(lo, hi, unwritten)
	// The neighbour on the left takes the part over: the usual case when a file
	// that was allocated ahead is written from front to back.
	if lo == begin && leaf.at > 0 {
		if p := leaf.extent(leaf.at - 1); follows(p, mid) {
			p.Len += mid.Len
			leaf.put(leaf.at-1, p)
			if hi == end {
				leaf.removeSlot(leaf.at)
				return n.mergeRight(h, path, leaf.at-1)
			}
			leaf.put(leaf.at, part(hi, end, !unwritten))
			return n.dirtyNode(h, leaf.enode)
		}
	}
	var parts []format.Extent
	if lo > begin {
		parts = append(parts, part(begin, lo, !unwritten))
	}
	parts = append(parts, mid)
	if hi < end {
		parts = append(parts, part(hi, end, !unwritten))
	}
	if err := n.splitInto(h, path, x, parts...); err != nil {
		return err
	}
	if len(parts) == 1 || lo == begin {
		return n.mergeRight(h, path, leaf.at)
	}
	return nil
}
