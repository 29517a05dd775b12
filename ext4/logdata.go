package ext4

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/umlkit/umlkit/ext4/format"
)

// DataMode says how the data of files gets to the disk.
type DataMode uint32

const (
	DataDefault   DataMode = iota // as the superblock says; DataOrdered when it says nothing
	DataOrdered                   // in place, stable before the commit that names its blocks
	DataJournal                   // through the log, in the transaction of its metadata
	DataWriteback                 // in place, at any time; an fsync of the file waits for it
)

// loggedData is the data of files that goes through the log and is not in its place yet:
// reads take it from here, and guests must not map its place.
type loggedData struct {
	// mu is held to look at data and to change it. It comes before txn.mu.
	mu    sync.RWMutex
	m     map[uint64]*buffer
	count atomic.Int64 // of m

	// used is set once there was any: the log can hold copies of file blocks, which
	// must be revoked when the blocks are freed.
	used atomic.Bool
}

// SetDataMode changes the mode. It must not change while files are being written.
func (fs *FS) SetDataMode(m DataMode) {
	if m == DataDefault {
		m = DataOrdered
		switch fs.sb.DefaultMountOpts & format.MountJournalMode {
		case format.MountDataJournal:
			m = DataJournal
		case format.MountDataWriteb:
			m = DataWriteback
		}
	}
	fs.dataMode.Store(uint32(m))
}

// apart gives the device when commits are to write the log without waiting for file data
// that was written before, nil when they are not.
func (fs *FS) apart() StableWriter {
	if DataMode(fs.dataMode.Load()) != DataWriteback || fs.jnl == nil || fs.lax.Load() {
		return nil
	}
	w, _ := fs.dev.(StableWriter)
	return w
}

// Journaled says whether the file's data goes through the log: by the mode, or by a
// flag of its own (chattr +j).
func (n *Inode) Journaled() bool {
	fs := n.fs
	if fs.jnl == nil || fs.jnl.lent || !n.isRegular() {
		return false
	}
	if DataMode(fs.dataMode.Load()) == DataJournal {
		return true
	}
	n.amu.Lock()
	defer n.amu.Unlock()
	return n.d.Flags&format.FlagJournalData != 0
}

// pieceBlocks is how many blocks of data one handle puts on the transaction at most, so
// that none outgrows the log: a longer write takes several.
func (fs *FS) pieceBlocks() uint64 { return uint64(min(256, fs.txn.most/8)) }

// writeLogged writes p at off of the file, where written blocks lie together from disk
// on, through the log. end is the size that the file has at least afterwards.
func (n *Inode) writeLogged(p []byte, disk, end int64) error {
	fs := n.fs
	for len(p) > 0 {
		room := int64(fs.pieceBlocks()<<fs.bsBits) - disk&int64(fs.bs-1)
		part := p[:min(int64(len(p)), room)]
		p = p[len(part):]
		h, err := fs.beginFor(handleBlocks + int(fs.pieceBlocks()))
		if err != nil {
			return err
		}
		if err = h.logData(part, disk, false); err == nil {
			err = n.grown(h, end-int64(len(p)))
		}
		h.end()
		if err != nil {
			return fmt.Errorf("ext4: write to inode %d: %w", n.ino, err)
		}
		disk += int64(len(part))
	}
	return nil
}

// logData puts data for the bytes from disk on into the transaction. In blocks that are
// fresh, what p leaves out is zeros.
func (h *handle) logData(p []byte, disk int64, fresh bool) error {
	fs := h.fs
	fs.logged.used.Store(true)
	for len(p) > 0 {
		in := int(disk & int64(fs.bs-1))
		part := p[:min(len(p), fs.bs-in)]
		if err := h.logBlock(uint64(disk)>>fs.bsBits, in, part, fresh); err != nil {
			return err
		}
		p, disk = p[len(part):], disk+int64(len(part))
	}
	return nil
}

