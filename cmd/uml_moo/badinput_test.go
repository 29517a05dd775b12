package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// Whatever is given as a COW file, a backing file or an output: one line, status 1, and no
// file is made or touched.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("good.img", make([]byte, 1<<20))
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
		b := bytes.Clone(good)
		copy(b[at:], with)
		write(name, b)
	}
	edit("selfnamed", pathAt, filepath.Join(dir, "selfnamed")+"\x00")
	edit("loop1", pathAt, filepath.Join(dir, "loop2")+"\x00")
	edit("loop2", pathAt, filepath.Join(dir, "loop1")+"\x00")
	edit("newline", pathAt, "/no\nsuch\x1b[31m\xff\x00")
	edit("nowhere", pathAt, "\x00")
	edit("no-nul", pathAt, strings.Repeat("x", 4096))
	edit("directory", pathAt, dir+"\x00")
	edit("overflow", sizeAt, "\xff\xff\xff\xff\xff\xff\xff\xff")
	edit("signed", sizeAt, "\x7f\xff\xff\xff\xff\xff\xfe\x00")
	edit("large", sizeAt, "\x00\x00\x40\x00\x00\x00\x00\x00")
	edit("longer", sizeAt, "\x00\x00\x00\x00\x00\x20\x00\x00")
	edit("version", 7, "\x09")
	for name, length := range map[string]int{"empty": 0, "magic-only": 4, "half-header": 2000, "no-bitmap": 1<<20 - 8, "cut-bitmap": 1<<20 + 8} {
		write(name, good[:length])
	}
	write("short.img", make([]byte, 512))
	if err := unix.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("dir", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"dangling": "missing", "symloop": "symloop"} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	var cases [][]string
	for _, cow := range []string{
		"selfnamed", "loop1", "newline", "nowhere", "no-nul", "directory", "overflow", "signed", "large", "longer", "version", "empty", "magic-only", "half-header",
		"no-bitmap", "cut-bitmap", "fifo", "dir", "dangling", "symloop", "missing", "good.img", "good.img/x", "/dev/full", "/dev/null", strings.Repeat("n", 300),
	} {
		cases = append(cases, []string{cow, "new.img"}, []string{"-d", cow}, []string{"-b", "short.img", cow, "new.img"}, []string{"-d", "-b", "short.img", cow})
	}
	for _, base := range []string{"fifo", "dir", "dangling", "symloop", "missing", "good.img/x", "empty", "short.img", "good.cow", "/dev/full", "/dev/null", strings.Repeat("n", 300)} {
		cases = append(cases, []string{"-b", base, "good.cow", "new.img"}, []string{"-d", "-b", base, "good.cow"})
	}
	for _, out := range []string{"fifo", "dir", "symloop", "good.img/x", "good.img", "good.cow", "no/where", "/dev/full", "/dev/null", strings.Repeat("n", 300)} {
		cases = append(cases, []string{"good.cow", out})
	}
	before := oracle.State(t, dir)
	for _, args := range cases {
		var stderr bytes.Buffer
		status := run(t.Context(), args, &stderr)
		if status != 1 || strings.Count(stderr.String(), "\n") != 1 || strings.Contains(stderr.String(), "\x1b") || !utf8.Valid(stderr.Bytes()) {
			t.Errorf("%q: status %d, %q", args, status, &stderr)
		}
		if after := oracle.State(t, dir); after != before {
			t.Fatalf("%q: before\n%s\nafter\n%s", args, before, after)
		}
	}
}
