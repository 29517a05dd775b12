package ubdfmt

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
)

const (
	// HeaderLength is the length of the longest header in bytes, and what
	// DecodeHeader wants to see of a file.
	HeaderLength = 4136

	// KernelAlignment is what kernels and the historic uml_mkcow write into new headers.
	// They read any.
	KernelAlignment = 4096

	// newAlignment is what we write. The host keeps the pages of a file in folios that
	// lie at multiples of their size: data at an odd multiple of 4096 is read slower
	// than a raw image. What lies between header, bitmap and data is a hole.
	newAlignment = 1 << 20

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

	// Alignment is the multiple at which bitmap and data begin, in bytes. Before
	// version 3 it is a sector, and the bitmap's place is not aligned.
	Alignment int64
}

// Layout is where the parts of a COW file lie, in bytes.
type Layout struct {
	BitmapOffset, BitmapLength int64
	DataOffset                 int64
	// Sectors is the number of sectors of the disk, a partial last one included.
	Sectors int64
}

// Whole tells whether the bitmap has a bit for every sector. Before version 3 its length
// was rounded wrongly: up to seven sectors at the disk's end have none, and are the
// backing file's for ever.
func (l Layout) Whole() bool { return l.BitmapLength*8 >= l.Sectors }

// DecodeHeader reads the header from the first bytes of a COW file, HeaderLength of
// them or the whole file if it is shorter. Every field is checked for sense, alone:
// what the file and the backing file say is for the caller to compare. Its errors are
// a *HeaderError for a field and a *DialectError for a dialect that is not read; the
// path in them is empty.
//
// Some version 1 headers of disks past 2 TiB can be told apart only by the file's
// length; ReadHeader knows it, and DecodeHeader refuses them.
func DecodeHeader(b []byte) (Header, error) { return decodeHeader(b, -1) }

func decodeHeader(b []byte, length int64) (Header, error) {
	d := Detect(b)
	switch d {
	case NotCOW:
		var m uint32
		if len(b) >= 4 {
			m = binary.BigEndian.Uint32(b)
		}
		return Header{}, headerError("magic", uint64(m), "is not a COW file's")
	case V1, V1Wide:
		var err error
		if d, err = detectV1(b, length); err != nil {
			return Header{}, err
		}
	}
	return decode(d, b)
}

// decode reads the header of a dialect.
func decode(d Dialect, b []byte) (Header, error) {
	f, ok := dialectFields[d]
	if !ok {
		return Header{}, &DialectError{Dialect: d}
	}
	if len(b) >= versionOffset+4 {
		if v := f.order.Uint32(b[versionOffset:]); v != f.version {
			return Header{}, headerError("version", uint64(v), "is not known")
		}
	}
	if len(b) < f.length {
		return Header{}, headerError("length", uint64(len(b)), "is less than a header's "+strconv.Itoa(f.length)+" bytes")
	}
	size := f.order.Uint64(b[f.size:])
	switch {
	case size == 0:
		return Header{}, headerError("size", size, "leaves no disk")
	case size > MaxSize:
		return Header{}, headerError("size", size, "is more than 64 TiB")
	}
	sector := f.order.Uint32(b[f.sectorSize:])
	if sector != SectorSize {
		return Header{}, headerError("sectorsize", uint64(sector), "is not 512")
	}
	mtime := uint64(f.order.Uint32(b[f.mtime:]))
	if f.mtimeBytes == 8 {
		if mtime = f.order.Uint64(b[f.mtime:]); mtime > 1<<32-1 {
			return Header{}, headerError("mtime", mtime, "is past 2106")
		}
	}
	align := uint32(SectorSize)
	if f.alignment != 0 {
		align = f.order.Uint32(b[f.alignment:])
		if align == 0 || align > maxAlignment || align&(align-1) != 0 {
			return Header{}, headerError("alignment", uint64(align), "is not a power of two up to 1 MiB")
		}
		if v := f.order.Uint32(b[f.format:]); v != 0 {
			return Header{}, headerError("cow_format", uint64(v), "is not 0, a bitmap")
		}
	}
	path := b[f.path : f.path+f.pathLength]
	end := bytes.IndexByte(path, 0)
	switch end {
	case -1:
		return Header{}, headerError("backing_file", uint64(f.pathLength), "bytes hold no NUL")
	case 0:
		return Header{}, headerError("backing_file", 0, "bytes long: no backing file is named")
	}
	return Header{
		Dialect:    d,
		Backing:    string(path[:end]),
		MTime:      uint32(mtime),
		Size:       int64(size),
		SectorSize: int64(sector),
		Alignment:  int64(align),
	}, nil
}

// Encode returns the header's bytes in its dialect, with the padding that belongs to
// it. New COW files are of version 3; the others are for headers that name another
// backing file from now on.
func (h Header) Encode() ([]byte, error) {
	f, ok := dialectFields[h.Dialect]
	if !ok {
		return nil, &DialectError{Dialect: h.Dialect}
	}
	if len(h.Backing) >= f.pathLength {
		return nil, headerError("backing_file", uint64(len(h.Backing)), "bytes are too long for a header: it takes "+strconv.Itoa(f.pathLength-1))
	}
	if i := strings.IndexByte(h.Backing, 0); i >= 0 {
		return nil, headerError("backing_file", uint64(i), "is where a NUL stands in it, which ends it")
	}
	if f.alignment == 0 && h.Alignment != SectorSize {
		return nil, headerError("alignment", uint64(h.Alignment), "is not 512, as it is before version 3")
	}
	b := make([]byte, f.length)
	f.order.PutUint32(b[magicOffset:], magic)
	f.order.PutUint32(b[versionOffset:], f.version)
	if f.mtimeBytes == 8 {
		f.order.PutUint64(b[f.mtime:], uint64(h.MTime))
	} else {
		f.order.PutUint32(b[f.mtime:], h.MTime)
	}
	f.order.PutUint64(b[f.size:], uint64(h.Size))
	f.order.PutUint32(b[f.sectorSize:], uint32(h.SectorSize))
	if f.alignment != 0 {
		f.order.PutUint32(b[f.alignment:], uint32(h.Alignment))
	}
	copy(b[f.path:f.path+f.pathLength], h.Backing)
	// What we write, we must be able to read: this checks every field.
	if _, err := decode(h.Dialect, b); err != nil {
		return nil, err
	}
	return b, nil
}

// Layout returns where bitmap and data lie in a file with this header. The header is
// one that DecodeHeader returned or Encode accepted.
func (h Header) Layout() Layout {
	l := Layout{Sectors: ceilDiv(h.Size, h.SectorSize)}
	header := int64(dialectFields[h.Dialect].length)
	switch h.Dialect {
	case V3, V3Broken:
		l.BitmapOffset = roundUp(header, h.Alignment)
		l.BitmapLength = ceilDiv(l.Sectors, 8)
	default:
		// The wrong rounding is what the files have.
		l.BitmapOffset = header
		l.BitmapLength = (h.Size + h.SectorSize - 1) / (8 * h.SectorSize)
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
