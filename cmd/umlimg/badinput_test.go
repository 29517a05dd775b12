package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// Every command that takes an image meets every kind of file that is none: one line on
// stderr, its status for what it cannot open, and nothing is changed.
func TestBadImages(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("good.img", make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ubdfmt.CreateCOW("good.cow", "good.img", ubdfmt.Options{}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile("good.cow")
	if err != nil {
		t.Fatal(err)
	}
	// Where version 3 has its fields.
	const sizeAt, pathAt = 12, 32
	edit := func(name string, at int, with string) {
		b := append([]byte(nil), good[:8192]...) // behind it there are holes
		copy(b[at:], with)
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, int64(len(good))); err != nil {
			t.Fatal(err)
		}
	}
	edit("selfnamed.cow", pathAt, filepath.Join(dir, "selfnamed.cow")+"\x00")
	edit("loop1.cow", pathAt, filepath.Join(dir, "loop2.cow")+"\x00")
	edit("loop2.cow", pathAt, filepath.Join(dir, "loop1.cow")+"\x00")
	edit("newline.cow", pathAt, "/no\nsuch\x1b[31m\xff\x00")
	edit("empty-name.cow", pathAt, "\x00")
	edit("no-nul.cow", pathAt, strings.Repeat("x", 4096))
	edit("size-overflows.cow", sizeAt, "\xff\xff\xff\xff\xff\xff\xff\xff")
	edit("size-signed.cow", sizeAt, "\x7f\xff\xff\xff\xff\xff\xfe\x00")
	edit("size-large.cow", sizeAt, "\x00\x00\x40\x00\x00\x00\x00\x00")
	edit("version.cow", 7, "\x09")
	for name, length := range map[string]int{"magic-only.cow": 4, "half-header.cow": 2000, "no-bitmap.cow": 8192, "cut-bitmap.cow": 8200} {
		if err := os.WriteFile(name, good[:length], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("qcow2.cow", []byte("QFI\xfb\x00\x00\x00\x03"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo("fifo.cow", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("dir.cow", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("missing", "dangling.cow"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("symloop.cow", "symloop.cow"); err != nil {
		t.Fatal(err)
	}
	bad, err := filepath.Glob("*.cow")
	if err != nil {
		t.Fatal(err)
	}
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(bad, "missing", "/dev/full", "/dev/null", "/proc/self/mem", "good.img/x", strings.Repeat("n", 300)) {
		if name == "good.cow" {
			continue
		}
		for _, c := range []struct {
			args []string
			want int
		}{
			{[]string{"map", name}, 1}, {[]string{"map", "--svg", "-", name}, 1}, {[]string{"compare", name, "good.img"}, 2}, {[]string{"compare", "good.img", name}, 2},
			{[]string{"measure", name}, 1}, {[]string{"bench", name}, 1}, {[]string{"bench", "-w", name}, 1}, {[]string{"check", name}, -1}, {[]string{"check", "-r", name}, -1},
			{[]string{"commit", name}, 1}, {[]string{"cow", "rebase", "--unsafe", name}, 1}, {[]string{"cow", "create", "x.cow", name}, 1},
			{[]string{"diff", name, "good.img", "-o", "x.cow"}, 1}, {[]string{"diff", "good.img", name, "-o", "x.cow"}, 1},
			{[]string{"serve", "--nbd", "unix:sock", name}, 1}, {[]string{"serve", "--read-only", "--nbd", "unix:sock", name}, 1},
			{[]string{"info", name}, -1}, {[]string{"info", "--json", "--chain", name}, -1},
		} {
			// Two COW files over each other are raw images to each other, as machines have
			// it: what is wrong with them is only the length.
			status, stdout, stderr := call(c.args...)
			if c.want >= 0 && status != c.want {
				t.Errorf("%q: status %d, want %d: %s%s", c.args, status, c.want, stdout, stderr)
			}
			if c.args[0] == "check" && status != checkFailed && status != checkCorrupt && status != checkUnsupported {
				t.Errorf("%q: status %d: %s%s", c.args, status, stdout, stderr)
			}
			if strings.Count(stderr, "\n") > 1 || (stderr == "") != (status == 0 || c.args[0] == "check" && status == checkCorrupt) ||
				strings.ContainsAny(strings.TrimSuffix(stderr, "\n")+strings.ReplaceAll(stdout, "\n", ""), "\n\x1b") {
				t.Errorf("%q: status %d prints %q and %q", c.args, status, stdout, stderr)
			}
			if err := compareSnapshots(dir, before); err != nil {
				t.Fatalf("%q: %v", c.args, err)
			}
		}
	}
}
