// Package volume opens the filesystem in a disk and finds files in it by their paths.
//
// A Volume is one filesystem: ext2, ext3 or ext4 by our own engine, for reading and
// writing, or FAT, ISO 9660 or squashfs, for reading alone. A Node is one of its files of
// any type. Paths and symbolic links are followed inside the volume as chroot(2) would:
// nothing leads to the machine that this program runs on. Trees of files come out as a
// tree.Node (Read) and go in as one (Writer), the form in which package rootfs has
// directories, archives and their like too.
//
// What lies on a disk was written by others: sizes, counts and places are checked before
// use, and every loop has an end.
package volume

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/rootfs/tree"
	"github.com/umlkit/umlkit/ubdfmt"
)

// Attr is what stat(2) tells of a file. Mode holds type and permissions.
type Attr = ext4.Attr

// Node is a file of any type. It is to be closed. A Node serves one goroutine at a time,
// but ReadAt, which serves any number.
type Node interface {
	// Number tells one file of the volume from another.
	Number() uint64

	Attr() Attr

	// Lookup finds a name in a directory; ".." of the root is the root. A missing name is
	// unix.ENOENT, and unix.ENOTDIR says that the node is no directory.
	Lookup(name string) (Node, error)

	// Names are a directory's entries in the order of their bytes, without "." and "..".
	Names() ([]string, error)

	Readlink() (string, error)

	// ReadAt reads from a regular file, holes as zeros.
	ReadAt(p []byte, off int64) (int, error)

	// Runs are the runs of a regular file that hold data; nil means that all of it may.
	Runs() ([]tree.Region, error)

	// Xattrs are the extended attributes by full name, nil for none.
	Xattrs() (map[string][]byte, error)

	Close() error
}

// Usage is what df(1) shows. Files are 0 where the filesystem does not count them.
type Usage struct {
	Type                string // ext4, ext3, ext2, vfat, iso9660, squashfs
	Label               string
	BlockSize           int64
	Blocks, Free, Avail uint64 // Avail: without what is reserved for root
	Files, FilesFree    uint64
}

// filesystem is what an implementation gives besides its nodes.
type filesystem interface {
	root() (Node, error)
	usage() (Usage, error)
	close() error
}

// Volume is an open filesystem.
type Volume struct {
	fs  filesystem
	ext *ext4.FS // nil where the filesystem is another
}

// ReadOnlyError says that a filesystem is one that is only read.
type ReadOnlyError struct{ Type string }

// Error names the filesystem.
func (e *ReadOnlyError) Error() string {
	return e.Type + " is only read here, not written"
}

// Unwrap gives EROFS.
func (e *ReadOnlyError) Unwrap() error { return unix.EROFS }

// Open opens the filesystem on a disk. A volume that is opened to be read leaves the disk
// as it is: a journal that waits for its replay is replayed in memory. The caller keeps
// dev open until Close has returned, and closes it.
func Open(dev ubdfmt.Device, write bool) (*Volume, error) {
	fs, err := ext4.Open(dev, ext4Options(false))
	if err == nil && write {
		fs, err = reopen(dev, fs)
	}
	if err == nil {
		return &Volume{fs: extFS{fs}, ext: fs}, nil
	}
	var not *ext4.NotExtError
	if !errors.As(err, &not) {
		return nil, err
	}
	var media filesystem
	err = nil
	switch not.Found {
	case "vfat", "a partition table or boot sector":
		// Any boot sector ends like one of FAT, and FAT's label need not be there.
		if media, err = openFAT(dev); errors.Is(err, errNotFAT) {
			media, err = nil, nil
		}
	case "iso9660":
		media, err = openISO(dev)
	case "squashfs":
		media, err = openSquash(dev)
	}
	switch {
	case err != nil:
		return nil, err
	case media != nil && write:
		u, err := media.usage()
		return nil, errors.Join(&ReadOnlyError{u.Type}, err, media.close())
	case media != nil:
		return &Volume{fs: media}, nil
	case not.Found == "":
		return nil, fmt.Errorf("no filesystem is found on it: %w", unix.EINVAL)
	}
	return nil, &NoFilesystemError{not.Found}
}

// reopen opens a filesystem to be written that was looked at, unless that could make things
// worse.
func reopen(dev ubdfmt.Device, look *ext4.FS) (*ext4.FS, error) {
	bad := look.Info().NeedsCheck
	if err := look.Close(); err != nil {
		return nil, err
	}
	if bad {
		return nil, fmt.Errorf("errors were found in the filesystem: e2fsck must run before it is written to: %w", unix.EUCLEAN)
	}
	return ext4.Open(dev, ext4Options(true))
}

// NoFilesystemError says what is on a disk in place of a filesystem that we read.
type NoFilesystemError struct{ Found string }

// Error names what was found.
func (e *NoFilesystemError) Error() string {
	return fmt.Sprintf("it holds %s: ext2, ext3, ext4, FAT, ISO 9660 and squashfs can be read", e.Found)
}

// Unwrap gives EINVAL, as mount(2) says.
func (e *NoFilesystemError) Unwrap() error { return unix.EINVAL }

// Root is the root directory.
func (v *Volume) Root() (Node, error) { return v.fs.root() }

// Usage counts blocks and files.
func (v *Volume) Usage() (Usage, error) { return v.fs.usage() }

// Ext4 is the engine of an ext2, ext3 or ext4 filesystem, nil for another.
func (v *Volume) Ext4() *ext4.FS { return v.ext }

// Close makes what was written stable and lets go of the filesystem.
func (v *Volume) Close() error { return v.fs.close() }
