package tty

import (
	"bytes"
	"fmt"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// batch is the room that output has at first, in bytes.
	batch = 32 << 10
	// window is how much output of programs waits for the line, in bytes.
	window = 256 << 10
	// backlog is how much of the kernel's own output, and of echo, waits for a line
	// that is slow or has nobody at its other end yet.
	backlog = 1 << 20
	// writeStep is how much of a write is processed at once.
	writeStep = 64 << 10
	// columnScan is how long an unbroken line may be to be measured: one that is longer
	// has left the screen's width behind long ago.
	columnScan = 1 << 10
	tabWidth   = 8
)

// output is what waits to leave a terminal: output of programs, echo and the kernel's own
// lines, in the order in which they came. It outlives the line's pumps.
type output struct {
	// more wakes the pump; idle tells of output that has reached the line, and waiters
	// are told of room.
	more    chan struct{}
	idle    waiter.Queue
	waiters *waiter.Queue

	mu sync.Mutex
	// sink says where output goes, and pump who takes it there, if it is a line.
	sink sink
	pump *pump
	// pending is the output; up to kept it must not be dropped.
	pending []byte
	kept    int
	// column is where the cursor is, as far as that can be told, and start where it
	// was when the line began that is being typed.
	column, start int
	// step holds a part of a write that is processed.
	step []byte
	// writing is how much of the output the line is taking now.
	writing int
	// sent counts what the line has taken, in bytes.
	sent uint64
	// dropped counts the kernel's lines for which there was no room.
	dropped int
	// stopped is set by the stop character, and by TCXONC: nothing leaves.
	stopped bool
	// newlines says that the kernel's lines need carriage returns.
	newlines bool
}

// sink is where output goes.
type sink int

const (
	// sinkNone swallows all.
	sinkNone sink = iota
	// sinkLater keeps the kernel's lines for who will come, and swallows the rest.
	sinkLater
	// sinkLine is a line.
	sinkLine
)

func newOutput() *output { return &output{more: make(chan struct{}, 1)} }

// wake makes the pump look again.
func (o *output) wake() {
	select {
	case o.more <- struct{}{}:
	default:
	}
}

// join gives the output to p. newlines says whether the kernel's lines need carriage
// returns there: those that have waited for someone get them too.
func (o *output) join(p *pump, newlines bool) {
	o.mu.Lock()
	if o.sink == sinkLater && newlines {
		o.pending = bytes.ReplaceAll(o.pending, []byte("\n"), []byte("\r\n"))
		o.kept = len(o.pending)
	}
	o.sink, o.pump, o.newlines, o.writing = sinkLine, p, newlines, 0
	o.mu.Unlock()
	o.wake()
}

// setNewlines says whether the kernel's lines need carriage returns on p's line.
func (o *output) setNewlines(p *pump, newlines bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pump == p {
		o.newlines = newlines
	}
}

// leave takes the output from its pump, and returns what was pending.
func (o *output) leave(s sink) []byte {
	o.mu.Lock()
	rest := o.pending
	if o.sink == sinkLater && s == sinkLater {
		// The kernel's lines wait on.
		o.mu.Unlock()
		return nil
	}
	o.sink, o.pump, o.newlines, o.writing = s, nil, false, 0
	o.pending, o.kept, o.dropped, o.stopped = nil, 0, 0, false
	o.mu.Unlock()
	o.moved()
	return rest
}

// take gives a pump what is pending, nil if that is nothing, must not leave or is
// another's, and keeps spare for what comes.
func (o *output) take(p *pump, spare []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pump != p || len(o.pending) == 0 || o.stopped {
		return nil
	}
	chunk := o.pending
	o.pending, o.kept, o.writing = spare[:0], 0, len(chunk)
	return chunk
}

// took says that the line has what take gave.
func (o *output) took(p *pump, n int) {
	o.mu.Lock()
	if o.pump == p {
		o.writing = 0
		o.sent += uint64(n)
	}
	o.mu.Unlock()
	o.moved()
}

// moved tells those who wait for output to leave, and those who wait for room.
func (o *output) moved() {
	o.idle.Notify(waiter.WritableEvents)
	o.waiters.Notify(waiter.WritableEvents)
}

// write takes output of a program. It fails with ErrWouldBlock when nothing more can
// wait.
func (o *output) write(ctx context.Context, src usermem.IOSequence, modes *linux.KernelTermios) (int64, error) {
	o.mu.Lock()
	if o.sink != sinkLine {
		o.mu.Unlock()
		return src.NumBytes(), nil
	}
	var done int64
	var err error
	for src.NumBytes() > 0 {
		room := window - len(o.pending)
		if room <= 0 {
			err = linuxerr.ErrWouldBlock
			break
		}
		step := min(int64(room), writeStep, src.NumBytes())
		// What needs no processing is copied once, to where it leaves from.
		o.pending = o.room(int(step))
		at := len(o.pending)
		var n int
		n, err = src.TakeFirst64(step).CopyIn(ctx, o.pending[at:at+int(step)])
		if fresh := o.pending[at : at+n]; o.plain(fresh, modes) {
			o.pending = o.pending[:at+n]
		} else {
			o.step = append(o.step[:0], fresh...)
			o.pending = o.process(o.pending, o.step, modes)
		}
		done += int64(n)
		src = src.DropFirst(n)
		if err != nil {
			break
		}
	}
	o.mu.Unlock()
	if done > 0 {
		o.wake()
		return done, nil
	}
	return 0, err
}

// room is pending, with room for so many bytes more as they come.
//
// Precondition: o.mu is held.
func (o *output) room(n int) []byte {
	if cap(o.pending)-len(o.pending) < n {
		return append(make([]byte, 0, max(2*cap(o.pending), len(o.pending)+n+n/16, batch)), o.pending...)
	}
	return o.pending
}

