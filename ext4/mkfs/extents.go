package mkfs

import "github.com/umlkit/umlkit/ext4/format"

// inodeMap is an inode's i_block, and how many blocks the map takes beside it.
type inodeMap struct {
	block [format.InodeBlockSize]byte
	extra uint64
}

// mapBlocks makes the map of a file whose blocks lie where list says, and writes those parts of it
// that do not fit the inode.
func (b *Builder) mapBlocks(ino uint32, list []Extent) (inodeMap, error) {
	if !b.o.f.extents() {
		return b.mapIndirect(list)
	}
	var m inodeMap
	small := b.small[:0]
	for _, e := range list {
		block, start := uint64(e.Offset)>>b.o.blockBits, uint64(e.Disk)>>b.o.blockBits
		for n := ceil(uint64(e.Length), uint64(b.o.blockSize)); n > 0; {
			k := min(n, format.ExtentMaxLen)
			small = append(small, format.Extent{Block: uint32(block), Len: uint16(k), Start: start})
			block, start, n = block+k, start+k, n-k
		}
	}
	b.small = small

	// Each level that does not fit the inode goes to blocks of its own; what points at
	// those blocks is the next level.
	per := format.ExtentNodeMax(b.o.blockSize)
	count, depth := len(small), uint16(0)
	var index []format.ExtentIndex
	put := func(area []byte, from, to int) error {
		for i := from; i < to; i++ {
			at := area[format.ExtentHeaderSize+(i-from)*format.ExtentSize:]
			var err error
			if depth == 0 {
				err = small[i].Encode(at)
			} else {
				err = index[i].Encode(at)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for count > format.ExtentRootMax {
		var above []format.ExtentIndex
		for from := 0; from < count; from += per {
			to := min(from+per, count)
			first := uint32(0)
			if depth == 0 {
				first = small[from].Block
			} else {
				first = index[from].Block
			}
			nr, block, err := b.newBlock()
			if err != nil {
				return m, err
			}
			head := format.ExtentHeader{Magic: format.ExtentMagic, Entries: uint16(to - from), Max: uint16(per), Depth: depth}
			if err := head.Encode(block); err != nil {
				return m, err
			}
			if err := put(block, from, to); err != nil {
				return m, err
			}
			if b.o.f.checksums() {
				format.SetExtentChecksum(format.InodeSeed(b.checksumSeed, ino, 0), block)
			}
			above = append(above, format.ExtentIndex{Block: first, Leaf: nr})
			m.extra++
		}
		index, count = above, len(above)
		depth++
	}
	head := format.ExtentHeader{Magic: format.ExtentMagic, Entries: uint16(count), Max: format.ExtentRootMax, Depth: depth}
	if err := head.Encode(m.block[:]); err != nil {
		return m, err
	}
	return m, put(m.block[:], 0, count)
}

// mapIndirect makes the map of ext2 and ext3: block numbers, and blocks of block numbers, up to
// three levels deep.
func (b *Builder) mapIndirect(list []Extent) (inodeMap, error) {
	w := indirectWriter{b: b, per: uint64(b.o.blockSize / 4)}
	for _, e := range list {
		block, start := uint64(e.Offset)>>b.o.blockBits, uint64(e.Disk)>>b.o.blockBits
		w.runs = append(w.runs, fileRun{block, block + ceil(uint64(e.Length), uint64(b.o.blockSize)), start})
	}
	first := uint64(0)
	for i := range format.DirectBlocks {
		nr, err := w.tree(first, 0)
		if err != nil {
			return w.m, err
		}
		le.PutUint32(w.m.block[4*i:], uint32(nr))
		first++
	}
	span := w.per
	for level := 1; level <= 3; level++ {
		nr, err := w.tree(first, level)
		if err != nil {
			return w.m, err
		}
		le.PutUint32(w.m.block[4*(format.IndirectBlock+level-1):], uint32(nr))
		first += span
		span *= w.per
	}
	return w.m, nil
}

// fileRun says that blocks [from, to) of a file lie at start.
type fileRun struct{ from, to, start uint64 }

type indirectWriter struct {
	b    *Builder
	per  uint64    // block numbers in a block
	runs []fileRun // that are not mapped yet, ascending
	m    inodeMap
}

// tree maps the blocks from first on below one block number, level blocks above the data, and
// returns that number: 0 where the file has a hole.
func (w *indirectWriter) tree(first uint64, level int) (uint64, error) {
	for len(w.runs) > 0 && w.runs[0].to <= first {
		w.runs = w.runs[1:]
	}
	span := uint64(1)
	for range level {
		span *= w.per
	}
	if len(w.runs) == 0 || w.runs[0].from >= first+span {
		return 0, nil
	}
	if level == 0 {
		return w.runs[0].start + first - w.runs[0].from, nil
	}
	numbers := make([]uint32, w.per)
	for i := range numbers {
		nr, err := w.tree(first+uint64(i)*(span/w.per), level-1)
		if err != nil {
			return 0, err
		}
		numbers[i] = uint32(nr)
	}
	nr, block, err := w.b.newBlock()
	if err != nil {
		return 0, err
	}
	for i, v := range numbers {
		le.PutUint32(block[4*i:], v)
	}
	w.m.extra++
	return nr, nil
}

// mapExtra is at least the number of blocks that a map of so many extents and blocks takes
// beside the inode.
func (b *Builder) mapExtra(extents, blocks uint64, last uint64) uint64 {
	if !b.o.f.extents() {
		if last <= format.DirectBlocks {
			return 0
		}
		per := uint64(b.o.blockSize / 4)
		// Every run may begin and end in the middle of a block of each level.
		return min(ceil(blocks, per), blocks) + ceil(blocks, per*per) + 2 + 3*2*extents
	}
	if extents <= format.ExtentRootMax {
		return 0
	}
	n, per := uint64(0), uint64(format.ExtentNodeMax(b.o.blockSize))
	for extents > format.ExtentRootMax {
		extents = ceil(extents, per)
		n += extents
	}
	return n
}
