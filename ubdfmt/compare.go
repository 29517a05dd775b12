package ubdfmt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"sync"
)

// Difference is what Compare found.
type Difference int

const (
	// Same: the disks show the same bytes; where one is longer, zeros.
	Same Difference = iota
	// DifferentContent: a sector shows other bytes.
	DifferentContent
	// DifferentSize: one disk is longer. Only a strict comparison says so.
	DifferentSize
	// DifferentMapping: data on one disk is a hole of the other. Only a strict
	// comparison says so.
	DifferentMapping
)

// CompareOptions say how two disks are compared.
type CompareOptions struct {
	// Strict takes disks of different sizes, and data over a hole, for different too.
	Strict bool
	// Progress is told how much is done, in bytes of the longer disk, one call at a
	// time. It may be nil.
	Progress func(done, total int64)
}

// Comparison is the result of Compare.
type Comparison struct {
	Difference Difference
	// Offset is the first sector that differs, in bytes from the disk's start.
	Offset int64
	// Read is how many bytes of the disks had to be read.
	Read int64
}

// MapError says that a disk could not tell where its bytes lie.
type MapError struct{ Err error }

// Error is that of the disk.
func (e *MapError) Error() string { return e.Err.Error() }

// Unwrap returns the disk's error.
func (e *MapError) Unwrap() error { return e.Err }

// comparePiece is the most that is read of a disk at once, in bytes: two of them stay in
// the processor's cache.
const comparePiece = 256 << 10

// Compare finds the first sector in which two disks differ. Nothing is read where both
// have holes, nor where both show the same bytes of one host file, as two COW files do
// over one backing file. Its errors are a *MapError, that of a read, or the context's.
func Compare(ctx context.Context, a, b Device, o CompareOptions) (Comparison, error) {
	if o.Strict && a.Size() != b.Size() {
		return Comparison{Difference: DifferentSize, Offset: min(a.Size(), b.Size())}, nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c := &comparer{a: a, b: b, o: o, size: max(a.Size(), b.Size()), infos: map[*os.File]os.FileInfo{}}
	c.result.Offset = c.size
	pieces := make(chan stretch, 64)
	var workers sync.WaitGroup
	for range max(2, min(8, runtime.GOMAXPROCS(0))) {
		workers.Go(func() {
			var bufs [2][comparePiece]byte
			for s := range pieces {
				if ctx.Err() != nil || s.off >= c.first() {
					continue
				}
				if err := c.compare(&bufs, s); err != nil {
					stop(err)
				}
			}
		})
	}
	err := c.plan(ctx, pieces)
	close(pieces)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return Comparison{}, cause
	}
	return c.result, err
}

// stretch is a part of both disks that is alike in kind: data, or a hole in one of them.
type stretch struct {
	off, n       int64
	aHole, bHole bool
}

type comparer struct {
	a, b  Device
	o     CompareOptions
	size  int64
	infos map[*os.File]os.FileInfo // the planner's

	mu     sync.Mutex
	result Comparison
}

// first is the first difference so far, or the disks' end.
func (c *comparer) first() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.result.Offset
}

// differ notes a difference if none before it is known.
func (c *comparer) differ(d Difference, off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off < c.result.Offset {
		c.result.Difference, c.result.Offset = d, off
	}
}

// plan sends what has to be read, in order, up to the first known difference.
func (c *comparer) plan(ctx context.Context, pieces chan<- stretch) error {
	var failed error
	nextA, stopA := iter.Pull(extentsOf(c.a, c.size, &failed))
	defer stopA()
	nextB, stopB := iter.Pull(extentsOf(c.b, c.size, &failed))
	defer stopB()
	var ea, eb Extent
	more, told := true, int64(0)
	for off := int64(0); off < c.size; {
		if ea.Offset+ea.Length <= off {
			ea, more = nextA()
		}
		if more && eb.Offset+eb.Length <= off {
			eb, more = nextB()
		}
		if !more {
			return &MapError{failed}
		}
		end := min(ea.Offset+ea.Length, eb.Offset+eb.Length)
		aHole, bHole := ea.File == nil, eb.File == nil
		if c.o.Strict && aHole != bHole {
			c.differ(DifferentMapping, off)
			return nil
		}
		if aHole && bHole || c.shared(ea, eb) {
			off = end
		}
		for off < end {
			s := stretch{off, min(end-off, comparePiece), aHole, bHole}
			select {
			case pieces <- s:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			off += s.n
			if c.first() <= off {
				return nil
			}
		}
		if c.o.Progress != nil && (off-told >= 16<<20 || off == c.size) {
			told = off
			c.o.Progress(off, c.size)
		}
	}
	return nil
}

// extentsOf are a disk's extents, and a hole behind its end up to size. They end early
// when the disk fails.
func extentsOf(d Device, size int64, failed *error) iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		more := true
		end := d.Size()
		err := d.Extents(0, end, func(e Extent) bool {
			more = yield(e)
			return more
		})
		switch {
		case err != nil:
			*failed = err
		case more && end < size:
			yield(Extent{Offset: end, Length: size - end})
		}
	}
}

// shared tells whether two extents show the same bytes of one host file.
func (c *comparer) shared(a, b Extent) bool {
	if a.File == nil || b.File == nil || a.Compressed || b.Compressed || a.FileOffset-a.Offset != b.FileOffset-b.Offset {
		return false
	}
	return a.File == b.File || os.SameFile(c.info(a.File), c.info(b.File))
}

func (c *comparer) info(f *os.File) os.FileInfo {
	info, ok := c.infos[f]
	if !ok {
		info, _ = f.Stat() // nil is no other file's
		c.infos[f] = info
	}
	return info
}

// compare reads a stretch and notes the first sector in it that differs.
func (c *comparer) compare(bufs *[2][comparePiece]byte, s stretch) error {
	a, err := readStretch(c.a, bufs[0][:s.n], s.off, s.aHole)
	if err != nil {
		return err
	}
	b, err := readStretch(c.b, bufs[1][:s.n], s.off, s.bHole)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.result.Read += int64(len(a) + len(b))
	c.mu.Unlock()
	for at := int64(0); at < s.n; {
		// A whole block first: most are equal.
		n := min(s.n-at, zeroBlock)
		if alike(a, b, at, n) {
			at += n
			continue
		}
		for alike(a, b, at, min(SectorSize, s.n-at)) {
			at += SectorSize
		}
		c.differ(DifferentContent, s.off+at)
		return nil
	}
	return nil
}

// alike compares n bytes, zeroBlock at most, at an offset; a nil side is zeros.
func alike(a, b []byte, at, n int64) bool {
	switch {
	case a == nil:
		return isZero(b[at : at+n])
	case b == nil:
		return isZero(a[at : at+n])
	}
	return bytes.Equal(a[at:at+n], b[at:at+n])
}

// readStretch reads a part of a disk, nil for a hole.
func readStretch(d Device, p []byte, off int64, hole bool) ([]byte, error) {
	if hole {
		return nil, nil
	}
	n, err := d.ReadAt(p, off)
	if n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("at %d: %w", off, err)
	}
	return p, nil
}
