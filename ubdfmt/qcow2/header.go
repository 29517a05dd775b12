package qcow2

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// The header: big-endian, 72 bytes in version 2, at least 104 in version 3.
const (
	magic = 0x514649fb // "QFI\xfb"

	headerLength2 = 72
	headerLength3 = 104

	// Incompatible features of version 3: who does not know one must not read on.
	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4

	compatLazyRefcounts = 1 << 0

	// Header extensions, between the header and the backing file's name.
	extensionEnd    = 0
	extensionFormat = 0xe2792aca

	minClusterBits = 9
	maxClusterBits = 21 // QEMU's own limit, 2 MiB
	// maxL1 is QEMU's own limit of an L1 table, 32 MiB, in entries.
	maxL1 = 32 << 20 / 8
	// maxName is the longest name of a backing file, in bytes.
	maxName = 1023

	sectorSize = 512
)

// Header is what a qcow2 image says about itself.
type Header struct {
	// Version is 2 or 3.
	Version int
	// Size is the length of the disk in bytes.
	Size int64
	// ClusterSize is the unit of allocation in bytes, a power of two from 512 to
	// 2 MiB.
	ClusterSize int64
	// Backing is the name of the backing file as written, "" for none; a relative one
	// counts from the image's directory. BackingFormat is "raw", "qcow2" or another
	// of QEMU's names, "" when the image does not say.
	Backing, BackingFormat string
	// Compression is the method of compressed clusters, "zlib" or "zstd".
	Compression string
	// ExtendedL2: clusters are allocated in 32 parts.
	ExtendedL2 bool
	// Dirty: the reference counts may be wrong, which a reader does not mind.
	Dirty bool
	// LazyRefcounts: writers may leave the image dirty.
	LazyRefcounts bool
	// RefcountBits is the width of a reference count.
	RefcountBits int
	// Snapshots is the number of internal snapshots; only the active disk is read.
	Snapshots int

	clusterBits uint
	l1Offset    int64
	l1Size      int
}

// FormatError says what makes no sense in a qcow2 image.
type FormatError struct {
	// Path is the image; empty when a codec was given bytes and no file.
	Path string
	// Field is the field in the names of the format's specification, Value what it
	// holds.
	Field  string
	Value  uint64
	Reason string
}

// Error names the file, the field and the value.
func (e *FormatError) Error() string {
	s := fmt.Sprintf("qcow2: %s %d %s", e.Field, e.Value, e.Reason)
	if strings.HasSuffix(e.Field, "offset") || strings.HasSuffix(e.Field, "entry") || e.Field == "magic" {
		s = fmt.Sprintf("qcow2: %s %#x %s", e.Field, e.Value, e.Reason)
	}
	if e.Path != "" {
		return e.Path + ": " + s
	}
	return s
}

// Unwrap makes errors.Is(err, unix.EINVAL) hold.
func (e *FormatError) Unwrap() error { return unix.EINVAL }

// UnsupportedError names what an image uses and this package does not read.
type UnsupportedError struct {
	// Path is the image; empty when a codec was given bytes and no file.
	Path string
	// Feature is in the words of the format's specification.
	Feature string
}

// Error names the file and the feature.
func (e *UnsupportedError) Error() string {
	s := "qcow2: " + e.Feature + " is not supported"
	if e.Path != "" {
		return e.Path + ": " + s
	}
	return s
}

// Unwrap makes errors.Is(err, unix.EOPNOTSUPP) hold.
func (e *UnsupportedError) Unwrap() error { return unix.EOPNOTSUPP }

func withPath(err error, path string) error {
	switch e := err.(type) {
	case *FormatError:
		e.Path = path
	case *UnsupportedError:
		e.Path = path
	}
	return err
}

func bad(field string, value uint64, format string, a ...any) *FormatError {
	return &FormatError{Field: field, Value: value, Reason: fmt.Sprintf(format, a...)}
}

