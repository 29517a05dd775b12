package line

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// windowPatience is how long a window may take to appear, and windowEnd how long
	// its emulator may take to end once it is not wanted any more.
	windowPatience = 30 * time.Second
	windowEnd      = 2 * time.Second
	// maxComplaint is how much of what an emulator complains of is kept, in bytes.
	maxComplaint = 512
)

// An Emulator is the program that opens windows. It is started as
//
//	Program TitleSwitch TITLE ExecSwitch Join... SOCKET
//
// and must run the words behind ExecSwitch in the window's terminal.
type Emulator struct {
	Program, TitleSwitch, ExecSwitch string
	// Join is the command that calls JoinWindow with the word behind it.
	Join []string
}

// DefaultEmulator is that of User Mode Linux.
var DefaultEmulator = Emulator{Program: "xterm", TitleSwitch: "-T", ExecSwitch: "-e"}

// ParseEmulator reads "PROGRAM,TITLE SWITCH,EXEC SWITCH". All three are wanted, as in
// User Mode Linux.
func ParseEmulator(spec string) (Emulator, error) {
	words := strings.Split(spec, ",")
	if len(words) != 3 || words[0] == "" || words[1] == "" || words[2] == "" {
		return Emulator{}, fmt.Errorf("%q is not of the form PROGRAM,TITLE SWITCH,EXEC SWITCH, as xterm,-T,-e", spec)
	}
	return Emulator{Program: words[0], TitleSwitch: words[1], ExecSwitch: words[2]}, nil
}

// openXterm opens a window and waits for its terminal, which comes over a socket that
// only this user's processes may connect to and that leaves no file behind.
func (h *Host) openXterm(c *Channel) (*link, error) {
	e := h.Emulator
	if len(e.Join) == 0 {
		return nil, errors.New("no program joins windows")
	}
	name := "@umlkit-window-" + rand.Text()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	args := append([]string{e.TitleSwitch, c.o.Title, e.ExecSwitch}, append(e.Join[:len(e.Join):len(e.Join)], name)...)
	w := &window{cmd: exec.Command(e.Program, args...), exited: make(chan struct{})}
	if err := w.start(); err != nil {
		return nil, err
	}
	conn, fd, err := w.joined(listener, c.o.Cancel)
	if err != nil {
		w.end(0)
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		conn.Close()
		unix.Close(fd)
		w.end(0)
		return nil, fmt.Errorf("the terminal of %s: %w", e.Program, err)
	}
	ended := new(atomic.Bool)
	l := &link{fd: fd, ended: ended, close: func() {
		h.restore(fd)
		conn.Close()
		unix.Close(fd)
		go w.end(windowEnd)
	}}
	go func() {
		var b [1]byte
		for {
			if n, err := conn.Read(b[:]); n == 0 || err != nil {
				break
			}
			c.busy.RLock()
			if !c.isClosed() {
				if size, ok := windowSize(fd); ok {
					c.o.resized(size)
				}
			}
			c.busy.RUnlock()
		}
		ended.Store(true)
		c.wake.set()
	}()
	return l, nil
}

// window is a running emulator.
type window struct {
	cmd       *exec.Cmd
	complaint complaint
	exited    chan struct{}
	err       error
}

// start starts the emulator, in a process group of its own: keys of this terminal are
// none of its business. It dies with us, which the host ties to the thread that started
// it: that one is kept until the emulator has ended.
func (w *window) start() error {
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	w.cmd.Stderr, w.cmd.WaitDelay = &w.complaint, windowEnd
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := w.cmd.Start()
		started <- err
		if err == nil {
			w.err = w.cmd.Wait()
			close(w.exited)
		}
	}()
	return <-started
}

// end has the emulator end, if it does not do so by itself within patience.
func (w *window) end(patience time.Duration) {
	select {
	case <-w.exited:
		return
	case <-time.After(patience):
	}
	_ = unix.Kill(-w.cmd.Process.Pid, unix.SIGTERM)
	select {
	case <-w.exited:
	case <-time.After(windowEnd):
		_ = unix.Kill(-w.cmd.Process.Pid, unix.SIGKILL)
	}
}

// joined waits for the terminal of the window.
func (w *window) joined(listener *net.UnixListener, cancel <-chan struct{}) (*net.UnixConn, int, error) {
	type result struct {
		conn *net.UnixConn
		fd   int
	}
	came := make(chan result, 1)
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				close(came)
				return
			}
			if fd, err := receiveTerminal(conn); err == nil {
				came <- result{conn, fd}
				return
			}
			conn.Close()
		}
	}()
	timer := time.NewTimer(windowPatience)
	defer timer.Stop()
	exited, err := w.exited, error(nil)
	for {
		select {
		case r, ok := <-came:
			if !ok {
				return nil, -1, fmt.Errorf("%s: the socket for its terminal failed", w.cmd.Path)
			}
			return r.conn, r.fd, nil
		case <-exited:
			// Some emulators have a server open the window, and end well at once.
			if w.err == nil {
				exited = nil
				continue
			}
			err = fmt.Errorf("%s: %w%s", w.cmd.Path, w.err, w.complaint.text())
		case <-timer.C:
			err = fmt.Errorf("%s: no terminal came of it in %v", w.cmd.Path, windowPatience)
		case <-cancel:
			err = ErrClosed
		}
		listener.Close()
		if r, ok := <-came; ok {
			r.conn.Close()
			unix.Close(r.fd)
		}
		return nil, -1, err
	}
}

// receiveTerminal takes a terminal that a process of this user sends.
func receiveTerminal(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return -1, err
	}
	if int(peer.Uid) != os.Geteuid() {
		return -1, fmt.Errorf("process %d of user %d: %w", peer.Pid, peer.Uid, unix.EPERM)
	}
	_ = conn.SetReadDeadline(time.Now().Add(windowEnd))
	defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	var data [1]byte
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(data[:], rights)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return -1, unix.EINVAL
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, unix.EINVAL
	}
	unix.CloseOnExec(fds[0])
	if _, err := unix.IoctlGetTermios(fds[0], unix.TCGETS); err != nil {
		unix.Close(fds[0])
		return -1, err
	}
	return fds[0], nil
}

// complaint keeps the beginning of what an emulator writes to stderr.
type complaint struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (c *complaint) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.b = append(c.b, p[:min(len(p), maxComplaint-len(c.b))]...)
	return len(p), nil
}

// text is the first line, behind a colon.
func (c *complaint) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	line, _, _ := bytes.Cut(bytes.TrimSpace(c.b), []byte("\n"))
	if len(line) == 0 {
		return ""
	}
	return ": " + strings.ToValidUTF8(string(line), "?")
}

// JoinWindow is what runs in a window: it gives its terminal to the machine that listens
// on socket, tells it when the size changes, and returns when the machine has closed the
// line.
func JoinWindow(socket string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close()
	fd := -1
	for n := range 3 {
		if _, err := unix.IoctlGetTermios(n, unix.TCGETS); err == nil {
			fd = n
			break
		}
	}
	if fd < 0 {
		return errors.New("there is no terminal here")
	}
	// Keys are the guest's: the terminal is raw as soon as the machine has it.
	signal.Ignore(unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil); err != nil {
		return err
	}
	go func() {
		for range resized {
			_, _ = conn.Write([]byte{0})
		}
	}()
	var b [1]byte
	_, _ = conn.Read(b[:])
	return nil
}
