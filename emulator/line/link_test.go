package line

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// expect reads exactly want from r, which takes what it needs of time.
func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	within(t, fmt.Sprintf("reading %q", want), func() {
		if n, err := io.ReadFull(r, buf); err != nil || string(buf) != want {
			t.Errorf("read %q (%v), want %q", buf[:n], err, want)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
}

// theEnd reads the end of a channel's input.
func theEnd(t *testing.T, c *Channel) {
	t.Helper()
	within(t, "the end of input", func() {
		if n, err := c.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v; want the end", n, err)
		}
	})
}

func TestPts(t *testing.T) {
	for _, spec := range []string{"pts", "pty"} {
		c := open(t, NewHost(), spec, Options{})
		if !c.Lasts() || !strings.HasPrefix(c.Path(), "/dev/") || !c.NeedsCR() {
			t.Errorf("%s: path %q, lasts %v", spec, c.Path(), c.Lasts())
		}
		// What is written before anyone comes is there for who does.
		if _, err := c.Write([]byte("early\n")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			read := make(chan string)
			go func() {
				buf := make([]byte, 100)
				n, _ := c.Read(buf)
				read <- string(buf[:n])
			}()
			user, err := os.OpenFile(c.Path(), os.O_RDWR|unix.O_NOCTTY, 0)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, user, "early\n")
			user.WriteString("typed")
			within(t, "read", func() {
				if got := <-read; got != "typed" {
					t.Errorf("read %q", got)
				}
			})
			user.Close()
			theEnd(t, c)
			// With nobody there what is too much is dropped, and nobody waits.
			within(t, "write", func() { c.Write([]byte("early\n")) })
		}
		within(t, "a long write", func() {
			if n, err := c.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
				t.Errorf("wrote %d, %v", n, err)
			}
		})
		// One who only writes, and is gone at once, is heard.
		if err := os.WriteFile(c.Path(), []byte("note"), 0); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "note")
	}
}

func TestTTYPath(t *testing.T) {
	user, terminal := hostTerminal(t)
	name := fmt.Sprintf("/proc/self/fd/%d", terminal)
	path, err := os.Readlink(name)
	if err != nil {
		t.Fatal(err)
	}
	before := modes(t, terminal)
	h := NewHost()
	guarded := 0
	h.Guard = func(int) func() { guarded++; return func() { guarded-- } }
	c := open(t, h, path, Options{})
	if err := c.Raw(); err != nil {
		t.Fatal(err)
	}
	if m := modes(t, terminal); m.Lflag&unix.ECHO != 0 || guarded != 1 {
		t.Errorf("modes %+v, guarded %d", m, guarded)
	}
	user.WriteString("x")
	expect(t, c, "x")
	c.Write([]byte("y"))
	expect(t, user, "y")
	c.Close()
	if modes(t, terminal) != before || guarded != 0 {
		t.Errorf("the modes are not restored, guarded %d", guarded)
	}
	pair, _ := Parse("tty:/dev/null")
	if _, err := h.Open(pair, Options{}); err == nil || !strings.Contains(err.Error(), "/dev/null is no terminal") {
		t.Errorf("open /dev/null: %v", err)
	}
}

// freePort is a TCP port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// greeting is what a telnet client is told first.
const greeting = "\xff\xfb\x01\xff\xfb\x03\xff\xfd\x03\xff\xfd\x1f"

func TestPort(t *testing.T) {
	h := NewHost()
	spec := fmt.Sprintf("port:%d", freePort(t))
	pair, err := Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	release, err := h.Hold(pair)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", "127.0.0.1"+strings.TrimPrefix(spec, "port"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	// A client may come before the line is opened; one that left meanwhile does not count.
	dial().Close()
	early := dial()
	early.Write([]byte("a"))
	sizes := make(chan Size, 10)
	var c *Channel
	within(t, "open", func() { c = open(t, h, spec, Options{Resized: func(s Size) { sizes <- s }}) })
	expect(t, early, greeting)
	expect(t, c, "a")
	early.Write([]byte("\xff\xfa\x1f\x00\x84\x00\x2b\xff\xf0\xff\xfb\x18b"))
	expect(t, c, "b")
	expect(t, early, "\xff\xfe\x18")
	if s := <-sizes; s != (Size{Rows: 43, Cols: 132}) {
		t.Errorf("size %+v", s)
	}
	if s, ok := c.Size(); !ok || s.Rows != 43 {
		t.Errorf("size %+v, %v", s, ok)
	}
	c.Write([]byte("out\r\n\xff"))
	expect(t, early, "out\r\n\xff\xff")
	// Lines get clients in the order in which they began to wait.
	var got [2]chan *Channel
	for i := range got {
		got[i] = make(chan *Channel, 1)
		go func() {
			c, err := h.Open(pair, Options{})
			if err != nil {
				t.Error(err)
			}
			got[i] <- c
		}()
		waitFor(t, h, i+1)
	}
	for i := range got {
		conn := dial()
		within(t, "open", func() {
			c := <-got[i]
			c.Write([]byte("hi"))
			expect(t, conn, greeting+"hi")
			conn.Close()
			theEnd(t, c)
			c.Close()
		})
	}
	early.Close()
	theEnd(t, c)
	c.Close()
	cancel := make(chan struct{})
	close(cancel)
	if _, err := h.Open(pair, Options{Cancel: cancel}); !errors.Is(err, ErrClosed) {
		t.Errorf("a cancelled open: %v", err)
	}
	last := dial()
	release()
	within(t, "the end of a client that waits", func() { io.Copy(io.Discard, last) })
	if _, err := net.Dial("tcp", "127.0.0.1"+strings.TrimPrefix(spec, "port")); err == nil {
		t.Error("the port is still open")
	}
}

