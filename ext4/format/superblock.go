// Package format holds the on-disk structures of ext2, ext3 and ext4 and of their
// journal, jbd2: layouts, constants, checksums and hashes, and no behaviour.
//
// A structure that is met often decodes into a struct of Go values (64-bit numbers
// joined, times whole) with Decode, and goes back with Encode. Encode writes the
// fields the struct knows and leaves every other byte of its target as it is, so that
// what a newer kernel keeps there survives. Decode and Encode return an error when the
// slice is too short and check nothing else: whether a value makes sense is the
// engine's question.
//
// Everything of ext4 is little-endian, everything of jbd2 big-endian. The layouts are
// those of the Linux kernel's Documentation/filesystems/ext4.
package format

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var le = binary.LittleEndian

// ErrShort says that a slice cannot hold the structure.
var ErrShort = errors.New("slice too short for the structure")

func short(what string, have, need int) error {
	return fmt.Errorf("%s: %d bytes, need %d: %w", what, have, need, ErrShort)
}

const (
	// SuperblockOffset is where the first superblock starts, in bytes, whatever the
	// block size. A backup starts at the beginning of its group's first block.
	SuperblockOffset = 1024
	// SuperblockSize is the length of a superblock in bytes.
	SuperblockSize = 1024
	// SuperMagic is Superblock.Magic of ext2, ext3 and ext4.
	SuperMagic = 0xEF53

	// MinBlockSize and MaxBlockSize bound the block size in bytes.
	MinBlockSize = 1024
	MaxBlockSize = 65536
)

// Inode numbers with a fixed meaning.
const (
	BadBlocksIno   = 1
	RootIno        = 2
	UserQuotaIno   = 3
	GroupQuotaIno  = 4
	BootLoaderIno  = 5
	UndelDirIno    = 6
	ResizeIno      = 7
	JournalIno     = 8
	ExcludeIno     = 9
	ReplicaIno     = 10
	GoodOldFirst   = 11  // first inode for files when RevLevel is 0
	GoodOldInode   = 128 // inode size when RevLevel is 0
	DefaultInode   = 256
	MaxInodeRecord = 65536
)

// Values of Superblock.State.
const (
	StateValid    = 0x0001 // cleanly unmounted
	StateError    = 0x0002 // errors were seen
	StateOrphan   = 0x0004 // orphans are being recovered
	StateFastComm = 0x0020 // fast commits are being replayed
)

// Values of Superblock.Errors: what to do when the filesystem is found damaged.
const (
	ErrorsContinue = 1
	ErrorsReadOnly = 2
	ErrorsPanic    = 3
)

// Values of Superblock.RevLevel.
const (
	RevGoodOld = 0 // inodes of 128 bytes, no features
	RevDynamic = 1
)

// Bits of Superblock.DefaultMountOpts.
const (
	MountDebug        = 0x0001
	MountBSDGroups    = 0x0002
	MountXattrUser    = 0x0004
	MountACL          = 0x0008
	MountUID16        = 0x0010
	MountJournalMode  = 0x0060 // the mask of the three below
	MountDataJournal  = 0x0020
	MountDataOrdered  = 0x0040
	MountDataWriteb   = 0x0060
	MountNoBarrier    = 0x0100
	MountBlockValid   = 0x0200
	MountDiscard      = 0x0400
	MountNoDelayAlloc = 0x0800
)

// Bits of Superblock.Flags.
const (
	FlagSignedHash   = 0x0001 // directory hashes treat name bytes as signed
	FlagUnsignedHash = 0x0002
	FlagTestFS       = 0x0004
)

// ChecksumCRC32C is the only Superblock.ChecksumType in use.
const ChecksumCRC32C = 1

