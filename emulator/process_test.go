package emulator_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// family is a process and all its descendants.
func family(t testing.TB, pid int) []int {
	t.Helper()
	pids := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(f); err == nil {
				pids = append(pids, family(t, child)...)
			}
		}
	}
	return pids
}

// ticks is the processor time of a process and its descendants, in hundredths of a
// second.
func ticks(t testing.TB, pid int) int {
	t.Helper()
	sum := 0
	for _, p := range family(t, pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, i := range []int{11, 12} {
			n, err := strconv.Atoi(f[i])
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// powerless fails the test unless every thread of the process and of its descendants
// is without capabilities.
func powerless(t testing.TB, pid int) {
	t.Helper()
	pids := family(t, pid)
	if len(pids) < 2 {
		t.Errorf("process %d runs no guest code", pid)
	}
	for _, p := range pids {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p))
		for _, name := range threads {
			text, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
				if !strings.Contains(string(text), set+":\t0000000000000000\n") {
					t.Errorf("%s has capabilities:\n%s", name, text)
					return
				}
			}
		}
	}
}

// run boots a machine with the given program and credentials and holds that it is
// powerless and works.
func runPowerless(t *testing.T, binary, rd string, cred *syscall.Credential, wrap ...string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "umid")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	argv := append(wrap, binary, "uml_dir="+dir, "initrd="+rd, "con0=null,fd:1", "uname", "forever")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	m := guest.StartCmd(t, cmd)
	m.Expect(limit, "uname Linux")
	m.Expect(limit, "waiting")
	powerless(t, m.PID())
	m.Signal(unix.SIGTERM)
	if status := m.Wait(limit); status != 1 {
		t.Errorf("exit status %d", status)
	}
}

// nobody are the credentials of an ordinary user.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// shared is a copy of a file that every user may read and run.
func shared(t testing.TB, from string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shared")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, filepath.Base(from))
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestCapabilities holds that no thread of the machine, and none of those that run
// guest code, has a capability, whoever starts it.
func TestCapabilities(t *testing.T) {
	binary, rd := guest.Binary(t, "linux"), initrd(t)
	t.Run("as we are", func(t *testing.T) { runPowerless(t, binary, rd, nil) })
	t.Run("no_new_privs", func(t *testing.T) {
		runPowerless(t, binary, rd, nil, oracle.Tool(t, "setpriv"), "--no-new-privs")
	})
	t.Run("ordinary user", func(t *testing.T) {
		oracle.NeedsRoot(t)
		runPowerless(t, shared(t, binary), shared(t, rd), nobody)
	})
	t.Run("ordinary user, no bounding set, no_new_privs", func(t *testing.T) {
		oracle.NeedsRoot(t)
		runPowerless(t, shared(t, binary), shared(t, rd), nil,
			oracle.Tool(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
	})
	t.Run("file capabilities", func(t *testing.T) {
		oracle.NeedsRoot(t)
		binary := shared(t, binary)
		oracle.Run(t, "setcap", "cap_net_raw,cap_net_admin+ep", binary)
		runPowerless(t, binary, shared(t, rd), nobody)
	})
}

// TestCgo holds that a program built with cgo works as well.
func TestCgo(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the whole program again")
	}
	binary := filepath.Join(t.TempDir(), "linux")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/linux")
	cmd.Dir = oracle.Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v (Debian package gcc)\n%s", err, out)
	}
	runPowerless(t, binary, initrd(t), nil)
	out, status := guest.Output(t, limit, binary, "uml_dir="+t.TempDir(), "initrd="+initrd(t), "exit:1")
	if status != 134 {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// TestTerminalSurvives holds that a terminal has its modes back after every way to
// end, SIGKILL and a fault of the machine among them.
func TestTerminalSurvives(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*guest.Machine)
		rest []string
	}{
		{"power off", func(*guest.Machine) {}, nil},
		{"panic", func(*guest.Machine) {}, []string{"exit:1"}},
		{"SIGTERM", func(m *guest.Machine) { m.Signal(unix.SIGTERM) }, []string{"forever"}},
		{"SIGKILL", func(m *guest.Machine) { m.Signal(unix.SIGKILL) }, []string{"forever"}},
		{"SIGQUIT", func(m *guest.Machine) { m.Signal(unix.SIGQUIT) }, []string{"forever"}},
		{"SIGKILL of what runs guest code", func(m *guest.Machine) { killChildren(t, m, "linux-guest") }, []string{"forever"}},
		{"SIGKILL of the terminal's guard", func(m *guest.Machine) { killChildren(t, m, "linux-terminal") }, []string{"forever"}},
		{"SIGSEGV", func(m *guest.Machine) { m.Signal(unix.SIGSEGV) }, []string{"forever"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			words := append([]string{guest.Binary(t, "linux"), "uml_dir=" + t.TempDir(), "initrd=" + initrd(t), "say:raw"}, test.rest...)
			m := guest.Start(t, words...)
			m.Expect(limit, "raw")
			if len(test.rest) > 0 && test.rest[0] == "forever" {
				m.Expect(limit, "waiting")
				if cooked(m) {
					t.Errorf("the terminal is not raw while a console reads it")
				}
			}
			test.end(m)
			m.Wait(limit)
			for deadline := time.Now().Add(limit); !cooked(m); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the terminal stays raw")
				}
			}
		})
	}
}

// killChildren kills the children of a machine that have a name, and ends the machine if
// it has not ended for that.
func killChildren(t *testing.T, m *guest.Machine, name string) {
	t.Helper()
	killed := 0
	for _, pid := range family(t, m.PID())[1:] {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && string(comm) == name+"\n" {
			killed++
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if killed == 0 {
		t.Errorf("the machine has no child %s", name)
	}
	time.Sleep(100 * time.Millisecond)
	_ = unix.Kill(m.PID(), unix.SIGTERM)
}

// cooked reports whether the machine's terminal is as a shell leaves it to a program.
func cooked(m *guest.Machine) bool {
	modes := m.Modes()
	return modes.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == unix.ICANON|unix.ECHO|unix.ISIG && modes.Oflag&unix.OPOST != 0
}
