package partition

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// Section is a part of a disk as a disk of its own, as a partition is.
type Section struct {
	dev   ubdfmt.Device
	start int64
	size  atomic.Int64
}

var _ ubdfmt.Device = (*Section)(nil)

// Open opens a partition by its number. The Section owns the disk: its Close closes both.
// When it fails, the disk is still the caller's.
func Open(dev ubdfmt.Device, number int) (*Section, error) {
	t, err := Read(dev)
	if err != nil {
		return nil, err
	}
	p, err := t.Find(number)
	if err != nil {
		return nil, err
	}
	if p.Extended {
		return nil, fmt.Errorf("partition %d is extended: it holds no data, but logical partitions", number)
	}
	return NewSection(dev, p.Start, p.Size), nil
}

// NewSection is [start, start+size) of a disk that has these bytes.
func NewSection(dev ubdfmt.Device, start, size int64) *Section {
	s := &Section{dev: dev, start: start}
	s.size.Store(size)
	return s
}

// Resize gives the section another end. The disk has the bytes up to it.
func (s *Section) Resize(size int64) { s.size.Store(size) }

// Start is where on its disk the section begins, in bytes.
func (s *Section) Start() int64 { return s.start }

// Disk is the disk that the section is a part of.
func (s *Section) Disk() ubdfmt.Device { return s.dev }

// Size implements ubdfmt.Device.
func (s *Section) Size() int64 { return s.size.Load() }

// ReadOnly says that the disk refuses writes.
func (s *Section) ReadOnly() bool {
	r, ok := s.dev.(interface{ ReadOnly() bool })
	return ok && r.ReadOnly()
}

// Layered says that a write may move data to another host file, as it does on a COW file.
func (s *Section) Layered() bool {
	if l, ok := s.dev.(interface{ Layered() bool }); ok {
		return l.Layered()
	}
	_, raw := s.dev.(*ubdfmt.Raw)
	return !raw
}

// ReadAt implements ubdfmt.Device.
func (s *Section) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &os.PathError{Op: "read", Path: "partition", Err: unix.EINVAL}
	}
	size := s.Size()
	if off >= size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	short := int64(len(p)) > size-off
	if short {
		p = p[:size-off]
	}
	n, err := s.dev.ReadAt(p, s.start+off)
	if n == len(p) && errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// WriteAt implements ubdfmt.Device.
func (s *Section) WriteAt(p []byte, off int64) (int, error) {
	if err := s.check("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	return s.dev.WriteAt(p, s.start+off)
}

// Trim implements ubdfmt.Device.
func (s *Section) Trim(off, n int64) error {
	if err := s.check("trim", off, n); err != nil {
		return err
	}
	return s.dev.Trim(s.start+off, n)
}

// Extents implements ubdfmt.Device.
func (s *Section) Extents(off, n int64, visit func(ubdfmt.Extent) bool) error {
	if err := s.check("map", off, n); err != nil {
		return err
	}
	return s.dev.Extents(s.start+off, n, func(e ubdfmt.Extent) bool {
		e.Offset -= s.start
		return visit(e)
	})
}

// Sync implements ubdfmt.Device.
func (s *Section) Sync() error { return s.dev.Sync() }

// Close implements ubdfmt.Device.
func (s *Section) Close() error { return s.dev.Close() }

func (s *Section) check(op string, off, n int64) error {
	if size := s.Size(); off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%s: %d bytes at %d are not within the partition's %d: %w", op, n, off, size, unix.EINVAL)
	}
	return nil
}
