package mconsole

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/mconsole"
)

// limit is how long something may take on a machine that does much else.
const limit = 60 * time.Second

// pretended is a machine that only notes what it is told.
type pretended struct {
	interrupts, halts atomic.Int32
	proc              []byte
}

func (m *pretended) Interrupted()                  { m.interrupts.Add(1) }
func (m *pretended) Version() string               { return "Linux pretended" }
func (m *pretended) Halt()                         { m.halts.Add(1) }
func (m *pretended) Reboot()                       {}
func (m *pretended) CtrlAltDel()                   {}
func (m *pretended) Stop() bool                    { return true }
func (m *pretended) Go() bool                      { return false }
func (m *pretended) Sysrq(key byte) string         { return "sysrq: " + string(rune(key)) }
func (m *pretended) Stack(pid int) (string, error) { return fmt.Sprint("task ", pid), nil }
func (m *pretended) Log(string)                    {}
func (m *pretended) Configure(unit, spec string) error {
	return driver.Errorf(driver.Invalid, "no %s", unit)
}
func (m *pretended) Describe(unit string) (string, error) { return "unit " + unit, nil }
func (m *pretended) Remove(unit string) error             { return nil }
func (m *pretended) Driver(name string) driver.Driver {
	if name == "ubd" {
		return m
	}
	return nil
}

func (m *pretended) ReadProc(name string) ([]byte, error) {
	switch name {
	case "long":
		return m.proc, nil
	case "huge":
		return bytes.Repeat([]byte("x"), maxPackets*mconsole.MaxData), nil
	case "dir":
		return nil, fmt.Errorf("%w: it is a directory", ErrRead)
	}
	return nil, errors.New("no such file")
}

