package emulator_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// lives reports whether a process runs. One that is dead and not asked after does not.
func lives(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// gone fails the test unless all processes end in time.
func gone(t *testing.T, what string, pids []int) {
	t.Helper()
	for deadline := time.Now().Add(limit); slices.ContainsFunc(pids, lives); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: of the processes %v some live on", what, pids)
		}
	}
}

// TestNobodyOutlivesMain holds that none of a machine's processes is left however its
// main process dies, and that its name, its disk and its directory are free at once.
func TestNobodyOutlivesMain(t *testing.T) {
	dir, img := t.TempDir(), image(t)
	for _, platform := range []string{"on", "off"} {
		for _, signal := range []unix.Signal{unix.SIGKILL, unix.SIGSEGV, unix.SIGABRT} {
			what := fmt.Sprintf("seccomp=%s, %v", platform, signal)
			m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "ubd0="+img, "rw", "seccomp="+platform, "mount:proc,/proc,proc",
				"begin:sigwait", "begin:forever", "forever")
			m.Expect(limit, "(?s)waiting.*waiting.*waiting")
			for _, complaint := range []string{"already in use", "Failed to lock", "is locked"} {
				if strings.Contains(m.Terminal(), complaint) {
					t.Errorf("%s: something of the machine before is left: %s", what, complaint)
				}
			}
			pids := family(t, m.PID())
			if len(pids) < 4 {
				t.Fatalf("%s: processes %v", what, pids)
			}
			m.Signal(signal)
			m.Wait(limit)
			gone(t, what, pids)
			if !cooked(m) {
				t.Errorf("%s: the terminal stays raw", what)
			}
		}
	}
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "ubd0="+img, "rw", "say:the end")
	m.Expect(limit, `\nthe end`)
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
	clean(t, img)
}

// TestManyBoots holds that boots and halts in a row leave no process, no file and no
// change of the terminal behind: five here, two hundred in make nightly.
func TestManyBoots(t *testing.T) {
	boots := 5
	if oracle.Nightly() {
		boots = 200
	}
	dir, img, rd, temp := t.TempDir(), image(t), initrd(t), t.TempDir()
	guest.Binary(t, "linux") // built outside of what must stay empty
	t.Setenv("TMPDIR", temp)
	shm := func() []string {
		names, _ := filepath.Glob("/dev/shm/vm_file*")
		return names
	}
	before := shm()
	first := guest.Start(t, oracle.Tool(t, "true"))
	first.Wait(limit)
	modes := first.Modes()
	for n := range boots {
		words := []string{guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + dir, "umid=T", "con1=pts", "ssl0=pty"}
		status := 0
		end := func(*guest.Machine) {}
		switch n % 5 {
		case 0:
			words = append(words, "ubd0="+img, "rw", "write:/x,text", "mount:proc,/proc,proc", "begin:forever")
		case 1:
			words = append(words, "ubd0="+img, "rw", "mount:proc,/proc,proc", "begin:forever", "halt")
		case 2:
			words = append(words, "initrd="+rd, "exit:1")
			status = 134
		case 3:
			words = append(words, "initrd="+rd, "forever")
			end = func(m *guest.Machine) { m.Signal(unix.SIGTERM) }
			status = 1
		case 4:
			words = append(words, "ubd0="+img, "rw", "forever")
			end = func(m *guest.Machine) { ask(t, filepath.Join(dir, "T", "mconsole"), "halt") }
		}
		m := guest.Start(t, words...)
		if n%5 >= 3 {
			m.Expect(limit, "waiting")
		}
		pids := family(t, m.PID())
		end(m)
		if got := m.Wait(limit); got != status {
			t.Fatalf("boot %d: exit status %d, want %d", n, got, status)
		}
		gone(t, fmt.Sprint("boot ", n), pids)
		for _, place := range []string{dir, temp} {
			if left, err := os.ReadDir(place); err != nil || len(left) > 0 {
				t.Fatalf("boot %d left behind: %v (%v)", n, left, err)
			}
		}
		if after := m.Modes(); after != modes {
			t.Fatalf("boot %d: the terminal was %+v and is %+v", n, modes, after)
		}
	}
	if left := shm(); len(left) > len(before) {
		t.Errorf("left behind: %v", left)
	}
	out, _ := boot(t, "ubd0="+img, "rw", "cat:/x")
	want(t, out, "text")
	clean(t, img)
}
