// Package guest boots machines for tests, ours and real ones, on a pty or with their
// output in a buffer, and speaks with the shell inside.
package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

var built struct {
	sync.Mutex
	dir   string
	paths map[string]string
}

// Binary builds cmd/name, once in a test process, without cgo, and returns where it
// is. Every user may run it: tests start it as others too. All binaries of a process
// stand in one directory, as they do when installed.
func Binary(t testing.TB, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if path, ok := built.paths[name]; ok {
		return path
	}
	if built.dir == "" {
		// The directory outlives any one test; a fixed name keeps runs from piling up.
		built.dir = filepath.Join(os.TempDir(), fmt.Sprintf("umlkit-test-bin-%d", os.Geteuid()))
		if err := os.MkdirAll(built.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		built.paths = map[string]string{}
		oracle.Sources(t)
	}
	path := filepath.Join(built.dir, name)
	tmp, err := os.MkdirTemp(built.dir, "build")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	cmd := exec.Command("go", "build", "-tags", "urfave_cli_no_docs", "-o", filepath.Join(tmp, name), "./cmd/"+name)
	cmd.Dir = oracle.Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/%s: %v\n%s", name, err, out)
	}
	// Renamed, so that a test process that runs the old file is not disturbed.
	if err := os.Rename(filepath.Join(tmp, name), path); err != nil {
		t.Fatal(err)
	}
	built.paths[name] = path
	return path
}

// Output runs a machine to its end without a terminal and returns what it wrote to
// stdout and stderr together, and its exit status as a shell gives it (128 and the
// signal's number when a signal ended it).
func Output(t testing.TB, limit time.Duration, argv ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	argv = onPlatform(argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s did not end within %v\n%s", strings.Join(argv, " "), limit, out.String())
	}
	return out.String(), status(t, cmd, err)
}

