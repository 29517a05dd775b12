package line

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrClosed is what a channel's methods give once it is closed, also those that were
// waiting when it was.
var ErrClosed = errors.New("channel is closed")

// ErrNoDevice is what opening a pair of None gives.
var ErrNoDevice = errors.New("no device")

// pipeChunk is the most that is written to a descriptor after poll called it
// writable: a pipe has room for so much then (PIPE_BUF), and the write does not block.
const pipeChunk = 4096

// Channel is an open connection to the outside. Read and Write may wait; Close ends
// the wait. Read by one goroutine and Write by one may run at the same time, and Close
// and the rest may be called by any.
type Channel struct {
	host *Host
	pair Pair
	o    Options
	in   *input
	out  *output
	// voice answers a telnet client.
	voice *output
	// links are what was opened for this channel alone: at most one for each half.
	links []*link
	// closed is closed by Close, once.
	closed chan struct{}
	once   sync.Once
	// busy is read-locked while a descriptor of a link is in use.
	busy sync.RWMutex
	// wake interrupts the reader.
	wake *event
}

// Openable says whether h can open such channels, for those who would rather know before
// they need one. What Open has to wait for is not looked at.
func (h *Host) Openable(p Pair) error {
	for _, end := range []End{p.In, p.Out} {
		if end.Kind != FD {
			continue
		}
		if h.given != nil && !h.given[end.Number] {
			return fmt.Errorf("channel %s: descriptor %d: %w", p, end.Number, unix.EBADF)
		}
		if _, err := accessMode(end.Number); err != nil {
			return fmt.Errorf("channel %s: %w", p, err)
		}
	}
	return nil
}

// Options say how a channel is opened. The zero value is the default.
type Options struct {
	// Title is that of a window.
	Title string
	// Resized is called when the channel's window has a new size, and Break within a
	// Read when whoever is at the other end sends a break, after so many bytes of what
	// the Read returns. They must not wait, and may be nil.
	Resized func(Size)
	Break   func(after int)
	// Cancel ends an Open that waits, with ErrClosed, when it is closed.
	Cancel <-chan struct{}
}

func (o *Options) resized(s Size) {
	if o.Resized != nil {
		o.Resized(s)
	}
}

func (o *Options) pressed(after int) {
	if o.Break != nil {
		o.Break(after)
	}
}

// Waits says that opening the pair waits for someone: a telnet client, or a window.
func (p Pair) Waits() bool {
	waits := func(k Kind) bool { return k == Port || k == Xterm }
	return waits(p.In.Kind) || waits(p.Out.Kind)
}

// Open opens what pair says. A host terminal keeps its modes until Raw. The first
// channel on a descriptor has its focus.
func (h *Host) Open(pair Pair, o Options) (*Channel, error) {
	if err := h.Openable(pair); err != nil {
		return nil, err
	}
	if pair.In.Kind == None {
		return nil, fmt.Errorf("channel %s: %w", pair, ErrNoDevice)
	}
	c := &Channel{host: h, pair: pair, o: o, closed: make(chan struct{})}
	var err error
	if c.wake, err = newEvent(); err != nil {
		return nil, fmt.Errorf("channel %s: %w", pair, err)
	}
	if err := c.open(); err != nil {
		for _, l := range c.links {
			l.close()
		}
		c.wake.close()
		return nil, fmt.Errorf("channel %s: %w", pair, err)
	}
	h.mu.Lock()
	if c.in != nil {
		c.in.join(c)
	}
	h.channels[c] = struct{}{}
	h.mu.Unlock()
	c.voice.answer()
	return c, nil
}

// open makes both halves. What it opened before it failed is in c.links.
func (c *Channel) open() (err error) {
	h := c.host
	if c.pair.In == c.pair.Out && c.pair.In.Kind > FD {
		l, err := c.link(c.pair.In)
		if err != nil {
			return err
		}
		c.in = &input{fd: l.fd, link: l}
		c.out, err = newOutput(l.fd, l)
		c.voice = c.out
		return err
	}
	h.mu.Lock()
	if c.pair.In.Kind == FD {
		c.in, err = h.input(c.pair.In.Number)
	}
	if c.pair.Out.Kind == FD && err == nil {
		c.out, err = h.output(c.pair.Out.Number)
	}
	h.mu.Unlock()
	if err == nil && c.pair.In.Kind > FD {
		var l *link
		if l, err = c.link(c.pair.In); err == nil {
			c.in = &input{fd: l.fd, link: l}
			c.voice, err = newOutput(l.fd, l)
		}
	}
	if err == nil && c.pair.Out.Kind > FD {
		var l *link
		if l, err = c.link(c.pair.Out); err == nil {
			c.out, err = newOutput(l.fd, l)
		}
	}
	return err
}

