// Package ext4 reads and writes ext2, ext3 and ext4 filesystems on a Device.
//
// An FS is one open filesystem; an Inode is one of its files of any type, in memory
// while somebody holds a reference. Operations are the kernel's, on inodes: lookup,
// create, link, rename, read, write, truncate, punch, extended attributes, readdir
// with stable cookies, fsync, statfs, trim. Paths, permissions and page caches belong
// to callers.
//
// Metadata lives in a block cache. An operation that changes metadata does so within
// a handle; a commit closes the running transaction, which holds whole operations
// only, and makes it stable. File data is not cached: it goes between the caller's
// buffer and the Device, or the caller asks Map where it lies and moves it alone; that of
// Journaled files waits in memory for its commit (see InPlace), and only WriteAt moves it.
//
// Every method may be called from any goroutine. Methods return errors for which
// errors.Is works with the unix.E… values; what is damaged on disk is a
// *CorruptError (unix.EUCLEAN), what this package does not support an *UnsupportedError.
package ext4

import (
	"io"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
)

// Device is a disk: ubdfmt.Device is one. Offsets and lengths are bytes. All methods
// may be called at once by several goroutines.
type Device interface {
	io.ReaderAt
	io.WriterAt

	// Size is the length of the disk.
	Size() int64

	// Sync returns when every write that returned before it is stable.
	Sync() error

	// Trim gives a range back; it reads as zeros, or as anything, afterwards.
	Trim(off, n int64) error
}

// StableWriter is what a Device can be besides. Without it DataWriteback commits with
// Sync, which makes file data stable as well.
type StableWriter interface {
	// WriteStable is WriteAt, and returns when what it wrote is stable, whatever
	// becomes of the writes before it.
	WriteStable(p []byte, off int64) (int, error)
}

// Time is a point in time as inodes keep it.
type Time = format.Time

// Options say how to open a filesystem. The zero value opens it for reading and
// writing.
type Options struct {
	// ReadOnly refuses changes with EROFS until Remount. A dirty journal is still
	// replayed onto the Device, and orphans are left alone.
	ReadOnly bool

	// NoWrite, with ReadOnly, writes nothing at all: a dirty journal is replayed
	// in memory. Such an FS cannot be remounted for writing.
	NoWrite bool

	// Discard trims freed blocks once the transaction that freed them is stable.
	Discard bool

	// NoBarrier leaves out the Device's Sync between and after the writes of a
	// transaction. A crash of the machine that holds the disk can then damage the
	// filesystem. Going read-only and closing still Sync.
	NoBarrier bool

	// Errors overrides the superblock's behaviour when damage is found; 0 takes
	// the superblock's.
	Errors ErrorPolicy

	// Panic is called under ErrorsPanic, with the damage found: the machine is to
	// stop, and nothing more is written. Nil means ErrorsReadOnly in its place.
	Panic func(error)

	// Data says how file data gets to the disk; 0 takes the superblock's default.
	// Without a journal it means nothing.
	Data DataMode

	// CommitEvery is how long changes stay in memory at most; 0 means 5 seconds.
	CommitEvery time.Duration

	// CacheBytes bounds the metadata kept in memory, as far as it is not dirty; a
	// transaction is committed before it takes more than half of it, or 1 MiB (with
	// 4 KiB blocks). 0 means 64 MiB.
	CacheBytes int64

	// Log lends a place behind the end of a filesystem without a journal to use as one:
	// transactions are whole then, and Open with the same Log replays it. Real kernels
	// know nothing of it: it is for a use that ends soon.
	Log Log

	// Now is the clock for times in inodes; nil means time.Now.
	Now func() time.Time

	// Logf takes lines for the kernel's log, without newline; nil drops them.
	Logf func(format string, args ...any)
}

// ErrorPolicy says what happens when the filesystem is found damaged. The values are
// the superblock's.
type ErrorPolicy uint16

const (
	ErrorsContinue ErrorPolicy = format.ErrorsContinue // the operation fails
	ErrorsReadOnly ErrorPolicy = format.ErrorsReadOnly // and no further change is allowed
	ErrorsPanic    ErrorPolicy = format.ErrorsPanic    // that, and Options.Panic is called
)

