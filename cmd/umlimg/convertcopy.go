package main

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/ubdfmt/qcow2"
)

const (
	// pieceLength is the most that a worker takes on at once, in bytes: it stays in the
	// processor's cache between reading, comparing and writing.
	pieceLength = 256 << 10
	// blockGrain is the unit in which zeros and what is alike are looked for: what hosts
	// allocate, and what a COW file copies up.
	blockGrain = 4096
	// writeBehind is how much is written before the host is told to begin putting it
	// on the disk, in bytes.
	writeBehind = 8 << 20
)

// diskCopy brings what a disk shows into a new image.
type diskCopy struct {
	from ubdfmt.Device
	// base shows through where the image holds nothing; nil: zeros do.
	base ubdfmt.Device
	// basePath is its file where it is a raw image, else "".
	basePath string
	to       copyTarget
	// inOrder: the target's pieces take turns.
	inOrder bool
	// out is the image's file, for the host to clone into, and to put on the disk early
	// where it is to be stable.
	out      *os.File
	stable   bool
	written  chan struct{} // to writeBack: there is more
	progress func(done, total int64)

	cloning bool // the host has not refused to clone yet
	known   map[*os.File]bool
}

// copyTarget is an image being written.
type copyTarget interface {
	// grain is the unit that the states speak of, in bytes.
	grain() int64
	// put takes a piece: what the disk is to show from off on, and of each grain what is
	// to be done. inTurn runs something after the same of the piece before.
	put(off int64, b []byte, states []qcow2.State, inTurn func(func() error) error) error
}

// copyPiece is a part of the disk to be copied. Its turn comes when that of the piece
// before it is over.
type copyPiece struct {
	off, n       int64
	before, mine chan struct{} // closed when a turn is over; nil where nobody takes turns
}

// run copies everything, or stops when ctx is done.
func (d *diskCopy) run(outer context.Context) error {
	ctx, stop := context.WithCancelCause(outer)
	defer stop(nil)
	count := min(max(runtime.GOMAXPROCS(0), 2), 8)
	pieces := make(chan copyPiece, 4*count)
	var workers sync.WaitGroup
	for range count {
		workers.Go(func() {
			w := copyWorker{diskCopy: d, b: make([]byte, pieceLength), below: make([]byte, pieceLength)}
			for p := range pieces {
				err := ctx.Err()
				if err == nil {
					err = w.copy(p)
				}
				if err != nil {
					stop(err)
					p.pass()
				}
			}
		})
	}
	d.written = make(chan struct{}, 1)
	var behind sync.WaitGroup
	behind.Go(d.writeBack)
	err := d.plan(ctx, pieces)
	close(pieces)
	close(d.written)
	workers.Wait()
	behind.Wait()
	return firstError(outer, ctx, err)
}

