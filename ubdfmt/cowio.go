package ubdfmt

import (
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
		held, end := c.run(at, off+int64(len(p)))
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
func (c *COW) run(off, end int64) (held bool, upto int64) {
	held, next := c.bits.run(off/SectorSize, ceilDiv(end, SectorSize))
	return held, min(next*SectorSize, end)
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

func (c *COW) stripe(off int64) *stripe {
	return &c.stripes[off/chunkDisk%int64(len(c.stripes))]
}

// write writes a range within one chunk.
func (c *COW) write(p []byte, off int64) error {
	s := c.stripe(off)
	end := off + int64(len(p))
	s.RLock()
	if !c.mustCopy(off) && !c.mustCopy(end) {
		err := c.put(p, off)
		s.RUnlock()
		return err
	}
	s.RUnlock()

	s.Lock()
	defer s.Unlock()
	for _, edge := range [2]int64{off, end} {
		// While the lock was not held, or by the first turn, the sector may have
		// been copied.
		if !c.mustCopy(edge) {
			continue
		}
		if err := c.copyUp(edge / SectorSize * SectorSize); err != nil {
			return err
		}
	}
	return c.put(p, off)
}

// mustCopy tells whether a write that begins or ends at off leaves in place a part of
// a sector that only the backing file has.
func (c *COW) mustCopy(off int64) bool {
	return off%SectorSize != 0 && !c.bits.held(off/SectorSize)
}

// copyUp brings a sector from the backing file into the COW file.
func (c *COW) copyUp(off int64) error {
	var b [SectorSize]byte
	if err := c.readLayer(false, b[:], off); err != nil {
		return err
	}
	return c.put(b[:], off)
}

// put writes to the COW file, then marks the sectors as held.
func (c *COW) put(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := c.file.WriteAt(p, c.layout.DataOffset+off); err != nil {
		return err
	}
	c.bits.set(off/SectorSize, ceilDiv(off+int64(len(p)), SectorSize))
	return nil
}

// Trim makes a range zeros and gives the space it takes in the COW file back to the
// host. Whole sectors become sectors that the COW file holds and that are holes in
// it; where the backing file has a hole itself, nothing need be remembered.
func (c *COW) Trim(off, n int64) error {
	if c.opts.NoTrim {
		return &os.PathError{Op: "trim", Path: c.file.path, Err: unix.EOPNOTSUPP}
	}
	if err := checkWrite(c.file.path, "trim", c.file.readOnly, off, n, c.size); err != nil {
		return err
	}
	end := off + n
	first, last := roundUp(off, SectorSize), end/SectorSize*SectorSize
	if first > last { // within one sector
		first, last = end, end
	}
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

// writeZeros writes zeros to a part of a sector.
func (c *COW) writeZeros(off, end int64) error {
	if off >= end {
		return nil
	}
	var zeros [SectorSize]byte
	return c.write(zeros[:end-off], off)
}

// trim makes whole sectors of one chunk zeros.
func (c *COW) trim(off, end int64) error {
	s := c.stripe(off)
	s.RLock()
	defer s.RUnlock()
	for off < end {
		held, upto := c.run(off, end)
		if held {
			if err := c.file.zero(c.layout.DataOffset+off, upto-off); err != nil {
				return err
			}
			off = upto
			continue
		}
		var failed error
		err := c.backing.segments(off, upto-off, func(at, n int64, hole bool) bool {
			if !hole {
				first, last := at/SectorSize, ceilDiv(at+n, SectorSize)
				// What the file may have there was never valid: a write whose
				// bit was lost. The bit must not bring it back.
				failed = c.file.zero(c.layout.DataOffset+first*SectorSize, (last-first)*SectorSize)
				if failed == nil {
					c.bits.set(first, last)
				}
			}
			return failed == nil
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return err
		}
		off = upto
	}
	return nil
}

// Extents visits where a range lies: sectors that are held in the COW file, at depth
// 0, the others in the backing file, at depth 1, and the holes of either.
func (c *COW) Extents(off, n int64, visit func(Extent) bool) error {
	if err := checkRange(c.file.path, "map", off, n, c.size); err != nil {
		return err
	}
	more := true
	for end := off + n; off < end && more; {
		held, upto := c.run(off, end)
		file, base, depth := c.backing, int64(0), 1
		if held {
			file, base, depth = c.file, c.layout.DataOffset, 0
		}
		err := file.extents(off, upto-off, base, depth, func(e Extent) bool {
			more = visit(e)
			return more
		})
		if err != nil {
			return err
		}
		off = upto
	}
	return nil
}
