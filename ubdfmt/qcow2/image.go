// Package qcow2 reads disk images of QEMU's format, versions 2 and 3, as a
// ubdfmt.Device, and writes new ones of version 3.
//
// The vocabulary is the format's: the disk is cut into clusters; an L1 table names L2
// tables, which name the cluster of the file that holds a cluster of the disk, as it is
// or compressed. What the image does not hold shows through from its backing file, a raw
// image or a qcow2 image. What an image says is bounded before it is used, and what is
// kept of its tables is bounded too.
package qcow2

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// maxChain bounds how many files can stand above each other.
const maxChain = 64

// Image is a qcow2 image with the files below it. It can only be read.
type Image struct {
	path     string
	file     *ubdfmt.Raw
	lock     *os.File // nil: none is held
	header   Header
	l1       []uint64
	sliceLen int64
	slices   sliceCache
	decoded  *decodedClusters
	// backing is nil where there is none.
	backing ubdfmt.Device
}

var _ ubdfmt.Device = (*Image)(nil)

// Open opens a qcow2 image and the backing files below it for reading, and locks them as
// a reader does, qcow2 images in QEMU's way, unless o.Shared. The other options are
// without meaning here. Its errors are those of the host, *FormatError, *UnsupportedError
// and *ubdfmt.LockedError.
func Open(path string, o ubdfmt.Options) (*Image, error) {
	return open(path, ubdfmt.Options{ReadOnly: true, Shared: o.Shared, NoCOW: true, Logf: o.Logf}, nil)
}

// open opens one image of a chain; above are the files that stand on it.
func open(path string, o ubdfmt.Options, above []os.FileInfo) (_ *Image, err error) {
	// Before the lock: an image that is its own backing file would fail at its own.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := checkChain(path, info, above); err != nil {
		return nil, err
	}
	file, err := ubdfmt.OpenRaw(path, ubdfmt.Options{ReadOnly: true, Shared: true})
	if err != nil {
		return nil, err
	}
	im := &Image{path: path, file: file}
	defer func() {
		if err != nil {
			im.Close()
		}
	}()
	if !o.Shared {
		if im.lock, err = lockReader(path); err != nil {
			return nil, err
		}
	}
	if im.header, err = readHeader(file); err != nil {
		return nil, withPath(err, path)
	}
	im.sliceLen = min(im.header.ClusterSize, sliceBytes)
	im.decoded = newDecodedClusters(im.header.ClusterSize)
	if err := im.readL1(); err != nil {
		return nil, err
	}
	if im.header.Backing == "" {
		return im, nil
	}
	if err := im.openBacking(o, append(above, info)); err != nil {
		return nil, fmt.Errorf("backing file of %s: %w", path, err)
	}
	return im, nil
}

func readHeader(file *ubdfmt.Raw) (Header, error) {
	b := make([]byte, sectorSize)
	n, err := file.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return Header{}, err
	}
	b = b[:n]
	if need := headerNeed(b); need > n {
		b = make([]byte, min(int64(need), file.Size()))
		if _, err := file.ReadAt(b, 0); err != nil {
			return Header{}, err
		}
	}
	return DecodeHeader(b)
}

func checkChain(path string, info os.FileInfo, above []os.FileInfo) error {
	if len(above) >= maxChain {
		return fmt.Errorf("%s: more than %d images stand above it", path, maxChain)
	}
	for _, a := range above {
		if os.SameFile(a, info) {
			return fmt.Errorf("%s: the backing files form a loop", path)
		}
	}
	return nil
}

// openBacking opens the file that the header names. Where it does not say of what format
// that is, the file itself does.
func (im *Image) openBacking(o ubdfmt.Options, above []os.FileInfo) error {
	path, err := BackingPath(im.path, im.header.Backing)
	if err != nil {
		return err
	}
	format := im.header.BackingFormat
	if format == "" {
		is, err := Probe(path)
		switch {
		case err != nil:
			return err
		case is:
			format = "qcow2"
		default:
			format = "raw"
		}
	}
	switch format {
	case "qcow2":
		backing, err := open(path, o, above)
		if err != nil {
			return err
		}
		im.backing = backing
	case "raw":
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if err := checkChain(path, info, above); err != nil {
			return err
		}
		backing, err := ubdfmt.OpenRaw(path, o)
		if err != nil {
			return err
		}
		im.backing = backing
	default:
		return &UnsupportedError{Path: path, Feature: fmt.Sprintf("the format %q", format)}
	}
	return nil
}

// BackingPath is where a backing file lies that an image names. Names with a protocol,
// which QEMU knows, are refused but for that of files.
func BackingPath(image, name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "file:"); ok {
		name = rest
	} else if colon := strings.IndexByte(name, ':'); colon >= 0 && !strings.Contains(name[:colon], "/") {
		return "", &UnsupportedError{Feature: fmt.Sprintf("the protocol of %q", name)}
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	// Not filepath.Join: behind a symbolic link ".." is where the host says.
	dir, _ := filepath.Split(image)
	return dir + name, nil
}

// Probe tells by its first bytes whether a file is a qcow2 image.
func Probe(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var b [8]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	return Detect(b[:n]), nil
}

// Header is what the image says about itself.
func (im *Image) Header() Header { return im.header }

// Path is the image as it was named.
func (im *Image) Path() string { return im.path }

