package tty

import (
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxLine is the longest line, in bytes without its end: N_TTY_BUF_SIZE-1. What
	// is typed beyond it is dropped.
	maxLine = 4095
	// typeAhead is how much input waits for programs before the host is not read any
	// more, in bytes: the ldisc's buffer and the driver's together, in Linux.
	typeAhead = 64 << 10
)

// discipline is the input half of a terminal's line discipline, as Linux's n_tty has it:
// lines are edited and echoed, keys become signals, programs read. The Sentry has one of
// its own, for ptys, that neither quotes nor reprints, and does not look at a line before
// the one ahead of it is read.
//
// The output half is output; echo goes there.
type discipline struct {
	out *output
	// waiters are programs that wait on the terminal.
	waiters waiter.Queue
	// room tells the pump that input was read.
	room chan struct{}
	// signal signals the foreground. It is called without the lock.
	signal func(linux.Signal)

	mu    sync.Mutex
	modes linux.KernelTermios
	size  linux.Winsize
	// in is the input: lines that are whole, done bytes of them, and the one that is
	// being typed. Where lines are off all of it is one that is being typed.
	in   []byte
	done int
	// lines are the whole lines.
	lines []whole
	// quote says that the next character means itself; erasing that what ECHOPRT
	// shows of erased characters is open.
	quote, erasing bool
	// end, when it is not nil, is called once when a program asks for more input than
	// there will ever be.
	end func()
	// held says that the host was asked to stop (IXOFF).
	held bool
	// shown gathers echo, as it goes to the output.
	shown []byte
}

// whole is a whole line.
type whole struct {
	n int
	// eof says that the end-of-file character ended it: its last byte is a 0 that no
	// program reads, unless lines are switched off before.
	eof bool
}

func newDiscipline(out *output, signal func(linux.Signal)) *discipline {
	d := &discipline{out: out, room: make(chan struct{}, 1), signal: signal, modes: linux.DefaultReplicaTermios}
	// As tty_std_termios: the line is hung up on its last close.
	d.modes.ControlFlags |= linux.HUPCL
	out.waiters = &d.waiters
	return d
}

// Termios are the modes.
func (d *discipline) Termios() linux.KernelTermios {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.modes
}

// SetTermios sets the modes. What was typed and not read becomes one line when lines are
// switched on, and is no longer one when they are switched off.
func (d *discipline) SetTermios(modes linux.KernelTermios) {
	d.mu.Lock()
	before := d.modes
	d.modes = modes
	if before.LEnabled(linux.ICANON) != modes.LEnabled(linux.ICANON) {
		d.lines, d.done, d.quote, d.erasing = nil, 0, false, false
		if modes.LEnabled(linux.ICANON) && len(d.in) > 0 {
			// A 0 at the end is taken for an end of file, as Linux's own mark is one.
			d.lines, d.done = []whole{{len(d.in), d.in[len(d.in)-1] == 0}}, len(d.in)
		}
	}
	d.mu.Unlock()
	d.taken()
	d.waiters.Notify(waiter.ReadableEvents)
}

// Size is the size of the window.
func (d *discipline) Size() linux.Winsize {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// SetSize sets the size of the window and says whether it was another.
func (d *discipline) SetSize(size linux.Winsize) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := d.size != size
	d.size = size
	return changed
}

// Flush drops the input.
func (d *discipline) Flush() {
	d.mu.Lock()
	d.flush()
	d.mu.Unlock()
	d.taken()
}

func (d *discipline) flush() {
	d.in, d.done, d.lines, d.quote, d.erasing = nil, 0, nil, false, false
}

// taken tells the pump that there may be room again.
func (d *discipline) taken() {
	select {
	case d.room <- struct{}{}:
	default:
	}
}

// readable says whether a program that reads gets something, the end of the file too.
//
// Precondition: d.mu is held.
func (d *discipline) readable() bool {
	if d.modes.LEnabled(linux.ICANON) {
		return len(d.lines) > 0
	}
	return len(d.in) > 0
}

// End says that no more input comes. The first program that asks for more gets the end of
// the file, and f is called.
func (d *discipline) End(f func()) {
	d.mu.Lock()
	d.end = f
	d.mu.Unlock()
	d.waiters.Notify(waiter.ReadableEvents)
}