// Detect tells whether a file with these first bytes is a qcow2 image, of whatever
// version.
func Detect(b []byte) bool {
	return len(b) >= 8 && binary.BigEndian.Uint32(b) == magic && binary.BigEndian.Uint32(b[4:]) >= 2
}

// headerNeed is how much of the file DecodeHeader wants, told by its first 512 bytes:
// the first cluster, in which all of the header lies.
func headerNeed(b []byte) int {
	if len(b) < headerLength2 {
		return len(b)
	}
	if bits := binary.BigEndian.Uint32(b[20:]); bits >= minClusterBits && bits <= maxClusterBits {
		return 1 << bits
	}
	return len(b)
}

// DecodeHeader reads a header from the first cluster of a file, or the whole file if that
// is shorter. Every field is checked for sense, alone: what the file is too short for is
// the caller's to compare. Its errors are *FormatError and *UnsupportedError, without a
// path.
func DecodeHeader(b []byte) (Header, error) {
	be := binary.BigEndian
	if len(b) < 8 || be.Uint32(b) != magic {
		var m uint32
		if len(b) >= 4 {
			m = be.Uint32(b)
		}
		return Header{}, bad("magic", uint64(m), "is not a qcow2 image's")
	}
	h := Header{Version: int(be.Uint32(b[4:])), Compression: "zlib", RefcountBits: 16}
	if h.Version != 2 && h.Version != 3 {
		return Header{}, bad("version", uint64(uint32(h.Version)), "is not known: 2 and 3 are")
	}
	length := uint64(headerLength2)
	if h.Version == 3 {
		length = headerLength3
	}
	if uint64(len(b)) < length {
		return Header{}, bad("length", uint64(len(b)), "is less than a header's %d bytes", length)
	}
	bits := be.Uint32(b[20:])
	if bits < minClusterBits || bits > maxClusterBits {
		return Header{}, bad("cluster_bits", uint64(bits), "is not from %d to %d", minClusterBits, maxClusterBits)
	}
	h.clusterBits, h.ClusterSize = uint(bits), 1<<bits
	switch method := be.Uint32(b[32:]); method {
	case 0:
	case 1:
		return Header{}, &UnsupportedError{Feature: "AES encryption"}
	case 2:
		return Header{}, &UnsupportedError{Feature: "LUKS encryption"}
	default:
		return Header{}, bad("crypt_method", uint64(method), "is not known")
	}
	if h.Version == 3 {
		var err error
		if length, err = h.version3(b); err != nil {
			return Header{}, err
		}
	}
	if n := be.Uint32(b[60:]); n > 65536 {
		return Header{}, bad("nb_snapshots", uint64(n), "is more than 65536")
	} else {
		h.Snapshots = int(n)
	}
	if err := h.tables(b); err != nil {
		return Header{}, err
	}
	return h, h.names(b, length)
}

// version3 reads the fields that version 2 lacks, and returns the header's length.
func (h *Header) version3(b []byte) (length uint64, err error) {
	be := binary.BigEndian
	length = uint64(be.Uint32(b[100:]))
	switch {
	case length < headerLength3 || length%8 != 0:
		return 0, bad("header_length", length, "is not a multiple of 8 from %d on", headerLength3)
	case length > uint64(h.ClusterSize) || length > uint64(len(b)):
		return 0, bad("header_length", length, "is more than the first cluster has")
	}
	incompat := be.Uint64(b[72:])
	switch {
	case incompat&incompatDataFile != 0:
		return 0, &UnsupportedError{Feature: "an external data file"}
	case incompat&incompatCorrupt != 0:
		return 0, &UnsupportedError{Feature: "an image marked as corrupt (qemu-img check -r all repairs it)"}
	}
	h.Dirty = incompat&incompatDirty != 0
	h.ExtendedL2 = incompat&incompatExtendedL2 != 0
	if h.ExtendedL2 && h.clusterBits < 14 {
		return 0, bad("cluster_bits", uint64(h.clusterBits), "is less than 14, which extended L2 entries need")
	}
	const known = incompatDirty | incompatCompression | incompatExtendedL2
	if unknown := incompat &^ known; unknown != 0 {
		return 0, &UnsupportedError{Feature: fmt.Sprintf("incompatible_features %#x", unknown)}
	}
	h.LazyRefcounts = be.Uint64(b[80:])&compatLazyRefcounts != 0
	order := be.Uint32(b[96:])
	if order > 6 {
		return 0, bad("refcount_order", uint64(order), "is more than 6")
	}
	h.RefcountBits = 1 << order
	method := byte(0)
	if length > headerLength3 {
		method = b[headerLength3]
	}
	switch {
	case (method != 0) != (incompat&incompatCompression != 0):
		return 0, bad("compression_type", uint64(method), "contradicts the compression type bit of incompatible_features")
	case method == 1:
		h.Compression = "zstd"
	case method > 1:
		return 0, &UnsupportedError{Feature: fmt.Sprintf("compression_type %d", method)}
	}
	return length, nil
}

