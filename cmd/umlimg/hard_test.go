package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// callWith runs umlimg in this process until ctx ends.
func callWith(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"umlimg"}, args...), strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// disks are a directory with old.img, new.img (which differs from it in many places),
// was.img (a copy of old.img) and disk.cow over old.img, which shows what new.img does.
func disks(t *testing.T, dir string, size int64) {
	t.Helper()
	oracle.Run(t, "mke2fs", "-q", "-t", "ext4", filepath.Join(dir, "old.img"), fmt.Sprint(size/1024))
	copyFile(t, filepath.Join(dir, "old.img"), filepath.Join(dir, "new.img"))
	dev, err := ubdfmt.OpenRaw(filepath.Join(dir, "new.img"), ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Behind the middle e2fsck has nothing to read.
	for off := size / 2; off < size; off += 128 << 10 {
		if _, err := dev.WriteAt(bytes.Repeat([]byte{byte(off >> 17), 1}, 32<<10), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(dir, "old.img"), filepath.Join(dir, "was.img"))
	if status, _, stderr := call("diff", filepath.Join(dir, "old.img"), filepath.Join(dir, "new.img"), "-o", filepath.Join(dir, "disk.cow")); status != 0 {
		t.Fatal(stderr)
	}
}

// longCommands are commands that take long, with the names of disks in them. Those that
// change something are done again and leave then what they leave undisturbed.
var longCommands = []struct {
	args    []string
	changes bool
}{
	{[]string{"compare", "disk.cow", "new.img"}, false},
	{[]string{"check", "disk.cow"}, false},
	{[]string{"map", "--json", "disk.cow"}, false},
	{[]string{"measure", "-O", "qcow2", "disk.cow"}, false},
	{[]string{"bench", "-c", "1000000", "disk.cow"}, false},
	{[]string{"diff", "old.img", "new.img", "-o", "x.cow"}, false},
	{[]string{"cow", "rebase", "-b", "new.img", "--reference", "was.img", "disk.cow"}, true},
	{[]string{"commit", "disk.cow"}, true},
}

// An interruption says so, with status 130, and leaves nothing behind.
func TestInterrupted(t *testing.T) {
	runs := 2
	if oracle.Nightly() {
		runs = 15
	}
	r := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 3))
	for _, c := range longCommands {
		for i := range runs {
			dir := t.TempDir()
			disks(t, dir, 32<<20)
			t.Chdir(dir)
			// The bench never ends of itself.
			ctx, stop := context.WithCancel(t.Context())
			if i == 0 {
				stop() // before anything
			} else {
				time.AfterFunc(time.Duration(r.IntN(20000))*time.Microsecond, stop)
			}
			before, err := snapshot(dir)
			if err != nil {
				t.Fatal(err)
			}
			status, _, stderr := callWith(ctx, c.args...)
			stop()
			if i == 0 && status != statusInterrupted || status != 0 && (status != statusInterrupted || !strings.Contains(stderr, ": interrupted")) || strings.Count(stderr, "\n") > 1 {
				t.Errorf("%q: status %d, %s", c.args, status, stderr)
			}
			if !c.changes {
				if status == 0 {
					os.Remove("x.cow")
				}
				if err := compareSnapshots(dir, before); err != nil {
					t.Errorf("%q: status %d: %v", c.args, status, err)
				}
				continue
			}
			if status != 0 {
				if status, _, stderr := call(c.args...); status != 0 {
					t.Errorf("%q: again: %s", c.args, stderr)
				}
			}
			if status, out, stderr := call("compare", "disk.cow", "new.img"); status != 0 {
				t.Errorf("%q: the disk has changed: %s%s", c.args, out, stderr)
			}
			if left, _ := os.ReadDir("."); len(left) != 4 {
				t.Errorf("%q leaves %v", c.args, left)
			}
		}
	}
}

// A signal in the middle of writing ends a bench in one line; the COW file is sound.
func TestSignalMidway(t *testing.T) {
	dir := t.TempDir()
	disks(t, dir, 8<<20)
	cow := filepath.Join(dir, "disk.cow")
	cmd := exec.Command(os.Args[0], "bench", "-w", "-c", "2000000000", "--pattern", "1", "--flush-interval", "64", cow)
	cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	await(t, "umlimg writes", func() bool {
		report, err := ubdfmt.Check(cow, ubdfmt.CheckOptions{Shared: true})
		return err == nil && report.Held > 4<<20
	})
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != statusInterrupted || stderr.String() != "umlimg: bench "+cow+": interrupted\n" {
		t.Errorf("status %d, %q", cmd.ProcessState.ExitCode(), &stderr)
	}
	if report, err := ubdfmt.Check(cow, ubdfmt.CheckOptions{}); err != nil || len(report.Problems) > 0 {
		t.Errorf("%+v, %v", report.Problems, err)
	}
}

