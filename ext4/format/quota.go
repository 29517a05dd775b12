package format

// A quota file, as the feature quota keeps one each for users, groups and projects, is
// of blocks of 1 KiB whatever the filesystem's are (Linux's fs/quota/quotaio_v2.h and
// quota_tree.h). Block 0 is a header. Block 1 is the root of a tree of four levels, one
// byte of the id each, from the highest: 256 numbers of blocks. Below are blocks of
// entries in any order.
const (
	// QuotaBlockBits gives the length of a block of a quota file: 1 << this bytes.
	QuotaBlockBits = 10
	// QuotaRoot is the block in which the tree starts.
	QuotaRoot = 1
	// QuotaDepth is the number of levels of the tree.
	QuotaDepth = 4
	// QuotaVersion is the version of the header that this package knows.
	QuotaVersion = 1
	// QuotaEntrySize is the length of an entry, QuotaEntriesOffset where a block of
	// entries has its first, QuotaEntries how many it holds.
	QuotaEntrySize     = 72
	QuotaEntriesOffset = 16
	QuotaEntries       = (1<<QuotaBlockBits - QuotaEntriesOffset) / QuotaEntrySize
)

// QuotaMagic starts the files of users, groups and projects.
var QuotaMagic = [3]uint32{0xD9C01F11, 0xD9C01927, 0xD9C03F14}

// Offsets in the header: magic, version, grace times in seconds, flags, the number of blocks,
// the first free block and the first block with room for an entry, or 0.
const (
	QuotaVersionOffset    = 4
	QuotaSpaceGraceOffset = 8
	QuotaInodeGraceOffset = 12
	QuotaBlocksOffset     = 20
	QuotaFreeBlockOffset  = 24
	QuotaFreeEntryOffset  = 28
)

// QuotaGrace is the grace time of a new quota file, in seconds: a week.
const QuotaGrace = 7 * 24 * 60 * 60

// Offsets in a block of entries: its neighbours in the list of blocks with room (in a
// free block: the next of these) and the number of entries.
const (
	QuotaNextOffset  = 0
	QuotaPrevOffset  = 4
	QuotaCountOffset = 8
)

// Offsets in an entry: the id, then limits, usage and grace times of 8 bytes each. An
// entry that would be all zeros has 1 as its QuotaInodeTimeOffset.
const (
	QuotaInodesOffset    = 24
	QuotaSpaceOffset     = 48 // bytes
	QuotaInodeTimeOffset = 64
)