func serve(t testing.TB, m Machine) *Server {
	t.Helper()
	s, err := listen(filepath.Join(t.TempDir(), "mconsole"), m, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var clients atomic.Int64

// TestAnswersAreNotAnswered holds that a server takes no part in a conversation of servers:
// somebody asks one and has its answers go to another, or to itself.
func TestAnswersAreNotAnswered(t *testing.T) {
	for _, packet := range [][]byte{request(t, "version"), request(t, "nonsense"), request(t, "proc long"), []byte("an old client's text"), {1}} {
		machines := [2]*pretended{{proc: bytes.Repeat([]byte("x"), 2000)}, {}}
		servers := [2]*Server{serve(t, machines[0]), serve(t, machines[1])}
		for _, to := range servers {
			// What is sent to the name of this socket comes to the server.
			name := filepath.Join(t.TempDir(), "s")
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Remove(name), os.Symlink(to.Path(), name)); err != nil {
				t.Fatal(err)
			}
			if err := unix.Sendto(fd, packet, 0, &unix.SockaddrUnix{Name: servers[0].Path()}); err != nil {
				t.Fatal(err)
			}
		}
		// By the time of the second answers to these, those would have been answered.
		for range 2 {
			for _, s := range servers {
				c := client(t, s)
				send1(t, c, request(t, "version"))
				take(t, c)
			}
		}
		// The packet of each round, its answers, and the questions since.
		answers := int32(len(handle(machines[0], packet)))
		if got, want := machines[0].interrupts.Load(), 2+answers+2; got > want {
			t.Errorf("%.32q: the first server had %d packets, %d at most were due", packet, got, want)
		}
		if got, want := machines[1].interrupts.Load(), answers+2; got > want {
			t.Errorf("%.32q: the second server had %d packets, %d at most were due", packet, got, want)
		}
	}
}

// client is a socket that is connected to the server's.
func client(t testing.TB, s *Server) *net.UnixConn {
	t.Helper()
	name := fmt.Sprintf("@mconsole-test-%d-%d", unix.Getpid(), clients.Add(1))
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"}, &net.UnixAddr{Name: s.Path(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(limit))
	return c
}

func send1(t testing.TB, c *net.UnixConn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func request(t testing.TB, command string) []byte {
	t.Helper()
	b, err := mconsole.EncodeRequest(command)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// take reads one answer.
func take(t testing.TB, c *net.UnixConn) (int32, string) {
	t.Helper()
	var text []byte
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		r, err := mconsole.DecodeReply(b[:n])
		if err != nil {
			t.Fatalf("%v: %q", err, b[:n])
		}
		if text = append(text, r.Data...); !r.More {
			return r.Err, string(text)
		}
	}
}

// TestHostilePackets holds that whatever comes is answered, in the words of real kernels,
// and that the server goes on.
func TestHostilePackets(t *testing.T) {
	m := &pretended{}
	s := serve(t, m)
	c := client(t, s)
	header := func(magic, version, length uint32, rest string) []byte {
		b := make([]byte, 12)
		for i, v := range []uint32{magic, version, length} {
			binary.NativeEndian.PutUint32(b[4*i:], v)
		}
		return append(b, rest...)
	}
	const magic, version = mconsole.Magic, mconsole.Version
	for _, test := range []struct {
		packet []byte
		code   int32
		text   string
	}{
		{nil, 1, "mconsole request: bad packet length 0"},
		{[]byte("v"), 1, "mconsole request: bad packet length 1"},
		{header(magic, version, 7, "version")[:8], 1, "mconsole request: bad packet length 8"},
		{header(magic, version+1, 7, "version"), 1, "This driver only supports version 2 clients"},
		{header(magic, 0, 7, "version"), 1, "This driver only supports version 2 clients"},
		{header(magic, version, 512, strings.Repeat("x", 512)), 1, "Request too large"},
		{header(magic, version, 1<<32-1, "version"), 1, "Request too large"},
		{header(magic, version, 7, "vers"), 1, "mconsole request: bad len 7"},
		{header(magic, version, 7, "version"+strings.Repeat("x", 60000)), 0, "Linux pretended"},
		{header(magic, version, 0, ""), 1, "Unknown command"},
		{header(magic, version, 12, "version\x00junk"), 0, "Linux pretended"},
		{header(magic, version, 9, " \tversion"), 0, "Linux pretended"},
		{request(t, "proc dir"), 1, "Read of file failed"},
		{request(t, "proc none"), 1, "Failed to open file"},
		{request(t, "config"), 1, "Bad configuration option"},
		{request(t, "config ubd"), 0, "unit "},
		{request(t, "stack -1x"), 1, "Please specify a pid"},
	} {
		send1(t, c, test.packet)
		if code, text := take(t, c); code != test.code || text != test.text {
			t.Errorf("%q: %d %q, want %d %q", test.packet[:min(len(test.packet), 30)], code, text, test.code, test.text)
		}
	}
	// A client older than the versions understands text alone.
	send1(t, c, []byte("version\x00"))
	b := make([]byte, 200)
	n, err := c.Read(b)
	if want := "ERR Version 0 mconsole clients are not supported by this driver"; err != nil || string(b[:n]) != want {
		t.Errorf("%q, %v", b[:n], err)
	}
	// One without an address of its own cannot be answered.
	mute, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.Path(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	send1(t, mute, request(t, "halt"))
	before := m.interrupts.Load()
	send1(t, c, request(t, "version"))
	if code, text := take(t, c); code != 0 || text != "Linux pretended" {
		t.Errorf("after it all: %d %q", code, text)
	}
	if m.halts.Load() != 0 {
		t.Error("a command that cannot be answered was obeyed")
	}
	if now := m.interrupts.Load(); now == before {
		t.Error("packets are not counted")
	}
}

// TestSlowReaders holds that a long answer waits for its reader, whole and in order, and
// that nobody else waits with it.
func TestSlowReaders(t *testing.T) {
	m := &pretended{}
	for i := range 4000 {
		m.proc = strconv.AppendInt(m.proc, int64(i), 10)
		m.proc = append(m.proc, '\n')
	}
	s := serve(t, m)
	var slow []*net.UnixConn
	for range maxWaiting {
		c := client(t, s)
		send1(t, c, request(t, "proc long"))
		send1(t, c, request(t, "version"))
		slow = append(slow, c)
	}
	for range 100 {
		quick := client(t, s)
		send1(t, quick, request(t, "version"))
		if _, text := take(t, quick); text != "Linux pretended" {
			t.Fatalf("%q", text)
		}
		quick.Close()
	}
	for i, c := range slow {
		if code, text := take(t, c); code != 0 || text != "\n"+string(m.proc) {
			t.Errorf("reader %d: %d, %d bytes of %d", i, code, len(text), len(m.proc)+1)
		}
		if _, text := take(t, c); text != "Linux pretended" {
			t.Errorf("reader %d: then %q", i, text)
		}
	}
}

// TestReaderGone holds that answers to a client that went, or never reads, are given up,
// and what was to follow an answer is done nevertheless.
func TestReaderGone(t *testing.T) {
	m := &pretended{proc: bytes.Repeat([]byte("x"), 1<<20)}
	s := serve(t, m)
	gone := client(t, s)
	send1(t, gone, request(t, "proc long"))
	send1(t, gone, request(t, "halt"))
	quick := client(t, s)
	send1(t, quick, request(t, "version"))
	take(t, quick)
	if m.halts.Load() != 0 {
		t.Error("halted before the answer went")
	}
	gone.Close()
	for deadline := time.Now().Add(limit); m.halts.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the machine does not halt")
		}
	}
	// Too many packets for one reader, and one more that the server's end finds waiting.
	send1(t, client(t, s), request(t, "proc huge"))
	send1(t, client(t, s), request(t, "proc long"))
	send1(t, quick, request(t, "version"))
	take(t, quick)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzHandle gives the server bytes: each is answered by packets that a client reads, of
// which the last, and it alone, says that it is the last.
func FuzzHandle(f *testing.F) {
	for _, command := range []string{"version", "help", "config ubd1=a,b", "remove ubd", "proc long", "stack 1", "sysrq h", "stop", "log x", "nonsense", ""} {
		f.Add(request(f, command))
	}
	f.Add([]byte("version\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &pretended{proc: bytes.Repeat([]byte("y"), 3000)}
		packets := handle(m, b)
		if len(packets) == 0 {
			t.Fatal("no answer")
		}
		for i, p := range packets {
			if len(p.bytes) > mconsole.MaxPacket {
				t.Errorf("a packet of %d bytes", len(p.bytes))
			}
			if bytes.HasPrefix(p.bytes, []byte("ERR Version 0")) {
				continue
			}
			r, err := mconsole.DecodeReply(p.bytes)
			if err != nil || r.More != (i < len(packets)-1) {
				t.Errorf("packet %d of %d: %+v, %v", i, len(packets), r, err)
			}
		}
	})
}
