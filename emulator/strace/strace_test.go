package strace

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	sentrylog "gvisor.dev/gvisor/pkg/log"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux" // the table that is traced

	"github.com/umlkit/umlkit/emulator/driver"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"all":                     "all=true [] \"\" 0",
		"1":                       "all=false [1] \"\" 0",
		"1,17":                    "all=false [1 17] \"\" 0",
		"1,17:openat":             "all=false [1 17] \"\" 1",
		"comm:sshd":               "all=false [] \"sshd\" 0",
		"comm:sshd:read,write":    "all=false [] \"sshd\" 2",
		"all:openat,openat,close": "all=true [] \"\" 2",
	} {
		s, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := fmt.Sprintf("all=%v %v %q %d", s.all, s.processes, s.name, len(s.numbers)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"": `"" is neither`, "none": `"none" is neither`, "0": `"0" is neither`, "-1": "is neither", "1,": `"" is neither`, "99999999999": "is neither",
		"comm:": "1 to 15 bytes", "comm::read": "1 to 15 bytes", "comm:a-name-that-is-too-long": "1 to 15 bytes",
		"all:": `"" is no system call`, "all:opem": `"opem" is no system call`, "1:read,": `"" is no system call`, "all:read:write": `"read:write" is no system call`,
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("comm:sshd:read,write")
	f.Add("1,2:openat")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse(text)
		if err == nil && !s.all && s.name == "" && len(s.processes) == 0 {
			t.Fatalf("%q names no task", text)
		}
	})
}

func TestDriver(t *testing.T) {
	tr := New(t.Logf)
	refused := func(err error, code driver.Code) {
		t.Helper()
		if got, text := driver.Status(err); err == nil || got != code {
			t.Errorf("%d %q, want %d", got, text, code)
		}
	}
	refused(tr.Remove(""), driver.NoDevice)
	refused(tr.Configure("1", "all"), driver.Unparsed)
	refused(tr.Configure("", "alll"), driver.Invalid)
	for _, text := range []string{"all", "1:read", "comm:x"} {
		if err := tr.Configure("", text); err != nil {
			t.Fatal(err)
		}
		if got, err := tr.Describe(""); got != text || err != nil {
			t.Errorf("%q, %v; want %q", got, err, text)
		}
		if !sentrylog.IsLogging(sentrylog.Info) {
			t.Errorf("%s: the Sentry's tracer would print nothing", text)
		}
	}
	if err := tr.Remove(""); err != nil {
		t.Error(err)
	}
	if got, _ := tr.Describe(""); got != "" || sentrylog.IsLogging(sentrylog.Info) {
		t.Errorf("traced after it was removed: %q", got)
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
}

// lines is a sink for tests.
type lines []string

func (l *lines) line(text string) { *l = append(*l, text) }
func (*lines) close() error       { return nil }

// TestLines holds how the two lines of a call become one, and that a guest's bytes do no
// harm in them.
func TestLines(t *testing.T) {
	tr := New(t.Logf)
	var got, warnings lines
	tr.sink = &got
	e := tr.Emitter(warn{&warnings})
	emit := func(format string, args ...any) { e.Emit(0, sentrylog.Info, time.Now(), format, args...) }
	const a, b = "[   1:   1] ", "[   2:   3] "
	emit(a+"%s E %s(%s, %s, %s)", "sh", "write", "0x1 pipe:[1]", `0x7f "data"`, "0x4")
	emit(b+"%s E %s(%s)", "cat", "exit_group", "0x0")
	emit(a+"%s X %s(%s, %s, %s) = %s", "sh", "write", "0x1 pipe:[1]", "...", "0x4", "4 (0x4) (1µs)")
	emit(a+"%s X %s() = %s", "s\nh", "getpid", "1 (0x1) (1µs)")
	emit(a+"%s X %s(%s) = %s", "sh", "chdir", "0x7f /\x1b[2J\x9b\xff\n", "0 (0x0) (1µs)")
	emit("EXEC: %#v", []string{"x"})
	e.Emit(0, sentrylog.Warning, time.Now(), "%s", "beware")
	want := []string{
		`[   2:   3] cat exit_group(0x0) = ?`,
		`[   1:   1] sh write(0x1 pipe:[1], 0x7f "data", 0x4) = 4 (0x4) (1µs)`,
		`[   1:   1] s\x0ah getpid() = 1 (0x1) (1µs)`,
		`[   1:   1] sh chdir(0x7f /\x1b[2J\xfffd\xfffd\x0a) = 0 (0x0) (1µs)`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("lines\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(warnings) != 1 || warnings[0] != "beware" {
		t.Errorf("warnings %q", warnings)
	}
}

type warn struct{ to *lines }

func (w warn) Emit(_ int, _ sentrylog.Level, _ time.Time, format string, args ...any) {
	w.to.line(fmt.Sprintf(format, args...))
}

// TestBounded holds that the kernel log is given so many lines in a second, and is told of
// the rest.
func TestBounded(t *testing.T) {
	var got lines
	now := time.Unix(1000, 0)
	b := &bounded{logf: func(format string, args ...any) { got.line(fmt.Sprintf(format, args...)) }, now: func() time.Time { return now }}
	for range 3 * perSecond {
		b.line("x")
	}
	now = now.Add(time.Second)
	b.line("y")
	if len(got) != perSecond+2 || got[perSecond] != "strace: 1000 calls left out, more than 500 in a second; strace.file= takes them all" || got[perSecond+1] != "strace: y" {
		t.Errorf("%d lines, the last %q", len(got), got[len(got)-2:])
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "calls")
	if err := os.WriteFile(name, []byte(strings.Repeat("old", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	tr := New(t.Logf)
	if err := tr.SetFile(name); err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		tr.sink.line("line")
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != strings.Repeat("line\n", 2000) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fifo, dir, "/dev/null", filepath.Join(dir, "no/such")} {
		if err := tr.SetFile(name); err == nil {
			t.Errorf("%s was taken", name)
		}
	}

	// A file that is full, and a place that is.
	var said lines
	say := func(format string, args ...any) { said.line(fmt.Sprintf(format, args...)) }
	f, err := newFile(name, say)
	if err != nil {
		t.Fatal(err)
	}
	f.written = maxFile - 8
	f.line("1234567")
	f.line("x")
	f.line("x")
	if err := f.close(); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(name); string(text) != "1234567\n" || len(said) != 1 || !strings.HasSuffix(said[0], "has 1073741824 bytes: no more is written") {
		t.Errorf("%q, said %q", text, said)
	}
}
