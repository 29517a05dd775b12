package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
)

// dxFrame is an index block on the way to a leaf, and the entry taken in it.
type dxFrame struct {
	b       *buffer
	block   uint64
	entries int // offset of the entries in the block
	at      int
}

func (f *dxFrame) limit() int { return int(le.Uint16(f.b.data[f.entries:])) }
func (f *dxFrame) count() int { return int(le.Uint16(f.b.data[f.entries+2:])) }

func (f *dxFrame) entry(i int) format.DxEntry {
	e := format.DecodeDxEntry(f.b.data[f.entries+i*format.DxEntrySize:])
	if i == 0 {
		e.Hash = 0 // the count lies in its place
	}
	return e
}

// maxLevels is the most index levels below the root.
func (fs *FS) maxLevels() int {
	if fs.incompat&format.IncompatLargeDir != 0 {
		return format.DxMaxLevelsLarge - 1
	}
	return format.DxMaxLevels - 1
}

// checkDxRoot checks the root block of an htree.
func (n *Inode) checkDxRoot(data []byte) error {
	for off, i := 0, 0; i < 2; i++ {
		if err := n.checkEntry(0, data, off); err != nil {
			return err
		}
		e := direntAt(data, off)
		if e.ino == 0 || i == 0 && (string(e.name) != "." || e.rec != 12) || i == 1 && (string(e.name) != ".." || off+e.rec != len(data)) {
			return n.badDir(0, "htree without dots, entry", fmt.Sprintf("%q", e.name))
		}
		off += e.rec
	}
	var info format.DxRootInfo
	if err := info.Decode(data[format.DxRootInfoOffset:]); err != nil {
		return err
	}
	switch {
	case info.Reserved != 0 || info.UnusedFlags&1 != 0 || info.InfoLength != format.DxRootInfoSize:
		return n.badDir(0, "htree info", fmt.Sprintf("%+v", info))
	case info.HashVersion > format.HashTEAUnsigned:
		return n.badDir(0, "hash version", info.HashVersion)
	case int(info.IndirectLevels) > n.fs.maxLevels():
		return n.badDir(0, "htree levels", info.IndirectLevels)
	}
	return n.checkDxEntries(0, data, format.DxRootEntries)
}

// checkDxNode checks an index block below the root.
func (n *Inode) checkDxNode(block uint64, data []byte) error {
	if rec := int(format.DecodeRecLen(le.Uint16(data[4:]))); le.Uint32(data) != 0 || rec != len(data) {
		return n.badDir(block, "is no htree node, record length", rec)
	}
	return n.checkDxEntries(block, data, format.DxNodeEntries)
}

func (n *Inode) checkDxEntries(block uint64, data []byte, entries int) error {
	c, err := format.DecodeDxCount(data[entries:])
	if err != nil {
		return err
	}
	if int(c.Limit) != format.DxLimit(len(data), entries, n.fs.csum) || c.Count == 0 || c.Count > c.Limit {
		return n.badDir(block, "htree entries", fmt.Sprintf("%d of %d", c.Count, c.Limit))
	}
	if n.fs.csum && !format.DxChecksumOK(n.iseed, data, entries) {
		return n.badDir(block, "htree checksum", "mismatch")
	}
	last := uint32(0)
	for i := 1; i < int(c.Count); i++ {
		e := format.DecodeDxEntry(data[entries+i*format.DxEntrySize:])
		if e.Hash < last { // equal: one hash fills several leaves
			return n.badDir(block, "htree order at entry", i)
		}
		last = e.Hash
	}
	return nil
}

// dxProbe walks from the root to the index entry whose leaf holds a hash.
func (n *Inode) dxProbe(hash uint32) ([]dxFrame, error) {
	root, err := n.dirBuffer(0, kindDxRoot)
	if err != nil {
		return nil, err
	}
	levels := int(root.data[format.DxRootInfoOffset+6])
	frames := make([]dxFrame, 1, format.DxMaxLevelsLarge)
	frames[0] = dxFrame{b: root, entries: format.DxRootEntries}
	for {
		f := &frames[len(frames)-1]
		lo, hi := 1, f.count()
		for lo < hi {
			if m := (lo + hi) / 2; f.entry(m).Hash <= hash {
				lo = m + 1
			} else {
				hi = m
			}
		}
		f.at = lo - 1
		if len(frames) > levels {
			return frames, nil
		}
		if frames, err = n.dxDescend(frames); err != nil {
			return nil, err
		}
	}
}

