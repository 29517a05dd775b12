package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/volume"
)

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
		must(t, "bench", "-w", "-q", "-c", "250", "--pattern", "7", "-o", "1M", "full.cow")
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

// A host that runs full loses nothing, and keeps nothing of a file that did not fit.
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

// The message tells of the error that made a filesystem one that is only read, and not of
// what that led to in another goroutine.
func TestCauseIsTold(t *testing.T) {
	image := smallImage(t, t.TempDir())
	dev, err := ubdfmt.OpenRaw(image, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	v, err := volume.Open(&cutDevice{dev, 0}, true)
	if err != nil {
		t.Fatal(err)
	}
	s := &volumes{write: true, volumes: []openVolume{{dev: dev, v: v}}}
	root, err := v.Ext4().Root()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if n, e := root.Create(fmt.Sprint(i), ext4.NewInode{Mode: format.ModeRegular}); e == nil {
			err = n.Sync(false)
			_ = n.Put()
		} else {
			err = e
		}
	}
	_ = root.Put()
	if !errors.Is(err, unix.EROFS) {
		t.Fatalf("the second write says %v", err)
	}
	if err := s.close(fmt.Errorf("disk.img:/1: %w", err)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("it says %v", err)
	}
}
