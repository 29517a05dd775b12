package line

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// link is what was opened for one channel: its descriptor does not block.
type link struct {
	fd int
	// own says that the terminal behind fd is ours, and raw for good.
	own    bool
	telnet *telnet
	pts    *pts
	// marks finds the breaks of a host terminal.
	marks *marks
	// ended, when it is not nil, says that the other end is gone, whatever fd says.
	ended *atomic.Bool
	close func()
}

// link opens an end that is no descriptor of the process. Of a channel whose halves are
// the same, both use it.
func (c *Channel) link(end End) (l *link, err error) {
	switch end.Kind {
	case Port:
		l, err = c.host.openPort(end, &c.o)
	case Pty, Pts:
		l, err = openPts(end.Kind == Pty)
	case TTY:
		l, err = c.host.openTTY(end.Path, &c.o)
	case Xterm:
		l, err = c.host.openXterm(c)
	default:
		err = fmt.Errorf("%s opens nothing", end)
	}
	if err == nil {
		c.links = append(c.links, l)
	}
	return l, err
}

// openTTY opens a terminal of the host. It may be a serial line, on which there are breaks.
func (h *Host) openTTY(path string, o *Options) (*link, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is no terminal", path)
	}
	dismiss := func() {}
	if h.Guard != nil {
		dismiss = h.Guard(fd)
	}
	return &link{fd: fd, marks: &marks{pressed: o.pressed}, close: func() {
		h.restore(fd)
		dismiss()
		unix.Close(fd)
	}}, nil
}

// pts is a pty of the host whose other side anyone may open who finds its path.
type pts struct {
	path string
	fd   int
	// opened is an inotify instance that tells when the path is opened.
	opened int
	// empty is the reader's: nobody has the other side open, and the reader knows.
	empty bool
}

// openPts makes a pty in raw mode: a BSD one if that is asked for and there is one.
func openPts(bsd bool) (*link, error) {
	p := &pts{fd: -1, opened: -1, empty: true}
	if bsd {
		p.fd, p.path = firstBSD()
	}
	if p.fd < 0 {
		if err := p.make(); err != nil {
			p.close()
			return nil, err
		}
	}
	if err := p.ready(); err != nil {
		p.close()
		return nil, err
	}
	return &link{fd: p.fd, own: true, pts: p, close: p.close}, nil
}

// firstBSD is the first BSD pty that nobody uses; the descriptor is -1 if there is none.
func firstBSD() (fd int, path string) {
	for _, bank := range "pqrstuvwxyzabcde" {
		for _, unit := range "0123456789abcdef" {
			name := fmt.Sprintf("/dev/pty%c%c", bank, unit)
			fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.ENOENT) {
				// The banks stand in order: without a first one there are none.
				return -1, ""
			}
			if err == nil {
				return fd, strings.Replace(name, "/dev/pty", "/dev/tty", 1)
			}
		}
	}
	return -1, ""
}

// make makes a pty under /dev/pts.
func (p *pts) make() (err error) {
	if p.fd, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	if err := unix.IoctlSetPointerInt(p.fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock a pty: %w", err)
	}
	n, err := unix.IoctlGetInt(p.fd, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("number of a pty: %w", err)
	}
	p.path = fmt.Sprintf("/dev/pts/%d", n)
	return nil
}

// ready makes the pty raw and watches for someone to come. The other side is opened once
// and closed again: from then on the host tells whether anyone is there.
func (p *pts) ready() error {
	modes, err := unix.IoctlGetTermios(p.fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("modes of %s: %w", p.path, err)
	}
	raw := rawModes(*modes)
	if err := setTermios(p.fd, &raw); err != nil {
		return fmt.Errorf("make %s raw: %w", p.path, err)
	}
	if p.opened, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return fmt.Errorf("watch %s: %w", p.path, err)
	}
	other, err := unix.Open(p.path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p.path, Err: err}
	}
	unix.Close(other)
	if _, err := unix.InotifyAddWatch(p.opened, p.path, unix.IN_OPEN); err != nil {
		return fmt.Errorf("watch %s: %w", p.path, err)
	}
	return nil
}

// poll is what can be done on the pty now.
func (p *pts) poll() int16 {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return 0
	}
	return fds[0].Revents
}

// deserted says that nobody has the other side open.
func (p *pts) deserted() bool { return p.poll()&unix.POLLHUP != 0 }

// wait waits until there is something to read or to be told, or until e is set. It says
// whether there is.
func (p *pts) wait(e *event) (bool, error) {
	if !p.empty {
		return pollWith(e, p.fd, unix.POLLIN)
	}
	if now := p.poll(); now&unix.POLLIN != 0 {
		return true, nil
	} else if now&unix.POLLHUP == 0 {
		p.empty = false
		return pollWith(e, p.fd, unix.POLLIN)
	}
	ready, err := pollWith(e, p.opened, unix.POLLIN)
	if ready {
		var events [512]byte
		for {
			if n, err := unix.Read(p.opened, events[:]); err != nil || n <= 0 {
				break
			}
		}
	}
	// Those who came are looked for again.
	return false, err
}

// spoke is for input: someone was there, if only for a moment.
func (p *pts) spoke() { p.empty = false }

// left is for the end of the input. It says whether that is news.
func (p *pts) left() bool {
	news := !p.empty
	p.empty = true
	return news
}

func (p *pts) close() {
	for _, fd := range []int{p.fd, p.opened} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
