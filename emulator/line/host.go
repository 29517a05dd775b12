package line

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Size is the size of a terminal window in characters, and in pixels where the host
// knows them.
type Size struct {
	Rows, Cols     uint16
	XPixel, YPixel uint16
}

// Host holds what the channels of a process share. A descriptor that several channels
// name is one to it: they write it in turns, and its input goes to the channel that
// was focused last. Descriptors are used as they are: neither closed nor made
// non-blocking, because others share them.
//
// A host terminal that Channel.Raw made raw gets back the modes it had when Restore or
// Close is called. No defer outlives a crash: whoever ends the process by a signal or
// os.Exit calls Restore first.
//
// All methods may be called by any number of goroutines at once.
type Host struct {
	// Emulator is what opens windows, and Guard, when it is not nil, has someone give
	// the terminal fd its modes back if the process dies, until the returned function
	// is called. Both are set before the first channel is opened.
	Emulator Emulator
	Guard    func(fd int) (dismiss func())

	// given are the descriptors that channels may use, nil for any.
	given map[int]bool

	ports ports

	mu        sync.Mutex
	inputs    map[int]*input
	outputs   map[int]*output
	terminals map[terminalID]*terminal
	channels  map[*Channel]struct{}
	signals   chan os.Signal
	done      chan struct{}
}

// terminalID tells host terminals apart: several descriptors are often one terminal.
type terminalID struct {
	dev, rdev, ino uint64
}

// terminal is a host terminal in raw mode.
type terminal struct {
	fd    int
	saved unix.Termios
	raw   unix.Termios
}

// NewHost makes a Host that holds nothing yet.
func NewHost() *Host {
	return &Host{
		inputs:    make(map[int]*input),
		outputs:   make(map[int]*output),
		terminals: make(map[terminalID]*terminal),
		channels:  make(map[*Channel]struct{}),
	}
}

// Confine keeps channels to the descriptors that the process was started with. It is
// called before the process opens any of its own, which would be read from and written
// over: only those of the runtime, which another program would not get, are open by then.
func (h *Host) Confine() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list the open descriptors: %w", err)
	}
	h.given = make(map[int]bool)
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			h.given[fd] = true
		}
	}
	return nil
}

// Restore gives every host terminal the modes it had before a channel made it raw. It
// does not wait for output and may be called any number of times, also while channels
// are open: they go on, on a terminal that is no longer raw.
func (h *Host) Restore() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for id, t := range h.terminals {
		if err := setTermios(t.fd, &t.saved); err != nil {
			errs = append(errs, fmt.Errorf("restore the terminal on descriptor %d: %w", t.fd, err))
		}
		delete(h.terminals, id)
	}
	return errors.Join(errs...)
}

// Close closes every channel, restores the terminals and ends the watch over signals.
func (h *Host) Close() error {
	h.mu.Lock()
	channels := make([]*Channel, 0, len(h.channels))
	for c := range h.channels {
		channels = append(channels, c)
	}
	if h.signals != nil {
		signal.Stop(h.signals)
		close(h.done)
		h.signals = nil
	}
	h.mu.Unlock()
	for _, c := range channels {
		c.Close()
	}
	return h.Restore()
}

// makeRaw puts the terminal behind fd into raw mode, unless fd is no terminal or the
// terminal is raw by us already; marked says that breaks are to be told. It says whether
// fd is one.
//
// Precondition: h.mu is held.
func (h *Host) makeRaw(fd int, marked bool) (bool, error) {
	saved, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return false, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return true, fmt.Errorf("stat descriptor %d: %w", fd, err)
	}
	id := terminalID{st.Dev, st.Rdev, st.Ino}
	if _, ok := h.terminals[id]; ok {
		return true, nil
	}
	t := &terminal{fd: fd, saved: *saved, raw: rawModes(*saved)}
	if marked {
		t.raw = markedModes(t.raw)
	}
	if err := setTermios(fd, &t.raw); err != nil {
		return true, fmt.Errorf("make the terminal on descriptor %d raw: %w", fd, err)
	}
	h.terminals[id] = t
	h.watch()
	return true, nil
}

// restore gives the terminal that was made raw by fd its modes back.
func (h *Host) restore(fd int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, t := range h.terminals {
		if t.fd == fd {
			_ = setTermios(fd, &t.saved)
			delete(h.terminals, id)
		}
	}
}

// rawModes is modes with every processing of input and output off, as the guest's own
// line discipline does it.
func rawModes(modes unix.Termios) unix.Termios {
	modes.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	modes.Oflag &^= unix.OPOST
	modes.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	modes.Cflag = modes.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	modes.Cc[unix.VMIN] = 1
	modes.Cc[unix.VTIME] = 0
	return modes
}

// setTermios sets modes at once. Waiting for output to leave first would wait forever
// on a terminal that is stopped.
func setTermios(fd int, modes *unix.Termios) error {
	for {
		err := unix.IoctlSetTermios(fd, unix.TCSETS, modes)
		if err != unix.EINTR {
			return err
		}
	}
}

// watch begins to follow window sizes, and to make terminals raw again when a shell
// lets the process go on that it stopped.
//
// Precondition: h.mu is held.
func (h *Host) watch() {
	if h.signals != nil {
		return
	}
	h.signals = make(chan os.Signal, 1)
	h.done = make(chan struct{})
	signal.Notify(h.signals, unix.SIGWINCH, unix.SIGCONT)
	go func(signals <-chan os.Signal, done <-chan struct{}) {
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				if s == unix.SIGCONT {
					h.rawAgain()
				}
				// A stopped process misses size changes, so both look.
				h.resized()
			}
		}
	}(h.signals, h.done)
}

// rawAgain makes the terminals raw whose foreground is ours: a shell that stopped the
// process has set its own modes since.
func (h *Host) rawAgain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.terminals {
		if pgrp, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP); err == nil && pgrp == unix.Getpgrp() {
			// A terminal that is gone says so to its reader.
			_ = setTermios(t.fd, &t.raw)
		}
	}
}

// resized tells every channel that asked about its window.
func (h *Host) resized() {
	h.mu.Lock()
	channels := make([]*Channel, 0, len(h.channels))
	for c := range h.channels {
		channels = append(channels, c)
	}
	h.mu.Unlock()
	for _, c := range channels {
		if size, ok := c.Size(); ok {
			c.o.resized(size)
		}
	}
}
