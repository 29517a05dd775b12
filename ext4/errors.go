package ext4

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// CorruptError says that what lies on the disk cannot be right. errors.Is finds
// unix.EUCLEAN in it, and unix.EIO for who asks only whether the disk has what it should.
type CorruptError struct {
	What  string // the structure: "superblock", "inode 12", "directory 2 block 7"
	Field string // what in it
	Value any    // and its value; nil when a whole structure is meant
}

// Error is one line: structure, field and value.
func (e *CorruptError) Error() string {
	if e.Value == nil {
		return fmt.Sprintf("ext4: corrupt %s: %s", e.What, e.Field)
	}
	return fmt.Sprintf("ext4: corrupt %s: %s %v", e.What, e.Field, e.Value)
}

// BadChecksum says that a checksum does not match: Linux tells programs EBADMSG then,
// and EUCLEAN of what is wrong otherwise.
func (e *CorruptError) BadChecksum() bool {
	return strings.Contains(e.Field, "checksum") && e.Field != "checksum type"
}

// Is reports EUCLEAN and EIO.
func (e *CorruptError) Is(target error) bool {
	return target == unix.EIO || target == unix.EUCLEAN
}

// UnsupportedError names features of a filesystem that this package does not know.
// errors.Is finds unix.EOPNOTSUPP in it, and unix.EROFS when reading alone would work.
type UnsupportedError struct {
	Features []string // as e2fsprogs names them
	Write    bool     // the filesystem can be opened with Options.ReadOnly
}

// Error is one line with the features' names.
func (e *UnsupportedError) Error() string {
	if e.Write {
		return "ext4: cannot write a filesystem with " + strings.Join(e.Features, ", ")
	}
	return "ext4: unsupported: " + strings.Join(e.Features, ", ")
}

// Is reports EOPNOTSUPP, or EROFS for what can still be read.
func (e *UnsupportedError) Is(target error) bool {
	return target == unix.EOPNOTSUPP || e.Write && target == unix.EROFS
}

// NotExtError says that the disk holds no ext filesystem. errors.Is finds
// unix.EINVAL in it, as mount(2) says.
type NotExtError struct {
	Found string // the name of what lies there, "" when unknown
}

// Error is one line.
func (e *NotExtError) Error() string {
	if e.Found != "" {
		return "ext4: not an ext filesystem but " + e.Found
	}
	return "ext4: no ext filesystem found (bad magic number in superblock)"
}

// Is reports EINVAL.
func (e *NotExtError) Is(target error) bool { return target == unix.EINVAL }

// absentError says that a directory has no such name. It becomes text only when somebody
// reads it: to most who look it is an answer, and searches along a path get many.
type absentError struct{ name string }

func (e *absentError) Error() string { return fmt.Sprintf("ext4: lookup %q: %v", e.name, unix.ENOENT) }

// Unwrap gives ENOENT.
func (e *absentError) Unwrap() error { return unix.ENOENT }

// Errors that several files compare with.
const (
	errInvalid = unix.EINVAL
	errClean   = unix.EUCLEAN
)
