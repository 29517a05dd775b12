package mkfs

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
)

// Time is a moment as an inode holds it. Those before 1901 and after 2446 (with inodes of 128
// bytes: after 2038) become the nearest that fits, as kernels do it.
type Time = format.Time

// Header is what an inode says about itself.
type Header struct {
	// Mode is the type (unix.S_IFREG ...) and the permissions, as in stat(2).
	Mode uint16

	// UID and GID are the owner.
	UID, GID uint32

	// Major and Minor are a device node's numbers: 12 and 20 bits.
	Major, Minor uint32

	// Size is a regular file's length in bytes; other types ignore it.
	Size int64

	// Atime, Mtime, Ctime and Btime (the birth) are taken as they are; a zero Btime is taken
	// as Options.Time.
	Atime, Mtime, Ctime, Btime Time

	// Flags are inode flags as chattr(1) sets them (append, immutable, noatime, ...), in
	// ext4's numbers. Those that describe the layout are the Builder's own and refused.
	Flags uint32

	// Project is the project number; it needs the feature project.
	Project uint32

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
	ino, links   uint32
	mode         uint16
	placed       bool
	uid, gid     uint32
	major, minor uint32
	flags        uint32
	project      uint32

	atime, mtime, ctime, btime Time

	size   int64
	target string
	ext    []Extent
	dir    *directory // of directories only

	xattrBody  []byte      // attributes in the inode's own space, magic included
	xattrBlock *xattrBlock // and those beside it
}

// Number is the inode's number.
func (n *Node) Number() uint32 { return n.ino }

// Size is a regular file's length in bytes.
func (n *Node) Size() int64 { return n.size }

// IsDir says whether names can be added to the node.
func (n *Node) IsDir() bool { return n.dir != nil }

// directory is what a directory has besides an inode.
type directory struct {
	parent      *Node
	first, last int32 // its names, a list in names.list; -1 for none
	count       int
	subdirs     uint32
	bytes       int64 // its entries' length on disk, without "." and ".."
}

// flags that a caller may set: what chattr sets, without those that say how data is stored.
const settableFlags = format.FlagSecureRm | format.FlagUnrm | format.FlagCompr | format.FlagSync |
	format.FlagImmutable | format.FlagAppend | format.FlagNoDump | format.FlagNoAtime |
	format.FlagJournalData | format.FlagNoTail | format.FlagDirSync | format.FlagTopDir |
	format.FlagProjInherit

// setHeader checks h and takes it into n.
func (b *Builder) setHeader(n *Node, h *Header) error {
	size := int64(0)
	switch h.Mode & format.ModeType {
	case format.ModeRegular:
		if size = h.Size; size < 0 || size > b.maxFile() {
			return fmt.Errorf("size %d: %w: at most %d bytes", size, unix.EFBIG, b.maxFile())
		}
	case format.ModeSymlink:
		most := min(format.MaxSymlink, b.o.blockSize-1)
		if h.Target == "" || len(h.Target) > most {
			return fmt.Errorf("symbolic link to %d bytes: %w: from 1 to %d", len(h.Target), unix.ENAMETOOLONG, most)
		}
		if hasNUL(h.Target) {
			return fmt.Errorf("symbolic link to %q: %w: a zero byte", h.Target, unix.EINVAL)
		}
		size = int64(len(h.Target))
	case format.ModeChar, format.ModeBlock:
		if h.Major >= 1<<12 || h.Minor >= 1<<20 {
			return fmt.Errorf("device %d:%d: %w: at most %d:%d", h.Major, h.Minor, unix.EINVAL, 1<<12-1, 1<<20-1)
		}
	case format.ModeDir, format.ModeFIFO, format.ModeSocket:
	default:
		return fmt.Errorf("mode %#o: %w: no such file type", h.Mode, unix.EINVAL)
	}
	if h.Flags&^settableFlags != 0 {
		return fmt.Errorf("inode flags %#x: %w: %#x cannot be set", h.Flags, unix.EINVAL, h.Flags&^settableFlags)
	}
	if h.Project != 0 && b.o.f.ro&format.RoProject == 0 {
		return fmt.Errorf("project %d: %w: the feature project is off", h.Project, unix.EOPNOTSUPP)
	}
	for _, t := range [...]*Time{&h.Atime, &h.Mtime, &h.Ctime, &h.Btime} {
		if t.Nsec > 999999999 {
			return fmt.Errorf("time %d.%09d: %w: a second has 1000000000 nanoseconds", t.Sec, t.Nsec, unix.EINVAL)
		}
	}
	if len(h.Xattrs) > 0 || n.xattrBlock != nil || n.xattrBody != nil {
		body, block, err := b.encodeXattrs(h)
		if err != nil {
			return err
		}
		b.xattrs.drop(n.xattrBlock)
		n.xattrBody, n.xattrBlock = body, block
	}
	n.mode, n.uid, n.gid = h.Mode, h.UID, h.GID
	if o := b.o.rootOwner; o != nil && n == b.root {
		n.uid, n.gid = o.UID, o.GID
	}
	n.major, n.minor = h.Major, h.Minor
	n.atime, n.mtime, n.ctime, n.btime = h.Atime, h.Mtime, h.Ctime, h.Btime
	if n.btime == (Time{}) {
		n.btime = b.o.now
	}
	n.flags, n.project = h.Flags, h.Project
	n.size, n.target = size, h.Target
	return nil
}

// maxFile is the longest file that the filesystem's maps can hold, in bytes.
func (b *Builder) maxFile() int64 {
	if b.o.f.extents() {
		return int64(format.MaxLogicalBlock) << b.o.blockBits
	}
	per := int64(b.o.blockSize / 4)
	return min(format.DirectBlocks+per+per*per+per*per*per, format.MaxLogicalBlock) << b.o.blockBits
}