// Readiness is whether poll calls the terminal readable: without lines, once there is as
// much as VMIN asks for.
func (d *discipline) Readiness() waiter.EventMask {
	d.mu.Lock()
	defer d.mu.Unlock()
	ready := d.readable()
	if cc := &d.modes.ControlCharacters; !d.modes.LEnabled(linux.ICANON) && cc[linux.VTIME] == 0 {
		ready = ready && len(d.in) >= int(cc[linux.VMIN])
	}
	if ready || d.end != nil {
		return waiter.ReadableEvents
	}
	return 0
}

// Readable is how many bytes programs could read: FIONREAD.
func (d *discipline) Readable() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.in)
	if d.modes.LEnabled(linux.ICANON) {
		n = d.done
		for _, l := range d.lines {
			if l.eof {
				n--
			}
		}
	}
	return n
}

// Read takes input as a program does: at most one line where lines are on. An empty one
// is the end of the file. It fails with ErrWouldBlock when there is nothing.
func (d *discipline) Read(ctx context.Context, dst usermem.IOSequence) (int64, error) {
	d.mu.Lock()
	if !d.readable() {
		end := d.end
		d.end = nil
		d.mu.Unlock()
		if end == nil {
			return 0, linuxerr.ErrWouldBlock
		}
		end()
		return 0, nil
	}
	defer d.mu.Unlock()
	canon := d.modes.LEnabled(linux.ICANON)
	from, end := d.in, 0
	if canon {
		if d.lines[0].eof {
			end = 1
		}
		from = from[:d.lines[0].n-end]
	}
	n := 0
	if len(from) > 0 {
		var err error
		if n, err = dst.CopyOut(ctx, from[:min(int64(len(from)), dst.NumBytes())]); n == 0 {
			return 0, err
		}
	}
	took := n
	if canon {
		if n == len(from) {
			took += end
		}
		d.done -= took
		if d.lines[0].n -= took; d.lines[0].n == 0 {
			d.lines = d.lines[1:]
		}
	}
	d.in = d.in[took:]
	if len(d.in) == 0 {
		d.in, d.lines = nil, slices.Clone(d.lines)
	}
	if d.held && len(d.in) < typeAhead/2 {
		d.held = false
		d.out.send(d.modes.ControlCharacters[linux.VSTART])
	}
	d.taken()
	return int64(n), nil
}

// Put takes input of the host's, and says how much of it: less than all when there is no
// room before programs have read.
func (d *discipline) Put(b []byte) int {
	done := 0
	for {
		n, sig := d.put(b[done:])
		done += n
		if sig == 0 {
			return done
		}
		d.out.moved()
		d.signal(sig)
	}
}

// put takes input up to a key that is a signal.
func (d *discipline) put(b []byte) (n int, sig linux.Signal) {
	d.mu.Lock()
	d.out.mu.Lock()
	before := len(d.lines)
	for n < len(b) && sig == 0 {
		if len(d.in) >= typeAhead && d.readable() {
			if d.modes.IEnabled(linux.IXOFF) && !d.held {
				d.held = true
				d.show(d.modes.ControlCharacters[linux.VSTOP])
			}
			break
		}
		sig = d.receive(b[n])
		n++
	}
	d.shownNow()
	d.out.mu.Unlock()
	news := len(d.lines) > before || !d.modes.LEnabled(linux.ICANON) && len(d.in) > 0
	d.mu.Unlock()
	d.out.wake()
	if news {
		d.waiters.Notify(waiter.ReadableEvents)
	}
	return n, sig
}

// Break is a break on the line.
func (d *discipline) Break() {
	d.mu.Lock()
	modes := d.modes
	if modes.IEnabled(linux.IGNBRK) {
		d.mu.Unlock()
		return
	}
	if modes.IEnabled(linux.BRKINT) {
		if !modes.LEnabled(linux.NOFLSH) {
			d.flush()
		}
		d.mu.Unlock()
		d.signal(linux.SIGINT)
		return
	}
	if modes.IEnabled(linux.PARMRK) {
		d.in = append(d.in, 0xff, 0)
	}
	d.in = append(d.in, 0)
	d.mu.Unlock()
	d.waiters.Notify(waiter.ReadableEvents)
}

// is says whether c is a special character. One of 0 is none.
func (d *discipline) is(c byte, which int) bool {
	return c != 0 && c == d.modes.ControlCharacters[which]
}