// writeBack has the host begin to put on the disk what was written, whenever it is told that
// there is more. It need not be there yet: in the end it must.
func (d *diskCopy) writeBack() {
	for range d.written {
		_ = unix.SyncFileRange(int(d.out.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
}

// firstError is why work ended whose context was made from outer: an interruption, what a
// worker gave as the cause, or err.
func firstError(outer, ctx context.Context, err error) error {
	if outer.Err() != nil {
		return outer.Err()
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// inTurn runs f when it is the piece's turn.
func (p copyPiece) inTurn(f func() error) error {
	<-p.before
	defer close(p.mine)
	return f()
}

// pass ends the turn of a piece that is given up.
func (p copyPiece) pass() {
	if p.mine == nil {
		return
	}
	select {
	case <-p.mine:
	default:
		p.inTurn(func() error { return nil })
	}
}

// planner gathers ranges of the disk, in its order, and cuts them into pieces.
type planner struct {
	*diskCopy
	ctx        context.Context
	pieces     chan<- copyPiece
	turn       chan struct{} // of the piece before
	start, end int64         // gathered and not yet sent
	behind     int64
}

// plan sends the pieces of the disk that may have to be written.
func (d *diskCopy) plan(ctx context.Context, pieces chan<- copyPiece) error {
	p := planner{diskCopy: d, ctx: ctx, pieces: pieces, turn: make(chan struct{})}
	close(p.turn)
	var failed error
	err := d.from.Extents(0, d.from.Size(), func(e ubdfmt.Extent) bool {
		failed = p.extent(e)
		return failed == nil
	})
	if failed == nil {
		failed = err
	}
	if failed == nil {
		failed = p.flush()
	}
	return failed
}

func (p *planner) extent(e ubdfmt.Extent) error {
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	switch {
	case e.File == nil && !e.Compressed:
		return p.hole(e.Offset, e.Length)
	case p.isBase(e):
		return nil
	case p.cloning && p.clone(&e):
		return nil
	}
	return p.add(e.Offset, e.Length)
}

// hole looks at a hole, which need not be one of the base.
func (p *planner) hole(off, n int64) error {
	if p.base == nil || off >= p.base.Size() {
		return nil
	}
	var failed error
	err := p.base.Extents(off, min(n, p.base.Size()-off), func(e ubdfmt.Extent) bool {
		if e.File != nil || e.Compressed {
			failed = p.add(e.Offset, e.Length)
		}
		if failed == nil && p.ctx.Err() != nil {
			failed = context.Cause(p.ctx)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

// isBase tells whether what an extent says is what the base shows there, for it is the
// base.
func (p *planner) isBase(e ubdfmt.Extent) bool {
	if p.basePath == "" || e.Compressed || e.Offset != e.FileOffset {
		return false
	}
	same, known := p.known[e.File]
	if !known {
		have, err := e.File.Stat()
		base, berr := os.Stat(p.basePath)
		same = err == nil && berr == nil && os.SameFile(have, base)
		p.known[e.File] = same
	}
	return same
}

// clone makes the image share whole blocks with the file they lie in, and leaves of the
// extent what is to be copied. It tells whether nothing is.
func (p *planner) clone(e *ubdfmt.Extent) bool {
	n := e.Length / blockGrain * blockGrain
	if e.Compressed || e.Offset%blockGrain != 0 || e.FileOffset%blockGrain != 0 || n == 0 {
		return false
	}
	r := unix.FileCloneRange{Src_fd: int64(e.File.Fd()), Src_offset: uint64(e.FileOffset), Src_length: uint64(n), Dest_offset: uint64(e.Offset)}
	if err := unix.IoctlFileCloneRange(int(p.out.Fd()), &r); err != nil {
		p.cloning = false
		return false
	}
	e.Offset, e.FileOffset, e.Length = e.Offset+n, e.FileOffset+n, e.Length-n
	p.progress(e.Offset, p.from.Size())
	return e.Length == 0
}

// add gathers a range, made one of whole grains.
func (p *planner) add(off, n int64) error {
	grain := p.to.grain()
	first, last := max(off/grain*grain, p.end), min((off+n+grain-1)/grain*grain, p.from.Size())
	if first >= last {
		return nil
	}
	if first > p.end {
		if err := p.flush(); err != nil {
			return err
		}
		p.start = first
	}
	p.end = last
	for p.end-p.start >= pieceLength-p.start%pieceLength {
		if err := p.send(pieceLength - p.start%pieceLength); err != nil {
			return err
		}
	}
	return nil
}

// flush sends what is gathered.
func (p *planner) flush() error {
	for p.start < p.end {
		if err := p.send(min(p.end-p.start, pieceLength-p.start%pieceLength)); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) send(n int64) error {
	piece := copyPiece{off: p.start, n: n}
	if p.inOrder {
		piece.before, piece.mine = p.turn, make(chan struct{})
	}
	select {
	case p.pieces <- piece:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	p.turn = piece.mine
	p.start += n
	if p.start-p.behind >= writeBehind {
		if p.stable {
			select {
			case p.written <- struct{}{}:
			default: // it is told already
			}
		}
		p.behind = p.start
		p.progress(p.start, p.from.Size())
	}
	return nil
}

// copyWorker is one of the goroutines that copy.
type copyWorker struct {
	*diskCopy
	b, below []byte
	states   []qcow2.State
}

func (w *copyWorker) copy(p copyPiece) error {
	b := w.b[:p.n]
	if _, err := w.from.ReadAt(b, p.off); err != nil {
		return err
	}
	var below []byte
	if w.base != nil {
		below = w.below[:p.n]
		have := min(p.n, max(0, w.base.Size()-p.off))
		if _, err := w.base.ReadAt(below[:have], p.off); err != nil {
			return err
		}
		clear(below[have:])
	}
	w.states = w.states[:0]
	for at, grain := int64(0), w.to.grain(); at < p.n; at += grain {
		end := min(p.n, at+grain)
		w.states = append(w.states, stateOf(b[at:end], below, at))
	}
	return w.to.put(p.off, b, w.states, p.inTurn)
}

// stateOf says what is to be done to make an image show b, where below[at:], or zeros,
// show through.
func stateOf(b, below []byte, at int64) qcow2.State {
	zero := isZero(b)
	switch {
	case below == nil && zero, below != nil && bytes.Equal(b, below[at:at+int64(len(b))]):
		return qcow2.Absent
	case zero:
		return qcow2.Zero
	}
	return qcow2.Data
}

var zeroBytes [blockGrain]byte

// isZero tells whether all bytes are zeros.
func isZero(b []byte) bool {
	for len(b) > len(zeroBytes) {
		if !bytes.Equal(b[:len(zeroBytes)], zeroBytes[:]) {
			return false
		}
		b = b[len(zeroBytes):]
	}
	return bytes.Equal(b, zeroBytes[:len(b)])
}

// runs visits the longest ranges of a piece whose grains are of one state.
func runs(b []byte, states []qcow2.State, grain int64, visit func(at int64, b []byte, s qcow2.State) error) error {
	for i := 0; i < len(states); {
		end := i + 1
		for end < len(states) && states[end] == states[i] {
			end++
		}
		at := int64(i) * grain
		if err := visit(at, b[at:min(int64(len(b)), int64(end)*grain)], states[i]); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// rawTarget is a raw image, which begins as a hole.
type rawTarget struct{ *rootfs.Image }

func (rawTarget) grain() int64 { return blockGrain }

func (t rawTarget) put(off int64, b []byte, states []qcow2.State, _ func(func() error) error) error {
	return runs(b, states, blockGrain, func(at int64, b []byte, s qcow2.State) error {
		if s != qcow2.Data {
			return nil
		}
		_, err := t.WriteAt(b, off+at)
		return err
	})
}

// cowTarget is a COW file, which begins as its backing file.
type cowTarget struct{ *ubdfmt.COW }

func (cowTarget) grain() int64 { return blockGrain }

func (t cowTarget) put(off int64, b []byte, states []qcow2.State, _ func(func() error) error) error {
	return runs(b, states, blockGrain, func(at int64, b []byte, s qcow2.State) error {
		switch s {
		case qcow2.Zero:
			return t.Trim(off+at, int64(len(b)))
		case qcow2.Data:
			_, err := t.WriteAt(b, off+at)
			return err
		}
		return nil
	})
}

// qcow2Target is a qcow2 image. Its clusters have the order of the disk.
type qcow2Target struct{ *qcow2.Writer }

func (qcow2Target) grain() int64 { return qcow2.WriteCluster }

func (t qcow2Target) put(off int64, b []byte, states []qcow2.State, inTurn func(func() error) error) error {
	batch, err := t.Prepare(off, b, states)
	if err != nil {
		return err
	}
	if err := inTurn(batch.Place); err != nil {
		return err
	}
	return batch.Write()
}
