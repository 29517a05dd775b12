package format

// File types: the top four bits of Inode.Mode, and of st_mode.
const (
	ModeFIFO    = 0x1000
	ModeChar    = 0x2000
	ModeDir     = 0x4000
	ModeBlock   = 0x6000
	ModeRegular = 0x8000
	ModeSymlink = 0xA000
	ModeSocket  = 0xC000
	ModeType    = 0xF000 // the mask of the type
	ModeSetUID  = 0x0800
	ModeSetGID  = 0x0400
	ModeSticky  = 0x0200
	ModePerm    = 0x0FFF
)

// Bits of Inode.Flags.
const (
	FlagSecureRm     = 0x00000001
	FlagUnrm         = 0x00000002
	FlagCompr        = 0x00000004
	FlagSync         = 0x00000008
	FlagImmutable    = 0x00000010
	FlagAppend       = 0x00000020
	FlagNoDump       = 0x00000040
	FlagNoAtime      = 0x00000080
	FlagEncrypt      = 0x00000800
	FlagIndex        = 0x00001000 // a directory with an htree
	FlagImagic       = 0x00002000
	FlagJournalData  = 0x00004000
	FlagNoTail       = 0x00008000
	FlagDirSync      = 0x00010000
	FlagTopDir       = 0x00020000
	FlagHugeFile     = 0x00040000 // Blocks counts filesystem blocks, not sectors
	FlagExtents      = 0x00080000
	FlagVerity       = 0x00100000
	FlagEAInode      = 0x00200000 // the content is an extended attribute's value
	FlagEOFBlocks    = 0x00400000
	FlagDAX          = 0x02000000
	FlagInlineData   = 0x10000000
	FlagProjInherit  = 0x20000000
	FlagCasefold     = 0x40000000
	FlagsUserVisible = 0x725BDFFF // what FS_IOC_GETFLAGS shows
	FlagsUserChange  = 0x2203C0FF // those that say nothing of how the file's data or names lie, so that they may change alone
)

const (
	// InodeBlockSize is the length of Inode.Block in bytes: 15 block numbers, or an
	// extent tree's root of 4 entries, or a symlink of up to 59 bytes.
	InodeBlockSize = 60
	// InodeBaseSize is the length of the part that every inode has.
	InodeBaseSize = 128
	// InodeExtraSize is the length of the further fields that this package knows.
	InodeExtraSize = 32
	// MaxLinks is the largest link count; a directory that needs more says 1.
	MaxLinks = 65000
	// MaxSymlink is the longest target of a symlink, in bytes, in any block size.
	MaxSymlink = 4095
)

// Indices of block numbers in a block-mapped Inode.Block.
const (
	DirectBlocks  = 12
	IndirectBlock = 12
	DoubleBlock   = 13
	TripleBlock   = 14
)

// Inode is an inode with its halves joined. The bytes after the fixed fields and
// before 128+ExtraIsize belong to newer kernels, those after 128+ExtraIsize to
// extended attributes; Encode touches neither.
type Inode struct {
	Mode       uint16
	UID, GID   uint32
	Size       uint64
	Atime      Time
	Ctime      Time
	Mtime      Time
	Crtime     Time // only when ExtraIsize has room
	Dtime      uint32
	Links      uint16
	Blocks     uint64 // as stored: sectors of 512, or blocks with FlagHugeFile
	Flags      uint32
	Version    uint64
	Block      [InodeBlockSize]byte
	Generation uint32
	FileACL    uint64 // block of extended attributes, or 0
	ExtraIsize uint16 // bytes after the first 128 that fixed fields take; 0 when there are none
	ProjID     uint32
	Checksum   uint32 // 16 bits only when ExtraIsize has no room for the high half
}

// fits says whether a field that ends at byte end exists in an inode of ExtraIsize.
func (i *Inode) fits(b []byte, end int) bool {
	return InodeBaseSize+int(i.ExtraIsize) >= end && len(b) >= end
}

