package mkfs

import (
	"errors"
	"io"
)

// Time is a moment as an inode holds it: seconds since 1970, down to 1901 and up to 2446, and
// nanoseconds. Inodes of 128 bytes hold no nanoseconds and end in 2038.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Header is what an inode says about itself.
type Header struct {
	// Mode is the type (unix.S_IFREG ...) and the permissions, as in stat(2).
	Mode uint16

	// UID and GID are the owner.
	UID, GID uint32

	// Major and Minor are a device node's numbers.
	Major, Minor uint32

	// Size is a regular file's length in bytes; other types ignore it.
	Size int64

	// Atime, Mtime, Ctime and Btime (the birth) are taken as they are; a zero Btime is taken
	// as Options.Time.
	Atime, Mtime, Ctime, Btime Time

	// Flags are inode flags as chattr(1) sets them (append, immutable, noatime, ...), in
	// ext4's numbers. Those that describe the layout are the Builder's own and refused.
	Flags uint32

	// Xattrs are the extended attributes by full name ("user.a", "security.capability"),
	// with values as getxattr(2) gives them, also of system.posix_acl_access and _default.
	Xattrs map[string][]byte

	// Target is where a symbolic link leads, 1 to 4095 bytes (to the block size less one).
	Target string
}

// Region is a run of a file's bytes that holds data.
type Region struct {
	Offset, Length int64
}

// Extent is where a run of a file's bytes lies on the device, in bytes. Offset is a multiple of
// the block size; the last extent of a file ends where the file ends.
type Extent struct {
	Offset, Length, Disk int64
}

// Node is an inode of the tree that is being built. It belongs to its Builder.
type Node struct {
	ino uint32
}

// Number is the inode's number.
func (n *Node) Number() uint32 { return n.ino }

// SpaceError says that a tree does not fit. errors.Is(err, unix.ENOSPC) holds.
type SpaceError struct {
	// Have is the device's size in bytes and Need the smallest that would do, as far as
	// the tree is known.
	Have, Need int64
}

// Error says both numbers, in MiB.
func (e *SpaceError) Error() string { return "does not fit" }

// Builder makes a filesystem with a tree in it. Its methods must be called from one goroutine
// at a time; the ranges that Place returned may be written by any number of goroutines until
// Close is called.
type Builder struct{}

var errUnfinished = errors.New("mkfs: not implemented yet")

// NewBuilder begins a filesystem on dev and writes nothing. A nil dev makes a plan: everything
// that describes the tree works, Need answers, Place and Close fail.
//
// A wrong option, and a device that is too small for any filesystem, are errors in one line.
func NewBuilder(dev Device, o Options) (*Builder, error) { return nil, errUnfinished }

// Root is the root directory. It begins as mode 0755 owned by root, with Options.Time.
func (b *Builder) Root() *Node { return nil }

// Add makes an inode and gives it a name in a directory. Inodes are numbered in the order of
// Add. A name that exists is an error that is unix.EEXIST, except the root's lost+found, which is
// there from the start: adding it as a directory sets its header.
//
// The Builder keeps name and Header.Target; it is done with Header.Xattrs when Add returns.
func (b *Builder) Add(parent *Node, name string, h Header) (*Node, error) {
	return nil, errUnfinished
}

// Link gives an inode that is not a directory one more name.
func (b *Builder) Link(parent *Node, name string, n *Node) error { return errUnfinished }

// Lookup is the node of that name in a directory, nil when there is none.
func (b *Builder) Lookup(parent *Node, name string) *Node { return nil }

// Remove takes a name away, and with the last name the inode. A directory must be empty.
// The space of a file that was placed is free in the finished filesystem, but not used again
// by the Builder.
func (b *Builder) Remove(parent *Node, name string) error { return errUnfinished }

// SetHeader replaces what Add said of a node. The type must stay, and so must the size of a file
// that was placed.
func (b *Builder) SetHeader(n *Node, h Header) error { return errUnfinished }

// Need is the smallest device, in bytes, that holds what was added so far: the data of files
// that were placed as placed, of others in their full size.
func (b *Builder) Need() (int64, error) { return 0, errUnfinished }

// Place puts a regular file's data on the device and returns where. The caller writes there
// before Close; what it leaves unwritten reads as zeros.
//
// regions are the parts of the file that hold data, ascending; between them are holes, kept
// as holes where they span whole blocks. nil means that all of the file is data, an
// empty slice that all is a hole. The extents are those of the regions widened to
// blocks. The slice belongs to the Builder and stays valid and unchanged.
//
// A file is placed once. A *SpaceError means that it does not fit.
func (b *Builder) Place(n *Node, regions []Region) ([]Extent, error) { return nil, errUnfinished }

// Data places a file and writes it from r, which must give Header.Size bytes: fewer are an
// error (io.ErrUnexpectedEOF), more are not read.
func (b *Builder) Data(n *Node, r io.Reader) error { return errUnfinished }

// Close writes everything but the data of files, the primary superblock last. It does not sync
// the device. After an error the device holds no filesystem. A regular file with a size that
// was never placed is an error. A *SpaceError means that the tree does not fit.
func (b *Builder) Close() error { return errUnfinished }