// A host without room, and a limit on the length of files, end a command in one line, and
// leave what was there.
func TestNoRoom(t *testing.T) {
	oracle.NeedsRoot(t)
	small, dir := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=2M"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	disks(t, dir, 32<<20)
	t.Chdir(dir)
	fill := filepath.Join(small, "fill")
	for _, c := range []struct {
		name string
		args []string
		left int64 // bytes free on the small host
	}{
		{"diff", []string{"diff", "old.img", "new.img", "-o", filepath.Join(small, "x.cow")}, 1 << 20},
		{"diff, no byte", []string{"diff", "old.img", "new.img", "-o", filepath.Join(small, "x.cow")}, 0},
		{"cow create", []string{"cow", "create", filepath.Join(small, "x.cow"), "old.img"}, 0},
		{"svg", []string{"map", "--svg", filepath.Join(small, "x.svg"), "disk.cow"}, 0},
		{"check", []string{"check", "disk.cow"}, 0},
	} {
		if err := os.WriteFile(fill, make([]byte, 2<<20-c.left), 0o600); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		before, err := snapshot(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("TMPDIR", small)
		status, _, stderr := call(c.args...)
		if status != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "no space left on device") && !strings.Contains(stderr, "set TMPDIR to a directory with that room") {
			t.Errorf("%s: status %d, %s", c.name, status, stderr)
		}
		if err := compareSnapshots(dir, before); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if left, _ := os.ReadDir(small); len(left) != 1 {
			t.Errorf("%s leaves %v", c.name, left)
		}
		if err := os.Remove(fill); err != nil {
			t.Fatal(err)
		}
	}

	// What lies on the full host itself, and is changed there.
	for _, c := range []struct {
		name string
		args []string
	}{
		{"bench", []string{"bench", "-w", "-q", "-c", "400", "--pattern", "5", "--flush-interval", "100", "scratch.cow"}},
		{"cow rebase", []string{"cow", "rebase", "-b", filepath.Join(dir, "new.img"), "--reference", filepath.Join(dir, "was.img"), "full.cow"}},
		{"commit", []string{"commit", "full.cow"}},
	} {
		t.Chdir(small)
		for _, name := range []string{"base.img", "full.cow", "scratch.cow", "fill"} {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
		base := filepath.Join(dir, "old.img")
		if c.name == "commit" {
			base = "base.img" // all holes, over which the COW file has a MiB
			if err := os.WriteFile(base, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(base, 32<<20); err != nil {
				t.Fatal(err)
			}
		}
		for _, cow := range []string{"full.cow", "scratch.cow"} {
			if err := ubdfmt.CreateCOW(cow, base, ubdfmt.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		if status, _, stderr := call("bench", "-w", "-q", "-c", "250", "--pattern", "7", "-o", "1M", "full.cow"); status != 0 {
			t.Fatal(stderr)
		}
		want := filepath.Join(dir, "want.img")
		if err := ubdfmt.Merge(t.Context(), "full.cow", want, ubdfmt.MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		var host unix.Statfs_t
		if err := unix.Statfs(small, &host); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("fill", make([]byte, int64(host.Bavail)*host.Bsize-256<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		status, _, stderr := call(c.args...)
		if status != 1 || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "no space left on device\n") {
			t.Errorf("%s: status %d, %s", c.name, status, stderr)
		}
		if c.name == "commit" {
			// With room it goes on.
			if err := unix.Mount("", small, "", unix.MS_REMOUNT, "size=8M"); err != nil {
				t.Fatal(err)
			}
			if status, _, stderr := call(c.args...); status != 0 {
				t.Errorf("%s with room: %s", c.name, stderr)
			}
		}
		if status, out, stderr := call("compare", "full.cow", want); status != 0 {
			t.Errorf("%s: the disk has changed: %s%s", c.name, out, stderr)
		}
		if left, _ := os.ReadDir("."); len(left) > 4 {
			t.Errorf("%s leaves %v", c.name, left)
		}
	}
	t.Chdir(dir) // so that the small host can go
}

// Whoever may not is told so, and nothing is left.
func TestNoPermission(t *testing.T) {
	oracle.NeedsRoot(t)
	umlimg := guest.Binary(t, "umlimg")
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	disks(t, dir, 8<<20)
	if err := os.WriteFile(filepath.Join(dir, "secret.img"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"info", "secret.img"}, 1}, {[]string{"map", "secret.img"}, 1}, {[]string{"check", "secret.img"}, 1}, {[]string{"bench", "secret.img"}, 1},
		{[]string{"compare", "old.img", "secret.img"}, 2}, {[]string{"measure", "secret.img"}, 1}, {[]string{"cow", "create", "out/x.cow", "secret.img"}, 1},
		{[]string{"cow", "create", "x.cow", "old.img"}, 1}, {[]string{"diff", "old.img", "new.img", "-o", "x.cow"}, 1}, {[]string{"diff", "old.img", "secret.img", "-o", "out/x.cow"}, 1},
		{[]string{"commit", "disk.cow"}, 1}, {[]string{"cow", "rebase", "--unsafe", "disk.cow"}, 1}, {[]string{"check", "-r", "disk.cow"}, 0},
		{[]string{"bench", "-w", "disk.cow"}, 1}, {[]string{"map", "--svg", "x.svg", "disk.cow"}, 1},
		// What only looks may look at what may only be read.
		{[]string{"info", "disk.cow"}, 0}, {[]string{"map", "disk.cow"}, 0}, {[]string{"check", "disk.cow"}, 0}, {[]string{"compare", "disk.cow", "new.img"}, 0},
		{[]string{"bench", "-q", "-c", "10", "disk.cow"}, 0}, {[]string{"cow", "create", "out/x.cow", "old.img"}, 0},
	} {
		cmd := ordinary(t, out, append([]string{umlimg}, c.args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TMPDIR="+out)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		if exit, ok := err.(*exec.ExitError); (err != nil && !ok) || cmd.ProcessState.ExitCode() != c.want || c.want != 0 && (!strings.Contains(stderr.String(), "permission denied") || strings.Count(stderr.String(), "\n") != 1) {
			t.Errorf("%q: %v, want %d: %s", c.args, exit, c.want, &stderr)
		}
	}
	if err := os.Remove(filepath.Join(out, "x.cow")); err != nil {
		t.Error(err)
	}
	if err := os.Chown(out, 0, 0); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(out); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	delete(before, out)
	after, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	delete(after, out)
	for name, state := range after {
		if before[name] != state {
			t.Errorf("%s: before %q, after %q", name, before[name], state)
		}
	}
}