// receive is one character that was typed. It returns the signal that it is, or 0.
//
// Precondition: d.mu and d.out.mu are held, here and below.
func (d *discipline) receive(c byte) linux.Signal {
	m := &d.modes
	extended := m.LEnabled(linux.IEXTEN)
	if m.IEnabled(linux.ISTRIP) {
		c &= 0x7f
	}
	if m.IEnabled(linux.IUCLC) && extended && (c|0x20 != c) && alphabetic(c) && c != 0xdf {
		c |= 0x20
	}
	if d.quote {
		d.quote = false
		d.plain(c, false)
		return 0
	}
	if m.IEnabled(linux.IXON) {
		switch {
		case d.is(c, linux.VSTART):
			d.out.stopped = false
			return 0
		case d.is(c, linux.VSTOP):
			d.out.stopped = true
			return 0
		}
	}
	if m.LEnabled(linux.ISIG) {
		for _, s := range [...]struct {
			which int
			sig   linux.Signal
		}{{linux.VINTR, linux.SIGINT}, {linux.VQUIT, linux.SIGQUIT}, {linux.VSUSP, linux.SIGTSTP}} {
			if d.is(c, s.which) {
				d.signalled(c)
				return s.sig
			}
		}
	}
	if m.IEnabled(linux.IXON | linux.IXANY) {
		d.out.stopped = false
	}
	newline := false
	switch {
	case c == '\r' && m.IEnabled(linux.IGNCR):
		return 0
	case c == '\r' && m.IEnabled(linux.ICRNL):
		// Without lines a newline is shown as one only if it was a return.
		c, newline = '\n', true
	case c == '\n' && m.IEnabled(linux.INLCR):
		c = '\r'
	}
	if !m.LEnabled(linux.ICANON) || !d.edit(c, extended) {
		d.plain(c, newline)
	}
	return 0
}

// signalled is what else a key does that is a signal.
func (d *discipline) signalled(c byte) {
	if !d.modes.LEnabled(linux.NOFLSH) {
		d.shown = d.shown[:0]
		d.flush()
		d.out.drop()
	}
	if d.modes.IEnabled(linux.IXON) {
		d.out.stopped = false
	}
	if d.modes.LEnabled(linux.ECHO) {
		d.echo(c)
	}
}

// edit does what a character does to the line that is being typed. It is false for one
// that is only added.
func (d *discipline) edit(c byte, extended bool) bool {
	m := &d.modes
	echo := m.LEnabled(linux.ECHO)
	switch {
	case d.is(c, linux.VERASE), d.is(c, linux.VKILL), extended && d.is(c, linux.VWERASE):
		d.erase(c)
	case extended && d.is(c, linux.VLNEXT):
		d.quote = true
		if echo {
			d.finishErasing()
			if m.LEnabled(linux.ECHOCTL) {
				d.show('^', '\b')
			}
		}
	case extended && echo && d.is(c, linux.VREPRINT):
		d.finishErasing()
		d.echo(c)
		d.show('\n')
		for _, c := range d.in[d.done:] {
			d.echo(c)
		}
	case c == '\n':
		if echo || m.LEnabled(linux.ECHONL) {
			d.show('\n')
		}
		d.add('\n')
		d.endLine()
	case d.is(c, linux.VEOF):
		d.add(0)
		d.endLine()
		d.lines[len(d.lines)-1].eof = true
	case d.is(c, linux.VEOL), extended && d.is(c, linux.VEOL2):
		// Linux leaves open here what ECHOPRT shows of erased characters.
		open := d.erasing
		d.erasing = false
		d.plain(c, false)
		d.erasing = open
		d.endLine()
	default:
		return false
	}
	return true
}

// plain adds a character, and echoes it.
func (d *discipline) plain(c byte, newline bool) {
	if d.modes.LEnabled(linux.ICANON) && len(d.in)-d.done >= maxLine {
		if d.modes.IEnabled(linux.IMAXBEL) {
			d.show('\a')
		}
		return
	}
	if d.modes.LEnabled(linux.ECHO) {
		d.finishErasing()
		if len(d.in) == d.done {
			d.shownNow()
			d.out.start = d.out.column
		}
		if newline {
			d.show('\n')
		} else {
			d.echo(c)
		}
	}
	if c == 0xff && d.modes.IEnabled(linux.PARMRK) {
		d.add(c)
	}
	d.add(c)
}

