// Package ubdfmt knows the disks of User Mode Linux: raw images and COW files.
//
// A disk is a Device. A raw image is a Device over one host file; a COW file is a
// Device over two, the COW file itself and the backing file that shows through where
// the COW file holds nothing. The vocabulary is the field's own: a sector is 512
// bytes, a backing file is never written through a COW file, the bitmap holds one
// bit for a sector that the COW file holds.
package ubdfmt

import (
	"io"
	"os"
)

// SectorSize is the unit in which a COW file remembers what it holds, in bytes.
const SectorSize = 512

// Device is a disk: a fixed number of bytes that can be read, written, given back
// and made stable. Offsets and lengths are bytes. Every method may be called by any
// number of goroutines at once; overlapping writes land in some order.
//
// A write is visible to reads as soon as it returns, and stable (it survives a crash
// of the host) once a later Sync has returned. Reads and writes past Size fail.
type Device interface {
	io.ReaderAt
	io.WriterAt

	// Size is the length of the disk.
	Size() int64

	// Sync returns when every write and trim that returned before it is stable.
	Sync() error

	// Trim gives [off, off+n) back to the host. The range reads as zeros
	// afterwards, also where a backing file holds data below it.
	Trim(off, n int64) error

	// Extents visits, in order and without gaps, where the bytes of
	// [off, off+n) lie, so that a caller can map, copy or merge without reading.
	// It ends early when visit returns false. A write or a trim that returns
	// after Extents may move what was visited.
	Extents(off, n int64, visit func(Extent) bool) error

	// Close makes the disk stable and gives up its files and locks. Other
	// methods fail after it.
	io.Closer
}

// Extent is a run of a disk's bytes that lie together in one host file.
type Extent struct {
	// Offset and Length are the run on the disk, in bytes.
	Offset, Length int64

	// File is the host file that holds the run and FileOffset where in it the run
	// starts. File is nil for a hole: the run reads as zeros and takes no space.
	// The file belongs to the Device: a caller neither closes nor writes it.
	File       *os.File
	FileOffset int64

	// Compressed: what lies at FileOffset is not the run's bytes but a compressed
	// form of them; they are had by ReadAt only. Raw images and COW files have none.
	Compressed bool

	// Depth is 0 for the topmost file (a raw image or a COW file), 1 for its
	// backing file.
	Depth int
}
