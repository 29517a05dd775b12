package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What an image holds cannot make a copy land outside the directory that it goes to.
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

// Behind "--" every word is a name, the second as well as the first.
func TestNamesWithDashes(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, "create", "--blank", "--size", "1M", "--", "-a.img")
	must(t, "convert", "--", "-a.img", "--force")
	must(t, "cow", "create", "--", "-x", "--force")
	must(t, "compare", "--", "-x", "-a.img")
	if status, _, stderr := call("compare", "--", "-x", "-none"); status != 2 || !strings.Contains(stderr, "-none: no such file") {
		t.Errorf("status %d, %s", status, stderr)
	}
	if status, _, stderr := call("compare", "a.img", "-x"); status != 2 || !strings.Contains(stderr, "options come before a.img: -x") {
		t.Errorf("status %d, %s", status, stderr)
	}
}
