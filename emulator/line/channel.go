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

// ErrNotYet is what opening a kind of channel gives that this Host cannot open.
var ErrNotYet = errors.New("this kind of channel cannot be opened yet")

// pipeChunk is the most that is written to a descriptor after poll called it
// writable: a pipe has room for so much then (PIPE_BUF), and the write does not block.
const pipeChunk = 4096

// Channel is an open connection to the outside. Read and Write may wait; Close ends
// the wait. Read by one goroutine and Write by one may run at the same time, and Close
// and the rest may be called by any.
type Channel struct {
	host     *Host
	pair     Pair
	in       *input
	out      *output
	onResize func(Size)
	// closed is closed by Close, once.
	closed chan struct{}
	once   sync.Once
	// wake interrupts the reader.
	wake *event
}

// Openable says whether h can open channels of these kinds: ErrNotYet when not, for
// those who would rather know before they need one.
func (h *Host) Openable(p Pair) error {
	for _, end := range []End{p.In, p.Out} {
		switch end.Kind {
		case Null, None:
		case FD:
			if h.given != nil && !h.given[end.Number] {
				return fmt.Errorf("channel %s: descriptor %d: %w", p, end.Number, unix.EBADF)
			}
			if _, err := accessMode(end.Number); err != nil {
				return fmt.Errorf("channel %s: %w", p, err)
			}
		default:
			return fmt.Errorf("channel %s: %w", p, ErrNotYet)
		}
	}
	return nil
}

// Options say how a channel is opened. The zero value is the default.
type Options struct {
	// Resized is called when the channel's window has a new size. It is called by
	// one goroutine of the Host and must not wait.
	Resized func(Size)
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
	c := &Channel{host: h, pair: pair, onResize: o.Resized, closed: make(chan struct{})}
	var err error
	if c.wake, err = newEvent(); err != nil {
		return nil, fmt.Errorf("channel %s: %w", pair, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if pair.In.Kind == FD {
		c.in, err = h.input(pair.In.Number)
	}
	if pair.Out.Kind == FD && err == nil {
		c.out, err = h.output(pair.Out.Number)
	}
	if err != nil {
		c.wake.close()
		return nil, fmt.Errorf("channel %s: %w", pair, err)
	}
	if c.in != nil {
		c.in.join(c)
	}
	h.channels[c] = struct{}{}
	return c, nil
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
	wake, err := newEvent()
	if err != nil {
		return nil, err
	}
	out := &output{fd: fd, wake: wake, turn: make(chan struct{}, 1)}
	h.outputs[fd] = out
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

// Size is the size of the channel's window. There is none when neither half is a
// terminal.
func (c *Channel) Size() (Size, bool) {
	for _, fd := range c.descriptors() {
		if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			return Size{Rows: ws.Row, Cols: ws.Col, XPixel: ws.Xpixel, YPixel: ws.Ypixel}, true
		}
	}
	return Size{}, false
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
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.isClosed() {
		return ErrClosed
	}
	if err := c.host.makeRaw(c.in.fd); err != nil {
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
// input is io.EOF, now and ever after. A null channel waits until it is closed.
func (c *Channel) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
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
		ready, err := pollWith(c.wake, c.in.fd, unix.POLLIN)
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
		case err == unix.EIO || err == nil && n == 0:
			// EIO is a terminal that hung up.
			return 0, io.EOF
		case err != nil:
			return 0, fmt.Errorf("read descriptor %d: %w", c.in.fd, err)
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

// Close ends the channel, and whoever waits in its Read or Write. The descriptors stay
// open, and other channels on them work on.
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
	})
	return nil
}

// input is a descriptor that channels read. Only the channel in focus does.
type input struct {
	fd int

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

// output is a descriptor that channels write.
type output struct {
	fd int
	// turn holds a token while a channel writes, which keeps Writes whole.
	turn chan struct{}
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
	for len(p) > 0 {
		if out.gone.Load() {
			return total, nil
		}
		if c.isClosed() {
			return total - len(p), ErrClosed
		}
		ready, err := pollWith(out.wake, out.fd, unix.POLLOUT)
		if err != nil {
			return total - len(p), err
		}
		if !ready {
			continue
		}
		n, err := unix.Write(out.fd, p[:min(len(p), pipeChunk)])
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err == unix.EPIPE || err == unix.EIO || err == unix.ECONNRESET:
			out.gone.Store(true)
		case err != nil:
			return total - len(p), fmt.Errorf("write descriptor %d: %w", out.fd, err)
		default:
			p = p[n:]
		}
	}
	return total, nil
}
