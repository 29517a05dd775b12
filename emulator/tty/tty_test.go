package tty

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/internal/sentrytest"
	"github.com/umlkit/umlkit/emulator/line"
)

// machine is terminals without tasks: what programs do is done by calls.
type machine struct {
	*sentrytest.Sentry
	t   *testing.T
	all *Terminals
	// in is what is typed, out what is shown.
	in, out *os.File
}

// patience is how long a test waits for what should come at once.
const patience = 10 * time.Second

// newMachine joins con0 to a pair of pipes, unless o wires the consoles otherwise.
func newMachine(t *testing.T, o Options) *machine {
	t.Helper()
	guestIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, guestOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{Sentry: sentrytest.New(t), t: t, in: in, out: out}
	if o.Con.Units == nil {
		o.Con.Units = map[int]string{0: fmt.Sprintf("fd:%d,fd:%d", guestIn.Fd(), guestOut.Fd())}
	}
	o.Host = line.NewHost()
	// Lines are logged behind a test's back, and after its end.
	o.Logf = nil
	if m.all, err = New(m.Context, o); err != nil {
		t.Fatal(err)
	}
	if err := m.all.Register(m.VFS); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.all.Close()
		o.Host.Close()
		for _, f := range []*os.File{in, guestIn, out, guestOut} {
			f.Close()
		}
	})
	return m
}

// open opens a character device.
func (m *machine) open(major, minor, flags uint32) *vfs.FileDescription {
	m.t.Helper()
	fd, err := m.Open(vfs.CharDevice, major, minor, flags)
	if err != nil {
		m.t.Fatalf("open %d:%d: %v", major, minor, err)
	}
	m.t.Cleanup(func() { fd.DecRef(m.Context) })
	return fd
}

// write writes all of s, waiting for room.
func (m *machine) write(fd *vfs.FileDescription, s string) {
	m.t.Helper()
	e, room := waiter.NewChannelEntry(waiter.WritableEvents)
	fd.EventRegister(&e)
	defer fd.EventUnregister(&e)
	for len(s) > 0 {
		n, err := fd.Write(m.Context, usermem.BytesIOSequence([]byte(s)), vfs.WriteOptions{})
		s = s[n:]
		if linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
			select {
			case <-room:
			case <-time.After(patience):
				m.t.Fatalf("no room for %d bytes", len(s))
			}
		} else if err != nil {
			m.t.Fatalf("write: %v", err)
		}
	}
}

// read reads once, waiting for input.
func (m *machine) read(fd *vfs.FileDescription) string {
	m.t.Helper()
	e, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	fd.EventRegister(&e)
	defer fd.EventUnregister(&e)
	buf := make([]byte, 8192)
	for {
		n, err := fd.Read(m.Context, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
		if err == nil {
			return string(buf[:n])
		}
		if !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
			m.t.Fatalf("read: %v", err)
		}
		select {
		case <-ready:
		case <-time.After(patience):
			m.t.Fatal("no input")
		}
	}
}

// shown reads exactly what should be shown.
func (m *machine) shown(want string) {
	m.t.Helper()
	m.out.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, len(want))
	n, err := io.ReadFull(m.out, buf)
	if err != nil || string(buf) != want {
		m.t.Fatalf("shown %q (%v), want %q", buf[:n], err, want)
	}
}

// nothingShown says that nothing more is shown for a little while.
func (m *machine) nothingShown() {
	m.t.Helper()
	m.out.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	buf := make([]byte, 100)
	if n, err := m.out.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		m.t.Fatalf("shown %q (%v), want nothing", buf[:n], err)
	}
}

func (m *machine) typed(s string) {
	m.t.Helper()
	if _, err := m.in.WriteString(s); err != nil {
		m.t.Fatal(err)
	}
}

func TestLineIsEditedAndEchoed(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	m.typed("hellp\x7fo\n")
	if got := m.read(fd); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	m.shown("hellp\b \bo\r\n")
}

