package mkfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
)

// Need is the smallest device, in bytes and whole MiB, that holds what was added so far: the data
// of files that were placed as placed, of others in their full size. A few blocks of maps are
// estimated and never too low.
//
// It is an error when Options.Inodes is less than the tree has.
func (b *Builder) Need() (int64, error) { return b.need(0) }

// need is Need among the devices of at least that size.
func (b *Builder) need(least uint64) (int64, error) {
	const mib = 1 << 20
	blocks := b.treeBlocks()
	inodes := b.treeInodes()
	size := ceil(max(blocks<<b.o.blockBits, least), mib) * mib
	for {
		g, err := newGeometry(int64(size), b.o)
		var small *tooSmall
		if errors.As(err, &small) {
			size += mib
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("a tree of %d blocks and %d inodes: %w", blocks, inodes, err)
		}
		if have := g.inodes(); have < inodes {
			if b.o.inodes > 0 && have >= uint64(b.o.inodes) {
				return 0, fmt.Errorf("%d inodes: %w: the tree has %d", b.o.inodes, unix.ENOSPC, inodes)
			}
			// No more than what is missing for sure: larger devices have other ratios, and
			// rounding gives a group more than its share.
			size += max(1, (inodes-have)*min(size/have, 4096)*7/8/mib) * mib
			continue
		}
		if need := blocks + g.fixedBlocks(b); need > g.free() {
			size += max(1, (need-g.free())<<b.o.blockBits/mib) * mib
			continue
		}
		return int64(size), nil
	}
}

// Fits is nil when the device holds what was added so far, and a *SpaceError when not. It lets a
// caller stop before it has written anything.
func (b *Builder) Fits() error {
	if b.dev == nil {
		return errPlan
	}
	if b.treeInodes() > b.g.inodes() || b.treeBlocks()+b.g.fixedBlocks(b) > b.g.free() {
		return b.noSpace()
	}
	return nil
}

// treeInodes is the number of inodes up to the last.
func (b *Builder) treeInodes() uint64 { return uint64(firstIno - 1 + b.count) }

// fixedBlocks are those of the journal, the orphan file and the resize inode.
func (g *geometry) fixedBlocks(b *Builder) uint64 {
	n := g.journal
	if n > 0 {
		n += b.mapExtra(n/format.ExtentMaxLen+2*n/g.perGroup+2, n, n)
	}
	if g.orphans > 0 {
		n += b.withMap(g.orphans)
	}
	if g.f.resize() {
		n++
	}
	return n
}

// treeBlocks is the number of blocks of everything that was added, with maps and attributes.
func (b *Builder) treeBlocks() uint64 {
	total := b.nodeBlocks(b.root) + b.xattrs.live() + b.ownBlocks()
	for i := range b.count {
		total += b.nodeBlocks(b.node(i))
	}
	for _, r := range b.s.freed {
		total += r.len() // not used again
	}
	return total
}

// nodeBlocks is the number of blocks of one inode, without its attributes.
func (b *Builder) nodeBlocks(n *Node) uint64 {
	size := uint64(b.o.blockSize)
	var blocks, extents uint64
	switch {
	case n.links == 0:
		return 0
	case n.dir != nil:
		if n != b.lost && n.dir.bytes+2*dotSize <= int64(b.leafRoom()) {
			return 1
		}
		p := b.planDir(n, b.leaves)
		b.leaves = p.leaves
		blocks = uint64(p.blocks)
	case n.mode&format.ModeType == format.ModeSymlink:
		if len(n.target) < format.InodeBlockSize {
			return 0
		}
		return 1
	case n.placed:
		for _, e := range n.ext {
			blocks += ceil(uint64(e.Length), size)
		}
		extents = uint64(len(n.ext))
	default: // of other types the size is 0
		blocks = ceil(uint64(n.size), size)
	}
	// The tables and copies of the superblock may split it once or twice in every group.
	extents += blocks/format.ExtentMaxLen + 2*blocks/(size*8) + 2
	return blocks + b.mapExtra(extents, blocks, ceil(uint64(n.size), size))
}

// withMap is the number of blocks of a file without holes that is not placed yet, with its map.
func (b *Builder) withMap(blocks uint64) uint64 {
	extents := blocks/format.ExtentMaxLen + 2*blocks/(uint64(b.o.blockSize)*8) + 2
	return blocks + b.mapExtra(extents, blocks, blocks)
}
