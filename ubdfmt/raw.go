package ubdfmt

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Raw is a disk that lies in one host file, byte for byte: a regular file or a block
// device.
//
// Its size is that of the file, rounded up to a whole sector as the kernel's driver
// does. In a file whose length is no multiple of a sector, what lies past the end
// reads as zeros, and the first write that reaches there makes the file longer.
type Raw struct {
	file *hostFile
	size int64
	opts Options
	sync *syncer
}

var _ Device = (*Raw)(nil)

// OpenRaw opens a raw image and locks it, for a reader or a writer as o says. The
// errors are those of the host and *LockedError. o.NoCOW is without meaning here: the
// file's content is not looked at.
func OpenRaw(path string, o Options) (*Raw, error) {
	f, err := openHost(path, o, false)
	if err != nil {
		return nil, err
	}
	return newRaw(f, o), nil
}

func newRaw(f *hostFile, o Options) *Raw {
	return &Raw{file: f, size: roundUp(f.size, SectorSize), opts: o, sync: newSyncer(f.datasync)}
}

// Size is the length of the disk in bytes, a multiple of SectorSize.
func (r *Raw) Size() int64 { return r.size }

// ReadOnly tells whether writes are refused, by option or because the host allows
// reading only.
func (r *Raw) ReadOnly() bool { return r.file.readOnly }

// ReadAt reads from the disk; it returns io.EOF when the disk ends before p does.
func (r *Raw) ReadAt(p []byte, off int64) (int, error) {
	p, eof, err := clip(r.file.path, p, off, r.size)
	if err != nil {
		return 0, err
	}
	if err := r.file.readFull(p, off, r.file.size); err != nil {
		return 0, err
	}
	return len(p), eof
}

// WriteAt writes to the disk. A write that reaches past its end is refused whole.
func (r *Raw) WriteAt(p []byte, off int64) (int, error) {
	if err := checkWrite(r.file.path, "write", r.file.readOnly, off, int64(len(p)), r.size); err != nil {
		return 0, err
	}
	n, err := r.file.WriteAt(p, off)
	if err == nil && r.opts.Sync {
		err = r.Sync()
	}
	return n, err
}

// WriteStable is WriteAt, and returns when what it wrote is stable. Other than Sync it
// does not make the host write what was written before.
func (r *Raw) WriteStable(p []byte, off int64) (int, error) {
	if err := checkWrite(r.file.path, "write", r.file.readOnly, off, int64(len(p)), r.size); err != nil {
		return 0, err
	}
	n, err := r.file.writeStable(p, off)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return n, err
	}
	if n, err = r.file.WriteAt(p, off); err == nil { // the host's filesystem does not know how
		err = r.Sync()
	}
	return n, err
}

// Trim makes a range zeros and gives its space back to the host, where the host can.
func (r *Raw) Trim(off, n int64) error {
	if r.opts.NoTrim {
		return &os.PathError{Op: "trim", Path: r.file.path, Err: unix.EOPNOTSUPP}
	}
	if err := checkWrite(r.file.path, "trim", r.file.readOnly, off, n, r.size); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	if err := r.file.zero(off, n); err != nil {
		return err
	}
	if r.opts.Sync {
		return r.Sync()
	}
	return nil
}

// Sync makes stable what was written and trimmed. When the host fails to make data
// stable, nobody knows what was lost, and every later Sync fails too.
func (r *Raw) Sync() error {
	if r.file.readOnly {
		return r.file.checkOpen()
	}
	return r.sync.sync()
}

// Resize makes the file, and so the disk, longer with zeros or shorter. Nobody else may use
// the disk meanwhile. A block device has the size it has.
func (r *Raw) Resize(size int64) error {
	if err := checkWrite(r.file.path, "resize", r.file.readOnly, 0, 0, r.size); err != nil {
		return err
	}
	if !r.file.info.Mode().IsRegular() {
		return &os.PathError{Op: "resize", Path: r.file.path, Err: unix.EINVAL}
	}
	if err := r.file.Truncate(size); err != nil {
		return err
	}
	r.file.size, r.size = size, roundUp(size, SectorSize)
	return nil
}

// Extents visits the data and the holes of a range, all of depth 0.
func (r *Raw) Extents(off, n int64, visit func(Extent) bool) error {
	if err := checkRange(r.file.path, "map", off, n, r.size); err != nil {
		return err
	}
	return r.file.extents(off, n, 0, 0, visit)
}

// extents visits [off, off+n) of a disk that begins at base of the file.
func (h *hostFile) extents(off, n, base int64, depth int, visit func(Extent) bool) error {
	return h.segments(base+off, n, func(at, n int64, hole bool) bool {
		e := Extent{Offset: at - base, Length: n, Depth: depth}
		if !hole {
			e.File, e.FileOffset = h.File, at
		}
		return visit(e)
	})
}

// Close makes the disk stable and closes its file, which gives up the lock.
func (r *Raw) Close() error {
	err := r.Sync()
	if e := r.file.Close(); err == nil {
		err = e
	}
	return err
}

// clip shortens p to what a disk of that size has from off on, and returns io.EOF
// for the reader if that is less than was asked for.
func clip(path string, p []byte, off, size int64) ([]byte, error, error) {
	if off < 0 {
		return nil, nil, fmt.Errorf("read %s at %d: %w", path, off, unix.EINVAL)
	}
	if int64(len(p)) <= size-off {
		return p, nil, nil
	}
	return p[:max(0, size-off)], io.EOF, nil
}

func checkWrite(path, op string, readOnly bool, off, n, size int64) error {
	if readOnly {
		return &os.PathError{Op: op, Path: path, Err: unix.EROFS}
	}
	return checkRange(path, op, off, n, size)
}

func checkRange(path, op string, off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%s %s: %d bytes at %d are not within its %d: %w", op, path, n, off, size, unix.EINVAL)
	}
	return nil
}
