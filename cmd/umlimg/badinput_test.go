package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
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
	for name, length := range map[string]int{"magic-only.cow": 4, "half-header.cow": 2000, "no-bitmap.cow": 1<<20 - 8, "cut-bitmap.cow": 1<<20 + 8} {
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
	t.Setenv("EDITOR", "touch ran; true")
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
			{[]string{"info", name}, -1}, {[]string{"info", "--json", "--chain", name}, -1}, {[]string{"info", name + "#1"}, 1},
			{[]string{"check", name + "#1"}, -1}, {[]string{"sparsify", name + "#1"}, 1}, {[]string{"resize", name + "#1", "4M"}, 1}, {[]string{"map", name + "#1"}, 1},
			{[]string{"convert", name, "new"}, 1}, {[]string{"convert", "-O", "qcow2", name, "new"}, 1}, {[]string{"convert", "-O", "cow", "-b", name, "good.img", "new"}, 1},
			{[]string{"convert", "-O", "qcow2", "-b", name, "good.img", "new"}, 1}, {[]string{"convert", "-f", "qcow2", name, "new"}, 1},
			{[]string{"sparsify", name}, 1}, {[]string{"resize", name, "4M"}, 1}, {[]string{"resize", "--disk-only", name, "4M"}, 1}, {[]string{"resize", "--minimum", name}, 1},
			{[]string{"cow", "rebase", "-b", name, "good.cow"}, 1}, {[]string{"cow", "rebase", "--unsafe", "-b", name, "good.cow"}, 1},
			{[]string{"cow", "rebase", "-b", "good.img", "--reference", name, "good.cow"}, 1},
			{[]string{"partition", "list", name}, 1}, {[]string{"partition", "list", "--json", name}, 1}, {[]string{"partition", "create", name, "rest"}, 1},
			{[]string{"partition", "create", "--force", name, "rest"}, 1},
			{[]string{"ls", name}, 1}, {[]string{"ls", "-l", name + ":/"}, 1}, {[]string{"cat", name + ":/f"}, 1}, {[]string{"stat", name + ":/"}, 1}, {[]string{"df", name}, 1},
			{[]string{"find", name + ":/"}, 1}, {[]string{"tar-out", name + ":/", "new"}, 1}, {[]string{"tar-out", name + "#1:/", "-"}, 1},
			{[]string{"cp", name + ":/f", "new"}, 1}, {[]string{"cp", "-r", name + ":/", "."}, 1}, {[]string{"cp", "good.img", name + ":/f"}, 1},
			{[]string{"put", "good.img", name + ":/f"}, 1}, {[]string{"put", "-", name + ":/f"}, 1}, {[]string{"mkdir", "-p", name + ":/d"}, 1}, {[]string{"rm", "-rf", name + ":/d"}, 1},
			{[]string{"ln", "-s", "x", name + ":/d"}, 1}, {[]string{"chmod", "755", name + ":/"}, 1}, {[]string{"chown", "0", name + ":/"}, 1},
			{[]string{"tar-in", "-", name + ":/"}, 1}, {[]string{"edit", name + ":/f"}, 1},
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
		}
		if err := compareSnapshots(dir, before); err != nil {
			t.Fatalf("a command with %q: %v", name, err)
		}
	}
}

// Commands that work on files in an image meet what is no filesystem, or not all of one.
func TestBadFilesystems(t *testing.T) {
	dir := t.TempDir()
	whole := smallImage(t, t.TempDir())
	t.Chdir(dir)
	t.Setenv("EDITOR", "touch ran; true")
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	super := append(make([]byte, 2048), good[2048:]...)
	groups := append(append(append([]byte(nil), good[:4096]...), bytes.Repeat([]byte{0xff}, 4096)...), good[8192:]...)
	for name, b := range map[string][]byte{
		"empty": nil, "one byte": {7}, "text": []byte("no image\n"), "zeros": make([]byte, 1<<20), "cut": good[:len(good)/2], "cut sector": good[:len(good)-512],
		"header only": good[:2048], "no super": super, "groups": groups, "no\nname": []byte("x"), "*[?": nil,
	} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, whole, "ok.img")
	bad, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range bad {
		name := e.Name()
		if name == "ok.img" {
			continue
		}
		for _, args := range [][]string{
			{"ls", name}, {"ls", "-lR", name + ":/"}, {"cat", name + ":/etc/passwd"}, {"stat", name + ":/"}, {"df", name}, {"df", "--json", name}, {"find", name + ":/"},
			{"tar-out", name + ":/", "new"}, {"tar-out", name + "#1:/"}, {"cp", name + ":/etc/passwd", "new"}, {"cp", "-r", name + ":/", "."}, {"cp", "ok.img:/etc/passwd", name + ":/f"},
			{"cp", name + ":/etc/passwd", "ok.img:/f"}, {"cp", "text", name + ":/f"}, {"put", "text", name + ":/f"}, {"mkdir", "-p", name + ":/d"}, {"rm", "-rf", name + ":/etc"},
			{"ln", "-s", "x", name + ":/d"}, {"ln", "-f", name + ":/etc/passwd", name + ":/d"}, {"chmod", "-R", "755", name + ":/"}, {"chown", "-R", "0", name + ":/"},
			{"tar-in", "-", name + ":/"}, {"edit", name + ":/etc/passwd"}, {"resize", name, "64M"}, {"resize", "--minimum", name}, {"partition", "list", name},
		} {
			status, _, stderr := call(args...)
			if status != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, strings.ReplaceAll(name, "\n", "; ")) {
				t.Errorf("%q: status %d, %q", args, status, stderr)
			}
		}
		if err := compareSnapshots(dir, before); err != nil {
			t.Fatalf("a command with %q: %v", name, err)
		}
	}
}

