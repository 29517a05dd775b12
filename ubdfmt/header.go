package ubdfmt

import (
	"bytes"
	"encoding/binary"
)

// Dialect is one of the forms in which COW headers were written over the years.
type Dialect int

const (
	// NotCOW: the bytes do not begin a COW file.
	NotCOW Dialect = iota
	// V1: host byte order and the host's C layout; 256 bytes of path.
	V1
	// V2: big-endian and packed; the bitmap follows the header at once.
	V2
	// V3: big-endian and packed, with an alignment for bitmap and data. What
	// every kernel since 2005 writes.
	V3
	// V3Broken: version 3 as 64-bit hosts wrote it before December 2005, with
	// the padding of a C struct.
	V3Broken
	// QEMU: the format of QEMU's former cow driver, which took over magic and
	// version 2 but not the layout.
	QEMU
)

// String names the dialect as error messages do.
func (d Dialect) String() string {
	switch d {
	case V1:
		return "COW version 1"
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

// The layout of a version 3 header: packed, big-endian.
const (
	magic = 0x4f4f4f4d

	magicOffset      = 0
	versionOffset    = 4
	mtimeOffset      = 8
	sizeOffset       = 12
	sectorSizeOffset = 20
	alignmentOffset  = 24
	formatOffset     = 28
	pathOffset       = 32
	pathLength       = 4096

	// HeaderLength is the length of a version 3 header in bytes, and what
	// DecodeHeader wants to see of a file.
	HeaderLength = pathOffset + pathLength

	// defaultAlignment is what kernels write into new headers.
	defaultAlignment = 4096

	// maxAlignment is far above any page size a host has had.
	maxAlignment = 1 << 20

	// MaxSize is the largest disk a COW file may describe, 64 TiB. It keeps
	// what an absurd header can make us allocate small.
	MaxSize = 1 << 46
)

// Header is what a COW file says about itself, whatever its dialect.
type Header struct {
	Dialect Dialect

	// Backing is the path of the backing file, as written.
	Backing string

	// MTime is when the backing file was last changed, in seconds since 1970,
	// modulo 2^32: the field has no more bits.
	MTime uint32

	// Size is the length of the backing file in bytes.
	Size int64

	// SectorSize is the number of bytes a bit of the bitmap stands for.
	SectorSize int64

	// Alignment is the multiple at which bitmap and data begin, in bytes.
	Alignment int64
}

// Layout is where the parts of a COW file lie, in bytes.
type Layout struct {
	BitmapOffset, BitmapLength int64
	DataOffset                 int64
	// Sectors is the number of sectors of the disk, a partial last one included.
	Sectors int64
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
		return V1
	}
	if be.Uint32(b) != magic {
		return NotCOW
	}
	if len(b) < versionOffset+4 {
		return V3
	}
	switch be.Uint32(b[versionOffset:]) {
	case 1:
		return V1 // of a big-endian host
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
		if len(b) >= 40 && be.Uint32(b[pathOffset:]) == 0 && b[36] != 0 &&
			be.Uint32(b[24:]) == SectorSize {
			return V3Broken
		}
	}
	return V3
}

// DecodeHeader reads the header from the first bytes of a COW file, HeaderLength of
// them or the whole file if it is shorter. Every field is checked for sense, alone:
// what the file and the backing file say is for the caller to compare. Its errors are
// a *HeaderError for a field and a *DialectError for a dialect that is not version 3;
// the path in them is empty.
func DecodeHeader(b []byte) (Header, error) {
	d := Detect(b)
	switch d {
	case V3:
		return decodeV3(b)
	case NotCOW:
		var m uint32
		if len(b) >= 4 {
			m = binary.BigEndian.Uint32(b)
		}
		return Header{}, headerError("magic", uint64(m), "is not a COW file's")
	}
	return Header{}, &DialectError{Dialect: d}
}

func decodeV3(b []byte) (Header, error) {
	be := binary.BigEndian
	if len(b) >= versionOffset+4 {
		if v := be.Uint32(b[versionOffset:]); v != 3 {
			return Header{}, headerError("version", uint64(v), "is not known")
		}
	}
	if len(b) < HeaderLength {
		return Header{}, headerError("length", uint64(len(b)), "is less than a header's 4128 bytes")
	}
	size := be.Uint64(b[sizeOffset:])
	switch {
	case size == 0:
		return Header{}, headerError("size", size, "leaves no disk")
	case size > MaxSize:
		return Header{}, headerError("size", size, "is more than 64 TiB")
	}
	sector := be.Uint32(b[sectorSizeOffset:])
	if sector != SectorSize {
		return Header{}, headerError("sectorsize", uint64(sector), "is not 512")
	}
	align := be.Uint32(b[alignmentOffset:])
	if align == 0 || align > maxAlignment || align&(align-1) != 0 {
		return Header{}, headerError("alignment", uint64(align), "is not a power of two up to 1 MiB")
	}
	if f := be.Uint32(b[formatOffset:]); f != 0 {
		return Header{}, headerError("cow_format", uint64(f), "is not 0, a bitmap")
	}
	path := b[pathOffset:HeaderLength]
	end := bytes.IndexByte(path, 0)
	switch end {
	case -1:
		return Header{}, headerError("backing_file", pathLength, "bytes hold no NUL")
	case 0:
		return Header{}, headerError("backing_file", 0, "bytes long: no backing file is named")
	}
	return Header{
		Dialect:    V3,
		Backing:    string(path[:end]),
		MTime:      be.Uint32(b[mtimeOffset:]),
		Size:       int64(size),
		SectorSize: int64(sector),
		Alignment:  int64(align),
	}, nil
}

// Encode returns the header's bytes, HeaderLength of them. Only version 3 is ever
// written.
func (h Header) Encode() ([]byte, error) {
	if h.Dialect != V3 {
		return nil, &DialectError{Dialect: h.Dialect}
	}
	if len(h.Backing) >= pathLength {
		return nil, headerError("backing_file", uint64(len(h.Backing)), "bytes are too long for a header: it takes 4095")
	}
	b := make([]byte, HeaderLength)
	be := binary.BigEndian
	be.PutUint32(b[magicOffset:], magic)
	be.PutUint32(b[versionOffset:], 3)
	be.PutUint32(b[mtimeOffset:], h.MTime)
	be.PutUint64(b[sizeOffset:], uint64(h.Size))
	be.PutUint32(b[sectorSizeOffset:], uint32(h.SectorSize))
	be.PutUint32(b[alignmentOffset:], uint32(h.Alignment))
	copy(b[pathOffset:], h.Backing)
	// What we write, we must be able to read: this checks every field.
	if _, err := decodeV3(b); err != nil {
		return nil, err
	}
	return b, nil
}

// Layout returns where bitmap and data lie in a file with this header. The header is
// one that DecodeHeader returned or Encode accepted.
func (h Header) Layout() Layout {
	sectors := ceilDiv(h.Size, h.SectorSize)
	l := Layout{
		Sectors:      sectors,
		BitmapOffset: roundUp(HeaderLength, h.Alignment),
		BitmapLength: ceilDiv(sectors, 8),
	}
	l.DataOffset = roundUp(l.BitmapOffset+l.BitmapLength, h.Alignment)
	return l
}

func headerError(field string, value uint64, reason string) *HeaderError {
	return &HeaderError{Field: field, Value: value, Reason: reason}
}

func ceilDiv(n, d int64) int64 { return (n + d - 1) / d }

// roundUp rounds n up to a multiple of align. Sizes are bounded far below what would
// overflow.
func roundUp(n, align int64) int64 { return ceilDiv(n, align) * align }