// tables reads the disk's size and where its L1 table lies.
func (h *Header) tables(b []byte) error {
	be := binary.BigEndian
	size, n, off := be.Uint64(b[24:]), be.Uint32(b[36:]), be.Uint64(b[40:])
	if size > math.MaxInt64-2<<20 {
		return bad("size", size, "is more than a file can hold")
	}
	h.Size = int64(size)
	if n > maxL1 {
		return bad("l1_size", uint64(n), "is more than %d", maxL1)
	}
	if need := ceilShift(h.Size, h.l1Bits()); int64(n) < need {
		return bad("l1_size", uint64(n), "is less than the %d that the size %d needs", need, size)
	} else {
		h.l1Size = int(need) // what is behind it belongs to snapshots
	}
	if off%uint64(h.ClusterSize) != 0 || off > math.MaxInt64-8*maxL1 || off == 0 && n > 0 {
		return bad("l1_table_offset", off, "is not a multiple of the cluster size in a file")
	}
	h.l1Offset = int64(off)
	return nil
}

// l1Bits is the logarithm of how much of the disk an entry of the L1 table stands for.
func (h *Header) l1Bits() uint { return h.clusterBits + h.l2Bits() }

// l2Bits is the logarithm of the number of entries of an L2 table, which fills a cluster.
func (h *Header) l2Bits() uint {
	if h.ExtendedL2 {
		return h.clusterBits - 4
	}
	return h.clusterBits - 3
}

func ceilShift(n int64, bits uint) int64 {
	if n == 0 {
		return 0
	}
	return (n-1)>>bits + 1
}

// names reads the backing file's name, and its format from the extensions that lie
// between the header and the name.
func (h *Header) names(b []byte, length uint64) error {
	be := binary.BigEndian
	first := uint64(min(int64(len(b)), h.ClusterSize))
	off, n := be.Uint64(b[8:]), uint64(be.Uint32(b[16:]))
	end := first
	if off != 0 {
		switch {
		case n == 0:
			return bad("backing_file_size", n, "leaves the backing file without a name")
		case n > maxName:
			return bad("backing_file_size", n, "is more than %d", maxName)
		case off < length || off > first || n > first-off:
			return bad("backing_file_offset", off, "is not within the first cluster, behind the header")
		}
		h.Backing = string(b[off : off+n])
		if strings.IndexByte(h.Backing, 0) >= 0 {
			return bad("backing_file_size", n, "bytes hold a NUL")
		}
		end = off
	}
	for at := length; at+8 <= end; {
		kind, n := be.Uint32(b[at:]), uint64(be.Uint32(b[at+4:]))
		at += 8
		if kind == extensionEnd {
			break
		}
		if n > end-at {
			return bad("header extension length", n, "is more than the header has room for")
		}
		if kind == extensionFormat {
			h.BackingFormat = string(b[at : at+n])
		}
		at += (n + 7) &^ 7
	}
	return nil
}
