package ubdfmt

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Behind a symbolic link to a directory, ".." is the parent of where the link leads.
func TestPathsThroughLinks(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"real/sub", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"other/link": filepath.Join(dir, "real/sub"), "real/sub/out": "../out.img"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	base := write(t, filepath.Join(dir, "real/base.img"), pattern(1<<20, 3))
	// One that a careless reading of the path would take.
	decoy := write(t, filepath.Join(dir, "other/out.img"), []byte("of somebody else"))

	header := func(cow string) string {
		f, err := os.Open(cow)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, HeaderLength)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		h, err := DecodeHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		return h.Backing
	}
	for _, from := range []struct{ wd, backing string }{
		{"other", "link/../base.img"},
		{"other", filepath.Join(dir, "other/link") + "/../base.img"},
		{"other/link", "../base.img"},
		{"real", "base.img"},
	} {
		t.Chdir(filepath.Join(dir, from.wd))
		cow := filepath.Join(t.TempDir(), "disk.cow")
		mustClose(t, mustOpen(t, cow, from.backing, Options{}))
		if got, err := filepath.EvalSymlinks(header(cow)); err != nil || got != base {
			t.Errorf("in %s: over %s the header names %s: %v", from.wd, from.backing, header(cow), err)
		}
		mustClose(t, mustOpen(t, cow, "", Options{}))
		// A switched header too.
		copied := write(t, filepath.Join(dir, "real/copy.img"), read(t, base))
		info, err := os.Stat(base)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(copied, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		mustClose(t, mustOpen(t, cow, strings.TrimSuffix(from.backing, "base.img")+"copy.img", Options{}))
		if got, err := filepath.EvalSymlinks(header(cow)); err != nil || got != copied {
			t.Errorf("in %s: switched, the header names %s: %v", from.wd, header(cow), err)
		}
	}

	t.Chdir(filepath.Join(dir, "other"))
	cow := filepath.Join(dir, "merge.cow")
	mustClose(t, mustOpen(t, cow, base, Options{}))
	want := read(t, base)
	for _, out := range []string{"link/out", "link/../new.img"} {
		if err := Merge(context.Background(), cow, out, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, out), want) {
			t.Errorf("%s is not the merged image", out)
		}
	}
	if got := read(t, decoy); string(got) != "of somebody else" {
		t.Error("a merge into link/out wrote another file")
	}
	if _, err := os.Stat("new.img"); err == nil {
		t.Error("a merge into link/../new.img made another file")
	}
}

// A directory in which names may be made, but not listed, takes an image.
func TestUnlistedDirectory(t *testing.T) {
	dir := t.TempDir()
	base, cow := mergePair(t, dir, 1<<20)
	drop := filepath.Join(dir, "drop")
	if err := os.Mkdir(drop, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(drop, 0o333); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(drop, 0o700)
	asNobody(t, dir)
	if err := Merge(context.Background(), cow, filepath.Join(drop, "new.img"), MergeOptions{}); err != nil {
		t.Error(err)
	}
	if err := CreateCOW(filepath.Join(drop, "new.cow"), base, Options{}); err != nil {
		t.Error(err)
	}
}