// String is the policy as the mount option errors= spells it.
func (p ErrorPolicy) String() string {
	switch p {
	case ErrorsReadOnly:
		return "remount-ro"
	case ErrorsPanic:
		return "panic"
	}
	return "continue"
}

// Statfs is what statfs(2) tells. Blocks are of BlockSize bytes.
type Statfs struct {
	BlockSize int64
	Blocks    uint64 // without the filesystem's own
	Free      uint64
	Available uint64 // Free without the reserved blocks
	Files     uint64
	FilesFree uint64
	ID        uint64 // from the UUID
	NameMax   int
}

// Info is what the superblock says of a filesystem.
type Info struct {
	UUID          [16]byte
	Label         string
	LastMounted   string
	BlockSize     int
	Blocks        uint64
	Inodes        uint32
	Reserved      uint64 // blocks for ReservedUID and ReservedGID
	ReservedUID   uint32
	ReservedGID   uint32
	Compat        format.CompatFeatures
	Incompat      format.IncompatFeatures
	RoCompat      format.RoCompatFeatures
	DefaultMount  uint32 // format.MountACL and so on: mount options in force unless overridden
	MountOpts     string // further mount options kept in the superblock
	Errors        ErrorPolicy
	ErrorCount    uint32 // errors since the last check
	NeedsCheck    bool   // errors were found, and e2fsck has not run since
	Journal       bool
	MaxTime       int64 // the last second inodes can hold
	MaxFileSize   int64 // for files mapped by extents
	XattrMaxValue int   // the longest value of an extended attribute
}

// Attr is what stat(2) tells of an inode, and a little more.
type Attr struct {
	Mode       uint16 // type and permissions, format.ModeDir and so on
	UID, GID   uint32
	Links      uint32
	Size       int64
	Blocks512  int64 // sectors of 512 bytes taken, the filesystem's own blocks for the file included
	Major      uint32
	Minor      uint32
	Atime      Time
	Mtime      Time
	Ctime      Time
	Btime      Time   // zero when the inode has no room for it
	Flags      uint32 // format.FlagImmutable and so on, as FS_IOC_GETFLAGS gives them
	Project    uint32
	Generation uint32
}

// AttrMask says which fields of an Attr SetAttr takes.
type AttrMask uint32

const (
	AttrMode AttrMask = 1 << iota // the permissions; the type is kept
	AttrUID
	AttrGID
	AttrAtime
	AttrMtime
	AttrCtime // without it SetAttr sets the change time to now
	AttrBtime
	AttrFlags // the flags FS_IOC_SETFLAGS may change; others are kept
	AttrProject
)

// NewInode says what Create shall make.
type NewInode struct {
	Mode         uint16 // type and permissions
	UID, GID     uint32
	Major, Minor uint32 // of a device node
	Target       string // of a symlink
	value        bool   // it holds the value of an extended attribute
}

// RenameFlags are those of renameat2(2).
type RenameFlags struct {
	NoReplace bool // EEXIST when the new name exists
	Exchange  bool // both names exist and swap
	Whiteout  bool // leave a character device 0:0 under the old name
}

// XattrFlags are those of setxattr(2).
type XattrFlags struct {
	Create  bool // EEXIST when the attribute exists
	Replace bool // ENODATA when it does not
}

// DirEntry is an entry of a directory.
type DirEntry struct {
	Name   string
	Ino    uint32
	Type   uint16 // type bits of the mode, 0 when the directory does not tell
	Cookie uint64 // for ReadDir, to resume after this entry; at most 1<<63-1
}

// ExtentState says what the blocks of an extent hold.
type ExtentState uint8

const (
	Hole      ExtentState = iota // no blocks; reads as zeros
	Unwritten                    // blocks without content; reads as zeros
	Written
	Inline // the content lies in the inode: use ReadAt
)

// String names the state.
func (s ExtentState) String() string {
	switch s {
	case Hole:
		return "hole"
	case Unwritten:
		return "unwritten"
	case Written:
		return "written"
	case Inline:
		return "inline"
	}
	return "invalid"
}

// Extent is a run of a file's bytes that lie together on the Device.
type Extent struct {
	Offset, Length int64 // in the file, bytes
	Disk           int64 // on the Device, bytes; with Unwritten and Written only
	State          ExtentState
}
