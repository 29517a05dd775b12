// Package badcow makes COW files that no tool may follow, for the tests of the tools.
package badcow

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ubdfmt"
)

// Where version 3 has its fields, in bytes; see cow-format.md.
const (
	VersionAt = 7
	SizeAt    = 12
	PathAt    = 32
)

// Files makes files in a directory.
type Files struct {
	t    testing.TB
	dir  string
	Good []byte // of good.cow
}

// Make makes a directory the current one and good.img and good.cow in it, and of good.cow
// what names itself (selfnamed) or the other (loop1, loop2), has a path that harms a
// terminal (newline) or does not end (no-nul), a size that overflows (overflow) or a
// version to come (version).
func Make(t *testing.T) *Files {
	t.Helper()
	f := &Files{t: t, dir: t.TempDir()}
	t.Chdir(f.dir)
	f.Write("good.img", make([]byte, 1<<20))
	if err := ubdfmt.CreateCOW("good.cow", "good.img", ubdfmt.Options{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.Good, err = os.ReadFile("good.cow"); err != nil {
		t.Fatal(err)
	}
	f.Edit("selfnamed", PathAt, filepath.Join(f.dir, "selfnamed")+"\x00")
	f.Edit("loop1", PathAt, filepath.Join(f.dir, "loop2")+"\x00")
	f.Edit("loop2", PathAt, filepath.Join(f.dir, "loop1")+"\x00")
	f.Edit("newline", PathAt, "/no\nsuch\x1b[31m\xff\x00")
	f.Edit("no-nul", PathAt, strings.Repeat("x", 4096))
	f.Edit("overflow", SizeAt, "\xff\xff\xff\xff\xff\xff\xff\xff")
	f.Edit("version", VersionAt, "\x09")
	return f
}

// Write makes a file.
func (f *Files) Write(name string, b []byte) {
	f.t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// Edit makes a copy of good.cow that has other bytes at an offset.
func (f *Files) Edit(name string, at int, with string) {
	f.t.Helper()
	b := bytes.Clone(f.Good)
	copy(b[at:], with)
	f.Write(name, b)
}