// Backing is the disk below the image, nil where there is none; it belongs to the image.
func (im *Image) Backing() ubdfmt.Device { return im.backing }

// Files are the image and the files below it, topmost first, as they were opened.
func (im *Image) Files() []string {
	files := []string{im.path}
	switch b := im.backing.(type) {
	case *Image:
		files = append(files, b.Files()...)
	case *ubdfmt.Raw:
		if path, err := BackingPath(im.path, im.header.Backing); err == nil {
			files = append(files, path)
		}
	}
	return files
}

// Size is the length of the disk in bytes, a multiple of ubdfmt.SectorSize.
func (im *Image) Size() int64 { return (im.header.Size + sectorSize - 1) / sectorSize * sectorSize }

// ReadOnly is true.
func (im *Image) ReadOnly() bool { return true }

// ReadAt reads from the disk; it returns io.EOF when the disk ends before p does.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at %d: %w", im.path, off, unix.EINVAL)
	}
	var eof error
	if have := max(0, im.Size()-off); int64(len(p)) > have {
		p, eof = p[:have], io.EOF
	}
	// Of a last sector that the disk has only in part the rest is zeros.
	if tail := off + int64(len(p)) - im.header.Size; tail > 0 && tail <= int64(len(p)) {
		clear(p[int64(len(p))-tail:])
	}
	end := min(off+int64(len(p)), im.header.Size)
	for n := int64(0); off+n < end; {
		r, err := im.run(off+n, end)
		if err != nil {
			return int(n), err
		}
		if err := im.readRun(p[n:n+r.n], off+n, r); err != nil {
			return int(n), err
		}
		n += r.n
	}
	return len(p), eof
}

func (im *Image) readRun(p []byte, off int64, r run) error {
	switch r.kind {
	case kindPlain:
		return readPadded(im.file, p, r.host)
	case kindCompressed:
		return im.readCompressed(p, off, r)
	case kindAbsent:
		if im.backing != nil {
			return readPadded(im.backing, p, off)
		}
	}
	clear(p)
	return nil
}

// readPadded reads all of p; what lies behind the end of d is zeros.
func readPadded(d ubdfmt.Device, p []byte, off int64) error {
	n, err := d.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return err
	}
	clear(p[n:])
	return nil
}

// Extents visits where a range lies. A compressed cluster is one with Compressed set.
func (im *Image) Extents(off, n int64, visit func(ubdfmt.Extent) bool) error {
	if size := im.Size(); off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("map %s: %d bytes at %d are not within its %d: %w", im.path, n, off, size, unix.EINVAL)
	}
	more := true
	tell := func(e ubdfmt.Extent) bool {
		more = visit(e)
		return more
	}
	end := off + n
	for stop := min(end, im.header.Size); off < stop && more; {
		r, err := im.run(off, stop)
		if err != nil {
			return err
		}
		switch {
		case r.kind == kindCompressed:
			err = im.compressedExtent(off, r, tell)
		case r.kind == kindPlain:
			err = below(im.file, r.host, off, r.n, 0, tell)
		case r.kind == kindAbsent && im.backing != nil:
			err = below(im.backing, off, off, r.n, 1, tell)
		default:
			tell(ubdfmt.Extent{Offset: off, Length: r.n})
		}
		if err != nil {
			return err
		}
		off += r.n
	}
	if off < end && more {
		tell(ubdfmt.Extent{Offset: off, Length: end - off})
	}
	return nil
}

// below visits n bytes at from of another disk as those at off of this one. What lies
// behind the other's end is a hole.
func below(d ubdfmt.Device, from, off, n int64, depth int, visit func(ubdfmt.Extent) bool) error {
	have := min(n, max(0, d.Size()-from))
	more := true
	if have > 0 {
		err := d.Extents(from, have, func(e ubdfmt.Extent) bool {
			e.Offset += off - from
			e.Depth += depth
			more = visit(e)
			return more
		})
		if err != nil {
			return err
		}
	}
	if more && have < n {
		visit(ubdfmt.Extent{Offset: off + have, Length: n - have})
	}
	return nil
}

func (im *Image) compressedExtent(off int64, r run, visit func(ubdfmt.Extent) bool) error {
	var file *os.File
	err := im.file.Extents(r.host/sectorSize*sectorSize, sectorSize, func(e ubdfmt.Extent) bool {
		file = e.File
		return false
	})
	if err != nil {
		return err
	}
	// In a hole there is nothing that could be decompressed; reading says so.
	visit(ubdfmt.Extent{Offset: off, Length: r.n, File: file, FileOffset: r.host, Compressed: true})
	return nil
}

// WriteAt fails: the image is read-only.
func (im *Image) WriteAt([]byte, int64) (int, error) { return 0, im.readOnly("write") }

// Trim fails: the image is read-only.
func (im *Image) Trim(int64, int64) error { return im.readOnly("trim") }

func (im *Image) readOnly(op string) error {
	return &os.PathError{Op: op, Path: im.path, Err: unix.EROFS}
}

// Sync has nothing to do.
func (im *Image) Sync() error { return im.file.Sync() }

// Close closes the image and the files below it.
func (im *Image) Close() error {
	err := im.file.Close()
	if im.lock != nil {
		err = errors.Join(err, im.lock.Close())
	}
	if im.backing != nil {
		err = errors.Join(err, im.backing.Close())
	}
	return err
}