func TestKillCharacter(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	m.typed("one\nrubbish\x15two\n")
	if got := m.read(fd); got != "one\n" {
		t.Errorf("read %q", got)
	}
	if got := m.read(fd); got != "two\n" {
		t.Errorf("read %q", got)
	}
}

func TestEndOfFileIsTypedAndReadable(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	e, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	fd.EventRegister(&e)
	defer fd.EventUnregister(&e)
	m.typed("\x04")
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("an end of file wakes nobody")
	}
	if fd.Readiness(waiter.ReadableEvents) == 0 {
		t.Error("an end of file is not readable")
	}
	if got := m.read(fd); got != "" {
		t.Errorf("read %q, want the end", got)
	}
}

// TestInterruptIsSeenBehindAnUnreadLine: a program that reads nothing can be interrupted.
func TestInterruptIsSeenBehindAnUnreadLine(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	m.typed("nobody reads this\n")
	m.shown("nobody reads this\r\n")
	m.typed("\x03next\n")
	m.shown("^Cnext\r\n")
	if got := m.read(fd); got != "next\n" {
		t.Errorf("read %q: the interrupt did not flush", got)
	}
}

func TestStopAndStartOutput(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	m.typed("\x13")
	time.Sleep(50 * time.Millisecond)
	m.write(fd, "held back\n")
	m.nothingShown()
	m.typed("\x11")
	m.shown("held back\r\n")
}

func TestKernelLinesKeepTheirPlace(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(5, 1, linux.O_RDWR)
	for i := range 100 {
		m.write(fd, fmt.Sprintf("program %d\n", i))
		fmt.Fprintf(m.all, "kernel %d\n", i)
	}
	for i := range 100 {
		m.shown(fmt.Sprintf("program %d\r\n", i))
		m.shown(fmt.Sprintf("kernel %d\n", i))
	}
}

func TestNullTerminalSwallowsAndWaits(t *testing.T) {
	m := newMachine(t, Options{Con: Wiring{Default: "null"}})
	fd := m.open(4, 3, linux.O_RDWR)
	m.write(fd, strings.Repeat("x", 1<<20))
	_, err := fd.Read(m.Context, usermem.BytesIOSequence(make([]byte, 10)), vfs.ReadOptions{})
	if !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
		t.Errorf("read: %v, want to wait", err)
	}
	if ready := fd.Readiness(waiter.ReadableEvents | waiter.WritableEvents); ready != waiter.WritableEvents {
		t.Errorf("readiness %#x, want writable alone", ready)
	}
}

func TestNoDevice(t *testing.T) {
	m := newMachine(t, Options{Con: Wiring{Default: "none"}})
	if _, err := m.Open(vfs.CharDevice, 4, 5, linux.O_RDWR); !linuxerr.Equals(linuxerr.ENXIO, err) {
		t.Errorf("open: %v, want ENXIO", err)
	}
}

func TestConsoleIsAnotherTerminal(t *testing.T) {
	m := newMachine(t, Options{Console: "ttyS1,115200"})
	if m.all.console.name != "ttyS1" {
		t.Errorf("the console is %s", m.all.console.name)
	}
	m = newMachine(t, Options{Console: "hvc0"})
	if m.all.console.name != "tty0" {
		t.Errorf("the console is %s", m.all.console.name)
	}
}

// TestEndOfScriptHangsUp: what a pipe held is read, then the terminal hangs up; output
// goes on for who opens it again.
func TestEndOfScriptHangsUp(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	m.typed("last words\n")
	m.in.Close()
	if got := m.read(fd); got != "last words\n" {
		t.Errorf("read %q", got)
	}
	if got := m.read(fd); got != "" {
		t.Errorf("read %q, want the end", got)
	}
	if _, err := fd.Write(m.Context, usermem.BytesIOSequence([]byte("x")), vfs.WriteOptions{}); !linuxerr.Equals(linuxerr.EIO, err) {
		t.Errorf("write: %v, want EIO", err)
	}
	m.shown("last words\r\n")
	m.write(m.open(4, 0, linux.O_RDWR), "again\n")
	m.shown("again\r\n")
}

