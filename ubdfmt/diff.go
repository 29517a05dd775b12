package ubdfmt

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
)

// DiffOptions say how the difference of two disks is made.
type DiffOptions struct {
	// Progress is told how much of the disk is done, in bytes, one call at a time.
	// It may be nil.
	Progress func(done, total int64)
}

// Diff makes a COW file that turns one image into another: over the raw image old it
// shows what the disk new shows, a raw image or a COW file of the same size. It holds the
// blocks that differ, and holes where new has zeros. It appears whole and stable or not
// at all; one that exists is an error that satisfies errors.Is(err, os.ErrExist). Both
// disks are only read. It returns how many bytes of the disk differ, by the block.
func Diff(ctx context.Context, old, new, cow string, o DiffOptions) (int64, error) {
	h, err := newHeader(old, Options{})
	if err != nil {
		return 0, fmt.Errorf("create %s: %w", cow, err)
	}
	if exists(cow) {
		return 0, &os.PathError{Op: "create", Path: cow, Err: os.ErrExist}
	}
	base, err := openHost(old, Options{ReadOnly: true}, true)
	if err != nil {
		return 0, err
	}
	defer base.Close()
	if err := (Policy{}).validate(h, cow, base); err != nil {
		return 0, err
	}
	target, err := Open(new, "", Options{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer target.Close()
	if have, want := target.Size(), roundUp(h.Size, SectorSize); have != want {
		return 0, fmt.Errorf("%s has %d bytes and %s %d: a COW file is as large as its backing file", new, have, old, want)
	}
	f, err := createFile(cow)
	if err != nil {
		return 0, err
	}
	defer f.discard()
	if err := h.begin(f.File, cow); err != nil {
		return 0, err
	}
	c := disk(&hostFile{File: f.File, path: cow}, base, h, newBitmap(h.Layout()), Options{})
	var differing atomic.Int64
	d := differ{
		a: newRaw(base, Options{ReadOnly: true}), b: target, size: c.size, progress: o.Progress,
		found: func(off int64, b []byte) error {
			differing.Add(int64(len(b)))
			return c.fill(off, b)
		},
	}
	if err := d.run(ctx); err != nil {
		return 0, fmt.Errorf("create %s: %w", cow, errno(err))
	}
	if err := c.Sync(); err != nil {
		return 0, fmt.Errorf("create %s: %w", cow, errno(err))
	}
	return differing.Load(), f.commit(false)
}

// fill writes whole blocks, and trims those that are zeros.
func (c *COW) fill(off int64, b []byte) error {
	for len(b) > 0 {
		n, zero := zeroRun(b, off)
		var err error
		if zero {
			err = c.Trim(off, int64(n))
		} else {
			_, err = c.WriteAt(b[:n], off)
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}
