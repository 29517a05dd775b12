package tty

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/line"
	"github.com/umlkit/umlkit/emulator/reach"
)

const (
	// batch is the room that output has at first, in bytes.
	batch = 32 << 10
	// disciplineRead is the most that the Sentry's discipline gives at once.
	disciplineRead = 4096
	// backlog is how much of the kernel's own output waits for a slow line.
	backlog = 1 << 20
	// inputRead is how much input is read at once.
	inputRead = 4096
)

// pump joins a terminal to its line. One goroutine moves output; another, from begin
// on, moves input. Both wait without a tick.
type pump struct {
	term    *terminal
	channel *line.Channel

	// gather is held by who takes output from the discipline, so that output and
	// the kernel's lines keep their order.
	gather sync.Mutex
	// pending is output for the line: that of programs, what the discipline echoes,
	// and up to kept the kernel's own.
	pending []byte
	kept    int
	// column is where the cursor is, as far as that can be told.
	column int
	// step holds a part of a write.
	step []byte
	// writing is how much of the output the line is taking now.
	writing int
	// sent counts what the line has taken, in bytes.
	sent uint64
	// dropped counts the kernel's lines for which there was no room.
	dropped int
	// stopped is set by the stop character, and by TCXONC: nothing leaves.
	stopped bool

	// more wakes the output goroutine.
	more chan struct{}
	// idle tells of output that has reached the line.
	idle waiter.Queue

	begun sync.Once
	err   error
	done  chan struct{}
	end   sync.Once
}

// newPump opens a line and begins to move output.
func newPump(t *terminal, pair line.Pair) (*pump, error) {
	p := &pump{term: t, more: make(chan struct{}, 1), done: make(chan struct{})}
	channel, err := t.all.host.Open(pair, line.Options{Resized: t.resize})
	if err != nil {
		return nil, err
	}
	p.channel = channel
	if size, ok := channel.Size(); ok {
		t.discipline.SetSize(linux.Winsize{Row: size.Rows, Col: size.Cols, Xpixel: size.XPixel, Ypixel: size.YPixel})
	}
	if channel.HasOutput() {
		go p.output(t.discipline)
	}
	return p, nil
}

// begin makes the line raw and begins to move input, once.
func (p *pump) begin() error {
	p.begun.Do(func() {
		if p.err = p.channel.Raw(); p.err == nil && p.channel.HasInput() {
			go p.input(p.term.discipline)
		}
	})
	return p.err
}

// close ends both goroutines and closes the line.
func (p *pump) close() {
	p.end.Do(func() {
		close(p.done)
		p.channel.Close()
	})
}

// output moves output until close.
func (p *pump) output(d *reach.Discipline) {
	e, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	d.Master().EventRegister(&e)
	defer d.Master().EventUnregister(&e)
	spare := make([]byte, 0, batch)
	for {
		p.gather.Lock()
		p.collect(d)
		var chunk []byte
		if len(p.pending) > 0 && !p.stopped {
			chunk = p.pending
			p.pending, p.kept, p.writing = spare[:0], 0, len(chunk)
		}
		p.gather.Unlock()
		if chunk != nil {
			if len(chunk) >= window {
				p.term.discipline.Replica().Notify(waiter.WritableEvents)
			}
			// A line that fails swallows what it is given: the guest runs on.
			_, _ = p.channel.Write(chunk)
			p.gather.Lock()
			p.writing = 0
			p.sent += uint64(len(chunk))
			p.gather.Unlock()
			p.moved()
			if spare = chunk; cap(spare) > 4*window {
				spare = make([]byte, 0, batch)
			}
			select {
			case <-p.done:
				return
			default:
				continue
			}
		}
		select {
		case <-ready:
		case <-p.more:
		case <-p.done:
			return
		}
	}
}

// moved tells those who wait for output to leave, and those who wait for room.
func (p *pump) moved() {
	p.idle.Notify(waiter.WritableEvents)
	p.term.discipline.Replica().Notify(waiter.WritableEvents)
}

