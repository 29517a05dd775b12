package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
)

// Files without extents keep block numbers: twelve in the inode, then one block of
// numbers, then blocks of blocks of them, two and three levels deep.

// mapLimit is the number of blocks such a file can have.
func (fs *FS) mapLimit() uint64 {
	p := uint64(fs.bs / 4)
	return min(format.DirectBlocks+p+p*p+p*p*p, 1<<32-1)
}

// indirectPath gives the slot in the inode and the slots in the blocks below it that
// lead to a block of the file.
func (fs *FS) indirectPath(block uint64) (path [4]int, depth int, ok bool) {
	p := uint64(fs.bs / 4)
	if block < format.DirectBlocks {
		return [4]int{int(block)}, 0, true
	}
	block -= format.DirectBlocks
	if block < p {
		return [4]int{format.IndirectBlock, int(block)}, 1, true
	}
	block -= p
	if block < p*p {
		return [4]int{format.DoubleBlock, int(block / p), int(block % p)}, 2, true
	}
	block -= p * p
	if block < p*p*p {
		return [4]int{format.TripleBlock, int(block / (p * p)), int(block / p % p), int(block % p)}, 3, true
	}
	return path, 0, false
}

// mapIndirect finds the mapping that covers a block. mu is held.
func (n *Inode) mapIndirect(block uint64) (mapping, error) {
	m := mapping{block: block, count: 1, state: Hole}
	path, depth, ok := n.fs.indirectPath(block)
	if !ok {
		m.count = 1<<62 - block
		return m, nil
	}
	data, per := n.d.Block[:], uint64(1)
	for range depth {
		per *= uint64(n.fs.bs / 4)
	}
	last := format.DirectBlocks // slots of the same kind end here
	if depth > 0 {
		last = path[0] + 1
	}
	for level := 0; ; level++ {
		nr := uint64(le.Uint32(data[4*path[level]:]))
		if level == depth {
			m.count = n.indirectRun(data, path[level], last, nr)
			if nr != 0 {
				m.disk, m.state = nr, Written
				if !n.fs.mayHold(nr, m.count) {
					return m, n.bad(fmt.Sprintf("block map at block %d to", block), nr)
				}
			}
			return m, nil
		}
		if nr == 0 { // nothing below: a hole to the end of the subtree
			m.count = per - n.withinSubtree(path, level, depth)
			return m, nil
		}
		b, err := n.indirectBlock(nr)
		if err != nil {
			return m, err
		}
		data, last = b.data, n.fs.bs/4
		per /= uint64(n.fs.bs / 4)
	}
}

// indirectBlock reads a block of block numbers.
func (n *Inode) indirectBlock(nr uint64) (*buffer, error) {
	if !n.fs.mayHold(nr, 1) {
		return nil, n.bad("indirect block", nr)
	}
	b, err := n.fs.cache.get(nr)
	if err != nil {
		return nil, err
	}
	if !b.settle(kindIndirect, n.ino) {
		return nil, n.bad("indirect block that is also something else:", nr)
	}
	return b, nil
}

// withinSubtree is the place of the block among those below the slot at level.
func (n *Inode) withinSubtree(path [4]int, level, depth int) uint64 {
	at := uint64(0)
	for _, s := range path[level+1 : depth+1] {
		at = at*uint64(n.fs.bs/4) + uint64(s)
	}
	return at
}

// indirectRun counts the slots from i on that continue the run of number nr, or the
// hole when nr is 0.
func (n *Inode) indirectRun(data []byte, i, last int, nr uint64) uint64 {
	count := uint64(1)
	for i++; i < last; i++ {
		v := uint64(le.Uint32(data[4*i:]))
		if nr == 0 && v != 0 || nr != 0 && v != nr+count {
			break
		}
		count++
	}
	return count
}