func status(t testing.TB, cmd *exec.Cmd, err error) int {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// Machine is a running machine whose terminal is a pty.
type Machine struct {
	t   testing.TB
	cmd *exec.Cmd
	pty *os.File

	mu    sync.Mutex
	out   []byte // all that was read
	seen  int    // what Expect has passed
	more  chan struct{}
	ended chan struct{} // closed when the terminal is at its end
	exit  chan error
	done  bool
}

// Start starts a machine on a new pty. It is killed when the test ends.
func Start(t testing.TB, argv ...string) *Machine {
	t.Helper()
	argv = onPlatform(argv)
	return StartCmd(t, exec.Command(argv[0], argv[1:]...))
}

// onPlatform has our linux run guests on the platform that UMLKIT_PLATFORM names, so that
// every test can be run on each.
func onPlatform(argv []string) []string {
	name := os.Getenv("UMLKIT_PLATFORM")
	if name == "" || argv[0] != built.paths["linux"] {
		return argv
	}
	return slices.Insert(slices.Clone(argv), 1, "platform="+name)
}

// StartCmd is Start for a command that the caller prepared; extra descriptors,
// environment and credentials stay as they are.
func StartCmd(t testing.TB, cmd *exec.Cmd) *Machine {
	t.Helper()
	master, slave := openPTY(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	slave.Close()
	m := &Machine{t: t, cmd: cmd, pty: master, more: make(chan struct{}, 1), ended: make(chan struct{}), exit: make(chan error, 1)}
	go m.read()
	go func() { m.exit <- cmd.Wait() }()
	t.Cleanup(func() {
		if !m.done {
			cmd.Process.Kill()
			<-m.exit
		}
		master.Close()
		if t.Failed() {
			t.Logf("terminal of %s:\n%s", strings.Join(cmd.Args, " "), m.tail(6000))
		}
	})
	return m
}

func openPTY(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 132}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (m *Machine) read() {
	defer close(m.ended)
	buf := make([]byte, 64<<10)
	for {
		n, err := m.pty.Read(buf)
		m.mu.Lock()
		m.out = append(m.out, buf[:n]...)
		m.mu.Unlock()
		select {
		case m.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (m *Machine) tail(n int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.out[max(0, len(m.out)-n):])
}

// Terminal is all that the machine has written to its terminal.
func (m *Machine) Terminal() string { return m.tail(1 << 30) }

// PID is the machine's process.
func (m *Machine) PID() int { return m.cmd.Process.Pid }

// Signal sends a signal to the machine's process.
func (m *Machine) Signal(sig os.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		m.t.Fatalf("signal %v: %v", sig, err)
	}
}

// Expect waits until the terminal shows the pattern (a regular expression) after
// what earlier calls have passed, and returns the text up to its end.
func (m *Machine) Expect(limit time.Duration, pattern string) string {
	m.t.Helper()
	re := regexp.MustCompile(pattern)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for over := false; ; {
		m.mu.Lock()
		rest := m.out[m.seen:]
		if loc := re.FindIndex(rest); loc != nil {
			text := string(rest[:loc[1]])
			m.seen += loc[1]
			m.mu.Unlock()
			return text
		}
		m.mu.Unlock()
		if over {
			m.t.Fatalf("the terminal ended without %q", pattern)
		}
		select {
		case <-m.more:
		case <-m.ended:
			over = true
		case <-timer.C:
			m.t.Fatalf("the terminal did not show %q within %v", pattern, limit)
		}
	}
}

// Type sends text to the terminal as it is.
func (m *Machine) Type(text string) {
	m.t.Helper()
	if _, err := m.pty.WriteString(text); err != nil {
		m.t.Fatalf("write to the terminal: %v", err)
	}
}

// Resize changes the terminal's window.
func (m *Machine) Resize(rows, cols uint16) {
	m.t.Helper()
	if err := unix.IoctlSetWinsize(int(m.pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		m.t.Fatal(err)
	}
}

// Login waits for login's prompt, logs in and makes the shell fit for Sh.
func (m *Machine) Login(limit time.Duration, user, password string) {
	m.t.Helper()
	m.Expect(limit, `login: `)
	m.Type(user + "\n")
	if password != "" {
		m.Expect(30*time.Second, `Password: `)
		m.Type(password + "\n")
	}
	m.Expect(30*time.Second, `[#$] $`)
	m.Quiet()
}

// Quiet turns echo and prompt of the shell off, so that Sh sees output alone.
func (m *Machine) Quiet() {
	m.t.Helper()
	m.Type("stty -echo; PS1=; PS2=; unset PROMPT_COMMAND; bind 'set enable-bracketed-paste off' 2>/dev/null; echo qui''et\n")
	m.Expect(30*time.Second, `quiet\r?\n`)
}

// Try runs a command in the shell and returns what it printed and its exit status.
func (m *Machine) Try(limit time.Duration, command string) (string, int) {
	m.t.Helper()
	m.Type(command + "\necho @''end=$?@\n")
	text := m.Expect(limit, `@end=\d+@\r?\n`)
	i := strings.LastIndex(text, "@end=")
	code, err := strconv.Atoi(strings.TrimRight(text[i+len("@end="):], "@\r\n"))
	if err != nil {
		m.t.Fatalf("%s: %v", command, err)
	}
	return strings.ReplaceAll(text[:i], "\r\n", "\n"), code
}

// Sh runs a command in the shell; a failure of it fails the test.
func (m *Machine) Sh(limit time.Duration, command string) string {
	m.t.Helper()
	out, code := m.Try(limit, command)
	if code != 0 {
		m.t.Fatalf("in the guest: %s: exit status %d\n%s", command, code, out)
	}
	return out
}

// Wait waits for the machine's end and returns its exit status as a shell gives it.
func (m *Machine) Wait(limit time.Duration) int {
	m.t.Helper()
	select {
	case err := <-m.exit:
		m.done = true
		select {
		case <-m.ended:
		case <-time.After(5 * time.Second):
		}
		return status(m.t, m.cmd, err)
	case <-time.After(limit):
		m.t.Fatalf("the machine did not end within %v", limit)
		return -1
	}
}
