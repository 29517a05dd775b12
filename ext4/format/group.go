package format

const (
	// GroupDescSize32 is the length of a group descriptor without 64bit, in bytes.
	GroupDescSize32 = 32
	// GroupDescSize64 is its usual length with 64bit; a superblock may say more.
	GroupDescSize64 = 64
)

// Bits of GroupDesc.Flags. They mean something only with uninit_bg or metadata_csum.
const (
	GroupInodeUninit = 0x1 // the inode bitmap is not written: no inode is in use
	GroupBlockUninit = 0x2 // the block bitmap is not written: only metadata is in use
	GroupItableZero  = 0x4 // the inode table is written with zeros
)

// GroupDesc is a block group descriptor with its halves joined. Block numbers are
// absolute.
type GroupDesc struct {
	BlockBitmap     uint64
	InodeBitmap     uint64
	InodeTable      uint64
	FreeBlocks      uint32
	FreeInodes      uint32
	UsedDirs        uint32
	Flags           uint16
	ExcludeBitmap   uint64
	BlockBitmapCsum uint32 // 16 bits only in a descriptor of 32 bytes
	InodeBitmapCsum uint32
	ItableUnused    uint32 // inodes at the table's end that were never used
	Checksum        uint16
}

// Decode fills g from a descriptor of len(b) bytes: 32 for the short form, 64 and
// more for the long one.
func (g *GroupDesc) Decode(b []byte) error {
	if len(b) < GroupDescSize32 {
		return short("group descriptor", len(b), GroupDescSize32)
	}
	*g = GroupDesc{
		BlockBitmap:     uint64(le.Uint32(b[0x00:])),
		InodeBitmap:     uint64(le.Uint32(b[0x04:])),
		InodeTable:      uint64(le.Uint32(b[0x08:])),
		FreeBlocks:      uint32(le.Uint16(b[0x0C:])),
		FreeInodes:      uint32(le.Uint16(b[0x0E:])),
		UsedDirs:        uint32(le.Uint16(b[0x10:])),
		Flags:           le.Uint16(b[0x12:]),
		ExcludeBitmap:   uint64(le.Uint32(b[0x14:])),
		BlockBitmapCsum: uint32(le.Uint16(b[0x18:])),
		InodeBitmapCsum: uint32(le.Uint16(b[0x1A:])),
		ItableUnused:    uint32(le.Uint16(b[0x1C:])),
		Checksum:        le.Uint16(b[0x1E:]),
	}
	if len(b) < GroupDescSize64 {
		return nil
	}
	g.BlockBitmap |= uint64(le.Uint32(b[0x20:])) << 32
	g.InodeBitmap |= uint64(le.Uint32(b[0x24:])) << 32
	g.InodeTable |= uint64(le.Uint32(b[0x28:])) << 32
	g.FreeBlocks |= uint32(le.Uint16(b[0x2C:])) << 16
	g.FreeInodes |= uint32(le.Uint16(b[0x2E:])) << 16
	g.UsedDirs |= uint32(le.Uint16(b[0x30:])) << 16
	g.ItableUnused |= uint32(le.Uint16(b[0x32:])) << 16
	g.ExcludeBitmap |= uint64(le.Uint32(b[0x34:])) << 32
	g.BlockBitmapCsum |= uint32(le.Uint16(b[0x38:])) << 16
	g.InodeBitmapCsum |= uint32(le.Uint16(b[0x3A:])) << 16
	return nil
}

// Encode writes g as a descriptor of len(b) bytes. The caller sets Checksum before
// (see GroupDescChecksum, which is computed over encoded bytes).
func (g *GroupDesc) Encode(b []byte) error {
	if len(b) < GroupDescSize32 {
		return short("group descriptor", len(b), GroupDescSize32)
	}
	le.PutUint32(b[0x00:], uint32(g.BlockBitmap))
	le.PutUint32(b[0x04:], uint32(g.InodeBitmap))
	le.PutUint32(b[0x08:], uint32(g.InodeTable))
	le.PutUint16(b[0x0C:], uint16(g.FreeBlocks))
	le.PutUint16(b[0x0E:], uint16(g.FreeInodes))
	le.PutUint16(b[0x10:], uint16(g.UsedDirs))
	le.PutUint16(b[0x12:], g.Flags)
	le.PutUint32(b[0x14:], uint32(g.ExcludeBitmap))
	le.PutUint16(b[0x18:], uint16(g.BlockBitmapCsum))
	le.PutUint16(b[0x1A:], uint16(g.InodeBitmapCsum))
	le.PutUint16(b[0x1C:], uint16(g.ItableUnused))
	le.PutUint16(b[0x1E:], g.Checksum)
	if len(b) < GroupDescSize64 {
		return nil
	}
	le.PutUint32(b[0x20:], uint32(g.BlockBitmap>>32))
	le.PutUint32(b[0x24:], uint32(g.InodeBitmap>>32))
	le.PutUint32(b[0x28:], uint32(g.InodeTable>>32))
	le.PutUint16(b[0x2C:], uint16(g.FreeBlocks>>16))
	le.PutUint16(b[0x2E:], uint16(g.FreeInodes>>16))
	le.PutUint16(b[0x30:], uint16(g.UsedDirs>>16))
	le.PutUint16(b[0x32:], uint16(g.ItableUnused>>16))
	le.PutUint32(b[0x34:], uint32(g.ExcludeBitmap>>32))
	le.PutUint16(b[0x38:], uint16(g.BlockBitmapCsum>>16))
	le.PutUint16(b[0x3A:], uint16(g.InodeBitmapCsum>>16))
	return nil
}
