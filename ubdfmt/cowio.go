package ubdfmt

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ReadAt reads from the disk; it returns io.EOF when the disk ends before p does.
func (c *COW) ReadAt(p []byte, off int64) (int, error) {
	p, eof, err := clip(c.file.path, p, off, c.size)
	if err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		held, end, err := c.run(at, off+int64(len(p)))
		if err != nil {
			return n, err
		}
		part := p[n : n+int(end-at)]
		if err := c.readLayer(held, part, at); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), eof
}

// run tells whether the sector at off is held, and to which offset that holds for
// those after it, end at the latest.
func (c *COW) run(off, end int64) (held bool, upto int64, err error) {
	held, next, err := c.bits.run(off/SectorSize, ceilDiv(end, SectorSize))
	return held, min(next*SectorSize, end), err
}

// readLayer reads a range of the disk from one of the two files.
func (c *COW) readLayer(held bool, p []byte, off int64) error {
	if held {
		return c.file.readFull(p, c.layout.DataOffset+off, c.layout.DataOffset+c.header.Size)
	}
	return c.backing.readFull(p, off, c.header.Size)
}

// WriteAt writes to the COW file. A write that reaches past the disk's end is refused
// whole.
func (c *COW) WriteAt(p []byte, off int64) (int, error) {
	if err := checkWrite(c.file.path, "write", c.file.readOnly, off, int64(len(p)), c.size); err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		// A part lies in one chunk of the bitmap, and so under one lock.
		part := p[n:min(int64(len(p)), int64(n)+chunkDisk-at%chunkDisk)]
		if err := c.write(part, at); err != nil {
			return n, err
		}
		n += len(part)
	}
	if c.opts.Sync {
		return len(p), c.Sync()
	}
	return len(p), nil
}

// WriteStable is WriteAt, and returns when what it wrote is stable. Where the file holds
// the range already, and the bitmap on the disk says so, the host does not have to write
// what was written before; elsewhere it is Sync.
func (c *COW) WriteStable(p []byte, off int64) (int, error) {
	if err := checkWrite(c.file.path, "write", c.file.readOnly, off, int64(len(p)), c.size); err != nil {
		return 0, err
	}
	end := off + int64(len(p))
	if len(p) > 0 {
		held, upto, err := c.run(off, end)
		if err != nil {
			return 0, err
		}
		if held && upto == end && !c.bits.isDirty(off/SectorSize, ceilDiv(end, SectorSize)) && !c.sync.busy() {
			n, err := c.file.writeStable(p, c.layout.DataOffset+off)
			if !errors.Is(err, unix.EOPNOTSUPP) {
				return n, err
			}
		}
	}
	n, err := c.WriteAt(p, off)
	if err == nil {
		err = c.Sync()
	}
	return n, err
}

func (c *COW) stripe(off int64) *stripe {
	return &c.stripes[off/chunkDisk%int64(len(c.stripes))]
}

// blockSize is the unit that is copied up: a page of the host and of most guests, and
// the block of most filesystems, though the bitmap could say it by the sector. A page
// then lies in one file and can be mapped from there; and kernels (7.2 was seen to)
// read the rest of a request from the wrong place after a page that is held in part.
const blockSize = 4096

// write writes a range within one chunk.
func (c *COW) write(p []byte, off int64) error {
	s := c.stripe(off)
	end := off + int64(len(p))
	s.RLock()
	copies, err := c.mustCopy(off, end)
	if !copies {
		if err == nil {
			err = c.put(p, off)
		}
		s.RUnlock()
		return err
	}
	s.RUnlock()

	s.Lock()
	defer s.Unlock()
	for _, edge := range [2]int64{off, end} {
		// While the lock was not held, or by the first turn, the block may have
		// been copied.
		if copies, err = c.mustCopy(edge); err == nil && copies {
			err = c.copyUp(edge)
		}
		if err != nil {
			return err
		}
	}
	return c.put(p, off)
}

// mustCopy tells whether a write that begins or ends at one of the edges leaves in place a
// part of a block that only the backing file has.
func (c *COW) mustCopy(edges ...int64) (bool, error) {
	for _, off := range edges {
		if off%blockSize == 0 || off == c.size {
			continue
		}
		first, end := c.block(off)
		held, upto, err := c.run(first, end)
		if err != nil {
			return false, err
		}
		if !held || upto < end {
			return true, nil
		}
	}
	return false, nil
}

// block returns the bounds of the block around off; the disk's last one may be short.
func (c *COW) block(off int64) (first, end int64) {
	first = off / blockSize * blockSize
	return first, min(first+blockSize, c.size)
}

