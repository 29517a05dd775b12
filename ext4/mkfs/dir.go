package mkfs

import (
	"cmp"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
)

// slot is an entry of a directory that is being written.
type slot struct {
	hash, minor uint32
	name        string
	node        *Node
}

// dirPlan is how a directory is laid out: b.sorted in leaves, and index blocks when there are
// any. It is valid until the next directory is planned.
type dirPlan struct {
	leaves []int // the first slot of each leaf, and the number of slots at the end
	levels int   // index levels: 0 for a directory without an htree
	nodes  int   // index blocks below the root
	blocks int
}

const (
	dotSize = 12 // the entry "." or ".."
	// leafSlack leaves one part of so many of an htree's leaf free for names that come later.
	leafSlack = 8
)

// leafRoom is the space for entries in a directory block.
func (b *Builder) leafRoom() int {
	if b.o.f.checksums() {
		return b.o.blockSize - format.DirTailSize
	}
	return b.o.blockSize
}

// planDir decides a directory's form: one block, or an htree built from its leaves up, sorted by
// hash. Without dir_index, and past what an htree can hold, it is a plain list of blocks.
func (b *Builder) planDir(n *Node, leaves []int) dirPlan {
	b.sorted = b.sorted[:0]
	for at := n.dir.first; at >= 0; {
		e := &b.names.list[at]
		if e.node != nil {
			b.sorted = append(b.sorted, slot{name: e.name, node: e.node})
		}
		at = e.next
	}
	p := dirPlan{leaves: leaves[:0]}
	if n.dir.bytes+2*dotSize > int64(b.leafRoom()) && b.o.f.compat&format.CompatDirIndex != 0 {
		b.hashSlots()
		p.fill(b.sorted, 0, b.leafRoom()-b.leafRoom()/leafSlack)
		if p.index(b) {
			return p
		}
	}
	p = dirPlan{leaves: leaves[:0]}
	p.fill(b.sorted, 2*dotSize, b.leafRoom())
	p.blocks = len(p.leaves) - 1
	if n == b.lost {
		p.blocks = max(p.blocks, lostFoundSize/b.o.blockSize)
	}
	return p
}

// hashSlots sorts by hash. Names with one hash keep the order in which they were added.
func (b *Builder) hashSlots() {
	seed := b.hashSeed()
	var buf [format.MaxName]byte
	for i := range b.sorted {
		s := &b.sorted[i]
		s.hash, s.minor, _ = format.HashName(buf[:copy(buf[:], s.name)], format.HashHalfMD4, seed)
	}
	slices.SortStableFunc(b.sorted, func(x, y slot) int {
		return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(x.minor, y.minor))
	})
}

func (b *Builder) hashSeed() (seed [4]uint32) {
	for i := range seed {
		seed[i] = le.Uint32(b.o.hashSeed[4*i:])
	}
	return seed
}

// fill divides slots into blocks of room bytes, the first of which has taken bytes in use.
func (p *dirPlan) fill(slots []slot, taken, room int) {
	p.leaves = append(p.leaves, 0)
	for i := range slots {
		size := format.DirEntryLen(len(slots[i].name))
		if taken+size > room && taken > 0 {
			p.leaves = append(p.leaves, i)
			taken = 0
		}
		taken += size
	}
	p.leaves = append(p.leaves, len(slots))
}

// index sizes the index of an htree and says whether it can be had.
func (p *dirPlan) index(b *Builder) bool {
	root := format.DxLimit(b.o.blockSize, format.DxRootEntries, b.o.f.checksums())
	node := format.DxLimit(b.o.blockSize, format.DxNodeEntries, b.o.f.checksums())
	most := format.DxMaxLevels
	if b.o.f.incompat&format.IncompatLargeDir != 0 {
		most = format.DxMaxLevelsLarge
	}
	width := len(p.leaves) - 1
	p.levels, p.nodes = 1, 0
	for width > root {
		width = (width + node - 1) / node
		p.nodes += width
		if p.levels++; p.levels > most {
			return false
		}
	}
	p.blocks = 1 + p.nodes + len(p.leaves) - 1
	return true
}

// writeDir writes a directory into the blocks that n.ext names.
func (b *Builder) writeDir(n *Node, p *dirPlan) error {
	w := dirWriter{b: b, n: n, ext: slices.Clone(n.ext), seed: format.InodeSeed(b.checksumSeed, n.ino, 0)}
	if p.levels > 0 {
		if err := w.index(p); err != nil {
			return err
		}
	}
	for i := 0; i+1 < len(p.leaves); i++ {
		if err := w.leaf(b.sorted[p.leaves[i]:p.leaves[i+1]], p.levels == 0 && i == 0); err != nil {
			return err
		}
	}
	for len(w.ext) > 0 {
		if err := w.leaf(nil, false); err != nil {
			return err
		}
	}
	return nil
}

// dirWriter writes a directory's blocks in their order.
type dirWriter struct {
	b    *Builder
	n    *Node
	ext  []Extent // that are not written yet
	seed uint32
}