// What a command prints goes to a full disk: it says so, and its status is that of a failure.
func TestFullStdout(t *testing.T) {
	dir := t.TempDir()
	disks(t, dir, 8<<20)
	image := smallImage(t, dir)
	t.Chdir(dir)
	must(t, "create", "--blank", "--size", "8M", "blank.img")
	must(t, "partition", "create", "blank.img", "4M")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{
		{"info", image}, {"info", "--json", "disk.cow"}, {"info", "blank.img#1"}, {"map", image}, {"map", "--json", image}, {"map", "--svg", "-", image}, {"check", image},
		{"check", "--json", image}, {"compare", "old.img", "new.img"}, {"compare", "--json", "old.img", "was.img"}, {"measure", image}, {"measure", "--json", image},
		{"bench", "-c", "1", image}, {"bench", "--json", "-c", "1", image}, {"ls", image}, {"ls", "-lR", "--json", image}, {"cat", image + ":/etc/passwd"}, {"stat", image + ":/"},
		{"stat", "--json", image + ":/"}, {"df", image}, {"df", "--json", image}, {"find", image + ":/"}, {"find", "--json", image + ":/"}, {"tar-out", image + ":/"},
		{"tar-out", "--compress", "zstd", image + ":/", "-"}, {"cp", image + ":/etc/passwd", "-"}, {"partition", "list", "blank.img"}, {"partition", "list", "--json", "blank.img"},
		{"partition", "create", "--force", "--json", "blank.img", "4M"}, {"resize", "--json", image, "+1M"}, {"sparsify", "--json", image}, {"convert", "--json", image, "new"},
		{"create", "--json", "--blank", "--size", "1M", "made.img"}, {"commit", "--json", "disk.cow"}, {"version"}, {"completion", "bash"},
		{}, {"--help"}, {"-h"}, {"create", "--help"}, {"create", "-h"}, {"partition"}, {"partition", "--help"}, {"partition", "list", "--help"},
		{"diff", "--json", "old.img", "was.img", "-o", "x.cow"}, {"cow", "rebase", "--unsafe", "--json", "disk.cow"},
	} {
		var stderr bytes.Buffer
		status := run(t.Context(), append([]string{"umlimg"}, args...), strings.NewReader(""), full, &stderr)
		want := 1
		if slices.Contains(args, "compare") {
			want = 4
		}
		if status != want || strings.Count(stderr.String(), "\n") != 1 || !strings.HasSuffix(stderr.String(), "no space left on device\n") {
			t.Errorf("%q: status %d, %q", args, status, &stderr)
		}
	}
}

// A file that is to be made is a device, a FIFO, a directory, or where none can be.
func TestBadOutputs(t *testing.T) {
	dir := t.TempDir()
	disks(t, dir, 8<<20)
	image := smallImage(t, dir)
	t.Chdir(dir)
	if err := unix.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("dir", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"loop": "loop", "nowhere": "no/where", "full": "/dev/full"} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/dev/full", "full", "fifo", "dir", "dir/", "no/where", "nowhere", "loop", "old.img/x", "none/", "", strings.Repeat("n", 300)} {
		for _, args := range [][]string{
			{"convert", image, name}, {"convert", "--force", image, name}, {"convert", "-O", "qcow2", "--force", image, name}, {"convert", "-O", "cow", "-b", "was.img", "--force", "old.img", name},
			{"create", "--blank", "--force", name}, {"create", "--from", "dir", "--size", "8M", name}, {"diff", "old.img", "new.img", "-o", name}, {"cow", "create", name, "old.img"},
			{"cow", "create", "--force", name, "old.img"}, {"tar-out", image + ":/", name}, {"map", "--svg", name, image}, {"cp", image + ":/etc/passwd", name}, {"cp", "-r", image + ":/etc", name},
		} {
			if name == "fifo" && (args[0] == "tar-out" || args[0] == "map" || args[0] == "cp") {
				continue // which write into one: see below
			}
			if name == "" && args[0] == "map" || args[0] == "cp" && (strings.HasPrefix(name, "dir") || name == "none/" && args[1] == "-r") {
				continue // no picture is asked for; those are places for a copy
			}
			status, _, stderr := call(args...)
			if want := 1; status != want && !(name == "" && status == 2) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%q: status %d, %q", args, status, stderr)
			}
		}
		if err := compareSnapshots(dir, before); err != nil {
			t.Fatalf("a command with %q: %v", name, err)
		}
	}
}
