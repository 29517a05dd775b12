package ext4

import (
	"context"

	"golang.org/x/sys/unix"
)

// Close makes everything stable, marks the filesystem clean and forgets it. Inodes
// that are still referenced must not be used afterwards; those without links are freed.
func (fs *FS) Close() error { return unix.ENOSYS }

// Sync makes every change that returned before it stable.
func (fs *FS) Sync() error { return unix.ENOSYS }

// Trim gives free ranges of at least minLen bytes within [start, start+length) of the
// disk back to the Device, and returns how many bytes those were.
func (fs *FS) Trim(ctx context.Context, start, length, minLen int64) (int64, error) {
	return 0, unix.ENOSYS
}

// Remount switches between reading only and writing. To read-only it makes everything
// stable and marks the filesystem clean.
func (fs *FS) Remount(readOnly bool) error { return unix.ENOSYS }

// Reserve promises n blocks to data that a caller holds in memory and will allocate
// later; ENOSPC when they are not there. Unless privileged, the reserved blocks of the
// superblock count as taken. Unreserve gives n back, after allocating or instead.
func (fs *FS) Reserve(n int64, privileged bool) error { return unix.ENOSYS }

// Unreserve undoes Reserve.
func (fs *FS) Unreserve(n int64) {}

// Rename moves an entry. Among other errors: EXDEV never, EINVAL for a directory moved
// below itself, ENOTEMPTY, EISDIR, ENOTDIR, EMLINK.
func (fs *FS) Rename(oldDir *Inode, oldName string, newDir *Inode, newName string, f RenameFlags) error {
	return unix.ENOSYS
}

// Put gives a reference back. The last one of an inode without links frees it.
func (n *Inode) Put() error { return unix.ENOSYS }

// SetAttr changes the fields of a that mask names. It does not check permissions.
func (n *Inode) SetAttr(mask AttrMask, a Attr) error { return unix.ENOSYS }

// Create makes an inode of any type and its name, and takes a reference to it.
func (n *Inode) Create(name string, m NewInode) (*Inode, error) { return nil, unix.ENOSYS }

// CreateUnlinked makes an inode without a name (O_TMPFILE) near directory n and takes
// a reference to it. Link may name it later.
func (n *Inode) CreateUnlinked(m NewInode) (*Inode, error) { return nil, unix.ENOSYS }

// Link gives target a further name.
func (n *Inode) Link(name string, target *Inode) error { return unix.ENOSYS }

// Unlink removes a name that is not a directory's.
func (n *Inode) Unlink(name string) error { return unix.ENOSYS }

// Rmdir removes an empty directory.
func (n *Inode) Rmdir(name string) error { return unix.ENOSYS }

// SetXattr sets an extended attribute; ENOSPC when it does not fit, EOPNOTSUPP when the
// name's prefix is unknown.
func (n *Inode) SetXattr(name string, value []byte, f XattrFlags) error { return unix.ENOSYS }

// RemoveXattr removes an extended attribute; ENODATA when there is none.
func (n *Inode) RemoveXattr(name string) error { return unix.ENOSYS }

// Allocate gives every block of the range a place on the disk; new ones are Unwritten
// (in files without extents: written with zeros). It does not change the size.
func (n *Inode) Allocate(off, length int64) error { return unix.ENOSYS }

// MarkWritten says that the caller has written the unwritten blocks of the range,
// whole blocks, to where Map said. It does not change the size.
func (n *Inode) MarkWritten(off, length int64) error { return unix.ENOSYS }

// SetSize sets the size and nothing else: no block is freed or zeroed.
func (n *Inode) SetSize(size int64) error { return unix.ENOSYS }

// Truncate sets the size, frees the blocks after it, and zeroes the rest of its last
// block.
func (n *Inode) Truncate(size int64) error { return unix.ENOSYS }

// Punch makes a hole: whole blocks are freed, parts of blocks zeroed.
func (n *Inode) Punch(off, length int64) error { return unix.ENOSYS }

// Zero makes the range read as zeros and keeps, or gives, it blocks. With keepSize the
// size stays, else it grows to the range's end.
func (n *Inode) Zero(off, length int64, keepSize bool) error { return unix.ENOSYS }

// Fallocate gives the range blocks. With keepSize the size stays, else it grows to the
// range's end.
func (n *Inode) Fallocate(off, length int64, keepSize bool) error { return unix.ENOSYS }

// WriteAt writes p straight to the Device, gives the file the blocks it needs, grows
// the size, and sets the modification and change times.
func (n *Inode) WriteAt(p []byte, off int64) (int, error) { return 0, unix.ENOSYS }

// Sync makes the file stable: its data, and with it the metadata. With dataOnly it
// leaves out metadata that is not needed to read the data, times above all.
func (n *Inode) Sync(dataOnly bool) error { return unix.ENOSYS }
