package tty_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
	"github.com/umlkit/umlkit/internal/guest"
)

// manyLines opens lines of every kind, each behind a getty's loop: a shell script that says
// which terminal it has, and answers.
const manyLines = `mount -t proc proc /proc
serve() {
	while :; do
		setsid sh -c 'exec <>/dev/'$1' >&0 2>&1; trap "echo gone >>/tmp/'$1'; exit" HUP
			echo "here is $(tty), $(stty size 2>/dev/null)"; while read line; do echo "got $line, $(stty size 2>/dev/null)"; done'
		sleep 0.1
	done
}
for t in $TTYS; do serve $t & done
setsid bash -c "exec bash --norc --noediting -i <>/dev/tty0 >&0 2>&1"
poweroff -f
`

// conversation is a person at a terminal.
type conversation struct {
	t *testing.T
	io.ReadWriter
	seen []byte
}

// expect reads until the pattern was seen.
func (c *conversation) expect(pattern string) string {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	buf := make([]byte, 4096)
	deadline := c.patient()
	for {
		if at := re.FindIndex(c.seen); at != nil {
			text := string(c.seen[:at[1]])
			c.seen = c.seen[at[1]:]
			return text
		}
		n, err := c.Read(buf)
		c.seen = append(c.seen, buf[:n]...)
		if err != nil || time.Now().After(deadline) {
			c.t.Fatalf("%v; seen %q, want %q", err, c.seen, pattern)
		}
	}
}

// patient gives what is said or awaited next all its time, however long the machine took
// until then.
func (c *conversation) patient() time.Time {
	deadline := time.Now().Add(3 * limit)
	_ = c.ReadWriter.(interface{ SetDeadline(time.Time) error }).SetDeadline(deadline)
	return deadline
}

func (c *conversation) say(text string) {
	c.t.Helper()
	c.patient()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// freePort is an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func dial(t *testing.T, address string) *conversation {
	t.Helper()
	var conn net.Conn
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if conn, err = net.Dial("tcp", address); err == nil {
			t.Cleanup(func() { conn.Close() })
			return &conversation{t: t, ReadWriter: conn}
		}
	}
	t.Fatal(err)
	return nil
}

// hostPTY is a terminal of the host: who sits before it, and its path.
func hostPTY(t *testing.T) (*conversation, int, string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77})
	}
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	// Kept open, so that the terminal outlives its users.
	keep, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	user := os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { user.Close(); unix.Close(keep) })
	return &conversation{t: t, ReadWriter: user}, fd, path
}