// input finds or makes the input on fd.
//
// Precondition: h.mu is held.
func (h *Host) input(fd int) (*input, error) {
	if in := h.inputs[fd]; in != nil {
		return in, nil
	}
	mode, err := accessMode(fd)
	if err != nil {
		return nil, err
	}
	if mode == unix.O_WRONLY {
		return nil, fmt.Errorf("descriptor %d is not open for reading: %w", fd, unix.EBADF)
	}
	in := &input{fd: fd}
	h.inputs[fd] = in
	return in, nil
}

// output finds or makes the output on fd.
//
// Precondition: h.mu is held.
func (h *Host) output(fd int) (*output, error) {
	if out := h.outputs[fd]; out != nil {
		return out, nil
	}
	mode, err := accessMode(fd)
	if err != nil {
		return nil, err
	}
	if mode == unix.O_RDONLY {
		return nil, fmt.Errorf("descriptor %d is not open for writing: %w", fd, unix.EBADF)
	}
	out, err := newOutput(fd, nil)
	if err != nil {
		return nil, err
	}
	h.outputs[fd] = out
	return out, nil
}

// newOutput makes the output on fd, which is l's or nobody's.
func newOutput(fd int, l *link) (*output, error) {
	wake, err := newEvent()
	if err != nil {
		return nil, err
	}
	out := &output{fd: fd, wake: wake, turn: make(chan struct{}, 1), link: l}
	if l != nil {
		out.telnet, out.way = l.telnet, wholeWrites
		return out, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat descriptor %d: %w", fd, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFBLK:
		out.way = wholeWrites
	case unix.S_IFIFO, unix.S_IFSOCK:
		out.way = nowaitWrites
	}
	return out, nil
}

// accessMode is how fd is open: O_RDONLY, O_WRONLY or O_RDWR.
func accessMode(fd int) (int, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return 0, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return flags & unix.O_ACCMODE, nil
}

// Pair is what the channel was opened as.
func (c *Channel) Pair() Pair { return c.pair }

// HasInput says that Read can ever give anything. The input of a null channel never
// does, nor does it end.
func (c *Channel) HasInput() bool { return c.in != nil }

// HasOutput says that what is written goes anywhere.
func (c *Channel) HasOutput() bool { return c.out != nil }

