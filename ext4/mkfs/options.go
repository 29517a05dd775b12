package mkfs

import "time"

// Options say what filesystem to make. The zero value is what `mke2fs -t ext4 -b 4096` makes
// for the device's size, with a random UUID and the present time.
type Options struct {
	// Type is "ext2", "ext3" or "ext4" (also when empty): the features to begin from.
	Type string

	// Label is the volume name, at most 16 bytes.
	Label string

	// UUID and HashSeed are random when zero. Images that must not differ need both; when
	// only UUID is given, HashSeed is derived from it, so UUID and Time are enough.
	UUID, HashSeed [16]byte

	// Time is when the filesystem was made (also of the root directory and lost+found, unless
	// set by Builder.SetHeader); the present when zero.
	Time time.Time

	// BlockSize is 1024, 2048 or 4096 bytes; 0 means 4096.
	BlockSize int

	// InodeSize is 128, 256, 512, 1024 ... up to BlockSize, in bytes; 0 means 256.
	// Inodes of 128 bytes hold times in whole seconds up to 2038 and no attributes.
	InodeSize int

	// InodeRatio is the number of bytes of the device for each inode; 0 means what mke2fs
	// takes: 8192 below 3 MiB, 4096 below 512 MiB, 16384 from there on.
	InodeRatio int64

	// Inodes is the least number of inodes; 0 leaves it to InodeRatio.
	Inodes int64

	// ReservedPercent of the blocks are for root only; 0 means 5, NoReserve means none.
	ReservedPercent float64
	NoReserve       bool

	// JournalBlocks is the journal's length; 0 means what mke2fs takes for the size. With a
	// length even ext2 has a journal. NoJournal is the feature "^has_journal".
	JournalBlocks int64
	NoJournal     bool

	// Features turns features on ("large_dir") and off ("^metadata_csum"), by the names that
	// mke2fs -O uses, beginning from mke2fs's defaults. "none" turns all off. A name
	// that is unknown, or known and not made by this package, is an error.
	Features []string

	// MountOptions are the default mount options, by tune2fs's names ("acl", "user_xattr",
	// "discard", "^acl"...), beginning from Debian's acl and user_xattr.
	MountOptions []string

	// Errors is what a kernel does on finding the filesystem damaged: "continue" (also when
	// empty), "remount-ro" or "panic".
	Errors string

	// RootOwner owns the root directory, whatever the tree says; nil leaves it to the tree.
	RootOwner *Owner

	// Stride and StripeWidth tell a kernel of the RAID below, in blocks: how much lies on one
	// disk before the next, and in one stripe over all of them.
	Stride, StripeWidth int

	// ResizeLimit is the size in bytes up to which group descriptors shall have room to grow
	// in place; 0 means 1024 times the device.
	ResizeLimit int64

	// LazyTables leaves it to the kernel to fill unused inode tables with zeros after the first
	// mount. Without it they are marked as zeros, which is what the device holds there.
	LazyTables bool

	// LastMounted is the directory that the superblock names as where it was last mounted,
	// at most 64 bytes; usually empty.
	LastMounted string
}

// Owner is a user and a group, by number.
type Owner struct{ UID, GID uint32 }