// TestLines speaks over every kind of line with one machine.
func TestLines(t *testing.T) {
	uml, port := t.TempDir(), freePort(t)
	tty, _, ttyPath := hostPTY(t)
	window, windowFD, windowPath := hostPTY(t)
	emulator := filepath.Join(t.TempDir(), "emulator")
	script := fmt.Sprintf("#!/bin/sh\necho \"$2\" >>%s.titles\nshift 3\nexec setsid -c -w \"$@\" <>%s >&0 2>&1\n", emulator, windowPath)
	if err := os.WriteFile(emulator, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m := shell(t, "uml_dir="+uml, "umid=lines", "initrd="+borrowed.Initrd(t, manyLines, []string{"bash", "setsid"}, nil),
		"con0=fd:0,fd:1", "TTYS=tty1 tty2 tty3 tty4 ttyS63 ttyS5", "con=null", "con1=port:"+port, "con2=port:"+port, "con3="+ttyPath, "con4=xterm",
		"xterm="+emulator+",-title,-x", "ssl63=pts", "ssl5=pty", "ssl6=none")
	m.Quiet()
	console := func(words ...string) string {
		t.Helper()
		out, err := exec.Command(guest.Binary(t, "uml_mconsole"), append([]string{filepath.Join(uml, "lines", "mconsole")}, words...)...).CombinedOutput()
		if err != nil {
			return string(out)
		}
		return strings.TrimSuffix(string(out), "\n")
	}

	// Two consoles on one port: the first client gets one, the second the other.
	first, second := dial(t, port), dial(t, port)
	one := regexp.MustCompile(`/dev/tty[12]`).FindString(first.expect(`here is /dev/tty[12], \r\n`))
	other := regexp.MustCompile(`/dev/tty[12]`).FindString(second.expect(`here is /dev/tty[12], \r\n`))
	if one == other {
		t.Errorf("both clients have %s", one)
	}
	first.say("\xff\xfa\x1f\x00\x64\x00\x28\xff\xf0one\r\x00")
	first.expect(`got one, 40 100\r\n`)
	second.say("two\r\n")
	second.expect(`got two, \r\n`)
	first.ReadWriter.(net.Conn).Close()
	dial(t, port).expect(`here is ` + one)

	// A terminal of the host, by its path, and a window.
	tty.expect(`here is /dev/tty3, 33 77\r\n`)
	tty.say("x\x16\x03y\r")
	tty.expect(`got x\x03y, 33 77\r\n`)
	window.expect(`here is /dev/tty4, 33 77\r\n`)
	if err := unix.IoctlSetWinsize(windowFD, unix.TIOCSWINSZ, &unix.Winsize{Row: 20, Col: 60}); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		window.say("w\r")
		if text := window.expect(`got w, \d+ \d+\r\n`); strings.Contains(text, "20 60") {
			break
		} else if i == 100 {
			t.Fatalf("the window's size is still %q", text)
		}
	}
	if text, err := os.ReadFile(emulator + ".titles"); err != nil || !strings.HasPrefix(string(text), "Virtual Console #4 (lines)\n") {
		t.Errorf("titles %q, %v", text, err)
	}

	// Ptys are named, and may be left and come back to.
	path, ok := strings.CutPrefix(console("config", "ssl63"), "OK pts:")
	if !ok {
		t.Fatalf("config ssl63: %q", path)
	}
	if log := m.Sh(limit, "dmesg | grep assigned"); !strings.Contains(log, "Serial line 63 assigned device '"+path+"'\n") || !strings.Contains(log, "Serial line 5 assigned device '/dev/") {
		t.Errorf("the log says %q", log)
	}
	for i := range 2 {
		user, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &conversation{t: t, ReadWriter: user}
		c.expect(`here is /dev/ttyS63`)
		c.say("p\r")
		c.expect(`got p`)
		user.Close()
		// One who is back before the machine has looked never left.
		m.Sh(limit, fmt.Sprintf("until [ $(cat /tmp/ttyS63 2>/dev/null | wc -l) -gt %d ]; do sleep 0.1; done", i))
	}
	m.Sh(limit, "grep gone /tmp/ttyS63 "+strings.Replace(one, "/dev", "/tmp", 1))

	// Units come and go.
	for _, test := range []struct{ words, want string }{
		{"config con1", "OK port:" + port},
		{"config con4", "OK xterm"},
		{"config ssl5", "OK pty"},
		{"remove con1", "ERR Device is already open"},
		{"config ssl6", "OK none"},
		{"remove con7", "OK "},
		{"config con8=fd:77", "ERR channel fd:77: descriptor 77: bad file descriptor"},
		{"config con16=null", "ERR device number out of range"},
		{"config ssl64=null", "ERR device number out of range"},
		{"config ssl6=null", "OK "},
	} {
		if got := console(strings.Fields(test.words)...); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %q, want %q", test.words, got, test.want)
		}
	}
	for _, test := range []struct{ command, want string }{
		{"ls /dev/tty7 /dev/ttyS6 2>&1", "ls: /dev/tty7: No such file or directory\n/dev/ttyS6\n"},
		{"mknod /tmp/seven c 4 7; (: </tmp/seven) 2>&1 | grep -o 'No such device.*'", "No such device or address\n"},
	} {
		if got, _ := m.Try(limit, test.command); got != test.want {
			t.Errorf("%s: %q, want %q", test.command, got, test.want)
		}
	}
	if got := console("config", "con7=null"); !strings.HasPrefix(got, "OK") {
		t.Errorf("config con7=null: %q", got)
	}
	m.Sh(limit, "echo back >/dev/tty7")
	m.Type("exit\n")
	if code := m.Wait(limit); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// TestScriptedConsole: commands from a pipe run to the last, and its end is a hangup.
func TestScriptedConsole(t *testing.T) {
	rd := borrowed.Initrd(t, `setsid sh -c 'exec sh <>/dev/tty0 >&0 2>&1' ; echo the session has ended; poweroff -f`+"\n", []string{"setsid"}, nil)
	cmd := exec.Command(guest.Binary(t, "linux"), "mem=128M", "quiet", "initrd="+rd)
	cmd.Stdin = strings.NewReader("stty -echo\nfor i in 1 2 3; do echo line$i; done\ntty\nread x\n")
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"line3\r\n", "/dev/tty0\r\n", "the session has ended"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSlowReader: one who does not read stops the programs of that terminal alone, and
// loses nothing when reading at last; a file as output has all of it.
func TestSlowReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rd := borrowed.Initrd(t, "(seq 1 300000 | cat >/dev/tty1; touch /tmp/written) & (seq 1 300000 | cat >/dev/tty2; touch /tmp/filed) & "+shellInit, []string{"bash"}, nil)
	cmd := exec.Command(guest.Binary(t, "linux"), "mem=128M", "quiet", "initrd="+rd, "con0=fd:0,fd:1", "con1=null,fd:3", "con2=null,fd:4")
	cmd.ExtraFiles = []*os.File{w, file}
	m := guest.StartCmd(t, cmd)
	w.Close()
	m.Expect(limit, `# $`)
	m.Quiet()
	// The other terminals go on.
	m.Sh(limit, "until [ -e /tmp/filed ]; do sleep 0.05; done")
	if got := m.Sh(limit, "seq 1 3; ls /tmp/written 2>&1 | grep -c 'No such'; dmesg | grep -c 'Run /init'"); got != "1\n2\n3\n1\n1\n" {
		t.Errorf("while nobody reads tty1: %q", got)
	}
	read := make(chan []byte)
	go func() {
		text, _ := io.ReadAll(r)
		read <- text
	}()
	m.Sh(limit, "until [ -e /tmp/written ]; do sleep 0.05; done")
	m.Type("exit\n")
	if code := m.Wait(limit); code != 0 {
		t.Errorf("exit status %d", code)
	}
	var want strings.Builder
	for n := range 300_000 {
		fmt.Fprintf(&want, "%d\r\n", n+1)
	}
	filed, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"the pipe": <-read, "the file": filed} {
		if string(got) != want.String() {
			t.Errorf("%s has %d bytes, want %d", name, len(got), want.Len())
		}
	}
}
