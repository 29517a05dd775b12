package ubdfmt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// RebaseMode says what Rebase makes sure of before it changes the header.
type RebaseMode int

const (
	// RebaseMerge keeps what the disk shows: where the new backing file differs from
	// the old one in what the COW file does not hold, the COW file takes the old
	// content first.
	RebaseMerge RebaseMode = iota
	// RebaseVerify takes a new backing file only if it differs from the old one in
	// nothing that the COW file does not hold. Nothing but the header changes.
	RebaseVerify
	// RebaseUnsafe takes any file of the right size. What the disk shows where the
	// COW file holds nothing is then that file's.
	RebaseUnsafe
)

// RebaseOptions say how a COW file gets another backing file.
type RebaseOptions struct {
	Mode RebaseMode
	// Reference is a copy of the backing file as it was when the COW file matched
	// it, for when the file that the header names is gone or has changed. That it is
	// a true copy is the caller's word; its size is checked. "" is the header's file,
	// if that still matches the header and is not the new one.
	Reference string
	// Progress is told how much of the disk is done, in bytes, one call at a time.
	// It may be nil.
	Progress func(done, total int64)
}

// Rebased is what Rebase did.
type Rebased struct {
	// Header is the header as it is now.
	Header Header
	// Compared tells whether two files were compared, and with which reference.
	Compared  bool
	Reference string
	// Copied is how much the COW file took of the reference, in bytes.
	Copied int64
}

// ErrNoReference says that nothing is at hand that would tell whether a backing file that
// was touched has changed too: neither the file as it was nor a copy of it. A COW file
// has no sums of what it relies on.
var ErrNoReference = errors.New("nothing tells whether its content has changed: " +
	"name a copy of it as it was, or take it without a comparison")

// DifferenceError says that a backing file is not the same as the one before it in
// something that the COW file relies on.
type DifferenceError struct {
	Backing, Reference string
	// Offset is where on the disk the first difference lies, in bytes, rounded down to
	// a block.
	Offset int64
}

func (e *DifferenceError) Error() string {
	return fmt.Sprintf("%s differs from %s at %d, which the COW file does not hold", e.Backing, e.Reference, e.Offset)
}

// Unwrap makes errors.Is(err, unix.EINVAL) hold.
func (e *DifferenceError) Unwrap() error { return unix.EINVAL }

// Rebase makes a COW file lie over another backing file, or over the same one ("") with
// the modification time it has now. Its size must be the header's.
//
// A file of the header's size and modification time is taken for the header's that was
// moved, as the kernel takes it, unless there is a reference to compare with.
//
// All that RebaseMerge copies is stable before the header changes, and the header changes
// in one write. Killed at any point and done again, the end is the same.
//
// The errors are the host's, *HeaderError, *DialectError, *LockedError, *MismatchError
// (a different size, or with ErrNoReference a different time), *DifferenceError.
func Rebase(ctx context.Context, cow, backing string, o RebaseOptions) (Rebased, error) {
	f, err := openHost(cow, Options{}, true)
	if err != nil {
		return Rebased{}, err
	}
	defer f.Close()
	h, err := f.readHeader()
	if err != nil {
		return Rebased{}, err
	}
	bits, err := f.readBitmap(h, h.Layout())
	if err != nil {
		return Rebased{}, err
	}
	next, _, err := Policy{Backing: backing, AnyTime: true}.openBacking(f, h, Options{})
	if err != nil {
		return Rebased{}, err
	}
	defer next.Close()
	isCOW, err := next.isCOW()
	if err == nil && isCOW {
		err = fmt.Errorf("backing file %s is a COW file itself", next.path)
	}
	if err != nil {
		return Rebased{}, err
	}
	r := rebase{file: f, next: next, header: h, bits: bits, o: o}
	if o.Mode != RebaseUnsafe {
		if err := r.compare(ctx); err != nil {
			return Rebased{}, err
		}
	}
	named, err := h.over(backing, next)
	if err != nil {
		return Rebased{}, err
	}
	if err := f.adopt(&r.header, named); err != nil {
		return Rebased{}, err
	}
	r.done.Header = r.header
	return r.done, nil
}

// rebase is one that is under way.
type rebase struct {
	file, next *hostFile
	header     Header
	bits       *bitmap
	o          RebaseOptions
	done       Rebased
}

// compare compares the new backing file with the reference, and copies or refuses what
// differs.
func (r *rebase) compare(ctx context.Context) error {
	ref, err := r.reference()
	if err != nil {
		return err
	}
	if ref == nil {
		if err := (Policy{}).validate(r.header, r.file.path, r.next); err != nil {
			return fmt.Errorf("%w; %w", err, ErrNoReference)
		}
		return nil
	}
	defer ref.Close()
	r.done.Compared, r.done.Reference = true, ref.path

	c := disk(r.file, ref, r.header, r.bits, Options{})
	covered := c.layout.BitmapLength * 8 * SectorSize
	var mu sync.Mutex
	first := int64(-1)
	var copied atomic.Int64
	d := differ{
		a: newRaw(r.next, Options{}), b: newRaw(ref, Options{}), size: c.size,
		skip:     c.run,
		progress: r.o.Progress,
		found: func(off int64, b []byte) error {
			if r.o.Mode == RebaseMerge && off+int64(len(b)) <= covered {
				copied.Add(int64(len(b)))
				return c.keep(off, int64(len(b)))
			}
			mu.Lock()
			defer mu.Unlock()
			if first < 0 || off < first {
				first = off
			}
			return errDiffers
		},
	}
	if err := d.run(ctx); err != nil && !errors.Is(err, errDiffers) {
		return err
	}
	if first >= 0 {
		return &DifferenceError{Backing: r.next.path, Reference: ref.path, Offset: first}
	}
	r.done.Copied = copied.Load()
	return c.Sync()
}

var errDiffers = errors.New("the files differ")

// keep makes the COW file hold the blocks of a range, as the backing file has them.
func (c *COW) keep(off, n int64) error {
	for end := off + n; off < end; {
		first, upto := c.block(off)
		s := c.stripe(first)
		s.Lock()
		err := c.copyUp(first)
		s.Unlock()
		if err != nil {
			return err
		}
		off = upto
	}
	return nil
}

// reference opens what the new backing file is to be compared with; nil if there is
// nothing.
func (r *rebase) reference() (*hostFile, error) {
	path := r.o.Reference
	if path == "" {
		path = r.header.Backing
	}
	ref, err := openHost(path, Options{ReadOnly: true}, true)
	if r.o.Reference == "" {
		// Only a file that is surely the old one, and another than the new one, serves.
		if err == nil && !os.SameFile(ref.info, r.next.info) && (Policy{}).validate(r.header, r.file.path, ref) == nil {
			return ref, nil
		}
		if err == nil {
			ref.Close()
		}
		var locked *LockedError
		if errors.As(err, &locked) {
			return nil, err
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	err = Policy{AnyTime: true}.validate(r.header, r.file.path, ref)
	switch {
	case os.SameFile(ref.info, r.file.info):
		err = fmt.Errorf("reference %s is the COW file itself", path)
	case err != nil:
		err = fmt.Errorf("reference: %w", err)
	case os.SameFile(ref.info, r.next.info):
		err = fmt.Errorf("reference %s is the new backing file itself", path)
	}
	if err != nil {
		ref.Close()
		return nil, err
	}
	return ref, nil
}
