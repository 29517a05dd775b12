package format

const (
	// ExtentMagic is ExtentHeader.Magic.
	ExtentMagic = 0xF30A
	// ExtentHeaderSize, ExtentSize and ExtentIndexSize are lengths in bytes.
	ExtentHeaderSize = 12
	ExtentSize       = 12
	ExtentIndexSize  = 12
	// ExtentTailSize is the length of the checksum after a node's last slot.
	ExtentTailSize = 4
	// ExtentMaxDepth is the deepest tree that a kernel accepts.
	ExtentMaxDepth = 5
	// ExtentMaxLen is the most blocks of a written extent; an unwritten one holds at
	// most one less.
	ExtentMaxLen          = 32768
	ExtentMaxLenUnwritten = ExtentMaxLen - 1
	// MaxLogicalBlock is the highest block number of a file mapped by extents.
	MaxLogicalBlock = 1<<32 - 2
)

// ExtentHeader starts every node of an extent tree.
type ExtentHeader struct {
	Magic      uint16
	Entries    uint16
	Max        uint16
	Depth      uint16 // 0: a leaf
	Generation uint32
}

// Decode fills h from b.
func (h *ExtentHeader) Decode(b []byte) error {
	if len(b) < ExtentHeaderSize {
		return short("extent header", len(b), ExtentHeaderSize)
	}
	*h = ExtentHeader{le.Uint16(b), le.Uint16(b[2:]), le.Uint16(b[4:]), le.Uint16(b[6:]), le.Uint32(b[8:])}
	return nil
}

// Encode writes h to b.
func (h *ExtentHeader) Encode(b []byte) error {
	if len(b) < ExtentHeaderSize {
		return short("extent header", len(b), ExtentHeaderSize)
	}
	le.PutUint16(b, h.Magic)
	le.PutUint16(b[2:], h.Entries)
	le.PutUint16(b[4:], h.Max)
	le.PutUint16(b[6:], h.Depth)
	le.PutUint32(b[8:], h.Generation)
	return nil
}

// Extent is an entry of a leaf: Len blocks from Block of the file on lie from Start
// of the filesystem on. Unwritten blocks read as zeros.
type Extent struct {
	Block     uint32
	Len       uint16 // 1 to ExtentMaxLen
	Unwritten bool
	Start     uint64 // 48 bits
}

// Decode fills e from b.
func (e *Extent) Decode(b []byte) error {
	if len(b) < ExtentSize {
		return short("extent", len(b), ExtentSize)
	}
	n := le.Uint16(b[4:])
	*e = Extent{
		Block: le.Uint32(b),
		Len:   n,
		Start: uint64(le.Uint16(b[6:]))<<32 | uint64(le.Uint32(b[8:])),
	}
	if n > ExtentMaxLen {
		e.Len, e.Unwritten = n-ExtentMaxLen, true
	}
	return nil
}

// Encode writes e to b.
func (e *Extent) Encode(b []byte) error {
	if len(b) < ExtentSize {
		return short("extent", len(b), ExtentSize)
	}
	n := e.Len
	if e.Unwritten {
		n += ExtentMaxLen
	}
	le.PutUint32(b, e.Block)
	le.PutUint16(b[4:], n)
	le.PutUint16(b[6:], uint16(e.Start>>32))
	le.PutUint32(b[8:], uint32(e.Start))
	return nil
}

// ExtentIndex is an entry of an inner node: the subtree from Block of the file on has
// its node in block Leaf.
type ExtentIndex struct {
	Block uint32
	Leaf  uint64 // 48 bits
}

// Decode fills e from b.
func (e *ExtentIndex) Decode(b []byte) error {
	if len(b) < ExtentIndexSize {
		return short("extent index", len(b), ExtentIndexSize)
	}
	*e = ExtentIndex{le.Uint32(b), uint64(le.Uint32(b[4:])) | uint64(le.Uint16(b[8:]))<<32}
	return nil
}

// Encode writes e to b.
func (e *ExtentIndex) Encode(b []byte) error {
	if len(b) < ExtentIndexSize {
		return short("extent index", len(b), ExtentIndexSize)
	}
	le.PutUint32(b, e.Block)
	le.PutUint32(b[4:], uint32(e.Leaf))
	le.PutUint16(b[8:], uint16(e.Leaf>>32))
	le.PutUint16(b[10:], 0)
	return nil
}

// ExtentNodeMax is the number of entries a node in a block of blockSize bytes has
// room for. The checksum's four bytes fit beside them in every block size.
func ExtentNodeMax(blockSize int) int { return (blockSize - ExtentHeaderSize) / ExtentSize }

// ExtentRootMax is the number of entries in an inode's own node.
const ExtentRootMax = (InodeBlockSize - ExtentHeaderSize) / ExtentSize
