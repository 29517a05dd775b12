package ubdfmt

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// copyWorkers read and compare side by side; the host lets one at a time write
	// to a file.
	copyWorkers = 2
	// copyPiece is the most a worker takes on at once, in bytes. Its buffer stays in
	// the processor's cache between reading, comparing and writing.
	copyPiece = 256 << 10
	// zeroBlock is the unit in which zeros are looked for: what hosts allocate.
	zeroBlock = 4096
	// progressStep is how much of the disk is done between two words on it, in bytes.
	progressStep = 16 << 20
	// writeBehind is how much is written before the host is told to begin putting it
	// on the disk, in bytes, and writesBehind how many times that may be on its way
	// there. A copier is stopped by nothing but a disk that is slower than it.
	writeBehind  = 8 << 20
	writesBehind = 8
)

// merger copies what a COW file and its backing file show into a target.
type merger struct {
	source *mergeSource
	target *hostFile
	// cloned: the target shows the backing file already. Otherwise it shows zeros.
	cloned bool
	// noSync: nobody waits for the target to be stable.
	noSync bool
	// unshared: the host has refused to share blocks of the two files.
	unshared atomic.Bool
	progress func(done, total int64)
}

// piece is a run of the disk to be copied, or, without a source, to be made zeros.
type piece struct {
	from    *hostFile
	fromOff int64
	off, n  int64
}

// run copies everything, or stops when ctx is done. The target is not made stable.
func (m *merger) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	pieces := make(chan piece, 4*copyWorkers)
	var workers sync.WaitGroup
	for range copyWorkers {
		workers.Go(func() {
			w := copier{merger: m, buf: make([]byte, copyPiece)}
			for p := range pieces {
				if ctx.Err() != nil {
					continue
				}
				if err := w.copy(p); err != nil {
					stop(err)
				}
			}
		})
	}
	written := make(chan span)
	var behind sync.WaitGroup
	behind.Go(func() { m.writeBack(written) })
	err := m.plan(ctx, pieces, written)
	close(pieces)
	close(written)
	workers.Wait()
	behind.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	return m.lastSector()
}