// AtEnd says that the input is a descriptor that has nothing to give and never had: the
// null device, or a file or a pipe that is at its end. Nobody was ever there.
func (c *Channel) AtEnd() bool {
	if c.in == nil || c.in.link != nil {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(c.in.fd, &st); err != nil {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return st.Rdev == unix.Mkdev(1, 3)
	case unix.S_IFREG:
		at, err := unix.Seek(c.in.fd, 0, unix.SEEK_CUR)
		return err == nil && at >= st.Size
	case unix.S_IFIFO:
		fds := []unix.PollFd{{Fd: int32(c.in.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n == 1 && fds[0].Revents&unix.POLLIN == 0
	}
	return false
}

// Lasts says that the end of the input is not that of the channel: output goes on, or
// another may come to the same line.
func (c *Channel) Lasts() bool {
	return c.pair.In.Kind == FD || c.pair.In.Kind == Pts || c.pair.In.Kind == Pty
}

// Path is the path on the host of a pty that was made for the channel, or "".
func (c *Channel) Path() string {
	for _, l := range c.links {
		if l.pts != nil {
			return l.pts.path
		}
	}
	return ""
}

// IsTerminal says that the input is that of a terminal or a person's: its end is someone
// leaving, and what they typed last does not matter. The end of a file or a pipe is that
// of a script.
func (c *Channel) IsTerminal() bool {
	if c.in == nil || c.in.link != nil {
		return true
	}
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	return c.in.terminal
}

// Size is the size of the channel's window. There is none when neither half is a
// terminal.
func (c *Channel) Size() (Size, bool) {
	c.busy.RLock()
	defer c.busy.RUnlock()
	if c.isClosed() {
		return Size{}, false
	}
	for _, l := range c.links {
		if l.telnet != nil {
			return l.telnet.window()
		}
	}
	for _, fd := range c.descriptors() {
		if size, ok := windowSize(fd); ok {
			return size, true
		}
	}
	return Size{}, false
}

// windowSize is the size of the terminal fd.
func windowSize(fd int) (Size, bool) {
	ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return Size{}, false
	}
	return Size{Rows: ws.Row, Cols: ws.Col, XPixel: ws.Xpixel, YPixel: ws.Ypixel}, true
}

func (c *Channel) descriptors() []int {
	var fds []int
	if c.in != nil {
		fds = append(fds, c.in.fd)
	}
	if c.out != nil {
		fds = append(fds, c.out.fd)
	}
	return fds
}

// Raw puts the host terminal that the channel reads, if it reads one, into raw mode: from
// now on the guest's line discipline does what the host's did.
func (c *Channel) Raw() error {
	if c.in == nil {
		return nil
	}
	c.busy.RLock()
	defer c.busy.RUnlock()
	if c.isClosed() {
		return ErrClosed
	}
	if c.in.link != nil && c.in.link.own {
		return nil
	}
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	terminal, err := c.host.makeRaw(c.in.fd, c.in.link != nil && c.in.link.marks != nil)
	c.in.terminal = terminal
	if err != nil {
		return fmt.Errorf("channel %s: %w", c.pair, err)
	}
	return nil
}

// NeedsCR says that a newline must be written with a carriage return before it: the
// output goes to a terminal that does not add one.
func (c *Channel) NeedsCR() bool {
	if c.out == nil {
		return false
	}
	c.busy.RLock()
	defer c.busy.RUnlock()
	if c.isClosed() || c.out.telnet != nil {
		return true
	}
	modes, err := unix.IoctlGetTermios(c.out.fd, unix.TCGETS)
	return err == nil && modes.Oflag&(unix.OPOST|unix.ONLCR) != unix.OPOST|unix.ONLCR
}

func (c *Channel) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Focus turns the channel's input to it, away from the other channels that name the
// same descriptor.
func (c *Channel) Focus() {
	if c.in != nil {
		c.in.focus(c)
	}
}

// Read waits for input and takes what there is, at most len(p) bytes. The end of the
// input is io.EOF, now and ever after but on a pty, which another may open then. A null
// channel waits until it is closed.
func (c *Channel) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.busy.RLock()
	defer c.busy.RUnlock()
	for {
		if c.isClosed() {
			return 0, ErrClosed
		}
		if c.in == nil || !c.in.mine(c) {
			if err := c.wake.wait(); err != nil {
				return 0, err
			}
			continue
		}
		var l link
		if c.in.link != nil {
			l = *c.in.link
		}
		if l.ended != nil && l.ended.Load() {
			return 0, io.EOF
		}
		ready, err := false, error(nil)
		if l.pts != nil {
			ready, err = l.pts.wait(c.wake)
		} else {
			ready, err = pollWith(c.wake, c.in.fd, unix.POLLIN)
		}
		if err != nil {
			return 0, err
		}
		if !ready {
			continue
		}
		n, err := unix.Read(c.in.fd, p)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case l.pts != nil && (err == unix.EIO || err == nil && n == 0):
			if l.pts.left() {
				return 0, io.EOF
			}
			continue
		case err == unix.EIO || err == unix.ECONNRESET || err == unix.ETIMEDOUT || err == nil && n == 0:
			// EIO is a terminal that hung up.
			return 0, io.EOF
		case err != nil:
			return 0, fmt.Errorf("read descriptor %d: %w", c.in.fd, err)
		}
		if l.pts != nil {
			l.pts.spoke()
		}
		if l.telnet != nil {
			n = len(l.telnet.decode(p[:n]))
			c.voice.answer()
		}
		if l.marks != nil {
			n = len(l.marks.decode(p[:n]))
		}
		if n == 0 {
			continue
		}
		return n, nil
	}
}

// Write writes all of p, waiting for a slow reader as long as it takes, or until
// Close. What is written to a null channel, or to a reader that is gone, vanishes.
func (c *Channel) Write(p []byte) (int, error) {
	if c.out == nil || len(p) == 0 {
		return len(p), nil
	}
	c.busy.RLock()
	defer c.busy.RUnlock()
	return c.out.write(c, p)
}

// Abort ends every Write that waits on the channel's output, and makes all later ones
// vanish: for a reader that does not read on when the machine must end.
func (c *Channel) Abort() {
	if c.out != nil {
		c.out.gone.Store(true)
		c.out.wake.set()
	}
}

// Close ends the channel, and whoever waits in its Read or Write. Descriptors that were
// given stay open, and other channels on them work on; what Open opened is closed.
func (c *Channel) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.host.mu.Lock()
		delete(c.host.channels, c)
		c.host.mu.Unlock()
		if c.in != nil {
			c.in.leave(c)
		}
		c.wake.set()
		if c.out != nil {
			c.out.wake.set()
		}
		c.busy.Lock()
		defer c.busy.Unlock()
		for _, l := range c.links {
			l.close()
		}
	})
	return nil
}

// input is a descriptor that channels read. Only the channel in focus does.
type input struct {
	fd int
	// link is what the descriptor belongs to, nil for one that was given.
	link *link
	// terminal says that Raw found a terminal. It is guarded by the host's mu.
	terminal bool

	mu sync.Mutex
	// claims are the channels that read fd. The last one has the focus.
	claims []*Channel
}

