package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/badcow"
	"github.com/umlkit/umlkit/internal/oracle"
)

// Whatever is given as a COW file, a backing file or an output: one line, status 1, and no
// file is made or touched.
func TestBadInput(t *testing.T) {
	f := badcow.Make(t)
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	f.Edit("nowhere", badcow.PathAt, "\x00")
	f.Edit("directory", badcow.PathAt, dir+"\x00")
	f.Edit("signed", badcow.SizeAt, "\x7f\xff\xff\xff\xff\xff\xfe\x00")
	f.Edit("large", badcow.SizeAt, "\x00\x00\x40\x00\x00\x00\x00\x00")
	f.Edit("longer", badcow.SizeAt, "\x00\x00\x00\x00\x00\x20\x00\x00")
	for name, length := range map[string]int{"empty": 0, "magic-only": 4, "half-header": 2000, "no-bitmap": 1<<20 - 8, "cut-bitmap": 1<<20 + 8} {
		f.Write(name, f.Good[:length])
	}
	f.Write("short.img", make([]byte, 512))
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