// Decode fills i from an inode of len(b) bytes.
func (i *Inode) Decode(b []byte) error {
	if len(b) < InodeBaseSize {
		return short("inode", len(b), InodeBaseSize)
	}
	*i = Inode{
		Mode:       le.Uint16(b[0x00:]),
		UID:        uint32(le.Uint16(b[0x02:])) | uint32(le.Uint16(b[0x78:]))<<16,
		GID:        uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7A:]))<<16,
		Size:       uint64(le.Uint32(b[0x04:])) | uint64(le.Uint32(b[0x6C:]))<<32,
		Dtime:      le.Uint32(b[0x14:]),
		Links:      le.Uint16(b[0x1A:]),
		Blocks:     uint64(le.Uint32(b[0x1C:])) | uint64(le.Uint16(b[0x74:]))<<32,
		Flags:      le.Uint32(b[0x20:]),
		Version:    uint64(le.Uint32(b[0x24:])),
		Generation: le.Uint32(b[0x64:]),
		FileACL:    uint64(le.Uint32(b[0x68:])) | uint64(le.Uint16(b[0x76:]))<<32,
		Checksum:   uint32(le.Uint16(b[0x7C:])),
	}
	copy(i.Block[:], b[0x28:0x64])
	if len(b) >= InodeBaseSize+4 {
		i.ExtraIsize = le.Uint16(b[0x80:])
	}
	if i.fits(b, 0x84) {
		i.Checksum |= uint32(le.Uint16(b[0x82:])) << 16
	}
	extra := func(off int) uint32 {
		if i.fits(b, off+4) {
			return le.Uint32(b[off:])
		}
		return 0
	}
	i.Atime = DecodeTime(le.Uint32(b[0x08:]), extra(0x8C))
	i.Ctime = DecodeTime(le.Uint32(b[0x0C:]), extra(0x84))
	i.Mtime = DecodeTime(le.Uint32(b[0x10:]), extra(0x88))
	i.Crtime = DecodeTime(extra(0x90), extra(0x94))
	i.Version |= uint64(extra(0x98)) << 32
	i.ProjID = extra(0x9C)
	return nil
}

// Encode writes i to an inode of len(b) bytes; Checksum goes out as it is (see
// SetInodeChecksum).
func (i *Inode) Encode(b []byte) error {
	if len(b) < InodeBaseSize {
		return short("inode", len(b), InodeBaseSize)
	}
	le.PutUint16(b[0x00:], i.Mode)
	le.PutUint16(b[0x02:], uint16(i.UID))
	le.PutUint32(b[0x04:], uint32(i.Size))
	le.PutUint16(b[0x18:], uint16(i.GID))
	le.PutUint32(b[0x14:], i.Dtime)
	le.PutUint16(b[0x1A:], i.Links)
	le.PutUint32(b[0x1C:], uint32(i.Blocks))
	le.PutUint32(b[0x20:], i.Flags)
	le.PutUint32(b[0x24:], uint32(i.Version))
	copy(b[0x28:0x64], i.Block[:])
	le.PutUint32(b[0x64:], i.Generation)
	le.PutUint32(b[0x68:], uint32(i.FileACL))
	le.PutUint32(b[0x6C:], uint32(i.Size>>32))
	le.PutUint16(b[0x74:], uint16(i.Blocks>>32))
	le.PutUint16(b[0x76:], uint16(i.FileACL>>32))
	le.PutUint16(b[0x78:], uint16(i.UID>>16))
	le.PutUint16(b[0x7A:], uint16(i.GID>>16))
	le.PutUint16(b[0x7C:], uint16(i.Checksum))
	if len(b) >= InodeBaseSize+4 {
		le.PutUint16(b[0x80:], i.ExtraIsize)
	}
	if i.fits(b, 0x84) {
		le.PutUint16(b[0x82:], uint16(i.Checksum>>16))
	}
	i.putTime(b, 0x08, 0x8C, i.Atime)
	i.putTime(b, 0x0C, 0x84, i.Ctime)
	i.putTime(b, 0x10, 0x88, i.Mtime)
	if i.fits(b, 0x94) {
		i.putTime(b, 0x90, 0x94, i.Crtime)
	}
	if i.fits(b, 0x9C) {
		le.PutUint32(b[0x98:], uint32(i.Version>>32))
	}
	if i.fits(b, 0xA0) {
		le.PutUint32(b[0x9C:], i.ProjID)
	}
	return nil
}

func (i *Inode) putTime(b []byte, base, extra int, t Time) {
	if i.fits(b, extra+4) {
		lo, hi := t.Encode()
		le.PutUint32(b[base:], lo)
		le.PutUint32(b[extra:], hi)
		return
	}
	le.PutUint32(b[base:], t.Encode32())
}

// EncodeDevice writes a device number to the block array of a device node: the old
// form of 8 bits each in the first word when it fits, else the new form of 12 and 20
// bits in the second.
func EncodeDevice(block *[InodeBlockSize]byte, major, minor uint32) {
	clear(block[:])
	if major < 256 && minor < 256 {
		le.PutUint32(block[0:], major<<8|minor)
		return
	}
	le.PutUint32(block[4:], minor&0xFF|major<<8|(minor&^uint32(0xFF))<<12)
}

// DecodeDevice reads what EncodeDevice writes.
func DecodeDevice(block *[InodeBlockSize]byte) (major, minor uint32) {
	if v := le.Uint32(block[0:]); v != 0 {
		return v >> 8 & 0xFF, v & 0xFF
	}
	v := le.Uint32(block[4:])
	return v >> 8 & 0xFFF, v&0xFF | v>>12&^uint32(0xFF)
}
