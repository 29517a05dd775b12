package klog

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	sentrylog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/internal/sentrytest"
)

// newLog makes a log whose clock is the number of records in milliseconds.
func newLog(o Options) *Log {
	n := time.Duration(0)
	o.Now = func() time.Duration { n++; return n*time.Millisecond - time.Millisecond }
	return New(o)
}

func TestBytes(t *testing.T) {
	l := newLog(Options{})
	l.Printf(Notice, "Linux version %d", 6)
	l.Printf(Err, "two\nlines\n")
	l.User("<30>daemon\n")
	want := "<5>[    0.000000] Linux version 6\n" +
		"<3>[    0.001000] two\n<3>[    0.001000] lines\n" +
		"<30>[    0.002000] daemon\n"
	if got := string(l.Bytes()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestConsole(t *testing.T) {
	l := newLog(Options{})
	l.Infof("before there was a console")
	l.Printf(Debug, "hidden")
	var out bytes.Buffer
	l.SetConsole(&out)
	l.Printf(Warning, "shown")
	l.SetConsoleLevel(ConsoleQuiet)
	l.Printf(Warning, "too quiet")
	l.Printf(Err, "bad")
	want := "[    0.000000] before there was a console\n[    0.002000] shown\n[    0.004000] bad\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestRingDropsTheOldest(t *testing.T) {
	const size = 4096
	l := newLog(Options{Size: size})
	for i := range 10_000 {
		l.Infof("record %d", i)
	}
	if l.bytes > size {
		t.Errorf("%d bytes are kept, want at most %d", l.bytes, size)
	}
	last, ok := l.atOrAfter(9_999)
	if !ok || last.text != "record 9999" {
		t.Errorf("the newest record is %q", last.text)
	}
	if first, _ := l.atOrAfter(0); first.seq == 0 || first.text != fmt.Sprintf("record %d", first.seq) {
		t.Errorf("the oldest record is %d %q", first.seq, first.text)
	}
}

func TestLongTextIsCutBetweenCharacters(t *testing.T) {
	l := newLog(Options{})
	l.Infof("%s", strings.Repeat("ä", maxText))
	r, _ := l.atOrAfter(0)
	if len(r.text) > maxText || strings.Trim(r.text, "ä") != "" {
		t.Errorf("%d bytes, end %q", len(r.text), r.text[len(r.text)-4:])
	}
}

func TestTailAndClear(t *testing.T) {
	l := newLog(Options{})
	l.Infof("one")
	l.Infof("two")
	line := len("<6>[    0.000000] one\n")
	for _, test := range []struct {
		size int
		want string
	}{
		{1000, "<6>[    0.000000] one\n<6>[    0.001000] two\n"},
		{2*line - 1, "<6>[    0.001000] two\n"},
		{line, "<6>[    0.001000] two\n"},
		{line - 1, ""},
	} {
		if got := string(l.tail(test.size)); got != test.want {
			t.Errorf("tail(%d) = %q, want %q", test.size, got, test.want)
		}
	}
	l.clear()
	l.Infof("three")
	if got := string(l.tail(1000)); got != "<6>[    0.002000] three\n" {
		t.Errorf("after clear: %q", got)
	}
}

func TestReadUnreadInPieces(t *testing.T) {
	l := newLog(Options{})
	l.Infof("one")
	l.Infof("two")
	want := string(l.Bytes())
	if l.unreadSize() != len(want) {
		t.Errorf("unread %d, want %d", l.unreadSize(), len(want))
	}
	var got []byte
	for l.hasUnread() {
		n, err := l.readUnread(7, func(b []byte) (int, error) {
			got = append(got, b...)
			return len(b), nil
		})
		if err != nil || n == 0 {
			t.Fatalf("read %d: %v", n, err)
		}
		if l.unreadSize() != len(want)-len(got) {
			t.Errorf("unread %d, want %d", l.unreadSize(), len(want)-len(got))
		}
	}
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// kmsg opens /dev/kmsg.
func kmsg(t *testing.T, l *Log) (*sentrytest.Sentry, *vfs.FileDescription) {
	t.Helper()
	s := sentrytest.New(t)
	if err := l.Register(s.VFS); err != nil {
		t.Fatal(err)
	}
	fd, err := s.Open(vfs.CharDevice, 1, 11, linux.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fd.DecRef(s.Context) })
	return s, fd
}

func readRecord(s *sentrytest.Sentry, fd *vfs.FileDescription, size int) (string, error) {
	buf := make([]byte, size)
	n, err := fd.Read(s.Context, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
	return string(buf[:n]), err
}

func TestKmsg(t *testing.T) {
	l := newLog(Options{})
	l.Infof("tab\there\nnext line \\ ü")
	s, fd := kmsg(t, l)
	if _, err := readRecord(s, fd, 10); !linuxerr.Equals(linuxerr.EINVAL, err) {
		t.Errorf("a short read: %v, want EINVAL", err)
	}
	got, err := readRecord(s, fd, 1000)
	if want := "6,0,0,-;tab\\x09here\\x0anext line \\x5c \\xc3\\xbc\n"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := readRecord(s, fd, 1000); !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
		t.Errorf("at the end: %v, want to wait", err)
	}
	e, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	fd.EventRegister(&e)
	defer fd.EventUnregister(&e)
	for _, write := range []string{"plain\n", "<3>level", "<191>facility", "<999999>odd", "<x>odd", "<"} {
		if n, err := fd.Write(s.Context, usermem.BytesIOSequence([]byte(write)), vfs.WriteOptions{}); err != nil || int(n) != len(write) {
			t.Fatalf("write %q: %d, %v", write, n, err)
		}
	}
	select {
	case <-ready:
	default:
		t.Error("a write wakes nobody")
	}
	for i, want := range []string{"12,1,1000,-;plain\n", "11,2,2000,-;level\n", "191,3,3000,-;facility\n", "12,4,4000,-;<999999>odd\n", "12,5,5000,-;<x>odd\n", "12,6,6000,-;<\n"} {
		if got, err := readRecord(s, fd, 1000); err != nil || got != want {
			t.Errorf("record %d: %q, %v; want %q", i, got, err, want)
		}
	}
	if _, err := fd.Write(s.Context, usermem.BytesIOSequence(make([]byte, maxWrite+1)), vfs.WriteOptions{}); !linuxerr.Equals(linuxerr.EINVAL, err) {
		t.Errorf("a long write: %v, want EINVAL", err)
	}
}

func TestKmsgSeekAndOverwritten(t *testing.T) {
	l := newLog(Options{Size: 2048})
	l.Infof("first")
	s, fd := kmsg(t, l)
	if _, err := readRecord(s, fd, 1000); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		l.Infof("record %d", i)
	}
	if fd.Readiness(waiter.EventErr) == 0 {
		t.Error("poll does not tell of what was overwritten")
	}
	if _, err := readRecord(s, fd, 1000); !linuxerr.Equals(linuxerr.EPIPE, err) {
		t.Errorf("read: %v, want EPIPE", err)
	}
	if _, err := readRecord(s, fd, 1000); err != nil {
		t.Errorf("read after EPIPE: %v", err)
	}
	l.clear()
	l.Infof("after the clear")
	for _, test := range []struct {
		whence int32
		offset int64
		err    error
		text   string
	}{
		{linux.SEEK_DATA, 0, nil, "after the clear"},
		{linux.SEEK_END, 0, nil, ""},
		{linux.SEEK_SET, 0, nil, "record"},
		{linux.SEEK_SET, 1, linuxerr.ESPIPE, ""},
		{linux.SEEK_CUR, 0, linuxerr.EINVAL, ""},
	} {
		if _, err := fd.Seek(s.Context, test.offset, test.whence); err != test.err {
			t.Errorf("seek %d: %v, want %v", test.whence, err, test.err)
			continue
		}
		if test.err != nil {
			continue
		}
		got, err := readRecord(s, fd, 1000)
		if test.text == "" && !linuxerr.Equals(linuxerr.ErrWouldBlock, err) || !strings.Contains(got, test.text) {
			t.Errorf("after seek %d: %q, %v; want %q", test.whence, got, err, test.text)
		}
	}
}

func TestSentryIsDebugOnly(t *testing.T) {
	l := newLog(Options{})
	var out bytes.Buffer
	l.SetConsole(&out)
	l.Emitter().Emit(0, sentrylog.Warning, time.Now(), "%s", "a joke")
	if out.Len() != 0 {
		t.Errorf("the console shows %q", &out)
	}
	if got := string(l.Bytes()); got != "<7>[    0.000000] sentry: a joke\n" {
		t.Errorf("the log has %q", got)
	}
}

func FuzzUser(f *testing.F) {
	for _, s := range []string{"", "<6>x", "<", "<>", "<4294967296>x", "a\nb\n", "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := New(Options{Size: 4096})
		l.User(text)
		if !bytes.HasSuffix(l.Bytes(), []byte("\n")) {
			t.Fatalf("%q: %q", text, l.Bytes())
		}
		r, ok := l.atOrAfter(0)
		if !ok || r.facility == facilityKernel || r.level < Emerg || r.level > Debug || bytes.Count(r.extended(), []byte("\n")) != 1 {
			t.Fatalf("%q: %+v", text, r)
		}
	})
}