// collect takes what the discipline echoes, while there is room.
//
// Precondition: p.gather is held.
func (p *pump) collect(d *reach.Discipline) {
	for len(p.pending) < window {
		n := len(p.pending)
		if cap(p.pending)-n < disciplineRead {
			p.pending = append(make([]byte, 0, max(2*cap(p.pending), batch)), p.pending...)
		}
		got, err := d.Master().Read(p.term.all.ctx, usermem.BytesIOSequence(p.pending[n:n+disciplineRead]), vfs.ReadOptions{})
		p.pending = p.pending[:n+int(got)]
		if err != nil || got == 0 {
			return
		}
	}
}

// wake makes the output goroutine look again.
func (p *pump) wake() {
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// kernelWrite adds a line of the kernel's, behind all output before it.
func (p *pump) kernelWrite(d *reach.Discipline, text []byte) {
	if !p.channel.HasOutput() {
		return
	}
	if p.channel.NeedsCR() {
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	p.gather.Lock()
	p.collect(d)
	switch {
	case len(p.pending)+len(text) > backlog:
		p.dropped++
	case p.dropped > 0:
		p.pending = fmt.Appendf(p.pending, "** %d printk messages dropped **\r\n", p.dropped)
		p.dropped = 0
		fallthrough
	default:
		p.pending = append(p.pending, text...)
		p.kept, p.column = len(p.pending), 0
	}
	p.gather.Unlock()
	p.wake()
}

// kernelWrite writes the kernel's own text to the terminal.
func (t *terminal) kernelWrite(text []byte) {
	t.mu.Lock()
	if t.closed || t.pair.In.Kind == line.None || t.ready() != nil {
		t.mu.Unlock()
		return
	}
	p, d := t.pump, t.discipline
	t.mu.Unlock()
	if p != nil {
		p.kernelWrite(d, text)
	}
}

// unsent is how much output has not reached the line, and how much ever has.
func (p *pump) unsent(d *reach.Discipline) (left int, sent uint64) {
	p.gather.Lock()
	defer p.gather.Unlock()
	return len(p.pending) + p.writing + d.Unsent(), p.sent
}

// drain waits until all output has reached the line, or until the line has taken
// nothing for as long as patience.
func (t *terminal) drain(patience time.Duration) error {
	t.mu.Lock()
	p, d := t.pump, t.discipline
	t.mu.Unlock()
	if p == nil || !p.channel.HasOutput() {
		return nil
	}
	e, moved := waiter.NewChannelEntry(waiter.WritableEvents)
	p.idle.EventRegister(&e)
	defer p.idle.EventUnregister(&e)
	p.start()
	_, before := p.unsent(d)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		left, sent := p.unsent(d)
		if left == 0 {
			return nil
		}
		if sent != before {
			before = sent
			timer.Reset(patience)
		}
		select {
		case <-moved:
		case <-timer.C:
			p.channel.Abort()
			return fmt.Errorf("%s: %d bytes of output were lost: %s takes no more", t.name, left, p.channel.Pair())
		case <-p.done:
			return nil
		}
	}
}

// input moves input until close or the end of it. What the guest does not read yet
// waits in the discipline, and once that is full, on the host.
func (p *pump) input(d *reach.Discipline) {
	e, room := waiter.NewChannelEntry(waiter.WritableEvents)
	d.Master().EventRegister(&e)
	defer d.Master().EventUnregister(&e)
	f := filter{pump: p, discipline: d, room: room}
	buf := make([]byte, inputRead)
	for {
		n, err := p.channel.Read(buf)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, line.ErrClosed) {
				p.term.all.logf("%s: %v", p.term.name, err)
			}
			return
		}
		if !f.put(buf[:n]) {
			return
		}
	}
}

// feed gives input to the discipline, waiting for room. It is false when the pump ends.
func (p *pump) feed(d *reach.Discipline, room <-chan struct{}, b []byte) bool {
	for len(b) > 0 {
		n, err := d.Master().Write(p.term.all.ctx, usermem.BytesIOSequence(b), vfs.WriteOptions{})
		b = b[n:]
		if err == nil {
			continue
		}
		if !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
			return false
		}
		select {
		case <-room:
		case <-p.done:
			return false
		}
	}
	return true
}

// stop and start are the stop and the start character's, and TCXONC's.
func (p *pump) stop() {
	p.gather.Lock()
	p.stopped = true
	p.gather.Unlock()
}

func (p *pump) start() {
	p.gather.Lock()
	p.stopped = false
	p.gather.Unlock()
	p.wake()
}