// copyUp brings from the backing file into the COW file what the latter lacks of the
// block around off.
func (c *COW) copyUp(off int64) error {
	var b [blockSize]byte
	for at, end := c.block(off); at < end; {
		held, upto, err := c.run(at, end)
		if err != nil {
			return err
		}
		if part := b[:upto-at]; !held {
			if err := c.readLayer(false, part, at); err != nil {
				return err
			}
			if err := c.put(part, at); err != nil {
				return err
			}
		}
		at = upto
	}
	return nil
}

// put writes to the COW file, then marks the sectors as held.
func (c *COW) put(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	// What could not be marked shall not be written either.
	if _, err := c.bits.region(off / SectorSize / regionSectors); err != nil {
		return err
	}
	if _, err := c.file.WriteAt(p, c.layout.DataOffset+off); err != nil {
		return err
	}
	return c.bits.set(off/SectorSize, ceilDiv(off+int64(len(p)), SectorSize))
}

// Trim makes a range zeros and gives the space it takes in the COW file back to the
// host. Whole blocks become blocks that the COW file holds and that are holes in it;
// where the backing file has a hole itself, nothing need be remembered.
func (c *COW) Trim(off, n int64) error {
	if c.opts.NoTrim {
		return &os.PathError{Op: "trim", Path: c.file.path, Err: unix.EOPNOTSUPP}
	}
	if err := checkWrite(c.file.path, "trim", c.file.readOnly, off, n, c.size); err != nil {
		return err
	}
	end := off + n
	first, last := min(end, roundUp(off, blockSize)), end/blockSize*blockSize
	if end == c.size {
		last = end
	}
	last = max(first, last)
	if err := c.writeZeros(off, first); err != nil {
		return err
	}
	for at := first; at < last; {
		upto := min(last, (at/chunkDisk+1)*chunkDisk)
		if err := c.trim(at, upto); err != nil {
			return err
		}
		at = upto
	}
	if err := c.writeZeros(last, end); err != nil {
		return err
	}
	if c.opts.Sync {
		return c.Sync()
	}
	return nil
}

// writeZeros writes zeros to a part of a block.
func (c *COW) writeZeros(off, end int64) error {
	if off >= end {
		return nil
	}
	var zeros [blockSize]byte
	return c.write(zeros[:end-off], off)
}

// trim makes whole blocks of one chunk zeros.
func (c *COW) trim(off, end int64) error {
	s := c.stripe(off)
	s.RLock()
	defer s.RUnlock()
	for off < end {
		held, upto, err := c.run(off, end)
		if err != nil {
			return err
		}
		if held {
			err = c.file.zero(c.layout.DataOffset+off, upto-off)
		} else {
			err = c.hide(off, upto)
		}
		if err != nil {
			return err
		}
		off = upto
	}
	return nil
}

// hide makes sectors that the COW file does not hold zeros. Whole blocks that are holes
// of the backing file are so already.
func (c *COW) hide(off, end int64) error {
	var failed error
	hide := func(off, end int64) {
		if failed != nil || off >= end {
			return
		}
		// What the COW file may have there was never valid: a write whose bit was
		// lost. The bit must not bring it back.
		if failed = c.file.zero(c.layout.DataOffset+off, end-off); failed == nil {
			failed = c.bits.set(off/SectorSize, end/SectorSize)
		}
	}
	done := off // up to there it is settled
	err := c.backing.segments(off, end-off, func(at, n int64, hole bool) bool {
		if first, last := roundUp(at, blockSize), (at+n)/blockSize*blockSize; hole && first < last {
			hide(done, first)
			done = max(done, last)
		}
		return failed == nil
	})
	hide(done, end)
	if err != nil {
		return err
	}
	return failed
}

// Extents visits where a range lies: sectors that are held in the COW file, at depth
// 0, the others in the backing file, at depth 1, and the holes of either.
func (c *COW) Extents(off, n int64, visit func(Extent) bool) error {
	if err := checkRange(c.file.path, "map", off, n, c.size); err != nil {
		return err
	}
	more := true
	below := cursor{file: c.backing} // which does not change meanwhile
	for end := off + n; off < end && more; {
		held, upto, err := c.run(off, end)
		if err != nil {
			return err
		}
		if held {
			err := c.file.extents(off, upto-off, c.layout.DataOffset, 0, func(e Extent) bool {
				more = visit(e)
				return more
			})
			if err != nil {
				return err
			}
			off = upto
			continue
		}
		for off < upto && more {
			stop, hole, err := below.at(off)
			if err != nil {
				return err
			}
			e := Extent{Offset: off, Length: min(stop, upto) - off, Depth: 1}
			if !hole {
				e.File, e.FileOffset = c.backing.File, off
			}
			more = visit(e)
			off += e.Length
		}
	}
	return nil
}
