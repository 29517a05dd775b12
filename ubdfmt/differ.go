package ubdfmt

import (
	"bytes"
	"context"
	"io"
	"sync"
)

// A differ looks for the blocks in which two disks differ. It reads both where either has
// data that the other does not share, and nothing else.
type differ struct {
	a, b Device
	size int64 // what of them is compared, in bytes
	// skip, if it is there, tells how a run of the disk at off is to be taken: as
	// one to leave out, and to where, end at the latest.
	skip func(off, end int64) (skipped bool, upto int64, err error)
	// found takes a run that differs, from any of several goroutines: whole blocks,
	// but for what was left out and for the disks' end. b holds it as disk b does.
	found    func(off int64, b []byte) error
	progress func(done, total int64)
}

// run compares, until all is compared, ctx is done or found fails.
func (d *differ) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	type piece struct{ off, n int64 }
	pieces := make(chan piece, 4*copyWorkers)
	var workers sync.WaitGroup
	for range copyWorkers {
		workers.Go(func() {
			bufA, bufB := make([]byte, copyPiece), make([]byte, copyPiece)
			for p := range pieces {
				if ctx.Err() != nil {
					continue
				}
				if err := d.compare(p.off, bufA[:p.n], bufB[:p.n]); err != nil {
					stop(err)
				}
			}
		})
	}
	err := d.plan(ctx, func(off, n int64) error {
		select {
		case pieces <- piece{off, n}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(pieces)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// plan sends what must be read, in pieces of at most copyPiece.
func (d *differ) plan(ctx context.Context, send func(off, n int64) error) error {
	var inA, inB extentCursor
	inA.disk, inB.disk = d.a, d.b
	for off := int64(0); off < d.size; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		end := d.size
		if d.skip != nil {
			skipped, upto, err := d.skip(off, d.size)
			if err != nil {
				return err
			}
			if skipped {
				off = upto
				continue
			}
			end = upto
		}
		a, err := inA.at(off)
		if err != nil {
			return err
		}
		b, err := inB.at(off)
		if err != nil {
			return err
		}
		if a.sameAs(b, off) {
			off = min(end, a.Offset+a.Length, b.Offset+b.Length)
			continue
		}
		// A piece ends where the grid of pieces has a line, so that blocks are whole.
		upto := min(end, (off/copyPiece+1)*copyPiece)
		if err := send(off, upto-off); err != nil {
			return err
		}
		off = upto
		if d.progress != nil {
			d.progress(off, d.size)
		}
	}
	if d.progress != nil {
		d.progress(d.size, d.size)
	}
	return nil
}

func (d *differ) compare(off int64, a, b []byte) error {
	for _, side := range []struct {
		Device
		p []byte
	}{{d.a, a}, {d.b, b}} {
		// A disk's last sector is whole; both are as long as what is compared.
		if _, err := side.ReadAt(side.p, off); err != nil && err != io.EOF {
			return err
		}
	}
	for at := 0; at < len(a); {
		n, differs := differingRun(a[at:], b[at:], off+int64(at))
		if differs {
			if err := d.found(off+int64(at), b[at:at+n]); err != nil {
				return err
			}
		}
		at += n
	}
	return nil
}

// differingRun returns how much of a and b, which lie at off, is alike in this: blocks
// that differ, or blocks that do not.
func differingRun(a, b []byte, off int64) (n int, differs bool) {
	for n < len(a) {
		end := min(len(a), n+blockSize-int((off+int64(n))%blockSize))
		differ := !bytes.Equal(a[n:end], b[n:end])
		if n == 0 {
			differs = differ
		} else if differ != differs {
			break
		}
		n = end
	}
	return n, differs
}

// sameAs tells whether both extents, which contain off, have the same bytes there because
// both are holes or lie in the same place of one file.
func (e Extent) sameAs(o Extent, off int64) bool {
	if e.File == nil || o.File == nil {
		return e.File == o.File
	}
	return e.File == o.File && e.FileOffset+off-e.Offset == o.FileOffset+off-o.Offset
}

// extentCursor looks up extents of a disk whose offsets are asked for in rising order.
type extentCursor struct {
	disk Device
	e    Extent
}

// at returns the extent that contains off; it ends where it ends.
func (c *extentCursor) at(off int64) (Extent, error) {
	if off >= c.e.Offset && off < c.e.Offset+c.e.Length {
		return c.e, nil
	}
	err := c.disk.Extents(off, c.disk.Size()-off, func(e Extent) bool {
		c.e = e
		return false
	})
	return c.e, err
}
