package line

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

// within fails the test when f does not return in time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s does not return", what)
	}
}

// pipe is a pipe whose guest end is a plain descriptor, as a process inherits it.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

func open(t *testing.T, h *Host, spec string, o Options) *Channel {
	t.Helper()
	pair, err := Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Open(pair, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestReadAndWritePipes(t *testing.T) {
	in, typed := pipe(t)
	shown, out := pipe(t)
	c := open(t, NewHost(), fmt.Sprintf("fd:%d,fd:%d", in, out), Options{})
	unix.Write(typed, []byte("input"))
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != "input" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	want := bytes.Repeat([]byte("output "), 100_000)
	go func() {
		if n, err := c.Write(want); n != len(want) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	}()
	var got []byte
	for len(got) < len(want) {
		n, err := unix.Read(shown, buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the output is another")
	}
	for _, fd := range []int{in, out} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("descriptor %d has flags %#x, %v", fd, flags, err)
		}
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	in, _ := pipe(t)
	_, out := pipe(t)
	h := NewHost()
	for _, spec := range []string{fmt.Sprintf("fd:%d,fd:%d", in, out), "null"} {
		c := open(t, h, spec, Options{})
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		written := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 1<<20))
			written <- err
		}()
		time.Sleep(20 * time.Millisecond)
		within(t, "close", func() { c.Close() })
		within(t, "read", func() {
			if err := <-read; !errors.Is(err, ErrClosed) {
				t.Errorf("%s: read: %v, want ErrClosed", spec, err)
			}
		})
		within(t, "write", func() {
			if err := <-written; spec != "null" && !errors.Is(err, ErrClosed) {
				t.Errorf("%s: write: %v, want ErrClosed", spec, err)
			}
		})
	}
}

func TestAbortEndsWritesForGood(t *testing.T) {
	_, out := pipe(t)
	c := open(t, NewHost(), fmt.Sprintf("null,fd:%d", out), Options{})
	done := make(chan struct{})
	go func() {
		c.Write(make([]byte, 1<<20))
		close(done)
	}()
	time.Sleep(20 * time.Millisecond)
	c.Abort()
	within(t, "write", func() { <-done })
	within(t, "a later write", func() { c.Write(make([]byte, 1<<20)) })
}

func TestEndOfInput(t *testing.T) {
	in, typed := pipe(t)
	unix.Write(typed, []byte("last"))
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := open(t, NewHost(), fmt.Sprintf("fd:%d,null", in), Options{})
	if err := unix.Dup3(int(null.Fd()), typed, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	within(t, "read", func() {
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "last" {
			t.Errorf("read %q, %v", got, err)
		}
	})
	c = open(t, NewHost(), fmt.Sprintf("fd:%d,null", null.Fd()), Options{})
	within(t, "read of /dev/null", func() {
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v; want the end", n, err)
		}
	})
}

func TestReaderIsGone(t *testing.T) {
	shown, out := pipe(t)
	c := open(t, NewHost(), fmt.Sprintf("null,fd:%d", out), Options{})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), shown, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	within(t, "write", func() {
		for range 3 {
			if n, err := c.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
				t.Errorf("wrote %d, %v", n, err)
			}
		}
	})
}

func TestFocusTurnsInput(t *testing.T) {
	in, typed := pipe(t)
	h := NewHost()
	spec := fmt.Sprintf("fd:%d,null", in)
	first, second := open(t, h, spec, Options{}), open(t, h, spec, Options{})
	got := make(chan string)
	for name, c := range map[string]*Channel{"first ": first, "second ": second} {
		go func() {
			buf := make([]byte, 100)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				got <- name + string(buf[:n])
			}
		}()
	}
	expect := func(text, want string) {
		t.Helper()
		unix.Write(typed, []byte(text))
		select {
		case s := <-got:
			if s != want {
				t.Errorf("%q, want %q", s, want)
			}
		case <-time.After(patience):
			t.Fatalf("nobody reads %q", text)
		}
	}
	expect("a", "first a")
	second.Focus()
	expect("b", "second b")
	second.Close()
	expect("c", "first c")
}

func TestOpenRefuses(t *testing.T) {
	r, w := pipe(t)
	h := NewHost()
	for _, test := range []struct {
		pair Pair
		want error
	}{
		{Pair{In: End{Kind: None}, Out: End{Kind: None}}, ErrNoDevice},
		{Pair{In: End{Kind: FD, Number: w}}, unix.EBADF},
		{Pair{Out: End{Kind: FD, Number: r}}, unix.EBADF},
		{Pair{In: End{Kind: FD, Number: 1 << 20}}, unix.EBADF},
		{Pair{In: End{Kind: TTY, Path: "/nowhere/tty"}}, unix.ENOENT},
	} {
		if _, err := h.Open(test.pair, Options{}); !errors.Is(err, test.want) {
			t.Errorf("open %s: %v, want %v", test.pair, err, test.want)
		}
	}
}

// hostTerminal is a pty: a terminal of the host and who sits before it.
func hostTerminal(t *testing.T) (user *os.File, terminal int) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(terminal) })
	return user, terminal
}

func modes(t *testing.T, fd int) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func TestTerminalIsRawAndRestored(t *testing.T) {
	_, terminal := hostTerminal(t)
	again, err := unix.FcntlInt(uintptr(terminal), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	before := modes(t, terminal)
	h := NewHost()
	c := open(t, h, fmt.Sprintf("fd:%d", terminal), Options{})
	if modes(t, terminal) != before || c.NeedsCR() {
		t.Error("opening alone changes the modes")
	}
	for range 2 {
		if err := c.Raw(); err != nil {
			t.Fatal(err)
		}
		// A second name of the same terminal must not take raw modes for the old ones.
		other := open(t, h, fmt.Sprintf("fd:%d", again), Options{})
		if err := other.Raw(); err != nil {
			t.Fatal(err)
		}
		raw := modes(t, terminal)
		if raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 || raw.Oflag&unix.OPOST != 0 || !c.NeedsCR() {
			t.Errorf("modes are not raw: %+v", raw)
		}
		for range 2 {
			if err := h.Restore(); err != nil {
				t.Fatal(err)
			}
			if modes(t, terminal) != before {
				t.Error("the modes are not restored")
			}
		}
	}
	if err := c.Raw(); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if modes(t, terminal) != before {
		t.Error("the modes are not restored by Close")
	}
}

func TestWindowSizeIsFollowed(t *testing.T) {
	user, terminal := hostTerminal(t)
	h := NewHost()
	sizes := make(chan Size, 10)
	c := open(t, h, fmt.Sprintf("fd:%d", terminal), Options{Resized: func(s Size) { sizes <- s }})
	defer h.Close()
	if err := c.Raw(); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 132}); err != nil {
		t.Fatal(err)
	}
	if size, ok := c.Size(); !ok || size.Rows != 50 || size.Cols != 132 {
		t.Errorf("size %+v, %v", size, ok)
	}
	// The test's own terminal is another: its size changes by hand.
	if err := unix.Kill(unix.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	select {
	case size := <-sizes:
		if size.Rows != 50 || size.Cols != 132 {
			t.Errorf("told of size %+v", size)
		}
	case <-time.After(patience):
		t.Error("nobody is told of the new size")
	}
}

func TestTerminalThatHangsUpIsTheEnd(t *testing.T) {
	user, terminal := hostTerminal(t)
	c := open(t, NewHost(), fmt.Sprintf("fd:%d", terminal), Options{})
	user.Close()
	within(t, "read", func() {
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %v, want the end", err)
		}
	})
	within(t, "write", func() {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("write: %v", err)
		}
	})
}