// hasRoom says that write would take something.
func (o *output) hasRoom() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sink != sinkLine || len(o.pending) < window
}

// unsent is how much output has not reached the line, and how much ever has.
func (o *output) unsent() (left int, sent uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending) + o.writing, o.sent
}

// echo takes what the discipline shows of input. A line that takes nothing has no use for
// ever more of it.
//
// Precondition: o.mu is held.
func (o *output) echo(b []byte, modes *linux.KernelTermios) {
	if o.sink == sinkLine && len(o.pending) < backlog {
		o.pending = o.process(o.pending, b, modes)
	}
}

// send adds a character for whoever types: IXOFF's, or TCXONC's.
func (o *output) send(c byte) {
	o.mu.Lock()
	if o.sink == sinkLine && c != 0 {
		o.pending = append(o.pending, c)
	}
	o.mu.Unlock()
	o.wake()
}

// kernelWrite adds a line of the kernel's, behind all output before it. It waits for
// nobody: what there is no room for is counted.
func (o *output) kernelWrite(text []byte) {
	o.mu.Lock()
	if o.sink == sinkNone {
		o.mu.Unlock()
		return
	}
	if o.newlines {
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	switch {
	case len(o.pending)+len(text) > backlog:
		o.dropped++
	case o.dropped > 0:
		o.pending = fmt.Appendf(o.pending, "** %d printk messages dropped **\r\n", o.dropped)
		o.dropped = 0
		fallthrough
	default:
		o.pending = append(o.pending, text...)
		o.kept, o.column = len(o.pending), 0
	}
	o.mu.Unlock()
	o.wake()
}

// stop and resume are TCXONC's.
func (o *output) stop() {
	o.mu.Lock()
	o.stopped = true
	o.mu.Unlock()
}

func (o *output) resume() {
	o.mu.Lock()
	o.stopped = false
	o.mu.Unlock()
	o.wake()
}

// flush is drop for a program that asks for it.
func (o *output) flush() {
	o.mu.Lock()
	o.drop()
	o.mu.Unlock()
	o.moved()
}

// drop forgets output of programs that has not reached the line: all that came after the
// kernel's last line.
//
// Precondition: o.mu is held.
func (o *output) drop() { o.pending = o.pending[:o.kept] }

// process appends b to dst as the modes of output say, and follows the cursor.
func (o *output) process(dst, b []byte, modes *linux.KernelTermios) []byte {
	if !modes.OEnabled(linux.OPOST) {
		return append(dst, b...)
	}
	if usualOutput(modes) {
		return o.lines(dst, b, modes)
	}
	for _, c := range b {
		switch {
		case c == '\r' && modes.OEnabled(linux.ONOCR) && o.column == 0:
			continue
		case c == '\r' && modes.OEnabled(linux.OCRNL):
			c = '\n'
			if modes.OEnabled(linux.ONLRET) {
				o.column = 0
			}
		case c == '\r':
			o.column = 0
		case c == '\n':
			if modes.OEnabled(linux.ONLCR) {
				dst = append(dst, '\r')
				o.column = 0
			}
			if modes.OEnabled(linux.ONLRET) {
				o.column = 0
			}
		case c == '\t':
			n := tabWidth - o.column%tabWidth
			o.column += n
			if modes.OutputFlags&linux.TABDLY == linux.XTABS {
				dst = append(dst, "        "[:n]...)
				continue
			}
		case c == '\b':
			o.column = max(o.column-1, 0)
		case c >= ' ' && c != 0x7f:
			// A byte that continues a character of UTF-8 moves nothing.
			if c&0xc0 != 0x80 || !modes.IEnabled(linux.IUTF8) {
				o.column++
			}
			if modes.OEnabled(linux.OLCUC) && 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
		}
		dst = append(dst, c)
	}
	return dst
}

// plain says that process would only copy b, and follows the cursor.
func (o *output) plain(b []byte, modes *linux.KernelTermios) bool {
	if !modes.OEnabled(linux.OPOST) {
		return true
	}
	if !usualOutput(modes) || modes.OEnabled(linux.ONLCR) && bytes.IndexByte(b, '\n') >= 0 {
		return false
	}
	o.measure(b, modes)
	return true
}

// usualOutput says that output is processed, and newlines are all that changes.
func usualOutput(modes *linux.KernelTermios) bool {
	return modes.OutputFlags&(linux.OPOST|linux.OCRNL|linux.ONOCR|linux.ONLRET|linux.OLCUC|linux.TABDLY) == linux.OPOST
}

// lines is process with the modes that nearly every terminal has.
func (o *output) lines(dst, b []byte, modes *linux.KernelTermios) []byte {
	for modes.OEnabled(linux.ONLCR) {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		dst = append(dst, b[:i]...)
		dst = append(dst, '\r', '\n')
		b = b[i+1:]
		o.column = 0
	}
	o.measure(b, modes)
	return append(dst, b...)
}

// measure follows the cursor over what no newline of this discipline's breaks.
func (o *output) measure(b []byte, modes *linux.KernelTermios) {
	// Mostly there is none: looking forward is many times as fast as looking back.
	if i := bytes.IndexByte(b, '\r'); i >= 0 {
		b = b[i:]
		o.column, b = 0, b[bytes.LastIndexByte(b, '\r')+1:]
	}
	if len(b) > columnScan {
		o.column += len(b)
		return
	}
	utf8 := modes.IEnabled(linux.IUTF8)
	for _, c := range b {
		switch {
		case c == '\t':
			o.column += tabWidth - o.column%tabWidth
		case c == '\b':
			o.column = max(o.column-1, 0)
		case c >= ' ' && c != 0x7f && (c&0xc0 != 0x80 || !utf8):
			o.column++
		}
	}
}