// TestNobodyIsNoEnd: an input that is at its end from the beginning has nobody who could
// leave.
func TestNobodyIsNoEnd(t *testing.T) {
	m := newMachine(t, Options{})
	m.in.Close()
	fd := m.open(4, 0, linux.O_RDWR)
	time.Sleep(20 * time.Millisecond)
	if _, err := fd.Read(m.Context, usermem.BytesIOSequence(make([]byte, 10)), vfs.ReadOptions{}); !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
		t.Errorf("read: %v, want to wait", err)
	}
	m.write(fd, "still here\n")
	m.shown("still here\r\n")
}

// TestRemovedUnitIsGone: it answers ENXIO, its node goes, and both come back.
func TestRemovedUnitIsGone(t *testing.T) {
	var news []string
	m := newMachine(t, Options{Changed: func(n Node, there bool) { news = append(news, fmt.Sprint(n.Name, there)) }, Ssl: Wiring{Units: map[int]string{63: "none"}}})
	con := m.all.Driver("con")
	if err := con.Remove("5"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open(vfs.CharDevice, 4, 5, linux.O_RDWR); !linuxerr.Equals(linuxerr.ENXIO, err) {
		t.Errorf("open: %v, want ENXIO", err)
	}
	if err := con.Configure("5", "null"); err != nil {
		t.Fatal(err)
	}
	m.open(4, 5, linux.O_RDWR)
	if got := fmt.Sprint(news); got != "[tty5false tty5true]" {
		t.Errorf("told of %s", got)
	}
	if n := len(m.all.Nodes()); n != 16+63 {
		t.Errorf("%d terminals are there", n)
	}
}

// TestPortConsole: the kernel's lines wait for a client, the open for it too; its end is
// a hangup, and the next client gets the console again.
func TestPortConsole(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	address := l.Addr().String()
	m := newMachine(t, Options{Con: Wiring{Units: map[int]string{0: "port:" + address}}})
	fmt.Fprintln(m.all, "said early")
	opened := make(chan *vfs.FileDescription)
	go func() {
		fd, err := m.Open(vfs.CharDevice, 5, 1, linux.O_RDWR)
		if err != nil {
			t.Error(err)
		}
		opened <- fd
	}()
	select {
	case <-opened:
		t.Fatal("the open does not wait for a client")
	case <-time.After(20 * time.Millisecond):
	}
	var console *vfs.FileDescription
	for i := range 2 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		if i == 0 {
			console = <-opened
		} else {
			fmt.Fprintln(m.all, "said early")
		}
		const greeting = "\xff\xfb\x01\xff\xfb\x03\xff\xfd\x03\xff\xfd\x1f"
		want := greeting + "said early\r\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("client %d sees %q, %v", i, got, err)
		}
		conn.Write([]byte("\xff\xfa\x1f\x00\x50\x00\x19\xff\xf0typed\r\x00"))
		if got := m.read(console); got != "typed\n" {
			t.Errorf("read %q", got)
		}
		if size := m.all.units[0][0].discipline.Size(); size.Row != 25 || size.Col != 80 {
			t.Errorf("size %+v", size)
		}
		other := m.open(4, 0, linux.O_RDWR)
		conn.Close()
		if got := m.read(other); got != "" {
			t.Errorf("read %q, want the end", got)
		}
	}
	console.DecRef(m.Context)
}