// plan sends the pieces of the disk, in order, and then the ranges that they were in, and
// tells the progress.
func (m *merger) plan(ctx context.Context, pieces chan<- piece, written chan<- span) error {
	c := m.source
	size := c.header.Size
	backing, cow := cursor{file: c.backing}, cursor{file: c.file}
	var behind, told, data int64 // data: what was sent from behind on
	for off := int64(0); off < size; {
		held, next, err := c.bits.run(off/SectorSize, c.layout.Sectors)
		if err != nil {
			return err
		}
		end := min(next*SectorSize, size)
		if !held && m.cloned {
			off = end
			continue
		}
		look, base := &backing, int64(0)
		if held {
			look, base = &cow, c.layout.DataOffset
		}
		for off < end {
			upto, hole, err := look.at(base + off)
			if err != nil {
				return err
			}
			stop := min(end, upto-base)
			p := piece{off: off, n: stop - off}
			if !hole {
				p.from, p.fromOff = look.file, base+off
				p.n = min(p.n, copyPiece-off%copyPiece)
			} else if !m.cloned {
				off = stop
				continue
			}
			select {
			case pieces <- p:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			off += p.n
			if !hole {
				data += p.n
			}
			if data >= writeBehind {
				written <- span{behind, off - behind}
				behind, data = off, 0
			}
			if off-told >= progressStep {
				m.tell(off)
				told = off
			}
		}
	}
	m.tell(size)
	return nil
}

func (m *merger) tell(done int64) {
	if m.progress != nil {
		m.progress(done, m.source.header.Size)
	}
}

// writeBack has the host begin to put ranges on the disk as they come, and waits for those
// long before, so that not more than a few are ever dirty. Who does not wait for the file to
// be stable leaves it to the host. Where the host cannot do that
// nothing is lost: the file is made stable in the end.
func (m *merger) writeBack(written <-chan span) {
	const begin, wait = unix.SYNC_FILE_RANGE_WRITE,
		unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	var last []span
	for s := range written {
		if m.noSync {
			continue
		}
		_ = control(m.target.File, func(fd int) error {
			// The copiers may still be at the end of the newest.
			if len(last) > 0 {
				_ = unix.SyncFileRange(fd, last[len(last)-1].off, last[len(last)-1].n, begin)
			}
			if last = append(last, s); len(last) > writesBehind {
				_ = unix.SyncFileRange(fd, last[0].off, last[0].n, wait)
				last = last[1:]
			}
			return nil
		})
	}
}

// lastSector keeps what the COW file has past the end of a disk whose size is no
// multiple of a sector: a machine sees the last sector whole, and may have put
// something there. The target becomes longer, as the machine's raw image would have.
func (m *merger) lastSector() error {
	c := m.source
	size, whole := c.header.Size, c.layout.Sectors*SectorSize
	if size == whole {
		return nil
	}
	if held, _, err := c.bits.run(c.layout.Sectors-1, c.layout.Sectors); err != nil || !held {
		return err
	}
	tail := make([]byte, whole-size)
	if err := c.file.readFull(tail, c.layout.DataOffset+size, c.layout.DataOffset+size); err != nil {
		return err
	}
	if isZero(tail) {
		return nil
	}
	_, err := m.target.WriteAt(tail, size)
	return err
}

// copier is one of the workers.
type copier struct {
	*merger
	buf []byte
}

func (w *copier) copy(p piece) error {
	if p.from == nil {
		return w.target.zero(p.off, p.n)
	}
	b := w.buf[:p.n]
	if err := p.from.readFull(b, p.fromOff, p.fromOff+p.n); err != nil {
		return err
	}
	for off := p.off; len(b) > 0; {
		n, zero := zeroRun(b, off)
		switch {
		case !zero:
			if err := w.put(p.from, p.fromOff+off-p.off, b[:n], off); err != nil {
				return err
			}
		case w.cloned:
			if err := w.target.zero(off, int64(n)); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// shareLeast is the least that is shared and not copied, in bytes: to share a block takes as
// long as to copy several.
const shareLeast = 16 << 10

// put makes the target show b, which was read from there, and share its blocks where the
// host can do that.
func (w *copier) put(from *hostFile, fromOff int64, b []byte, off int64) error {
	n := int64(len(b))
	if n >= shareLeast && (fromOff|off|n)%blockSize == 0 && !w.unshared.Load() {
		if err := w.target.note(event{op: opWrite, off: off, data: b}); err != nil {
			return err
		}
		r := unix.FileCloneRange{Src_offset: uint64(fromOff), Src_length: uint64(n), Dest_offset: uint64(off)}
		err := control(from.File, func(src int) error {
			return control(w.target.File, func(dst int) error {
				r.Src_fd = int64(src)
				return unix.IoctlFileCloneRange(dst, &r)
			})
		})
		if err == nil {
			return nil
		}
		w.unshared.Store(true)
	}
	_, err := w.target.WriteAt(b, off)
	return err
}

// zeroRun returns how much of b, which lies at off of the target, is alike: blocks that
// are all zeros, or blocks that are not.
func zeroRun(b []byte, off int64) (n int, zero bool) {
	for n < len(b) {
		block := b[n:min(len(b), n+zeroBlock-int((off+int64(n))%zeroBlock))]
		z := isZero(block)
		if n == 0 {
			zero = z
		} else if z != zero {
			break
		}
		n += len(block)
	}
	return n, zero
}

var zeros [zeroBlock]byte

// isZero tells whether at most zeroBlock bytes are all zeros.
func isZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// cursor looks up data and holes of a file whose offsets are asked for in rising
// order, and asks the host once for each.
type cursor struct {
	file *hostFile
	off  int64
	end  int64
	hole bool
}

// at tells whether off lies in a hole, and up to where.
func (c *cursor) at(off int64) (end int64, hole bool, err error) {
	if off >= c.off && off < c.end {
		return c.end, c.hole, nil
	}
	const rest = 1<<62 - 1
	err = c.file.segments(off, rest-off, func(off, n int64, hole bool) bool {
		c.off, c.end, c.hole = off, off+n, hole
		return false
	})
	return c.end, c.hole, err
}
