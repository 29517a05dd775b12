package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// checkWrite refuses what cannot be written to.
func (n *Inode) checkWrite(off, length int64) error {
	if err := n.checkRange(off, length); err != nil {
		return err
	}
	if n.isDir() {
		return fmt.Errorf("ext4: write to inode %d: %w", n.ino, unix.EISDIR)
	}
	if !n.isRegular() {
		return fmt.Errorf("ext4: write to inode %d: %w", n.ino, unix.EINVAL)
	}
	if n.fs.readOnly.Load() {
		return n.fs.refuse()
	}
	if uint64(off+length) > n.maxSize() {
		return fmt.Errorf("ext4: offset %d of inode %d: %w", off+length, n.ino, unix.EFBIG)
	}
	return nil
}

// WriteAt writes p straight to the Device, gives the file the blocks it needs, grows
// the size, and sets the modification and change times.
//
// Data reaches the disk before the metadata that refers to it, and blocks become part
// of the file in whole: what a crash can show is old content or new, never what the
// blocks held before, unless the mode is DataWriteback. Of a file that is Journaled data
// and metadata go together, a longer write in several steps.
func (n *Inode) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if done, err := n.overwrite(p, off); done || err != nil {
		if err != nil {
			return 0, err
		}
		return len(p), nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	if n.inline() {
		if err := n.convertInline(); err != nil {
			return 0, err
		}
	}
	if err := n.zeroGap(off); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		c, err := n.writeRun(p[done:], off+int64(done))
		done += c
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// overwrite writes into blocks that are written already, within the size: the inode's
// lock is shared then.
func (n *Inode) overwrite(p []byte, off int64) (bool, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.checkWrite(off, int64(len(p))); err != nil {
		return false, err
	}
	if n.inline() || off+int64(len(p)) > int64(n.d.Size) {
		return false, nil
	}
	e, err := n.contiguous(uint64(off)>>n.fs.bsBits, off, int64(len(p)))
	if err != nil || e.State != Written || e.Length < int64(len(p)) {
		return false, err
	}
	if n.Journaled() {
		return true, n.writeLogged(p, e.Disk, off)
	}
	if err := n.writeData(p, e.Disk); err != nil {
		return false, err
	}
	return true, n.wrote(off)
}

func (n *Inode) writeData(p []byte, disk int64) error {
	if _, err := n.fs.dev.WriteAt(p, disk); err != nil {
		return fmt.Errorf("ext4: write to inode %d: %w", n.ino, ioError(err))
	}
	return nil
}

// wrote sets the times, and the size when the file has grown to end.
func (n *Inode) wrote(end int64) error {
	h, err := n.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	return n.grown(h, end)
}

func (n *Inode) grown(h *handle, end int64) error {
	now := n.fs.now()
	core := end > int64(n.d.Size) || n.Journaled() // or data of this transaction
	return n.update(h, core, func(d *format.Inode) {
		d.Mtime, d.Ctime = now, now
		if end > int64(d.Size) {
			n.setSize(h, uint64(end))
		}
	})
}

// setSize stores a size. amu is held.
func (n *Inode) setSize(h *handle, size uint64) {
	n.d.Size = size
	if size > 1<<31-1 && n.fs.roCompat&format.RoLargeFile == 0 {
		n.fs.sbMu.Lock()
		n.fs.sb.FeatureRoCompat |= format.RoLargeFile
		n.fs.sbMu.Unlock()
	}
}

// writeRun writes the start of p: as much as lies, or comes to lie, together.
func (n *Inode) writeRun(p []byte, off int64) (int, error) {
	bits, bs := n.fs.bsBits, int64(n.fs.bs)
	first := uint64(off) >> bits
	last := uint64(off+int64(len(p))-1)>>bits + 1
	m, err := n.mapBlock(first)
	if err != nil {
		return 0, err
	}
	m.count = min(m.count, last-first)
	logged := n.Journaled()
	if logged {
		m.count = min(m.count, n.fs.pieceBlocks())
	}
	var aside run
	if m.state == Hole {
		if aside, err = n.setAside(first, m.count); err != nil {
			return 0, err
		}
		m.disk, m.count = aside.start, aside.count
	}
	end := min(off+int64(len(p)), int64((first+m.count)<<bits))
	p = p[:end-off]
	disk := int64(m.disk << bits)
	if m.state == Written && logged {
		return len(p), n.writeLogged(p, disk+off-int64(first<<bits), end)
	}
	if m.state == Written {
		if err := n.writeData(p, disk+off-int64(first<<bits)); err != nil {
			return 0, err
		}
		return len(p), n.wrote(end)
	}
	blocks := handleBlocks
	if logged {
		blocks += int(m.count)
	} else if err := n.writePadded(p, off, disk, bs); err != nil {
		n.fs.giveBack(aside)
		return 0, err
	}
	h, err := n.fs.beginFor(blocks)
	if err != nil {
		n.fs.giveBack(aside)
		return 0, err
	}
	defer h.end()
	if logged { // a fresh block is not read: no error
		_ = h.logData(p, disk+off-int64(first<<bits), true)
	}
	// The blocks that were written: whole ones, for the rest was padded.
	if m.state == Hole {
		err = n.insert(h, first, aside, false)
	} else {
		err = n.convert(h, first, first+m.count, false)
	}
	if err != nil {
		return 0, err
	}
	return len(p), n.grown(h, end)
}

// writePadded writes p at off of the file into blocks that hold nothing yet and start
// at disk, with zeros before and after it to whole blocks.
func (n *Inode) writePadded(p []byte, off, disk, bs int64) error {
	head := int(off & (bs - 1))
	tail := int(-(int64(head) + int64(len(p))) & (bs - 1))
	if head == 0 && tail == 0 {
		return n.writeData(p, disk)
	}
	if len(p) <= 64<<10 {
		b := make([]byte, head+len(p)+tail)
		copy(b[head:], p)
		return n.writeData(b, disk)
	}
	if head > 0 {
		b := make([]byte, bs)
		c := copy(b[head:], p)
		if err := n.writeData(b, disk); err != nil {
			return err
		}
		p, disk = p[c:], disk+bs
	}
	whole := int64(len(p)) &^ (bs - 1)
	if err := n.writeData(p[:whole], disk); err != nil || tail == 0 {
		return err
	}
	b := make([]byte, bs)
	copy(b, p[whole:])
	return n.writeData(b, disk+whole)
}

// zeroGap zeroes the rest of the last block when a write or a new size at off leaves a
// gap behind the end: it can hold what was written there through a mapping.
func (n *Inode) zeroGap(off int64) error {
	size, bs := int64(n.d.Size), int64(n.fs.bs)
	if off <= size || size&(bs-1) == 0 {
		return nil
	}
	return n.zeroPart(size, min(off, (size|(bs-1))+1))
}

// zeroPart writes zeros to [from, to), which lies in one block, where it is written.
func (n *Inode) zeroPart(from, to int64) error {
	block := uint64(from) >> n.fs.bsBits
	m, err := n.mapBlock(block)
	if err != nil || m.state != Written {
		return err
	}
	zeros, disk := make([]byte, to-from), int64(m.disk<<n.fs.bsBits)+from-int64(block<<n.fs.bsBits)
	if n.Journaled() {
		return n.writeLogged(zeros, disk, 0)
	}
	return n.writeData(zeros, disk)
}

// Allocate gives every block of the range a place on the disk; new ones are Unwritten
// (in files without extents: written with zeros). It does not change the size.
func (n *Inode) Allocate(off, length int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(off, length); err != nil {
		return err
	}
	if n.inline() {
		if err := n.convertInline(); err != nil {
			return err
		}
	}
	return n.allocate(off, length)
}

// allocate is Allocate with mu held.
func (n *Inode) allocate(off, length int64) error {
	if length == 0 {
		return nil
	}
	bits := n.fs.bsBits
	end := uint64(off+length-1)>>bits + 1
	for b := uint64(off) >> bits; b < end; {
		m, err := n.mapBlock(b)
		if err != nil {
			return err
		}
		m.count = min(m.count, end-b)
		if m.state == Hole {
			if m.count, err = n.allocateRun(b, m.count); err != nil {
				return err
			}
		}
		b += m.count
	}
	return nil
}

// allocateRun fills the start of a hole.
func (n *Inode) allocateRun(block, count uint64) (uint64, error) {
	r, err := n.setAside(block, count)
	if err != nil {
		return 0, err
	}
	if !n.extents() {
		if err := n.zeroDisk(r); err != nil {
			n.fs.giveBack(r)
			return 0, err
		}
	}
	h, err := n.fs.begin()
	if err != nil {
		n.fs.giveBack(r)
		return 0, err
	}
	defer h.end()
	return r.count, n.insert(h, block, r, n.extents())
}

// zeroDisk writes zeros to a run of blocks.
func (n *Inode) zeroDisk(r run) error {
	zeros := make([]byte, min(r.count<<n.fs.bsBits, 1<<20))
	for off, end := int64(r.start<<n.fs.bsBits), int64(r.end()<<n.fs.bsBits); off < end; {
		c := min(int64(len(zeros)), end-off)
		if err := n.writeData(zeros[:c], off); err != nil {
			return err
		}
		off += c
	}
	return nil
}

// MarkWritten says that the caller has written the unwritten blocks of the range,
// whole blocks, to where Map said. It does not change the size: a caller who appends
// calls SetSize first, for e2fsck wants no written block behind the end.
func (n *Inode) MarkWritten(off, length int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(off, length); err != nil {
		return err
	}
	if length == 0 || !n.extents() || n.inline() {
		return nil
	}
	bits := n.fs.bsBits
	end := uint64(off+length-1)>>bits + 1
	for at := uint64(off) >> bits; at < end; {
		h, err := n.fs.begin()
		if err != nil {
			return err
		}
		for at < end && err == nil && !h.spent() {
			at, err = n.convertNext(h, at, end, false)
		}
		h.end()
		if err != nil {
			return err
		}
	}
	return nil
}

// SetSize sets the size and nothing else: no block is freed or zeroed.
func (n *Inode) SetSize(size int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(0, size); err != nil {
		return err
	}
	if n.inline() && size > int64(n.d.Size) {
		if err := n.convertInline(); err != nil {
			return err
		}
	}
	h, err := n.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	return n.update(h, true, func(*format.Inode) { n.setSize(h, uint64(size)) })
}

// Truncate sets the size, frees the blocks after it, and zeroes the rest of its last
// block.
func (n *Inode) Truncate(size int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(0, size); err != nil {
		return err
	}
	n.dropWindow()
	if n.inline() {
		if err := n.convertInline(); err != nil {
			return err
		}
	}
	if size > int64(n.d.Size) {
		if err := n.zeroGap(size); err != nil {
			return err
		}
	} else if bs := int64(n.fs.bs); size&(bs-1) != 0 {
		if err := n.zeroPart(size, (size|(bs-1))+1); err != nil {
			return err
		}
	}
	return n.truncate(size)
}

// truncate sets the size and frees what lies behind it. A file with many extents takes
// several handles: the orphan list says meanwhile that there is more to do.
func (n *Inode) truncate(size int64) error {
	fs := n.fs
	from := (uint64(size) + uint64(fs.bs) - 1) >> fs.bsBits
	h, err := fs.begin()
	if err != nil {
		return err
	}
	now := fs.now()
	err = n.update(h, true, func(d *format.Inode) {
		n.setSize(h, uint64(size))
		d.Mtime, d.Ctime = now, now
	})
	if err != nil {
		h.end()
		return err
	}
	done, err := n.removeSome(h, &from, 1<<62)
	if err == nil && done == n.orphan.cut {
		err = fs.setCut(h, n, !done)
	}
	h.end()
	if err != nil || done {
		return err
	}
	if err := n.removeAll(from, 1<<62); err != nil {
		return err
	}
	if h, err = fs.begin(); err != nil {
		return err
	}
	defer h.end()
	return fs.setCut(h, n, false)
}

// Punch makes a hole: whole blocks are freed, parts of blocks zeroed.
func (n *Inode) Punch(off, length int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(off, length); err != nil {
		return err
	}
	if length == 0 {
		return nil
	}
	if n.inline() {
		if err := n.convertInline(); err != nil {
			return err
		}
	}
	n.dropWindow()
	first, last, err := n.zeroEdges(off, off+length)
	if err != nil {
		return err
	}
	if first < last {
		if err := n.removeAll(first, last); err != nil {
			return err
		}
	}
	return n.wrote(0)
}

// zeroEdges zeroes the parts of blocks at the ends of a range and gives the whole
// blocks between them.
func (n *Inode) zeroEdges(off, end int64) (first, last uint64, err error) {
	bits, bs := n.fs.bsBits, int64(n.fs.bs)
	first, last = uint64(off+bs-1)>>bits, uint64(end)>>bits
	if first > last { // within one block
		return first, last, n.zeroPart(off, end)
	}
	if off&(bs-1) != 0 {
		if err := n.zeroPart(off, int64(first<<bits)); err != nil {
			return 0, 0, err
		}
	}
	if end&(bs-1) != 0 {
		if err := n.zeroPart(int64(last<<bits), end); err != nil {
			return 0, 0, err
		}
	}
	return first, last, nil
}

// Zero makes the range read as zeros and keeps, or gives, it blocks. With keepSize the
// size stays, else it grows to the range's end. Files without extents are refused with
// EOPNOTSUPP, as kernels do: they have no way to say that a block behind the end holds
// nothing yet.
func (n *Inode) Zero(off, length int64, keepSize bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(off, length); err != nil {
		return err
	}
	if length == 0 {
		return fmt.Errorf("ext4: zero range of no length: %w", unix.EINVAL)
	}
	if n.inline() {
		if err := n.convertInline(); err != nil {
			return err
		}
	}
	if !n.extents() {
		return fmt.Errorf("ext4: zero range of inode %d, which has no extents: %w", n.ino, unix.EOPNOTSUPP)
	}
	if err := n.zeroGap(off); err != nil {
		return err
	}
	first, last, err := n.zeroEdges(off, off+length)
	if err != nil {
		return err
	}
	if err := n.allocate(off, length); err != nil {
		return err
	}
	for b := first; b < last; {
		if b, err = n.zeroRun(b, last); err != nil {
			return err
		}
	}
	if keepSize {
		return n.wrote(0)
	}
	return n.wrote(off + length)
}

// zeroRun makes one mapping of [b, last) read as zeros and gives where it ends.
func (n *Inode) zeroRun(b, last uint64) (uint64, error) {
	m, err := n.mapBlock(b)
	if err != nil {
		return b, err
	}
	end := min(b+m.count, last)
	if m.state != Written {
		return end, nil
	}
	h, err := n.fs.begin()
	if err != nil {
		return b, err
	}
	defer h.end()
	return end, n.convert(h, b, end, true)
}

// Fallocate gives the range blocks. With keepSize the size stays, else it grows to the
// range's end.
func (n *Inode) Fallocate(off, length int64, keepSize bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkWrite(off, length); err != nil {
		return err
	}
	if length == 0 {
		return fmt.Errorf("ext4: fallocate of no length: %w", unix.EINVAL)
	}
	if n.inline() {
		if err := n.convertInline(); err != nil {
			return err
		}
	}
	if !n.extents() {
		return fmt.Errorf("ext4: fallocate of inode %d, which has no extents: %w", n.ino, unix.EOPNOTSUPP)
	}
	if end := off + length; !keepSize && end > int64(n.d.Size) {
		if err := n.zeroGap(end); err != nil {
			return err
		}
	}
	if err := n.allocate(off, length); err != nil {
		return err
	}
	if keepSize {
		return nil
	}
	return n.wrote(off + length)
}