// dxDescend appends the frame below the last one. A block that is on the way already
// would be a loop.
func (n *Inode) dxDescend(frames []dxFrame) ([]dxFrame, error) {
	block, err := n.dxTarget(frames)
	if err != nil {
		return nil, err
	}
	b, err := n.dirBuffer(block, kindDxNode)
	if err != nil {
		return nil, err
	}
	return append(frames, dxFrame{b: b, block: block, entries: format.DxNodeEntries}), nil
}

// dxTarget is the block the last frame points to.
func (n *Inode) dxTarget(frames []dxFrame) (uint64, error) {
	f := &frames[len(frames)-1]
	block := uint64(f.entry(f.at).Block)
	for i := range frames {
		if frames[i].block == block {
			return 0, n.badDir(f.block, "htree loop to block", block)
		}
	}
	return block, nil
}

// dxLeaf reads the leaf that the frames lead to.
func (n *Inode) dxLeaf(frames []dxFrame) (*buffer, uint64, error) {
	block, err := n.dxTarget(frames)
	if err != nil {
		return nil, 0, err
	}
	b, err := n.dirBuffer(block, kindDirLeaf)
	return b, block, err
}

// dxNext moves the frames to the next leaf and gives the hash it starts with; ok is
// false at the end.
func (n *Inode) dxNext(frames []dxFrame) (next []dxFrame, hash uint32, ok bool, err error) {
	level := len(frames) - 1
	for frames[level].at+1 >= frames[level].count() {
		if level == 0 {
			return frames, 0, false, nil
		}
		level--
	}
	depth := len(frames)
	frames[level].at++
	hash = frames[level].entry(frames[level].at).Hash
	frames = frames[:level+1]
	for len(frames) < depth {
		if frames, err = n.dxDescend(frames); err != nil {
			return nil, 0, false, err
		}
	}
	return frames, hash, true, nil
}

// dxHash hashes a name as this directory does.
func (n *Inode) dxHash(name string) (uint32, error) {
	root, err := n.dirBuffer(0, kindDxRoot)
	if err != nil {
		return 0, err
	}
	version := n.fs.hashVersion(root.data[format.DxRootInfoOffset+4])
	hash, _, ok := format.HashName([]byte(name), version, n.fs.hashSeed)
	if !ok {
		return 0, n.badDir(0, "hash version", version)
	}
	return hash, nil
}

// dxFind looks a name up by its hash.
func (n *Inode) dxFind(name string) (p place, ok bool, err error) {
	hash, err := n.dxHash(name)
	if err != nil {
		return p, false, err
	}
	frames, err := n.dxProbe(hash)
	if err != nil {
		return p, false, err
	}
	for {
		b, block, err := n.dxLeaf(frames)
		if err != nil {
			return p, false, err
		}
		if e, prev, ok := searchLeaf(b.data, name); ok {
			return place{b, block, prev, e}, true, nil
		}
		// Names of one hash can continue in the next leaf, whose hash then is odd.
		var next uint32
		var more bool
		if frames, next, more, err = n.dxNext(frames); err != nil || !more || next != hash|1 {
			return p, false, err
		}
	}
}

// dxRange reads the leaves that hold the hashes from hash on to some later one, which
// it returns: names with that hash are in other leaves only. 0 means the end.
func (n *Inode) dxRange(hash uint32) (leaves []*buffer, next uint32, err error) {
	frames, err := n.dxProbe(hash)
	if err != nil {
		return nil, 0, err
	}
	for limit := n.dirBlocks(); ; limit-- {
		b, _, err := n.dxLeaf(frames)
		if err != nil {
			return nil, 0, err
		}
		leaves = append(leaves, b)
		var more bool
		if frames, next, more, err = n.dxNext(frames); err != nil || !more {
			return leaves, 0, err
		}
		if next&1 == 0 && next > hash {
			return leaves, next, nil
		}
		if limit == 0 {
			return nil, 0, n.badDir(0, "htree order near hash", fmt.Sprintf("%#x", next))
		}
	}
}