// Superblock is the superblock, field by field as it lies on disk: 1,024 bytes.
// Counts that are split in a low and a high half have methods that join them.
type Superblock struct {
	InodesCount       uint32
	BlocksCountLo     uint32
	RBlocksCountLo    uint32 // blocks reserved for DefResUID and DefResGID
	FreeBlocksCountLo uint32
	FreeInodesCount   uint32
	FirstDataBlock    uint32 // 1 with blocks of 1 KiB, else 0
	LogBlockSize      uint32 // block size is 1024 << this
	LogClusterSize    uint32
	BlocksPerGroup    uint32
	ClustersPerGroup  uint32
	InodesPerGroup    uint32
	Mtime             uint32 // last mount, seconds
	Wtime             uint32 // last write of this superblock, seconds
	MntCount          uint16
	MaxMntCount       uint16
	Magic             uint16
	State             uint16
	Errors            uint16
	MinorRevLevel     uint16
	LastCheck         uint32
	CheckInterval     uint32
	CreatorOS         uint32
	RevLevel          uint32
	DefResUID         uint16
	DefResGID         uint16
	FirstIno          uint32
	InodeSize         uint16
	BlockGroupNr      uint16 // the group this copy lies in
	FeatureCompat     CompatFeatures
	FeatureIncompat   IncompatFeatures
	FeatureRoCompat   RoCompatFeatures
	UUID              [16]byte
	VolumeName        [16]byte
	LastMounted       [64]byte
	AlgorithmBitmap   uint32
	PreallocBlocks    uint8
	PreallocDirBlocks uint8
	ReservedGDTBlocks uint16
	JournalUUID       [16]byte
	JournalInum       uint32
	JournalDev        uint32
	LastOrphan        uint32
	HashSeed          [4]uint32
	DefHashVersion    uint8
	JnlBackupType     uint8 // 1: JnlBlocks holds the journal inode's block array and size
	DescSize          uint16
	DefaultMountOpts  uint32
	FirstMetaBg       uint32
	MkfsTime          uint32
	JnlBlocks         [17]uint32 // i_block, then i_size_high, then i_size
	BlocksCountHi     uint32
	RBlocksCountHi    uint32
	FreeBlocksCountHi uint32
	MinExtraIsize     uint16
	WantExtraIsize    uint16
	Flags             uint32
	RaidStride        uint16
	MMPInterval       uint16
	MMPBlock          uint64
	RaidStripeWidth   uint32
	LogGroupsPerFlex  uint8
	ChecksumType      uint8
	EncryptionLevel   uint8
	ReservedPad       uint8
	KBytesWritten     uint64
	SnapshotInum      uint32
	SnapshotID        uint32
	SnapshotRBlocks   uint64
	SnapshotList      uint32
	ErrorCount        uint32
	FirstErrorTime    uint32
	FirstErrorIno     uint32
	FirstErrorBlock   uint64
	FirstErrorFunc    [32]byte
	FirstErrorLine    uint32
	LastErrorTime     uint32
	LastErrorIno      uint32
	LastErrorLine     uint32
	LastErrorBlock    uint64
	LastErrorFunc     [32]byte
	MountOpts         [64]byte
	UsrQuotaInum      uint32
	GrpQuotaInum      uint32
	OverheadClusters  uint32
	BackupBgs         [2]uint32 // the groups with backups when sparse_super2
	EncryptAlgos      [4]uint8
	EncryptPwSalt     [16]byte
	LpfIno            uint32
	PrjQuotaInum      uint32
	ChecksumSeed      uint32
	WtimeHi           uint8
	MtimeHi           uint8
	MkfsTimeHi        uint8
	LastCheckHi       uint8
	FirstErrorTimeHi  uint8
	LastErrorTimeHi   uint8
	FirstErrorErrcode uint8
	LastErrorErrcode  uint8
	Encoding          uint16
	EncodingFlags     uint16
	OrphanFileInum    uint32
	DefResUIDHi       uint16
	DefResGIDHi       uint16
	Reserved          [93]uint32
	Checksum          uint32
}

// Decode fills s from the first SuperblockSize bytes of b.
func (s *Superblock) Decode(b []byte) error {
	if len(b) < SuperblockSize {
		return short("superblock", len(b), SuperblockSize)
	}
	_, err := binary.Decode(b[:SuperblockSize], le, s)
	return err
}

// Encode writes s to the first SuperblockSize bytes of b. With metadata_csum it sets
// Checksum first; without, Checksum goes out as it is.
func (s *Superblock) Encode(b []byte) error {
	if len(b) < SuperblockSize {
		return short("superblock", len(b), SuperblockSize)
	}
	if _, err := binary.Encode(b[:SuperblockSize], le, s); err != nil {
		return err
	}
	if s.FeatureRoCompat&RoMetadataCsum != 0 {
		s.Checksum = SuperblockChecksum(b)
		le.PutUint32(b[SuperblockSize-4:], s.Checksum)
	}
	return nil
}