// TestWindowsWhereThereIsADisplay: they are what consoles are that nothing is said of.
func TestWindowsWhereThereIsADisplay(t *testing.T) {
	m := newMachine(t, Options{Fallback: "xterm", Con: Wiring{Units: map[int]string{2: "null"}}})
	for _, test := range []struct{ driver, unit, want string }{{"con", "0", "fd:0,fd:1"}, {"con", "1", "xterm"}, {"con", "2", "null"}, {"ssl", "1", "null"}} {
		if got, err := m.all.Driver(test.driver).Describe(test.unit); err != nil || got != test.want {
			t.Errorf("%s%s is %q, %v; want %q", test.driver, test.unit, got, err, test.want)
		}
	}
}

// TestInterruptEndsAWait: the kernel's end is not held up by a client that does not come.
func TestInterruptEndsAWait(t *testing.T) {
	m := newMachine(t, Options{Con: Wiring{Units: map[int]string{0: "port:127.0.0.2:9"}}})
	time.AfterFunc(20*time.Millisecond, m.all.Interrupt)
	if _, err := m.Open(vfs.CharDevice, 5, 1, linux.O_RDWR); !linuxerr.Equals(linuxerr.EINTR, err) {
		t.Errorf("open: %v, want EINTR", err)
	}
}

// TestPtsIsNamed: its path stands in the log and in the description.
func TestPtsIsNamed(t *testing.T) {
	m := newMachine(t, Options{Ssl: Wiring{Units: map[int]string{3: "pts"}}})
	spec, err := m.all.Driver("ssl").Describe("3")
	path, ok := strings.CutPrefix(spec, "pts:")
	if err != nil || !ok {
		t.Fatalf("described as %q, %v", spec, err)
	}
	fd := m.open(4, 67, linux.O_RDWR)
	user, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	user.WriteString("typed\r")
	if got := m.read(fd); got != "typed\n" {
		t.Errorf("read %q", got)
	}
	user.Close()
	if got := m.read(fd); got != "" {
		t.Errorf("read %q, want the end", got)
	}
}

func TestReaderOfOutputIsGone(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	m.out.Close()
	m.write(fd, strings.Repeat("nobody sees this\n", 100_000))
	if err := m.all.Drain(patience); err != nil {
		t.Errorf("drain: %v", err)
	}
}

func TestDrainWaitsForASlowReader(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	const lines = 20_000
	read := make(chan int)
	go func() {
		time.Sleep(100 * time.Millisecond)
		n := 0
		buf := make([]byte, 1<<16)
		for n < lines*5 {
			got, err := m.out.Read(buf)
			n += got
			if err != nil {
				break
			}
		}
		read <- n
	}()
	m.write(fd, strings.Repeat("abc\n", lines))
	if err := m.all.Drain(patience); err != nil {
		t.Fatalf("drain: %v", err)
	}
	if n := <-read; n != lines*5 {
		t.Errorf("%d bytes were shown, want %d", n, lines*5)
	}
}

func TestDrainGivesUp(t *testing.T) {
	m := newMachine(t, Options{})
	fd := m.open(4, 0, linux.O_RDWR)
	m.write(fd, strings.Repeat("x", 150_000))
	if err := m.all.Drain(50 * time.Millisecond); err == nil {
		t.Error("drain says nothing of what was lost")
	}
	done := make(chan struct{})
	go func() {
		m.all.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("close hangs on a reader that does not read")
	}
}

func TestHangupKillsOpenDescriptions(t *testing.T) {
	m := newMachine(t, Options{})
	old := m.open(4, 0, linux.O_RDWR)
	console := m.open(5, 1, linux.O_RDWR)
	m.all.units[0][0].hangup(m.Context)
	if n, err := old.Read(m.Context, usermem.BytesIOSequence(make([]byte, 10)), vfs.ReadOptions{}); n != 0 || err != nil {
		t.Errorf("read = %d, %v; want the end", n, err)
	}
	if _, err := old.Write(m.Context, usermem.BytesIOSequence([]byte("x")), vfs.WriteOptions{}); !linuxerr.Equals(linuxerr.EIO, err) {
		t.Errorf("write: %v, want EIO", err)
	}
	if old.Readiness(waiter.EventHUp) == 0 {
		t.Error("poll does not tell of the hang up")
	}
	m.write(console, "console\n")
	m.write(m.open(4, 0, linux.O_RDWR), "again\n")
	m.shown("console\r\nagain\r\n")
}

