package format

import "encoding/binary"

var be = binary.BigEndian

// JournalMagic starts every block of the journal that is not a copy of a filesystem's
// block. A copy that starts with it is escaped: see TagEscape.
const JournalMagic = 0xC03B3998

// JournalMinBlocks is the least length of a journal that a kernel accepts.
const JournalMinBlocks = 1024

// Values of JournalHeader.Type.
const (
	JournalDescriptor   = 1
	JournalCommit       = 2
	JournalSuperblockV1 = 3
	JournalSuperblockV2 = 4
	JournalRevoke       = 5
)

// JournalHeaderSize is the length of a JournalHeader.
const JournalHeaderSize = 12

// JournalHeader starts every block of the journal but copies.
type JournalHeader struct {
	Magic    uint32
	Type     uint32
	Sequence uint32
}

// Decode fills h from b.
func (h *JournalHeader) Decode(b []byte) error {
	if len(b) < JournalHeaderSize {
		return short("journal header", len(b), JournalHeaderSize)
	}
	*h = JournalHeader{be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:])}
	return nil
}

// Encode writes h to b.
func (h *JournalHeader) Encode(b []byte) error {
	if len(b) < JournalHeaderSize {
		return short("journal header", len(b), JournalHeaderSize)
	}
	be.PutUint32(b, h.Magic)
	be.PutUint32(b[4:], h.Type)
	be.PutUint32(b[8:], h.Sequence)
	return nil
}

// Features of a journal.
const (
	JournalCompatChecksum = 0x1 // commit blocks carry a CRC32 of the transaction

	JournalIncompatRevoke      = 0x01
	JournalIncompat64Bit       = 0x02
	JournalIncompatAsyncCommit = 0x04
	JournalIncompatCsumV2      = 0x08
	JournalIncompatCsumV3      = 0x10
	JournalIncompatFastCommit  = 0x20
)

var journalIncompatNames = [32]string{
	0: "journal_incompat_revoke", 1: "journal_64bit", 2: "journal_async_commit",
	3: "journal_checksum_v2", 4: "journal_checksum_v3", 5: "fast_commit",
}

// JournalIncompatNames lists incompatible features of a journal by the names that
// e2fsprogs gives them.
func JournalIncompatNames(set uint32) []string { return names(set, &journalIncompatNames, 'I') }

// JournalSuperblock is the first block of a journal, as it lies on disk.
type JournalSuperblock struct {
	Header          JournalHeader
	BlockSize       uint32
	MaxLen          uint32 // blocks of the journal, this one included
	First           uint32 // first block of the log
	Sequence        uint32 // of the first transaction expected in the log
	Start           uint32 // block where the log starts; 0: the log is empty
	Errno           uint32
	FeatureCompat   uint32
	FeatureIncompat uint32
	FeatureRoCompat uint32
	UUID            [16]byte
	NrUsers         uint32
	DynSuper        uint32
	MaxTransaction  uint32
	MaxTransData    uint32
	ChecksumType    uint8 // 4: CRC32C
	Padding2        [3]uint8
	NumFCBlocks     uint32 // blocks at the end for fast commits; 0 means 256
	Head            uint32
	Padding         [40]uint32
	Checksum        uint32
	Users           [16 * 48]byte
}

const (
	// JournalSuperblockSize is the length of a JournalSuperblock.
	JournalSuperblockSize = 1024
	// JournalChecksumCRC32C is the only JournalSuperblock.ChecksumType in use.
	JournalChecksumCRC32C = 4
	// JournalDefaultFCBlocks stands for a NumFCBlocks of 0.
	JournalDefaultFCBlocks = 256
)

// Decode fills s from b.
func (s *JournalSuperblock) Decode(b []byte) error {
	if len(b) < JournalSuperblockSize {
		return short("journal superblock", len(b), JournalSuperblockSize)
	}
	_, err := binary.Decode(b[:JournalSuperblockSize], be, s)
	return err
}

// Encode writes s to b. With a checksum feature it sets Checksum first.
func (s *JournalSuperblock) Encode(b []byte) error {
	if len(b) < JournalSuperblockSize {
		return short("journal superblock", len(b), JournalSuperblockSize)
	}
	if _, err := binary.Encode(b[:JournalSuperblockSize], be, s); err != nil {
		return err
	}
	if s.HasChecksums() {
		s.Checksum = JournalSuperblockChecksum(b)
		be.PutUint32(b[0xFC:], s.Checksum)
	}
	return nil
}

// HasChecksums says whether the journal's blocks carry checksums, version 2 or 3.
func (s *JournalSuperblock) HasChecksums() bool {
	return s.Header.Type == JournalSuperblockV2 &&
		s.FeatureIncompat&(JournalIncompatCsumV2|JournalIncompatCsumV3) != 0
}

// JournalSuperblockChecksum is the checksum of a journal superblock's bytes.
func JournalSuperblockChecksum(b []byte) uint32 {
	c := CRC32C(^uint32(0), b[:0xFC])
	c = CRC32C(c, zeros[:4])
	return CRC32C(c, b[0x100:JournalSuperblockSize])
}