// KeepErrors takes the errors of old over when it has seen more of them.
func (s *Superblock) KeepErrors(old *Superblock) {
	s.State |= old.State & StateError
	if old.ErrorCount <= s.ErrorCount {
		return
	}
	s.ErrorCount = old.ErrorCount
	s.FirstErrorTime, s.FirstErrorTimeHi = old.FirstErrorTime, old.FirstErrorTimeHi
	s.FirstErrorIno, s.FirstErrorBlock = old.FirstErrorIno, old.FirstErrorBlock
	s.FirstErrorFunc, s.FirstErrorLine, s.FirstErrorErrcode = old.FirstErrorFunc, old.FirstErrorLine, old.FirstErrorErrcode
	s.LastErrorTime, s.LastErrorTimeHi = old.LastErrorTime, old.LastErrorTimeHi
	s.LastErrorIno, s.LastErrorBlock = old.LastErrorIno, old.LastErrorBlock
	s.LastErrorFunc, s.LastErrorLine, s.LastErrorErrcode = old.LastErrorFunc, old.LastErrorLine, old.LastErrorErrcode
}

// BlockSize is the block size in bytes, or 0 when LogBlockSize is absurd.
func (s *Superblock) BlockSize() int {
	if s.LogBlockSize > 6 {
		return 0
	}
	return MinBlockSize << s.LogBlockSize
}

func (s *Superblock) hi(v uint32) uint64 {
	if s.FeatureIncompat&Incompat64Bit == 0 {
		return 0
	}
	return uint64(v) << 32
}

// BlocksCount is the number of blocks of the filesystem.
func (s *Superblock) BlocksCount() uint64 { return s.hi(s.BlocksCountHi) | uint64(s.BlocksCountLo) }

// SetBlocksCount splits n into the two halves.
func (s *Superblock) SetBlocksCount(n uint64) {
	s.BlocksCountLo, s.BlocksCountHi = uint32(n), uint32(n>>32)
}

// RBlocksCount is the number of reserved blocks.
func (s *Superblock) RBlocksCount() uint64 { return s.hi(s.RBlocksCountHi) | uint64(s.RBlocksCountLo) }

// SetRBlocksCount splits n into the two halves.
func (s *Superblock) SetRBlocksCount(n uint64) {
	s.RBlocksCountLo, s.RBlocksCountHi = uint32(n), uint32(n>>32)
}

// FreeBlocksCount is the number of free blocks (clusters with bigalloc).
func (s *Superblock) FreeBlocksCount() uint64 {
	return s.hi(s.FreeBlocksCountHi) | uint64(s.FreeBlocksCountLo)
}

// SetFreeBlocksCount splits n into the two halves.
func (s *Superblock) SetFreeBlocksCount(n uint64) {
	s.FreeBlocksCountLo, s.FreeBlocksCountHi = uint32(n), uint32(n>>32)
}

// InodeRecordSize is the length of an inode in the inode tables, in bytes.
func (s *Superblock) InodeRecordSize() int {
	if s.RevLevel == RevGoodOld {
		return GoodOldInode
	}
	return int(s.InodeSize)
}

// FirstFileIno is the first inode number that is not reserved.
func (s *Superblock) FirstFileIno() uint32 {
	if s.RevLevel == RevGoodOld {
		return GoodOldFirst
	}
	return s.FirstIno
}

// GroupDescSize is the length of a group descriptor in bytes.
func (s *Superblock) GroupDescSize() int {
	if s.FeatureIncompat&Incompat64Bit == 0 {
		return GroupDescSize32
	}
	return int(s.DescSize)
}

// GroupCount is the number of block groups, or 0 when BlocksPerGroup is 0.
func (s *Superblock) GroupCount() uint64 {
	n := s.BlocksCount()
	if s.BlocksPerGroup == 0 || n <= uint64(s.FirstDataBlock) {
		return 0
	}
	per := uint64(s.BlocksPerGroup)
	return (n - uint64(s.FirstDataBlock) + per - 1) / per
}

// GroupHasSuper says whether a group holds a superblock and the group descriptors
// after it (with meta_bg the descriptors lie elsewhere, but the rule for the
// superblock is the same).
func (s *Superblock) GroupHasSuper(group uint32) bool {
	if group == 0 {
		return true
	}
	if s.FeatureCompat&CompatSparseSuper2 != 0 {
		return group == s.BackupBgs[0] || group == s.BackupBgs[1]
	}
	if s.FeatureRoCompat&RoSparseSuper == 0 || group == 1 {
		return true
	}
	return powerOf(group, 3) || powerOf(group, 5) || powerOf(group, 7)
}

func powerOf(n, base uint32) bool {
	for n > base && n%base == 0 {
		n /= base
	}
	return n == base
}
