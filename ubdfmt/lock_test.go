package ubdfmt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain also plays the other machine: with UBDFMT_HOLD set, the test binary opens the
// file it is given in that way, says so, and holds it until its input ends.
func TestMain(m *testing.M) {
	how, path, _ := strings.Cut(os.Getenv("UBDFMT_HOLD"), ":")
	if how == "" {
		os.Exit(m.Run())
	}
	held, err := hold(how, path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(held)
}

func hold(how, path string) (held any, err error) {
	switch how {
	case "kernel": // as the kernel's driver locks
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		return f, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	case "untagged": // the process closed another descriptor of the file
		d, err := Open(path, "", Options{})
		if err != nil {
			return nil, err
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		return d, f.Close()
	}
	d, err := Open(path, "", Options{ReadOnly: how == "read"})
	if err == nil && how == "heir" {
		err = bequeath(path)
	}
	if err == nil && how == "writer" {
		err = writeForever(d)
	}
	return d, err
}

// bequeath starts a process that has all descriptors of a file in this one, and ends when
// this one has ended, a little later.
func bequeath(path string) error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	heir := exec.Command("sh", "-c", "while kill -0 $0; do sleep 0.01; done; sleep 0.3", strconv.Itoa(os.Getpid()))
	for _, e := range fds {
		name := "/proc/self/fd/" + e.Name()
		if to, _ := os.Readlink(name); to == path {
			fd, _ := strconv.Atoi(e.Name())
			heir.ExtraFiles = append(heir.ExtraFiles, os.NewFile(uintptr(fd), to))
		}
	}
	return heir.Start()
}

// startHolder starts a process that holds a file, and returns its pid and what ends it.
func startHolder(t *testing.T, how, path string) (pid int, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "UBDFMT_HOLD="+how+":"+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		cmd.Process.Kill()
		in.Close()
		cmd.Wait()
	}
	said := make([]byte, 256)
	n, _ := out.Read(said)
	if string(said[:n]) != "held\n" {
		kill()
		t.Fatalf("the other process says %q", said[:n])
	}
	t.Cleanup(kill)
	return cmd.Process.Pid, kill
}

// TestLockOfTheKilled opens a file at once after its holder was killed, of which another
// process still has the descriptor for a while.
func TestLockOfTheKilled(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "disk.img"), pattern(1<<16, 3))
	pid, kill := startHolder(t, "heir", path)
	var locked *LockedError
	if _, err := Open(path, "", Options{}); !errors.As(err, &locked) || locked.PID != pid {
		t.Fatalf("while process %d holds it: %v", pid, err)
	}
	kill()
	d, err := Open(path, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}

// TestLives: who waits for its parent to hear of its end lives no more, whatever it is called.
func TestLives(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a) Z (b")
	if err := os.Symlink("/bin/sleep", name); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if !lives(pid) || !lives(os.Getpid()) || lives(0) {
		t.Error("a process that runs is taken for an ended one")
	}
	cmd.Process.Kill()
	// WNOWAIT leaves it as it is once it has ended.
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if lives(pid) {
		t.Error("a process that was not waited for yet is taken for one that runs")
	}
	cmd.Wait()
	if lives(pid) {
		t.Error("a process that is gone is taken for one that runs")
	}
}

func TestLocks(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	if err := CreateCOW(cow, base, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		how, held     string
		wanted        string // what we then open
		readOnly, may bool
	}{
		{how: "write", held: base, wanted: base},
		{how: "write", held: base, wanted: base, readOnly: true},
		{how: "write", held: base, wanted: cow},
		{how: "read", held: base, wanted: base},
		{how: "read", held: base, wanted: base, readOnly: true, may: true},
		{how: "read", held: base, wanted: cow, may: true},
		{how: "write", held: cow, wanted: cow},
		{how: "write", held: cow, wanted: base},
		{how: "write", held: cow, wanted: base, readOnly: true, may: true},
		{how: "untagged", held: base, wanted: base},
		{how: "kernel", held: base, wanted: base, readOnly: true},
		{how: "kernel", held: cow, wanted: cow},
	} {
		t.Run(fmt.Sprintf("%s %s, open %s", test.how, filepath.Base(test.held), filepath.Base(test.wanted)), func(t *testing.T) {
			pid, kill := startHolder(t, test.how, test.held)
			d, err := Open(test.wanted, "", Options{ReadOnly: test.readOnly})
			if err == nil {
				defer d.Close()
			}
			if test.may {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *LockedError
			if !errors.As(err, &e) || e.PID != pid || !errors.Is(err, unix.EAGAIN) {
				t.Fatalf("got %v, want a LockedError for process %d", err, pid)
			}
			if want := fmt.Sprintf("Failed to lock '%s', err = 11: process %d holds it", e.Path, pid); e.Error() != want {
				t.Errorf("message %q, want %q", e, want)
			}
			var log []string
			d = mustOpen(t, test.wanted, "", Options{ReadOnly: test.readOnly, Shared: true, Logf: logTo(&log)})
			mustClose(t, d)
			if want := fmt.Sprintf("Not locking %q at the request of the user", test.wanted); !slices.Contains(log, want) {
				t.Errorf("logged %q, not %q", log, want)
			}
			kill()
			mustClose(t, mustOpen(t, test.wanted, "", Options{ReadOnly: test.readOnly}))
		})
	}
}

// TestKernelIsKeptOut: the lock of the kernel's driver conflicts with ours.
func TestKernelIsKeptOut(t *testing.T) {
	base := write(t, filepath.Join(t.TempDir(), "base.img"), pattern(4096, 3))
	for _, test := range []struct {
		readOnly bool
		kind     int16
		may      bool
	}{
		{false, unix.F_WRLCK, false}, {false, unix.F_RDLCK, false}, {true, unix.F_WRLCK, false}, {true, unix.F_RDLCK, true},
	} {
		d := mustOpen(t, base, "", Options{ReadOnly: test.readOnly})
		f, err := os.OpenFile(base, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: test.kind})
		if (err == nil) != test.may {
			t.Errorf("lock %d beside a disk with read-only %v: %v", test.kind, test.readOnly, err)
		}
		f.Close()
		mustClose(t, d)
	}
}

func TestLockedByThisProcess(t *testing.T) {
	base := write(t, filepath.Join(t.TempDir(), "base.img"), pattern(4096, 3))
	d := mustOpen(t, base, "", Options{})
	defer d.Close()
	_, err := Open(base, "", Options{})
	var e *LockedError
	if !errors.As(err, &e) || e.PID != os.Getpid() {
		t.Errorf("got %v, want a LockedError for process %d", err, os.Getpid())
	}
	// That this process opened and closed the file meanwhile frees nothing.
	f, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Open(base, "", Options{}); !errors.As(err, &e) {
		t.Errorf("the lock went with another descriptor: %v", err)
	}
}

// TestUnwritable: what the host lets us read only is a read-only disk.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	if err := CreateCOW(cow, base, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{base, cow} {
		if err := os.Chmod(path, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	asNobody(t, dir)
	for _, path := range []string{base, cow} {
		d, err := Open(path, "", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !d.(interface{ ReadOnly() bool }).ReadOnly() {
			t.Errorf("%s may be written", path)
		}
		if _, err := d.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: write: %v", path, err)
		}
		mustClose(t, d)
	}
}

// asNobody takes from root, for the rest of the test and in this goroutine, the right to
// do as it likes with files. The directories of a test are root's own.
func asNobody(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for at := dir; at != os.TempDir() && len(at) > 1; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Setfsuid(0)
		runtime.UnlockOSThread()
	})
}