// next is the directory's next block, all zeros.
func (w *dirWriter) next() ([]byte, error) {
	e := &w.ext[0]
	block, err := w.b.block(uint64(e.Disk) >> w.b.o.blockBits)
	size := int64(w.b.o.blockSize)
	e.Disk, e.Offset, e.Length = e.Disk+size, e.Offset+size, e.Length-size
	if e.Length == 0 {
		w.ext = w.ext[1:]
	}
	return block, err
}

func (w *dirWriter) entry(block []byte, ino uint32, length int, name string, typ uint8) {
	if w.b.o.f.incompat&format.IncompatFiletype == 0 {
		typ = 0
	}
	e := format.DirEntry{Inode: ino, RecLen: uint32(length), NameLen: uint8(len(name)), Type: typ}
	_ = e.Encode(block) // there is room: the plan has counted
	copy(block[format.DirEntryHeader:], name)
}

// dots writes "." and ".."; the second reaches to byte end of the block.
func (w *dirWriter) dots(block []byte, end int) {
	w.entry(block, w.n.ino, dotSize, ".", format.TypeDir)
	w.entry(block[dotSize:], w.n.dir.parent.ino, end-dotSize, "..", format.TypeDir)
}

// leaf writes a block of entries, the last of which reaches to the block's end.
func (w *dirWriter) leaf(slots []slot, dots bool) error {
	block, err := w.next()
	if err != nil {
		return err
	}
	room := w.b.leafRoom()
	at := 0
	switch {
	case dots && len(slots) == 0:
		w.dots(block, room)
	case dots:
		w.dots(block, 2*dotSize)
		at = 2 * dotSize
	case len(slots) == 0:
		w.entry(block, 0, room, "", 0)
	}
	for i := range slots {
		s := &slots[i]
		length := format.DirEntryLen(len(s.name))
		if i == len(slots)-1 {
			length = room - at
		}
		w.entry(block[at:], s.node.ino, length, s.name, format.TypeOfMode(s.node.mode))
		at += length
	}
	if w.b.o.f.checksums() {
		format.InitDirTail(block)
		format.SetDirChecksum(w.seed, block)
	}
	return nil
}

// index writes the index blocks: the root is block 0, the others follow level by level, then come
// the leaves. The indexes are balanced, no node is left with fewer entries than it must have.
func (w *dirWriter) index(p *dirPlan) error {
	o := w.b.o
	node := format.DxLimit(o.blockSize, format.DxNodeEntries, o.f.checksums())
	leaves := len(p.leaves) - 1

	// widths are the blocks of each level, from the leaves up to what the root points at.
	widths := []int{leaves}
	for range p.levels - 1 {
		widths = append(widths, (widths[len(widths)-1]+node-1)/node)
	}
	// hash is the first hash below block i of a level; a name whose hash another leaf also
	// has marks the later leaf with the lowest bit.
	hash := func(level, i int) uint32 {
		for ; level > 0; level-- {
			i = i * widths[level-1] / widths[level]
		}
		first := p.leaves[i]
		h := w.b.sorted[first].hash
		if first > 0 && w.b.sorted[first-1].hash == h {
			h |= 1
		}
		return h
	}
	// base is where a level's blocks begin in the directory.
	base := make([]int, len(widths))
	at := 1
	for level := len(widths) - 1; level >= 0; level-- {
		base[level] = at
		at += widths[level]
	}

	block, err := w.next()
	if err != nil {
		return err
	}
	w.dots(block, o.blockSize)
	info := format.DxRootInfo{HashVersion: format.HashHalfMD4, InfoLength: format.DxRootInfoSize, IndirectLevels: uint8(p.levels - 1)}
	if err := info.Encode(block[format.DxRootInfoOffset:]); err != nil {
		return err
	}
	top := len(widths) - 1
	w.entries(block, format.DxRootEntries, 0, widths[top], func(i int) format.DxEntry {
		return format.DxEntry{Hash: hash(top, i), Block: uint32(base[top] + i)}
	})
	for level := top; level > 0; level-- {
		for i := range widths[level] {
			if block, err = w.next(); err != nil {
				return err
			}
			w.entry(block, 0, o.blockSize, "", 0)
			from, to := i*widths[level-1]/widths[level], (i+1)*widths[level-1]/widths[level]
			w.entries(block, format.DxNodeEntries, from, to, func(i int) format.DxEntry {
				return format.DxEntry{Hash: hash(level-1, i), Block: uint32(base[level-1] + i)}
			})
		}
	}
	return nil
}

// entries writes the entries [from, to) of an index block and its checksum.
func (w *dirWriter) entries(block []byte, offset, from, to int, get func(int) format.DxEntry) {
	checksum := w.b.o.f.checksums()
	for i := from; i < to; i++ {
		get(i).Encode(block[offset+(i-from)*format.DxEntrySize:])
	}
	// The first entry's hash is where the count lies.
	count := format.DxCount{Limit: uint16(format.DxLimit(len(block), offset, checksum)), Count: uint16(to - from)}
	count.Encode(block[offset:])
	if checksum {
		format.SetDxChecksum(w.seed, block, offset)
	}
}