func TestDriver(t *testing.T) {
	m := newMachine(t, Options{Con: Wiring{Default: "null"}})
	con := m.all.Driver("con")
	for _, test := range []struct {
		name string
		do   func() (string, error)
		code driver.Code
		text string
	}{
		{"describe", func() (string, error) { return con.Describe("1") }, 0, "null"},
		{"out of range", func() (string, error) { return con.Describe("99") }, 1, "device number out of range"},
		{"all", func() (string, error) { return "", con.Configure("", "null") }, driver.Invalid, "Can't configure all devices from mconsole"},
		{"bogus", func() (string, error) { return "", con.Configure("2", "bogus") }, -1, "failed to parse channel pair"},
		{"pty", func() (string, error) { return "", con.Configure("1", "pty") }, 0, ""},
		{"describe a pty", func() (string, error) { return con.Describe("1") }, 0, "pty"},
		{"configure", func() (string, error) { return "", con.Configure("1", "fd:0,fd:1") }, 0, ""},
		{"describe again", func() (string, error) { return con.Describe("1") }, 0, "fd:0,fd:1"},
		{"remove", func() (string, error) { return "", con.Remove("1") }, 0, ""},
		{"describe removed", func() (string, error) { return con.Describe("1") }, 0, "none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, err := test.do()
			code := driver.Code(0)
			if err != nil {
				code, text = driver.Status(err)
			}
			if code != test.code || text != test.text {
				t.Errorf("%d %q, want %d %q", code, text, test.code, test.text)
			}
		})
	}
	m.open(4, 2, linux.O_RDWR)
	if code, text := driver.Status(con.Remove("2")); code != driver.Invalid || text != "Device is already open" {
		t.Errorf("remove an open one: %d %q", code, text)
	}
}

func TestWrongWiring(t *testing.T) {
	s := sentrytest.New(t)
	for _, o := range []Options{
		{Con: Wiring{Default: "bogus"}},
		{Con: Wiring{Units: map[int]string{3: "fd:x"}}},
		{Con: Wiring{Units: map[int]string{16: "null"}}},
		{Ssl: Wiring{Units: map[int]string{64: "null"}}},
		{Ssl: Wiring{Units: map[int]string{2: "port:203.0.113.1:9000"}}},
	} {
		o.Host = line.NewHost()
		if _, err := New(s.Context, o); err == nil {
			t.Errorf("New(%+v) is content", o)
		}
	}
}

func BenchmarkOutput(b *testing.B) {
	chunk := bytes.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n"), 64)
	s := sentrytest.New(b)
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	go io.Copy(io.Discard, r)
	all, err := New(s.Context, Options{Host: line.NewHost(), Con: Wiring{Units: map[int]string{0: fmt.Sprintf("null,fd:%d", w.Fd())}}})
	if err != nil {
		b.Fatal(err)
	}
	if err := all.Register(s.VFS); err != nil {
		b.Fatal(err)
	}
	fd, err := s.Open(vfs.CharDevice, 4, 0, linux.O_RDWR)
	if err != nil {
		b.Fatal(err)
	}
	e, room := waiter.NewChannelEntry(waiter.WritableEvents)
	fd.EventRegister(&e)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		for p := chunk; len(p) > 0; {
			n, err := fd.Write(s.Context, usermem.BytesIOSequence(p), vfs.WriteOptions{})
			if p = p[n:]; err != nil {
				<-room
			}
		}
	}
	if err := all.Drain(patience); err != nil {
		b.Fatal(err)
	}
	all.Close()
	w.Close()
}
