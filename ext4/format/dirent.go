package format

// File types in a directory entry, with the feature filetype.
const (
	TypeUnknown = 0
	TypeRegular = 1
	TypeDir     = 2
	TypeChar    = 3
	TypeBlock   = 4
	TypeFIFO    = 5
	TypeSocket  = 6
	TypeSymlink = 7
	// TypeChecksum marks a DirTail, which looks like an unused entry.
	TypeChecksum = 0xDE
)

const (
	// MaxName is the longest file name in bytes.
	MaxName = 255
	// DirEntryHeader is the length of a directory entry before the name.
	DirEntryHeader = 8
	// DirTailSize is the length of the checksum entry at a directory block's end.
	DirTailSize = 12
)

// TypeOfMode gives the directory entry's type for an inode's mode.
func TypeOfMode(mode uint16) uint8 {
	switch mode & ModeType {
	case ModeRegular:
		return TypeRegular
	case ModeDir:
		return TypeDir
	case ModeChar:
		return TypeChar
	case ModeBlock:
		return TypeBlock
	case ModeFIFO:
		return TypeFIFO
	case ModeSocket:
		return TypeSocket
	case ModeSymlink:
		return TypeSymlink
	}
	return TypeUnknown
}

// ModeOfType gives the type bits of a mode for a directory entry's type, or 0.
func ModeOfType(t uint8) uint16 {
	switch t {
	case TypeRegular:
		return ModeRegular
	case TypeDir:
		return ModeDir
	case TypeChar:
		return ModeChar
	case TypeBlock:
		return ModeBlock
	case TypeFIFO:
		return ModeFIFO
	case TypeSocket:
		return ModeSocket
	case TypeSymlink:
		return ModeSymlink
	}
	return 0
}

// DirEntryLen is the space an entry with a name of n bytes needs, in bytes.
func DirEntryLen(n int) int { return (DirEntryHeader + n + 3) &^ 3 }

// DirEntry is a directory entry's head; the name's NameLen bytes follow it. Without
// the feature filetype NameLen has 16 bits and Type is its high byte, which is 0
// because names end at 255 bytes.
type DirEntry struct {
	Inode   uint32 // 0: unused
	RecLen  uint32 // to the next entry, in bytes
	NameLen uint8
	Type    uint8
}

// Decode fills e from b.
func (e *DirEntry) Decode(b []byte) error {
	if len(b) < DirEntryHeader {
		return short("directory entry", len(b), DirEntryHeader)
	}
	*e = DirEntry{le.Uint32(b), DecodeRecLen(le.Uint16(b[4:])), b[6], b[7]}
	return nil
}

// Encode writes e to b.
func (e *DirEntry) Encode(b []byte) error {
	if len(b) < DirEntryHeader {
		return short("directory entry", len(b), DirEntryHeader)
	}
	le.PutUint32(b, e.Inode)
	le.PutUint16(b[4:], EncodeRecLen(e.RecLen))
	b[6], b[7] = e.NameLen, e.Type
	return nil
}

// DecodeRecLen gives a record length in bytes. Blocks of 64 KiB do not fit 16 bits,
// so 65535 and 0 stand for 65536, and the two low bits carry bits 16 and 17.
func DecodeRecLen(v uint16) uint32 {
	if v == 65535 || v == 0 {
		return 65536
	}
	return uint32(v&65532) | uint32(v&3)<<16
}

// EncodeRecLen is the reverse of DecodeRecLen, for lengths that are multiples of 4.
func EncodeRecLen(n uint32) uint16 {
	if n == 65536 {
		return 65535
	}
	return uint16(n&65532) | uint16(n>>16&3)
}

// InitDirTail writes the checksum entry, with a checksum of 0, to the end of a
// directory block.
func InitDirTail(block []byte) {
	t := block[len(block)-DirTailSize:]
	clear(t)
	le.PutUint16(t[4:], DirTailSize)
	t[7] = TypeChecksum
}