// waitFor waits until so many lines wait for a client of the only port.
func waitFor(t *testing.T, h *Host, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		h.ports.mu.Lock()
		for _, p := range h.ports.ports {
			p.mu.Lock()
			waiting := len(p.lines)
			p.mu.Unlock()
			if waiting == n {
				h.ports.mu.Unlock()
				return
			}
		}
		h.ports.mu.Unlock()
	}
	t.Fatalf("no %d lines wait", n)
}

func TestPortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pair, _ := Parse(fmt.Sprintf("null,port:%d", l.Addr().(*net.TCPAddr).Port))
	if _, err := NewHost().Hold(pair); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("hold: %v", err)
	}
}

// TestMain is the program that runs in a window, when a fake emulator starts it as that.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "join" {
		if err := JoinWindow(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeEmulator runs its command on a terminal of the test's instead of in a window.
func fakeEmulator(t *testing.T, terminal int) (e Emulator, args string) {
	t.Helper()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", terminal))
	if err != nil {
		t.Fatal(err)
	}
	args = filepath.Join(t.TempDir(), "args")
	script := filepath.Join(t.TempDir(), "emulator")
	text := fmt.Sprintf("#!/bin/sh\necho \"$1|$2|$3|$4\" >%s\nshift 3\nexec setsid -c -w \"$@\" <>%s >&0 2>&1\n", args, path)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Emulator{Program: script, TitleSwitch: "-title", ExecSwitch: "-x", Join: []string{self, "join"}}, args
}

func TestXterm(t *testing.T) {
	user, terminal := hostTerminal(t)
	h := NewHost()
	var args string
	h.Emulator, args = fakeEmulator(t, terminal)
	sizes := make(chan Size, 10)
	for range 2 {
		c := open(t, h, "xterm", Options{Title: "Virtual Console #1", Resized: func(s Size) { sizes <- s }})
		if text, err := os.ReadFile(args); err != nil || string(text) != "-title|Virtual Console #1|-x|"+h.Emulator.Join[0]+"\n" {
			t.Errorf("started with %q, %v", text, err)
		}
		if err := c.Raw(); err != nil {
			t.Fatal(err)
		}
		user.WriteString("\x03")
		expect(t, c, "\x03")
		c.Write([]byte("shown"))
		expect(t, user, "shown")
		rows := uint16(30 + len(c.Pair().String()))
		if size, _ := c.Size(); size.Rows == rows {
			rows++
		}
		if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: 90}); err != nil {
			t.Fatal(err)
		}
		within(t, "the new size", func() {
			if s := <-sizes; s.Rows != rows {
				t.Errorf("size %+v, want %d rows", s, rows)
			}
		})
		c.Close()
		// The emulator ends with its line: the next may have the terminal.
	}
	c := open(t, h, "xterm", Options{})
	user.Close()
	theEnd(t, c)
}

func TestNoWindow(t *testing.T) {
	h := NewHost()
	pair, _ := Parse("xterm")
	for _, test := range []struct{ program, want string }{
		{"/no/such/emulator", "no such file"},
		{"false", "exit status 1"},
		{script(t, "echo cannot open display >&2; exit 3"), "exit status 3: cannot open display"},
	} {
		h.Emulator = Emulator{Program: test.program, TitleSwitch: "-T", ExecSwitch: "-e", Join: []string{"true"}}
		within(t, "open", func() {
			if _, err := h.Open(pair, Options{}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", test.program, err, test.want)
			}
		})
	}
	h.Emulator.Program = script(t, "exec sleep 1000")
	cancel := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() { close(cancel) })
	within(t, "open", func() {
		if _, err := h.Open(pair, Options{Cancel: cancel}); !errors.Is(err, ErrClosed) {
			t.Errorf("a cancelled open: %v", err)
		}
	})
	if out, _ := exec.Command("pgrep", "-P", fmt.Sprint(os.Getpid()), "sleep").Output(); len(out) != 0 {
		t.Errorf("the emulator lives on: %s", out)
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestParseEmulator(t *testing.T) {
	e, err := ParseEmulator("gnome-terminal,-t,-x")
	if err != nil || e.Program != "gnome-terminal" || e.TitleSwitch != "-t" || e.ExecSwitch != "-x" {
		t.Errorf("%+v, %v", e, err)
	}
	for _, spec := range []string{"", "xterm", "xterm,-T", "xterm,-T,", ",-T,-e", "xterm,-T,-e,more"} {
		if _, err := ParseEmulator(spec); err == nil {
			t.Errorf("%q is accepted", spec)
		}
	}
}
