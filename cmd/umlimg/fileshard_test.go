package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

func manyFiles(t *testing.T, n int) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "many")
	for i := range n {
		dir := filepath.Join(tree, fmt.Sprint(i%17))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := []byte(strings.Repeat(fmt.Sprint(i, " "), 1+i*37%5000))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

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
		if out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fp", image).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() > 1 {
			t.Fatalf("%s: e2fsck -fp: %v\n%s", what, err, out)
		}
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
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
			cmd.Stdin = r
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r.Close()
			if name != "fifo" {
				if _, err := w.Write(make([]byte, 10_000)); err != nil {
					t.Fatal(err)
				}
				await(t, "umlimg reads", func() bool {
					left, err := unix.IoctlGetInt(int(w.Fd()), unix.TIOCINQ)
					return err == nil && left == 0
				})
			} else {
				await(t, "umlimg starts", func() bool {
					text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
					return err == nil && strings.Contains(string(text), "SigCgt:\t") && !strings.Contains(string(text), "SigCgt:\t0000000000000000") && strings.Contains(string(text), "Threads:")
				})
				time.Sleep(200 * time.Millisecond) // until its handler is in place; sooner, the default ends it
			}
			if err := cmd.Process.Signal(unix.SIGINT); err != nil {
				t.Fatal(err)
			}
			stop := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
			_ = cmd.Wait()
			if !stop.Stop() {
				t.Fatal("SIGINT does not end it")
			}
			if name != "fifo" && (cmd.ProcessState.ExitCode() != statusInterrupted || !strings.HasSuffix(stderr.String(), ": interrupted\n")) {
				t.Errorf("status %d, %q", cmd.ProcessState.ExitCode(), &stderr)
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

func TestHostFull(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	image := smallImage(t, dir)
	small := filepath.Join(dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
	t.Cleanup(func() { oracle.Unmount(t, small) })
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", big, image+":/big")
	old := filepath.Join(small, "old")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"cp", image + ":/big", small}, {"cp", image + ":/big", old}, {"cp", "-a", image + ":/", filepath.Join(small, "all")}, {"tar-out", image + ":/", old}} {
		status, _, stderr := call(args...)
		if status != 1 || !strings.HasSuffix(stderr, ": no space left on device\n") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d, %q", args, status, stderr)
		}
		if err := os.RemoveAll(filepath.Join(small, "all")); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(small)
	if text, _ := os.ReadFile(old); err != nil || len(left) != 1 || string(text) != "old" {
		t.Errorf("left are %v, the old file is %q, %v", left, text, err)
	}
	// The image's own host: the disk is sparse and its filesystem promises more than there is.
	tight := filepath.Join(small, "tight.img")
	if err := os.RemoveAll(old); err != nil {
		t.Fatal(err)
	}
	tree, _ := sources(t)
	must(t, "create", "--from", tree, "--as-is", "--size", "16M", "--fs-option", "type=ext2", tight)
	status, _, stderr := call("cp", big, tight+":/big")
	if status != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("an image on a full host: status %d, %q", status, stderr)
	}
	if got := must(t, "cat", tight+":/etc/passwd"); !strings.HasPrefix(got, "root:") {
		t.Errorf("the image lost %q", got)
	}
}

func TestHostileNames(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	image := smallImage(t, dir, "--fs-option", "features=^metadata_csum")
	must(t, "mkdir", "-p", image+":/t/planted")
	must(t, "put", "/dev/null", image+":/t/planted/file")
	// A link that stands where the image has a directory is not followed.
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(out, "planted")); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := call("cp", "-rT", image+":/t", out); status != 1 || !strings.Contains(stderr, "not a directory") && !strings.Contains(stderr, "too many levels") {
		t.Errorf("through a link: status %d, %s", status, stderr)
	}
	// A file takes the place of a link, and what that leads to stays.
	must(t, "put", "/dev/null", image+":/link")
	target := filepath.Join(outside, "target")
	if err := os.WriteFile(target, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(out, "link")); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", image+":/link", out)
	if text, _ := os.ReadFile(target); string(text) != "mine" {
		t.Errorf("the file that a link led to holds %q", text)
	}
	// Names that no directory can have.
	must(t, "put", "/dev/null", image+":/slash_x")
	text, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, bytes.ReplaceAll(text, []byte("slash_x"), []byte("slash/x")), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ls", image + ":/"}, {"cp", "-r", image + ":/", filepath.Join(dir, "all")}, {"tar-out", image + ":/", filepath.Join(dir, "x.tar")}} {
		if status, _, stderr := call(args...); status != 1 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d, %q", args, status, stderr)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside are %v, %v", left, err)
	}
}