// Seed is where the journal's other checksums begin.
func (s *JournalSuperblock) Seed() uint32 { return CRC32C(^uint32(0), s.UUID[:]) }

// Bits of JournalTag.Flags.
const (
	TagEscape   = 0x1 // the copy starts with JournalMagic, stored as zeros
	TagSameUUID = 0x2 // no UUID follows the tag
	TagDeleted  = 0x4
	TagLast     = 0x8 // the last tag of its descriptor
)

// JournalTag says where a copy in the log belongs. In a descriptor block the tags
// follow the header; each is followed by 16 bytes of UUID unless TagSameUUID.
type JournalTag struct {
	Block    uint64
	Flags    uint32
	Checksum uint32 // the low 16 bits only with checksums version 2
}

// JournalTagSize is the length of a tag, without UUID, under incompatible features.
func JournalTagSize(incompat uint32) int {
	if incompat&JournalIncompatCsumV3 != 0 {
		return 16
	}
	n := 8
	if incompat&JournalIncompatCsumV2 != 0 {
		n += 2
	}
	if incompat&JournalIncompat64Bit != 0 {
		n += 4
	}
	return n
}

// Decode fills t from b.
func (t *JournalTag) Decode(b []byte, incompat uint32) error {
	if n := JournalTagSize(incompat); len(b) < n {
		return short("journal tag", len(b), n)
	}
	*t = JournalTag{Block: uint64(be.Uint32(b))}
	if incompat&JournalIncompatCsumV3 != 0 {
		t.Flags = be.Uint32(b[4:])
		t.Checksum = be.Uint32(b[12:])
	} else {
		t.Checksum = uint32(be.Uint16(b[4:]))
		t.Flags = uint32(be.Uint16(b[6:]))
	}
	if incompat&JournalIncompat64Bit != 0 {
		t.Block |= uint64(be.Uint32(b[8:])) << 32
	}
	return nil
}

// Encode writes t to b.
func (t *JournalTag) Encode(b []byte, incompat uint32) error {
	n := JournalTagSize(incompat)
	if len(b) < n {
		return short("journal tag", len(b), n)
	}
	clear(b[:n])
	be.PutUint32(b, uint32(t.Block))
	if incompat&JournalIncompatCsumV3 != 0 {
		be.PutUint32(b[4:], t.Flags)
		be.PutUint32(b[12:], t.Checksum)
	} else {
		be.PutUint16(b[4:], uint16(t.Checksum))
		be.PutUint16(b[6:], uint16(t.Flags))
	}
	if incompat&JournalIncompat64Bit != 0 {
		be.PutUint32(b[8:], uint32(t.Block>>32))
	}
	return nil
}

// JournalDataChecksum is the checksum of a block's copy for its tag, over the bytes
// as they lie in the log (escaped).
func JournalDataChecksum(jseed, sequence uint32, block []byte) uint32 {
	var w [4]byte
	be.PutUint32(w[:], sequence)
	return CRC32C(CRC32C(jseed, w[:]), block)
}

// JournalTailSize is the length of the checksum that ends descriptor and revoke
// blocks with checksums version 2 and 3.
const JournalTailSize = 4

// JournalTailChecksum is that checksum.
func JournalTailChecksum(jseed uint32, block []byte) uint32 {
	n := len(block) - JournalTailSize
	return CRC32C(CRC32C(jseed, block[:n]), zeros[:4])
}

// JournalRevokeHeaderSize is the length of a revoke block's header: a JournalHeader
// and the number of bytes in use, itself included. Block numbers of 4 bytes follow,
// of 8 with JournalIncompat64Bit.
const JournalRevokeHeaderSize = 16

// Places in a commit block, after its JournalHeader.
const (
	CommitChecksumType = 12 // uint8: 1 CRC32, 4 CRC32C
	CommitChecksumSize = 13 // uint8
	CommitChecksum     = 16 // uint32, the first of eight
	CommitSec          = 48 // uint64: when it was committed
	CommitNsec         = 56 // uint32
	CommitSize         = 60
)

// JournalCommitChecksum is the checksum of a commit block with checksums version 2
// and 3; it belongs at CommitChecksum.
func JournalCommitChecksum(jseed uint32, block []byte) uint32 {
	c := CRC32C(jseed, block[:CommitChecksum])
	c = CRC32C(c, zeros[:4])
	return CRC32C(c, block[CommitChecksum+4:])
}

var crc32beTable = func() (t [256]uint32) {
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			if c&(1<<31) != 0 {
				c = c<<1 ^ 0x04C11DB7
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return
}()

// CRC32BE is the unreflected CRC-32 of JournalCompatChecksum: it runs over a
// transaction's descriptor and data blocks from ^0 on.
func CRC32BE(seed uint32, b []byte) uint32 {
	for _, c := range b {
		seed = seed<<8 ^ crc32beTable[byte(seed>>24)^c]
	}
	return seed
}
