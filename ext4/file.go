package ext4

import (
	"fmt"
	"io"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// checkRange refuses offsets that no file can have.
func (n *Inode) checkRange(off, length int64) error {
	if off < 0 || length < 0 || off+length < off {
		return fmt.Errorf("ext4: range %d+%d: %w", off, length, unix.EINVAL)
	}
	return nil
}

// Map visits, in order and without gaps, where the bytes of [off, off+length) lie,
// also past the end of the file, where fallocate can have put blocks. Extents start
// and end with blocks, so the first can start before off and the last end after. What
// was visited holds until the next change of the file's blocks, which the caller
// keeps from happening or notices. visit must not call methods of the same inode.
func (n *Inode) Map(off, length int64, visit func(Extent) bool) error {
	if err := n.checkRange(off, length); err != nil {
		return err
	}
	if n.fs.closed.Load() {
		return errClosed
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.inline() {
		if off < int64(n.d.Size) && length > 0 {
			visit(Extent{0, int64(n.d.Size), 0, Inline})
		}
		return nil
	}
	bits := n.fs.bsBits
	end := (uint64(off+length) + uint64(n.fs.bs) - 1) >> bits
	var last mapping
	for b := uint64(off) >> bits; b < end; {
		m, err := n.mapBlock(b)
		if err != nil {
			return err
		}
		m.count = min(m.count, end-b)
		b += m.count
		if last.count > 0 && last.state == m.state && (m.state == Hole || last.disk+last.count == m.disk) {
			last.count += m.count
			continue
		}
		if last.count > 0 && !visit(n.asExtent(last)) {
			return nil
		}
		last = m
	}
	if last.count > 0 {
		visit(n.asExtent(last))
	}
	return nil
}

func (n *Inode) asExtent(m mapping) Extent {
	bits := n.fs.bsBits
	e := Extent{int64(m.block << bits), int64(m.count << bits), 0, m.state}
	if m.state != Hole {
		e.Disk = int64(m.disk << bits)
	}
	return e
}

// ReadAt reads from the Device straight into p; io.EOF at the end of the file.
func (n *Inode) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("ext4: read at %d: %w", off, unix.EINVAL)
	}
	if n.isDir() {
		return 0, fmt.Errorf("ext4: read of inode %d: %w", n.ino, unix.EISDIR)
	}
	if !n.isRegular() {
		return 0, fmt.Errorf("ext4: read of inode %d: %w", n.ino, unix.EINVAL)
	}
	if n.fs.closed.Load() {
		return 0, errClosed
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.readAt(p, off)
}

// readAt is ReadAt with mu held.
func (n *Inode) readAt(p []byte, off int64) (int, error) {
	size := int64(n.d.Size)
	if len(p) == 0 {
		return 0, nil
	}
	if off >= size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > size-off {
		p = p[:size-off]
		eof = io.EOF
	}
	if n.inline() {
		if _, err := n.readInlineFile(p, off); err != nil {
			return 0, err
		}
		return len(p), eof
	}
	if n.typ == format.ModeSymlink && n.fastSymlink() {
		return 0, n.bad("content of a fast symlink, size", size)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		run, err := n.contiguous(uint64(at)>>n.fs.bsBits, at, int64(len(p)-done))
		if err != nil {
			return done, err
		}
		part := p[done : done+int(run.Length)]
		if run.State != Written {
			clear(part)
		} else if err := n.fs.readData(part, run.Disk); err != nil {
			return done, fmt.Errorf("ext4: read inode %d at %d: %w", n.ino, at, err)
		}
		done += len(part)
	}
	return done, eof
}

// contiguous gives the run of the file's bytes from off on, at most length, that lie
// together; neighbouring extents of one run count as one.
func (n *Inode) contiguous(block uint64, off, length int64) (Extent, error) {
	bits := n.fs.bsBits
	m, err := n.mapBlock(block)
	if err != nil {
		return Extent{}, err
	}
	in := off - int64(block<<bits)
	e := Extent{Offset: off, State: m.state, Length: length}
	if m.state != Hole {
		e.Disk = int64(m.disk<<bits) + in
	}
	end := uint64(off+length-1)>>bits + 1
	for m.block+m.count < end {
		next, err := n.mapBlock(m.block + m.count)
		if err != nil {
			return Extent{}, err
		}
		if next.state != m.state || m.state != Hole && next.disk != m.disk+m.count {
			break
		}
		m.count += next.count
	}
	if c := m.block + m.count; c < end {
		e.Length = int64(c<<bits) - off
	}
	return e, nil
}

// readData reads file data. A block that waits for its place in the log, or that a replay
// left in memory, comes from there.
func (fs *FS) readData(p []byte, disk int64) error {
	if err := fs.logged.read(fs.dev, fs.bsBits, p, disk); err != nil || len(fs.cache.overlay) == 0 {
		return err
	}
	for nr := uint64(disk) >> fs.bsBits; int64(nr<<fs.bsBits) < disk+int64(len(p)); nr++ {
		if o := fs.cache.overlay[nr]; o != nil {
			lay(p, disk, o, int64(nr<<fs.bsBits))
		}
	}
	return nil
}
