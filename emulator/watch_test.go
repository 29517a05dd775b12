package emulator_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestWatched holds that a running machine goes on while a tracer looks at it, and when
// that has left.
func TestWatched(t *testing.T) {
	strace, gdb := oracle.Tool(t, "strace"), oracle.Tool(t, "gdb")
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+t.TempDir(), "initrd="+initrd(t), "mount:proc,/proc,proc",
		"say:one", "key", "spawn:say:two", "key", "spawn:say:three", "key", "spawn:say:four")
	m.Expect(limit, "one\r\n")

	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-o", trace, "-p", fmt.Sprint(m.PID()))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.PID())); err == nil && strings.Contains(string(status), fmt.Sprintf("\nTracerPid:\t%d\n", cmd.Process.Pid)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("strace -p does not attach")
		}
	}
	m.Type("\n")
	m.Expect(limit, "two\r\n")
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it tells by which signal it ended
	if text, err := os.ReadFile(trace); err != nil || len(text) == 0 {
		t.Errorf("strace saw %d bytes, %v", len(text), err)
	}
	m.Type("\n")
	m.Expect(limit, "three\r\n")

	out := oracle.Run(t, gdb, "-nx", "-batch", "-p", fmt.Sprint(m.PID()), "-ex", "info threads", "-ex", "detach")
	if !strings.Contains(out, `"linux-worker"`) || !strings.Contains(out, "detached") {
		t.Errorf("gdb says:\n%s", out)
	}
	m.Type("\n")
	m.Expect(limit, "four\r\n")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// TestStartedUnderTracer holds that a tracer that leaves forks alone does no harm, and
// that one that follows them is named where the platform is one that traces, too.
func TestStartedUnderTracer(t *testing.T) {
	strace := oracle.Tool(t, "strace")
	words := []string{guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + t.TempDir(), "initrd=" + initrd(t), "con0=null,fd:1", "quiet"}
	argv := append([]string{strace, "-o", os.DevNull}, words...)
	for _, way := range []string{"platform=auto", "platform=own"} {
		out, status := guest.Output(t, limit, append(argv, way, "mount:proc,/proc,proc", "spawn:say:ran")...)
		if status != 0 || !strings.Contains(out, "ran\r\n") {
			t.Errorf("%s: exit status %d:\n%s", way, status, out)
		}
	}
	for _, intercept := range []string{"seccomp=on", "platform=own", "platform=systrap", "platform=ptrace", "seccomp=off"} {
		argv := append([]string{strace, "-f", "-o", os.DevNull}, words...)
		out, status := guest.Output(t, limit, append(argv, intercept, "mount:proc,/proc,proc", "spawn:say:ran")...)
		if intercept == "seccomp=on" || intercept == "platform=own" {
			if status != 0 || !strings.Contains(out, "ran\r\n") {
				t.Errorf("%s: exit status %d:\n%s", intercept, status, out)
			}
			continue
		}
		if status != 1 || !regexp.MustCompile(`^linux: platform \w+: strace \(process \d+\) traces this process and all that it starts, .*strace without -f.*\n$`).MatchString(out) {
			t.Errorf("%s: exit status %d:\n%s", intercept, status, out)
		}
	}
}

// TestThreadNames holds that ps -L tells the threads of a machine from its guests.
func TestThreadNames(t *testing.T) {
	for _, platform := range []string{"own", "systrap", "ptrace"} {
		m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+t.TempDir(), "platform="+platform, "initrd="+initrd(t), "mount:proc,/proc,proc", "spawn:say:second", "forever")
		m.Expect(limit, "waiting")
		var names map[string]int
		for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
			names = threadNames(t, m.PID())
			if names["first linux"] == 1 && names["worker linux-worker"] > 0 && names["child linux-guest"] > 0 && names["child linux-terminal"] == 1 && len(names) == 4 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("platform=%s: the threads are %v", platform, names)
			}
		}
		m.Signal(unix.SIGTERM)
		m.Wait(limit)
	}
}

// threadNames counts the names of a machine's threads, with what they are: its first one,
// another one, or one of a child.
func threadNames(t *testing.T, machine int) map[string]int {
	t.Helper()
	names := map[string]int{}
	for _, pid := range family(t, machine) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid))
		for _, task := range tasks {
			name, err := os.ReadFile(task)
			if err != nil {
				continue // it has ended
			}
			kind := "worker "
			if pid != machine {
				kind = "child "
			} else if strings.Contains(task, fmt.Sprintf("/task/%d/", pid)) {
				kind = "first "
			}
			names[kind+strings.TrimSuffix(string(name), "\n")]++
		}
	}
	return names
}
