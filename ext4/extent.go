package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
)

// mapping says where count blocks of a file from block on lie.
type mapping struct {
	block uint64 // of the file
	count uint64
	disk  uint64 // block of the disk, unless state is Hole
	state ExtentState
}

// maxBlocks is one more than the highest block number that files can have.
const maxBlocks = format.MaxLogicalBlock + 1

// enode is a node of an extent tree: the root in its inode or a block.
type enode struct {
	b    *buffer // nil for the root
	data []byte
}

func (e enode) entries() int { return int(le.Uint16(e.data[2:])) }
func (e enode) max() int     { return int(le.Uint16(e.data[4:])) }
func (e enode) depth() int   { return int(le.Uint16(e.data[6:])) }

func (e enode) setEntries(n int) { le.PutUint16(e.data[2:], uint16(n)) }

func (e enode) slot(i int) []byte {
	return e.data[format.ExtentHeaderSize+i*format.ExtentSize:][:format.ExtentSize]
}

// key is the first file block of entry i.
func (e enode) key(i int) uint32 { return le.Uint32(e.slot(i)) }

func (e enode) extent(i int) (x format.Extent) {
	_ = x.Decode(e.slot(i)) // a slot has the right length
	return x
}

func (e enode) index(i int) (x format.ExtentIndex) {
	_ = x.Decode(e.slot(i))
	return x
}

// find gives the last entry whose key is at most block, or -1.
func (e enode) find(block uint32) int {
	lo, hi := 0, e.entries()
	for lo < hi {
		if m := (lo + hi) / 2; e.key(m) <= block {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

// root is the node in the inode.
func (n *Inode) extentRoot() (enode, error) {
	e := enode{data: n.d.Block[:]}
	d := e.depth()
	if d > format.ExtentMaxDepth {
		return e, n.bad("extent tree depth", d)
	}
	if err := n.checkNode(e, d); err != nil {
		return e, err
	}
	return e, nil
}

// extentChild is the node that entry i of e points to.
func (n *Inode) extentChild(e enode, i int) (enode, error) {
	x := e.index(i)
	if !n.fs.mayHold(x.Leaf, 1) {
		return enode{}, n.bad("extent index to block", x.Leaf)
	}
	b, err := n.fs.cache.get(x.Leaf)
	if err != nil {
		return enode{}, err
	}
	c := enode{b, b.data}
	fresh, ok := b.claim(kindExtent, n.ino)
	if fresh {
		if n.fs.csum && !format.ExtentChecksumOK(n.iseed, b.data) {
			return c, n.bad("checksum of extent block", x.Leaf)
		}
		if err := n.checkNode(c, e.depth()-1); err != nil {
			return c, err
		}
		ok = b.settle(kindExtent, n.ino)
	}
	if !ok {
		return c, n.bad("extent block that is also something else:", x.Leaf)
	}
	// Both can change after the node was seen, or differ for another parent.
	if c.depth() != e.depth()-1 {
		return c, n.bad("depth of extent block", x.Leaf)
	}
	if c.entries() == 0 || c.key(0) != x.Block {
		return c, n.bad("first key of extent block", x.Leaf)
	}
	return c, nil
}

// checkNode checks a node by itself: a header as expected, entries in order, apart
// from each other, and inside the filesystem.
func (n *Inode) checkNode(e enode, depth int) error {
	bad := func(field string, v any) error {
		if e.b == nil {
			return n.bad("extent root: "+field, v)
		}
		return n.bad(fmt.Sprintf("extent block %d: %s", e.b.nr, field), v)
	}
	var h format.ExtentHeader
	if err := h.Decode(e.data); err != nil {
		return err
	}
	if h.Magic != format.ExtentMagic {
		return bad("magic", fmt.Sprintf("%#x", h.Magic))
	}
	if int(h.Depth) != depth {
		return bad("depth", h.Depth)
	}
	if h.Max == 0 || int(h.Max) > format.ExtentNodeMax(len(e.data)) || h.Entries > h.Max {
		return bad("entries", fmt.Sprintf("%d of %d", h.Entries, h.Max))
	}
	if h.Entries == 0 && (depth > 0 || e.b != nil) {
		return bad("entries", 0)
	}
	next := uint64(0) // the lowest key allowed
	for i := range int(h.Entries) {
		if depth > 0 {
			x := e.index(i)
			if i > 0 && uint64(x.Block) < next {
				return bad("index order at block", x.Block)
			}
			if !n.fs.mayHold(x.Leaf, 1) {
				return bad("index to block", x.Leaf)
			}
			next = uint64(x.Block) + 1
			continue
		}
		x := e.extent(i)
		if x.Len == 0 || uint64(x.Block) < next || uint64(x.Block)+uint64(x.Len) > maxBlocks {
			return bad("extent at block", fmt.Sprintf("%d, length %d", x.Block, x.Len))
		}
		if !n.fs.mayHold(x.Start, uint64(x.Len)) {
			return bad("extent on disk at block", fmt.Sprintf("%d, length %d", x.Start, x.Len))
		}
		next = uint64(x.Block) + uint64(x.Len)
	}
	return nil
}

// mapExtent finds the mapping that covers a block: to the end of its extent, or of the
// hole. mu is held.
func (n *Inode) mapExtent(block uint64) (mapping, error) {
	hole := mapping{block: block, count: maxBlocks - min(block, maxBlocks), state: Hole}
	if block >= maxBlocks {
		hole.count = 1<<62 - block
		return hole, nil
	}
	e, err := n.extentRoot()
	if err != nil {
		return hole, err
	}
	end := uint64(maxBlocks) // no entry below the current node is at or after it
	for {
		i := e.find(uint32(block))
		if i+1 < e.entries() {
			end = min(end, uint64(e.key(i+1)))
		}
		if i < 0 {
			hole.count = end - block
			return hole, nil
		}
		if e.depth() == 0 {
			x := e.extent(i)
			if past := block - uint64(x.Block); past < uint64(x.Len) {
				m := mapping{block, uint64(x.Len) - past, x.Start + past, Written}
				if x.Unwritten {
					m.state = Unwritten
				}
				if block+m.count > end {
					return hole, n.bad("extents overlap at block", end)
				}
				return m, nil
			}
			hole.count = end - block
			return hole, nil
		}
		if e, err = n.extentChild(e, i); err != nil {
			return hole, err
		}
	}
}

// mapBlock finds the mapping that covers a block of the file. mu is held.
func (n *Inode) mapBlock(block uint64) (mapping, error) {
	if n.extents() {
		return n.mapExtent(block)
	}
	return n.mapIndirect(block)
}
