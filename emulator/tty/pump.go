package tty

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/line"
)

const (
	// inputRead is how much input is read at once.
	inputRead = 4096
	// lastPatience is how long the last output may take to reach a line that is closed
	// because the guest closed its terminal.
	lastPatience = 2 * time.Second
)

// pump joins a terminal to its line while that is open. One goroutine moves output;
// another, from begin on, moves input. Both wait without a tick.
type pump struct {
	term    *terminal
	channel *line.Channel

	begun sync.Once
	err   error
	done  chan struct{}
	end   sync.Once
	// last takes the output with which the line is closed.
	last chan []byte
}

// newPump begins to move output to an open line.
func newPump(t *terminal, channel *line.Channel) *pump {
	p := &pump{term: t, channel: channel, done: make(chan struct{}), last: make(chan []byte, 1)}
	if channel.HasOutput() {
		t.out.join(p, channel.NeedsCR())
		go p.output()
	} else {
		t.out.leave(sinkNone)
	}
	return p
}

// begin makes the line raw and begins to move input, once. An input that is at its end
// before anyone looked has nobody behind it, and ends nothing.
func (p *pump) begin() error {
	p.begun.Do(func() {
		if p.err = p.channel.Raw(); p.err != nil {
			return
		}
		p.term.out.setNewlines(p, p.channel.NeedsCR())
		if p.channel.HasInput() && !p.channel.AtEnd() {
			go p.input()
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

// finish closes the line once it has taken the last output.
func (p *pump) finish(last []byte) {
	if !p.channel.HasOutput() {
		p.close()
		return
	}
	p.last <- last
}

// output moves output until close.
func (p *pump) output() {
	out := p.term.out
	spare := make([]byte, 0, batch)
	for {
		chunk := out.take(p, spare)
		if chunk == nil {
			select {
			case <-out.more:
			case last := <-p.last:
				timer := time.AfterFunc(lastPatience, p.channel.Abort)
				_, _ = p.channel.Write(last)
				timer.Stop()
				p.close()
				return
			case <-p.done:
				return
			}
			continue
		}
		if len(chunk) >= window {
			out.waiters.Notify(waiter.WritableEvents)
		}
		// A line that fails swallows what it is given: the guest runs on.
		_, _ = p.channel.Write(chunk)
		p.term.all.traffic[p.term.family.index()].Out.Add(1)
		out.took(p, len(chunk))
		if spare = chunk; cap(spare) > 4*window {
			spare = make([]byte, 0, batch)
		}
		select {
		case <-p.done:
			return
		default:
		}
	}
}

// input moves input until close or the end of it. What the guest does not read yet
// waits in the discipline, and once that is full, on the host.
func (p *pump) input() {
	d := p.term.discipline
	buf := make([]byte, inputRead)
	for {
		n, err := p.channel.Read(buf)
		if errors.Is(err, io.EOF) {
			if !p.term.hostEnded(p) {
				return
			}
			continue
		}
		if err != nil {
			if !errors.Is(err, line.ErrClosed) {
				p.term.all.logf("%s: %v", p.term.name, err)
			}
			return
		}
		p.term.all.traffic[p.term.family.index()].In.Add(1)
		for i, b := range p.term.pieces(buf[:n]) {
			if i > 0 {
				p.term.breakNow()
			}
			for b = p.term.withoutSysrq(b); len(b) > 0; {
				if b = b[d.Put(b):]; len(b) == 0 {
					break
				}
				select {
				case <-d.room:
				case <-p.done:
					return
				}
			}
		}
	}
}

// hostEnded is the end of the line's input: the terminal hangs up. It says whether to
// read on, because another may come to the same line.
func (t *terminal) hostEnded(p *pump) bool {
	if !p.channel.IsTerminal() {
		// The end of a script comes behind its last line, when that has been read and
		// done: once a program asks for more.
		t.discipline.End(func() { t.hangup(t.all.ctx) })
		return false
	}
	lasts := p.channel.Lasts()
	t.mu.Lock()
	if t.pump != p {
		t.mu.Unlock()
		return false
	}
	if !lasts {
		t.stop()
	}
	t.mu.Unlock()
	t.hangup(t.all.ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !lasts && t.consoles > 0 && t.pair.In.Kind == line.Port && !t.closed {
		// What is open as /dev/console stays open: the next client is for that.
		t.call()
	}
	return lasts && t.pair.In.Kind != line.FD
}

// kernelWrite writes the kernel's own text to the terminal.
func (t *terminal) kernelWrite(text []byte) {
	t.mu.Lock()
	if t.closed || t.pair.In.Kind == line.None || t.ready() != nil {
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	t.out.kernelWrite(text)
}

// drain waits until all output has reached the line, or until the line has taken
// nothing for as long as patience.
func (t *terminal) drain(patience time.Duration) error {
	p := t.running()
	if p == nil || !p.channel.HasOutput() {
		return nil
	}
	e, moved := waiter.NewChannelEntry(waiter.WritableEvents)
	t.out.idle.EventRegister(&e)
	defer t.out.idle.EventUnregister(&e)
	t.out.resume()
	_, before := t.out.unsent()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		left, sent := t.out.unsent()
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
