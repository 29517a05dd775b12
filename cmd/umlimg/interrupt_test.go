package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

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
	must(t, "diff", filepath.Join(dir, "old.img"), filepath.Join(dir, "new.img"), "-o", filepath.Join(dir, "disk.cow"))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
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

// What changes an image in place leaves it sound when it is interrupted, and goes on when it
// is done again.
func TestInterruptedInPlace(t *testing.T) {
	runs := 2
	if oracle.Nightly() {
		runs = 20
	}
	r := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 4))
	dir := t.TempDir()
	image, work := filepath.Join(dir, "disk.img"), filepath.Join(dir, "work.img")
	must(t, "create", "--from", manyFiles(t, 400), "--as-is", "--size", "64M", image)
	must(t, "rm", "-r", image+":/3", image+":/5")
	for _, args := range [][]string{{"sparsify", work}, {"resize", "--shrink", work, "40M"}, {"resize", "--minimum", work}, {"resize", work, "+2G"}} {
		for i := range runs {
			copyFile(t, image, work)
			ctx, stop := context.WithCancel(t.Context())
			if i == 0 {
				stop() // before anything
			} else {
				time.AfterFunc(time.Duration(r.IntN(30000))*time.Microsecond, stop)
			}
			status, _, stderr := callWith(ctx, args...)
			stop()
			// What makes an image larger is not interrupted.
			if i == 0 && status != statusInterrupted && args[len(args)-1] != "+2G" || status != 0 && (status != statusInterrupted || !strings.HasSuffix(stderr, ": interrupted\n")) || strings.Count(stderr, "\n") > 1 {
				t.Errorf("%q: status %d, %s", args, status, stderr)
			}
			oracle.Fsck(t, work)
			must(t, args...)
			oracle.Fsck(t, work)
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

// running is an umlimg of its own, with the other end of its stdin.
type running struct {
	*exec.Cmd
	stdin  *os.File
	stderr bytes.Buffer
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	t.Cleanup(func() { w.Close() })
	u := &running{Cmd: exec.Command(os.Args[0], args...), stdin: w}
	u.Env = append(os.Environ(), "RUN_UMLIMG=1")
	u.Stdin, u.Stderr = r, &u.stderr
	if err := u.Start(); err != nil {
		t.Fatal(err)
	}
	return u
}

// feed writes bytes to it, and waits until it has read them.
func (u *running) feed(t *testing.T, n int) {
	t.Helper()
	if _, err := u.stdin.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	await(t, "umlimg reads", func() bool {
		left, err := unix.IoctlGetInt(int(u.stdin.Fd()), unix.TIOCINQ)
		return err == nil && left == 0
	})
}

// end sends a signal, which has to end it.
func (u *running) end(t *testing.T, sig unix.Signal) {
	t.Helper()
	if err := u.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(time.Minute, func() { u.Process.Kill() })
	_ = u.Wait()
	if !stop.Stop() {
		t.Fatalf("%v does not end it", sig)
	}
}

// wantInterrupted wants the status and the words of who was interrupted.
func (u *running) wantInterrupted(t *testing.T) {
	t.Helper()
	if u.ProcessState.ExitCode() != statusInterrupted || !strings.HasSuffix(u.stderr.String(), ": interrupted\n") {
		t.Errorf("status %d, %q", u.ProcessState.ExitCode(), &u.stderr)
	}
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// An interrupted umlimg leaves nothing and says so, also while it waits for someone to
// write into a pipe.
func TestSignals(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, _ := sources(t)
	for name, c := range map[string]struct {
		args []string
		sig  unix.Signal
		sent int // bytes that it reads before it waits for more
	}{
		"INT":          {[]string{"--from", "-"}, unix.SIGINT, 100},
		"TERM":         {[]string{"--from", "-"}, unix.SIGTERM, 100},
		"KILL":         {[]string{"--from", "-"}, unix.SIGKILL, 100},
		"nothing sent": {[]string{"--from", "-"}, unix.SIGINT, 0},
		"FIFO":         {[]string{"--from", fifo}, unix.SIGINT, 0},
		"password":     {[]string{"--root-password-file", "-", "--from", tree}, unix.SIGINT, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			u := start(t, append(append([]string{"create"}, c.args...), "--size", "64M", filepath.Join(dir, "disk.img"))...)
			if c.sent > 0 {
				u.feed(t, c.sent)
			} else {
				await(t, "umlimg begins the image", func() bool {
					fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", u.Process.Pid))
					return slices.ContainsFunc(fds, func(fd string) bool {
						name, _ := os.Readlink(fd)
						return strings.HasPrefix(name, dir)
					})
				})
			}
			u.end(t, c.sig)
			if c.sig != unix.SIGKILL {
				u.wantInterrupted(t)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("it leaves %v", left)
			}
		})
	}
}

// An interrupted command says so, and leaves a clean image without a part of a file.
func TestFilesInterrupted(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"put":    {"put", "-", "IMAGE:/home/joe/file"},
		"cp":     {"cp", "-", "IMAGE:/new"},
		"tar-in": {"tar-in", "-", "IMAGE:/"},
		"fifo":   {"put", fifo, "IMAGE:/new"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			image := smallImage(t, dir)
			for i := range args {
				args[i] = strings.Replace(args[i], "IMAGE", image, 1)
			}
			u := start(t, args...)
			if name != "fifo" {
				u.feed(t, 10_000)
			} else {
				await(t, "umlimg starts", func() bool {
					text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", u.Process.Pid))
					return err == nil && strings.Contains(string(text), "SigCgt:\t") && !strings.Contains(string(text), "SigCgt:\t0000000000000000") && strings.Contains(string(text), "Threads:")
				})
				time.Sleep(200 * time.Millisecond) // until its handler is in place; sooner, the default ends it
			}
			u.end(t, unix.SIGINT)
			if name != "fifo" {
				u.wantInterrupted(t)
			}
			oracle.Fsck(t, image)
			if got := must(t, "find", image+":/", "-type", "f"); got != "/etc/passwd\n/etc/shadow\n/home/joe/file\n" {
				t.Errorf("the image holds %q", got)
			}
			if got := must(t, "cat", image+":/home/joe/file"); got != "x" {
				t.Errorf("the file that was there holds %q", got)
			}
		})
	}
}

