// Package mkfs makes ext2, ext3 and ext4 filesystems: empty ones with Format, and filesystems that hold a
// tree from the start with a Builder. It speaks no mount and needs no privilege.
//
// The filesystem is the one that Debian 12's `mke2fs -t ext4` makes for a device of the same
// size: the same features, the same number of inodes, the same layout rules (see geometry.go).
//
// The device must read as zeros (a fresh sparse file does): what would be zero is not written,
// so inode tables, bitmaps and the journal take no space on the host until they are used.
//
// # Building a tree
//
// A tree takes three steps, and only the last two write:
//
//  1. Builder.Add and Builder.Link describe it: names, attributes, sizes. Builder.Need then
//     tells how large a device the tree wants, before a byte is written.
//  2. Builder.Place puts a file's data somewhere and returns where, as byte ranges of the device.
//     The caller writes the data there itself, from as many goroutines as it likes, by whatever
//     way is fastest (pwrite, copy_file_range). Builder.Data is for those who only have an
//     io.Reader. Files are contiguous, in the order in which they were placed.
//  3. Builder.Close writes directories, inodes, bitmaps, group descriptors, the journal and, last,
//     the primary superblock. Before that the device holds no filesystem.
//
// The same calls with the same Options make the same bytes.
package mkfs

import "io"

// Device is what a filesystem is made on. Size is its length in bytes and must not change. The
// device must read as zeros; WriteAt is called from one goroutine at a time. The devices of
// packages ubdfmt and ext4 are Devices, and so is everything else that can be written anywhere.
type Device interface {
	io.WriterAt
	Size() int64
}

// Format makes an empty filesystem on dev: a root directory and lost+found.
//
// Errors are those of NewBuilder and of Builder.Close.
func Format(dev Device, o Options) error {
	b, err := NewBuilder(dev, o)
	if err != nil {
		return err
	}
	return b.Close()
}
