package ubdfmt

import (
	"encoding/binary"
	"fmt"
)

// Dialect is one of the forms in which COW headers were written over the years.
type Dialect int

const (
	// NotCOW: the bytes do not begin a COW file.
	NotCOW Dialect = iota
	// V1: the C struct of a little-endian host with a time_t of 32 bits; 256 bytes of
	// path, and the bitmap at its end at once.
	V1
	// V1Wide: the same of a host with a time_t of 64 bits.
	V1Wide
	// V1BigEndian: the same of a big-endian host, of either width. It is not read.
	V1BigEndian
	// V2: big-endian and packed; the bitmap follows the header at once.
	V2
	// V3: big-endian and packed, with an alignment for bitmap and data. What
	// every kernel since 2005 writes.
	V3
	// V3Broken: version 3 as 64-bit hosts wrote it before December 2005, with
	// the padding of a C struct.
	V3Broken
	// QEMU: the format of QEMU's former cow driver, which took over magic and
	// version 2 but not the layout. It is not read.
	QEMU
)

// String names the dialect as error messages do.
func (d Dialect) String() string {
	switch d {
	case V1:
		return "COW version 1 of a 32-bit host"
	case V1Wide:
		return "COW version 1 of a 64-bit host"
	case V1BigEndian:
		return "COW version 1 of a big-endian host"
	case V2:
		return "COW version 2"
	case V3:
		return "COW version 3"
	case V3Broken:
		return "COW version 3 in the unpacked layout of old 64-bit hosts"
	case QEMU:
		return "QEMU cow"
	}
	return "no COW"
}

// fields is where a dialect's header has what, in bytes from the start of the file.
// Numbers without a size of their own have 4 bytes.
type fields struct {
	order             binary.ByteOrder
	version           uint32
	path, pathLength  int
	mtime, mtimeBytes int
	size              int // 8 bytes
	sectorSize        int
	alignment, format int // 0: the dialect has none
	// length is the header's, with the padding that a C compiler put behind it.
	length int
}

const (
	magic         = 0x4f4f4f4d
	magicOffset   = 0
	versionOffset = 4
)

// dialectFields are those of the dialects that are read.
var dialectFields = map[Dialect]fields{
	V1: {order: binary.LittleEndian, version: 1, path: 8, pathLength: 256,
		mtime: 264, mtimeBytes: 4, size: 268, sectorSize: 276, length: 280},
	V1Wide: {order: binary.LittleEndian, version: 1, path: 8, pathLength: 256,
		mtime: 264, mtimeBytes: 8, size: 272, sectorSize: 280, length: 288},
	V2: {order: binary.BigEndian, version: 2, path: 8, pathLength: 4096,
		mtime: 4104, mtimeBytes: 4, size: 4108, sectorSize: 4116, length: 4120},
	V3: {order: binary.BigEndian, version: 3, path: 32, pathLength: 4096,
		mtime: 8, mtimeBytes: 4, size: 12, sectorSize: 20, alignment: 24, format: 28, length: 4128},
	V3Broken: {order: binary.BigEndian, version: 3, path: 36, pathLength: 4096,
		mtime: 8, mtimeBytes: 4, size: 16, sectorSize: 24, alignment: 28, format: 32, length: 4136},
}

// Detect tells from the first bytes of a file (HeaderLength of them, or the whole
// file if it is shorter) whether it is a COW file, and which dialect. It returns
// NotCOW for anything without the magic number, and V3 for a version it has never
// heard of: DecodeHeader then names the version.
func Detect(b []byte) Dialect {
	if len(b) < 4 {
		return NotCOW
	}
	be := binary.BigEndian
	if binary.LittleEndian.Uint32(b) == magic {
		d, _ := detectV1(b, -1)
		return d
	}
	if be.Uint32(b) != magic {
		return NotCOW
	}
	if len(b) < versionOffset+4 {
		return V3
	}
	switch be.Uint32(b[versionOffset:]) {
	case 1:
		return V1BigEndian
	case 2:
		// QEMU's path has 1024 bytes and unpacked fields after it, where a
		// version 2 path that short has only zeros.
		if len(b) >= 1056 && be.Uint64(b[1040:]) != 0 && be.Uint32(b[1048:]) == SectorSize {
			return QEMU
		}
		return V2
	case 3:
		// The unpacked layout has its cow_format, zero, where the packed one
		// has the path, and its path four bytes later.
		if len(b) >= 40 && be.Uint32(b[32:]) == 0 && b[36] != 0 && be.Uint32(b[24:]) == SectorSize {
			return V3Broken
		}
	}
	return V3
}

// detectV1 tells how wide the time_t of a version 1 header is. Both readings make sense
// only of a header that one of them places past 2 TiB; the length of the file (-1: not
// known) tells there, as those who write COW files make them end with the disk.
func detectV1(b []byte, length int64) (Dialect, error) {
	narrow, errNarrow := decode(V1, b)
	wide, errWide := decode(V1Wide, b)
	switch {
	case errWide != nil:
		return V1, nil
	case errNarrow != nil:
		return V1Wide, nil
	}
	endsThere := func(h Header) bool { return length == h.Layout().DataOffset+h.Size }
	switch {
	case endsThere(narrow):
		return V1, nil
	case endsThere(wide):
		return V1Wide, nil
	}
	return V1, headerError("size", uint64(wide.Size),
		fmt.Sprintf("is that of a 64-bit host's disk, or %d of a 32-bit host's: the file's length fits neither", narrow.Size))
}