func (d *discipline) add(c byte) { d.in = append(d.in, c) }

// endLine makes what has been typed a line.
func (d *discipline) endLine() {
	d.lines = append(d.lines, whole{n: len(d.in) - d.done})
	d.done = len(d.in)
}

// erase takes back the last character, word or all of the line.
func (d *discipline) erase(c byte) {
	m := &d.modes
	if len(d.in) == d.done {
		return
	}
	one, word := d.is(c, linux.VERASE), d.is(c, linux.VWERASE)
	if !one && !word && !m.LEnabled(linux.ECHO|linux.ECHOE|linux.ECHOK|linux.ECHOKE) {
		d.in = d.in[:d.done]
		if m.LEnabled(linux.ECHO) {
			d.finishErasing()
			d.echo(c)
			if m.LEnabled(linux.ECHOK) {
				d.show('\n')
			}
		}
		return
	}
	seen := false
	for len(d.in) > d.done {
		head := len(d.in) - 1
		for head > d.done && d.continues(d.in[head]) {
			head--
		}
		last := d.in[head]
		if d.continues(last) {
			// What is left is no whole character.
			break
		}
		if word {
			if last == '_' || '0' <= last && last <= '9' || alphabetic(last) {
				seen = true
			} else if seen {
				break
			}
		}
		d.unshow(head, one)
		d.in = d.in[:head]
		if one {
			break
		}
	}
	if len(d.in) == d.done && m.LEnabled(linux.ECHO) {
		d.finishErasing()
	}
}

// continues says that c is not the first byte of a character.
func (d *discipline) continues(c byte) bool {
	return d.modes.IEnabled(linux.IUTF8) && c&0xc0 == 0x80
}

// unshow takes the character that begins at head off the screen.
func (d *discipline) unshow(head int, one bool) {
	m := &d.modes
	c := d.in[head]
	switch {
	case !m.LEnabled(linux.ECHO):
	case m.LEnabled(linux.ECHOPRT):
		if !d.erasing {
			d.show('\\')
			d.erasing = true
		}
		d.echo(c)
		d.show(d.in[head+1:]...)
	case one && !m.LEnabled(linux.ECHOE):
		d.echo(m.ControlCharacters[linux.VERASE])
	case c == '\t':
		d.unshowTab(head)
	case !control(c):
		d.show('\b', ' ', '\b')
	case m.LEnabled(linux.ECHOCTL):
		d.show('\b', ' ', '\b', '\b', ' ', '\b')
	}
}

// unshowTab goes back over a tab, whose width follows from what stands before it: from
// the tab before, or from where the line began.
func (d *discipline) unshowTab(head int) {
	width, tab := 0, false
	for i := head - 1; i >= d.done; i-- {
		c := d.in[i]
		if c == '\t' {
			tab = true
			break
		}
		switch {
		case control(c):
			if d.modes.LEnabled(linux.ECHOCTL) {
				width += 2
			}
		case !d.continues(c):
			width++
		}
	}
	d.shownNow()
	if !tab {
		width += d.out.start
	}
	for range tabWidth - width%tabWidth {
		d.show('\b')
	}
}

// alphabetic is the kernel's isalpha, which knows Latin-1.
func alphabetic(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 || c >= 0xc0 && c != 0xd7 && c != 0xf7
}

func control(c byte) bool { return c < ' ' || c == 0x7f }

// finishErasing ends what ECHOPRT shows of erased characters.
func (d *discipline) finishErasing() {
	if d.erasing {
		d.show('/')
		d.erasing = false
	}
}

// echo shows a character, a control character as ^X where ECHOCTL says so.
func (d *discipline) echo(c byte) {
	if d.modes.LEnabled(linux.ECHOCTL) && control(c) && c != '\t' {
		d.show('^', c^0x40)
		return
	}
	d.show(c)
}

// show puts bytes on the screen, behind all output so far.
func (d *discipline) show(b ...byte) { d.shown = append(d.shown, b...) }

// shownNow passes on what show has gathered.
func (d *discipline) shownNow() {
	if len(d.shown) > 0 {
		d.out.echo(d.shown, &d.modes)
		d.shown = d.shown[:0]
	}
}