// logBlock is logData for a part of one block.
func (h *handle) logBlock(nr uint64, in int, part []byte, fresh bool) error {
	fs, l := h.fs, &h.fs.logged
	whole := fresh || len(part) == fs.bs
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.m[nr]
	if b == nil {
		data := make([]byte, fs.bs)
		if !whole {
			// What comes into the map meanwhile stays there: a commit waits for h.
			l.mu.Unlock()
			_, err := fs.dev.ReadAt(data, int64(nr)<<fs.bsBits)
			l.mu.Lock()
			if err != nil && err != io.EOF {
				return fmt.Errorf("read block %d: %w", nr, ioError(err))
			}
		}
		if b = l.m[nr]; b == nil {
			b = &buffer{nr: nr, data: data}
			l.m[nr] = b
			l.count.Add(1)
		}
	}
	if fresh {
		clear(b.data)
	}
	copy(b.data[in:], part)
	h.dirty(b, kindData, 0)
	return nil
}

// settle drops what is in its place now. bufs were committed and written home.
func (l *loggedData) settle(t *txn, bufs []*buffer) {
	if l.count.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range bufs {
		if !b.dirty && l.m[b.nr] == b {
			delete(l.m, b.nr)
			l.count.Add(-1)
		}
	}
}

// forget drops a block that was freed.
func (l *loggedData) forget(t *txn, nr uint64) {
	if l.count.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.m[nr]; b != nil {
		t.mu.Lock()
		b.dirty = false
		t.mu.Unlock()
		delete(l.m, nr)
		l.count.Add(-1)
	}
}

// read reads data of a disk from disk on, as it is or as it will be when the log is home.
func (l *loggedData) read(dev Device, bsBits uint, p []byte, disk int64) error {
	if l.count.Load() > 0 {
		l.mu.RLock() // so that none gets home between the two steps
		defer l.mu.RUnlock()
	}
	if _, err := dev.ReadAt(p, disk); err != nil && err != io.EOF {
		return ioError(err)
	}
	l.overlay(p, disk, bsBits)
	return nil
}

// overlay puts the blocks of l over p. mu is held, or there are none.
func (l *loggedData) overlay(p []byte, disk int64, bsBits uint) {
	if l.count.Load() == 0 {
		return
	}
	for nr := uint64(disk) >> bsBits; int64(nr<<bsBits) < disk+int64(len(p)); nr++ {
		if b := l.m[nr]; b != nil {
			lay(p, disk, b.data, int64(nr<<bsBits))
		}
	}
}

// lay copies the block at off over the part of p, which begins at disk, that it covers.
func lay(p []byte, disk int64, block []byte, off int64) {
	if off >= disk {
		copy(p[off-disk:], block)
	} else {
		copy(p, block[disk-off:])
	}
}

// InPlace gives the widest part of [from, to) of the disk around at in which no block
// waits in the log for its place: there the Device has what files hold. It is empty when
// the block at at waits. It holds until the next write to one of these blocks.
func (fs *FS) InPlace(from, to, at int64) (int64, int64) {
	l := &fs.logged
	if l.count.Load() == 0 {
		return from, to
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for nr := range l.m {
		switch first, end := int64(nr<<fs.bsBits), int64((nr+1)<<fs.bsBits); {
		case end <= at:
			from = max(from, end)
		case first > at:
			to = min(to, first)
		default:
			return at, at
		}
	}
	return from, to
}

// emptyLog commits and leaves nothing in the log, so that no replay can bring back older
// content of blocks that are written in place from now on.
func (fs *FS) emptyLog() error {
	if err := fs.commitIfDirty(); err != nil {
		return err
	}
	t := &fs.txn
	t.commitMu.Lock()
	defer t.commitMu.Unlock()
	if fs.jnl.empty {
		return nil
	}
	if err := fs.flush(); err != nil {
		return fs.fail(err)
	}
	if err := fs.jnl.finish(); err != nil {
		return fs.fail(err)
	}
	return nil
}