// join adds c below the others: the first channel keeps the focus.
func (in *input) join(c *Channel) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.claims = append([]*Channel{c}, in.claims...)
}

func (in *input) mine(c *Channel) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.claims) > 0 && in.claims[len(in.claims)-1] == c
}

func (in *input) focus(c *Channel) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.remove(c) {
		in.claims = append(in.claims, c)
		in.wakeAll()
	}
}

func (in *input) leave(c *Channel) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.remove(c)
	in.wakeAll()
}

// remove takes c from the claims and says whether it was there.
//
// Precondition: in.mu is held.
func (in *input) remove(c *Channel) bool {
	for i, claim := range in.claims {
		if claim == c {
			in.claims = append(in.claims[:i], in.claims[i+1:]...)
			return true
		}
	}
	return false
}

func (in *input) wakeAll() {
	for _, claim := range in.claims {
		claim.wake.set()
	}
}

// writing is how a descriptor is written without waiting in the call.
type writing int

const (
	// pieceWrites writes so little at once that poll's word holds for it.
	pieceWrites writing = iota
	// wholeWrites writes all there is: to a file, or to a descriptor that does not
	// block.
	wholeWrites
	// nowaitWrites asks with each write that it shall not block.
	nowaitWrites
)

// output is a descriptor that channels write.
type output struct {
	fd int
	// link is what the descriptor belongs to, nil for one that was given.
	link   *link
	telnet *telnet
	// turn holds a token while a channel writes, which keeps Writes whole.
	turn chan struct{}
	// way is the turn's.
	way writing
	// wake interrupts the writer. It is set for all channels: the writer looks
	// whether it was meant.
	wake *event
	// gone is set once nobody reads any more.
	gone atomic.Bool
}

func (out *output) write(c *Channel, p []byte) (int, error) {
	select {
	case out.turn <- struct{}{}:
		defer func() { <-out.turn }()
	case <-c.closed:
		return 0, ErrClosed
	}
	total := len(p)
	if out.telnet != nil {
		p = append(out.telnet.takeReplies(), out.telnet.encode(p)...)
	}
	n, err := out.send(c, p)
	if err != nil {
		return min(n, total), err
	}
	return total, nil
}

// send writes all of p.
//
// Precondition: it is the caller's turn.
func (out *output) send(c *Channel, p []byte) (int, error) {
	total := len(p)
	full := false
	for len(p) > 0 {
		if out.gone.Load() {
			return total, nil
		}
		if c.isClosed() {
			return total - len(p), ErrClosed
		}
		if full || out.way == pieceWrites {
			ready, err := pollWith(out.wake, out.fd, unix.POLLOUT)
			if err != nil {
				return total - len(p), err
			}
			if !ready {
				continue
			}
		}
		n, err := out.some(p)
		full = err == unix.EAGAIN
		switch {
		case err == unix.EAGAIN && out.link != nil && out.link.pts != nil && out.link.pts.deserted():
			// What the pty holds waits for whoever opens it next; the rest was
			// for nobody.
			return total, nil
		case err == unix.EINTR || err == unix.EAGAIN:
		case err == unix.EPIPE || err == unix.EIO || err == unix.ECONNRESET || err == unix.ETIMEDOUT:
			out.gone.Store(true)
		case err != nil:
			return total - len(p), fmt.Errorf("write descriptor %d: %w", out.fd, err)
		default:
			p = p[n:]
		}
	}
	return total, nil
}

// some writes as much of p as goes without waiting. In pieces that holds only after poll
// called fd writable: full says of the other ways when to ask it.
func (out *output) some(p []byte) (int, error) {
	if out.way == nowaitWrites {
		n, err := unix.Pwritev2(out.fd, [][]byte{p}, -1, unix.RWF_NOWAIT)
		if err != unix.EOPNOTSUPP && err != unix.ENOSYS && err != unix.EINVAL {
			return n, err
		}
		// Poll has not been asked yet.
		out.way = pieceWrites
		return 0, unix.EAGAIN
	}
	if out.way == pieceWrites {
		p = p[:min(len(p), pipeChunk)]
	}
	return unix.Write(out.fd, p)
}

// answer sends what the telnet protocol has to answer, if that goes at once: a client
// that does not read has its answers with the next output.
func (out *output) answer() {
	if out == nil || out.telnet == nil {
		return
	}
	select {
	case out.turn <- struct{}{}:
		defer func() { <-out.turn }()
	default:
		return
	}
	replies := out.telnet.takeReplies()
	if len(replies) == 0 {
		return
	}
	n, err := unix.Write(out.fd, replies)
	if err == unix.EAGAIN || err == unix.EINTR {
		n, err = 0, nil
	}
	if err == nil && n < len(replies) {
		out.telnet.putBack(replies[n:])
	}
}