// preen has e2fsck do what it does at a boot: replay the journal, and mend what it may alone.
func preen(t *testing.T, what, image string) {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fp", image).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() > 1) {
		t.Fatalf("%s: e2fsck -fp: %v\n%s", what, err, out)
	}
}

// Killed at any moment, a command leaves an image whose journal replays to a clean
// filesystem, and whose old files are there.
func TestFilesKilled(t *testing.T) {
	kills := 6
	if oracle.Nightly() {
		kills = 150
	}
	seed := uint64(oracle.Seed(t))
	r := rand.New(rand.NewPCG(seed, 3))
	dir := t.TempDir()
	tree := manyFiles(t, 1500)
	archive := filepath.Join(dir, "many.tar.gz")
	oracle.Run(t, "tar", "-C", tree, "-czf", archive, ".")
	image := filepath.Join(dir, "disk.img")
	must(t, "create", "--from", tree, "--as-is", "--size", "128M", image)
	for i := range kills {
		args := [][]string{
			{"cp", "-r", tree, image + ":/copy"}, {"tar-in", archive, image + ":/"}, {"rm", "-rf", image + ":/copy"}, {"cp", "-a", tree + "/.", image + ":/"},
		}[i%4]
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(250)) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		what := fmt.Sprintf("seed %d, kill %d of %q", seed, i, args[:2])
		// What a reader sees before the replay is what is there after it.
		before := must(t, "find", "-type", "f", image+":/")
		preen(t, what, image)
		oracle.Fsck(t, image)
		if after := must(t, "find", "-type", "f", image+":/"); after != before {
			t.Fatalf("%s: e2fsck's replay shows other files than ours", what)
		}
		if n := strings.Count(before, "\n"); n < 1500 {
			t.Fatalf("%s: %d files are left", what, n)
		}
	}
	out := filepath.Join(dir, "out")
	must(t, "rm", "-rf", image+":/copy")
	must(t, "cp", "-r", image+":/", out)
	oracle.Run(t, "diff", "-r", "-x", "lost+found", tree, out)
}

// A kill while a file of this machine is written leaves what was there, and nothing else.
func TestKilledOutput(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	image, out := filepath.Join(dir, "disk.img"), filepath.Join(dir, "out")
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{tree, out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "big"), bytes.Repeat([]byte("big"), 16<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "create", "--from", tree, "--as-is", "--size", "128M", image)
	// Whatever the host's own file system can: this one has files without a name.
	oracle.Run(t, "mount", "-t", "tmpfs", "tmpfs", out)
	t.Cleanup(func() { oracle.Unmount(t, out) })
	old, fresh := filepath.Join(out, "old"), filepath.Join(out, "new")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cp", image + ":/big", fresh}, {"cp", image + ":/big", old}, {"cp", "-a", image + ":/big", old}, {"tar-out", image + ":/", fresh},
		{"tar-out", image + ":/", old}, {"convert", image, fresh}, {"convert", "--force", image, old},
	} {
		if !killWhileNameless(t, out, args) {
			t.Errorf("%q was never seen at work", args)
		}
		if text, err := os.ReadFile(old); err != nil || string(text) != "old" {
			t.Errorf("%q: the old file is %.20q, %v", args, text, err)
		}
		if left, _ := os.ReadDir(out); len(left) != 1 {
			t.Errorf("%q leaves %v", args, left)
		}
	}
}

// killWhileNameless runs umlimg until it has an open file in a directory that has no name,
// and kills it then. What a run leaves that was too quick is made undone.
func killWhileNameless(t *testing.T, dir string, args []string) bool {
	t.Helper()
	for range 50 {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for {
			seen := false
			fds := fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid)
			list, _ := os.ReadDir(fds)
			for _, fd := range list {
				name, _ := os.Readlink(filepath.Join(fds, fd.Name()))
				seen = seen || strings.HasPrefix(name, dir+"/#") && strings.HasSuffix(name, " (deleted)")
			}
			if seen {
				_ = cmd.Process.Kill()
			}
			select {
			case err := <-ended:
				if err != nil {
					return true
				}
			default:
				continue
			}
			break
		}
		if err := os.RemoveAll(filepath.Join(dir, "new")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "old"), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return false
}
