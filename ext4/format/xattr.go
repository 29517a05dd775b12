package format

const (
	// XattrMagic starts the attributes in a block and in an inode's body.
	XattrMagic = 0xEA020000
	// XattrHeaderSize is the length of the header of a block.
	XattrHeaderSize = 32
	// XattrInodeHeaderSize is the length of the header in an inode's body, the magic.
	XattrInodeHeaderSize = 4
	// XattrEntrySize is the length of an entry before its name.
	XattrEntrySize = 16
	// XattrMaxRefcount is the most inodes that share a block.
	XattrMaxRefcount = 1024
)

// Indices that stand for the start of an attribute's name.
const (
	XattrUser           = 1
	XattrACLAccess      = 2 // the whole name
	XattrACLDefault     = 3 // the whole name
	XattrTrusted        = 4
	XattrLustre         = 5
	XattrSecurity       = 6
	XattrSystem         = 7
	XattrRichACL        = 8 // the whole name
	XattrEncryption     = 9
	XattrHurd           = 10
	XattrInlineDataName = "data" // under XattrSystem: the rest of inline data
)

// XattrHeader starts a block of extended attributes.
type XattrHeader struct {
	Magic    uint32
	Refcount uint32
	Blocks   uint32 // 1
	Hash     uint32 // XattrBlockHash, or 0 when the block must not be shared
	Checksum uint32
}

// Decode fills h from b.
func (h *XattrHeader) Decode(b []byte) error {
	if len(b) < XattrHeaderSize {
		return short("xattr header", len(b), XattrHeaderSize)
	}
	*h = XattrHeader{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])}
	return nil
}

// Encode writes h to b and clears the reserved words.
func (h *XattrHeader) Encode(b []byte) error {
	if len(b) < XattrHeaderSize {
		return short("xattr header", len(b), XattrHeaderSize)
	}
	le.PutUint32(b, h.Magic)
	le.PutUint32(b[4:], h.Refcount)
	le.PutUint32(b[8:], h.Blocks)
	le.PutUint32(b[12:], h.Hash)
	le.PutUint32(b[16:], h.Checksum)
	clear(b[20:XattrHeaderSize])
	return nil
}

// XattrEntry is an attribute's head; NameLen bytes of name follow it. ValueOffset
// counts from the block's start, in an inode's body from the first entry on. Four zero
// bytes end the entries.
type XattrEntry struct {
	NameLen     uint8
	NameIndex   uint8
	ValueOffset uint16
	ValueInode  uint32 // with ea_inode: the inode that holds the value, or 0
	ValueSize   uint32
	Hash        uint32
}

// Decode fills e from b.
func (e *XattrEntry) Decode(b []byte) error {
	if len(b) < XattrEntrySize {
		return short("xattr entry", len(b), XattrEntrySize)
	}
	*e = XattrEntry{b[0], b[1], le.Uint16(b[2:]), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}
	return nil
}

// Encode writes e to b.
func (e *XattrEntry) Encode(b []byte) error {
	if len(b) < XattrEntrySize {
		return short("xattr entry", len(b), XattrEntrySize)
	}
	b[0], b[1] = e.NameLen, e.NameIndex
	le.PutUint16(b[2:], e.ValueOffset)
	le.PutUint32(b[4:], e.ValueInode)
	le.PutUint32(b[8:], e.ValueSize)
	le.PutUint32(b[12:], e.Hash)
	return nil
}

// XattrEntryLen is the space an entry with a name of n bytes takes.
func XattrEntryLen(n int) int { return (XattrEntrySize + n + 3) &^ 3 }

// XattrValueLen is the space a value of n bytes takes.
func XattrValueLen(n int) int { return (n + 3) &^ 3 }

// XattrHash is the hash of an attribute: its name without prefix, and its value.
func XattrHash(name string, value []byte) uint32 {
	var h uint32
	for i := range len(name) {
		h = h<<5 ^ h>>27 ^ uint32(name[i])
	}
	for len(value) > 0 {
		var w [4]byte
		n := copy(w[:], value)
		value = value[n:]
		h = h<<16 ^ h>>16 ^ le.Uint32(w[:])
	}
	return h
}

// XattrBlockHash joins the hashes of a block's entries in their order.
func XattrBlockHash(entries []uint32) uint32 {
	var h uint32
	for _, e := range entries {
		if e == 0 {
			return 0 // an entry without hash: the block is not for sharing
		}
		h = h<<16 ^ h>>16 ^ e
	}
	return h
}