// HasDirTail says whether a directory block ends with a checksum entry.
func HasDirTail(block []byte) bool {
	if len(block) < DirTailSize {
		return false
	}
	t := block[len(block)-DirTailSize:]
	return le.Uint32(t) == 0 && le.Uint16(t[4:]) == DirTailSize && t[6] == 0 && t[7] == TypeChecksum
}

// An htree's root block starts with the entries "." (12 bytes) and ".." (the rest of
// the block as other programs see it), whose space holds the DxRootInfo and the
// entries. A further index block starts with one unused entry over the whole block.
const (
	DxRootInfoOffset = 24
	DxRootInfoSize   = 8
	DxRootEntries    = DxRootInfoOffset + DxRootInfoSize // offset of the count and the entries
	DxNodeEntries    = 8
	DxEntrySize      = 8
	DxTailSize       = 8
	// DxMaxLevels and DxMaxLevelsLarge are the most levels of index blocks, the root
	// included, without and with the feature large_dir.
	DxMaxLevels      = 2
	DxMaxLevelsLarge = 3
)

// Values of DxRootInfo.HashVersion and Superblock.DefHashVersion.
const (
	HashLegacy          = 0
	HashHalfMD4         = 1
	HashTEA             = 2
	HashLegacyUnsigned  = 3
	HashHalfMD4Unsigned = 4
	HashTEAUnsigned     = 5
	HashSiphash         = 6
)

// HashEOF is a hash that no name has: the end of a directory in hash order.
const HashEOF = 0x7FFFFFFF << 1

// DxRootInfo describes an htree.
type DxRootInfo struct {
	Reserved       uint32 // 0
	HashVersion    uint8
	InfoLength     uint8 // 8
	IndirectLevels uint8 // index levels below the root
	UnusedFlags    uint8
}

// Decode fills i from b, which starts at DxRootInfoOffset of the root block.
func (i *DxRootInfo) Decode(b []byte) error {
	if len(b) < DxRootInfoSize {
		return short("htree root", len(b), DxRootInfoSize)
	}
	*i = DxRootInfo{le.Uint32(b), b[4], b[5], b[6], b[7]}
	return nil
}

// Encode writes i to b.
func (i *DxRootInfo) Encode(b []byte) error {
	if len(b) < DxRootInfoSize {
		return short("htree root", len(b), DxRootInfoSize)
	}
	le.PutUint32(b, i.Reserved)
	b[4], b[5], b[6], b[7] = i.HashVersion, i.InfoLength, i.IndirectLevels, i.UnusedFlags
	return nil
}

// DxEntry says that names with hashes from Hash on lie in block Block of the
// directory. The first entry's hash is 0, and its four bytes hold the DxCount.
type DxEntry struct {
	Hash  uint32
	Block uint32 // 28 bits
}

// DxCount says how many entries, itself included, there can be and are.
type DxCount struct {
	Limit, Count uint16
}

// DecodeDxCount reads the count at the start of b.
func DecodeDxCount(b []byte) (DxCount, error) {
	if len(b) < 4 {
		return DxCount{}, short("htree count", len(b), 4)
	}
	return DxCount{le.Uint16(b), le.Uint16(b[2:])}, nil
}

// Encode writes c to the start of b.
func (c DxCount) Encode(b []byte) {
	le.PutUint16(b, c.Limit)
	le.PutUint16(b[2:], c.Count)
}

// DecodeDxEntry reads the entry at the start of b.
func DecodeDxEntry(b []byte) DxEntry {
	return DxEntry{le.Uint32(b), le.Uint32(b[4:]) & 0x0FFFFFFF}
}

// Encode writes e to the start of b.
func (e DxEntry) Encode(b []byte) {
	le.PutUint32(b, e.Hash)
	le.PutUint32(b[4:], e.Block)
}

// DxLimit is the number of entries that fit an index block whose entries start at
// offset entries (DxRootEntries or DxNodeEntries).
func DxLimit(blockSize, entries int, checksum bool) int {
	n := blockSize - entries
	if checksum {
		n -= DxTailSize
	}
	return n / DxEntrySize
}
