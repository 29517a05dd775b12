package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// No command writes into a file that it reads the disk from, under whatever name: the image,
// the backing file of a COW file or of a qcow2 image.
func TestOwnDisk(t *testing.T) {
	dir := t.TempDir()
	base := smallImage(t, dir)
	t.Chdir(dir)
	must(t, "cow", "create", "disk.cow", base)
	must(t, "convert", "-O", "qcow2", "-b", base, "disk.cow", "disk.qcow2")
	if err := os.Mkdir("sub", 0o755); err != nil {
		t.Fatal(err)
	}
	// The image holds a file of its own name.
	name := filepath.Base(base)
	must(t, "put", filepath.Join("/etc", "passwd"), base+":/"+name)
	must(t, "cow", "rebase", "--unsafe", "disk.cow")
	for link, target := range map[string]string{"link": base, "sub/" + name: base} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(base, "hard"); err != nil {
		t.Fatal(err)
	}
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{base, "disk.cow", "disk.qcow2", "link", "hard"} {
		for _, out := range []string{base, disk, "link", "hard"} {
			for _, args := range [][]string{
				{"cp", disk + ":/etc/passwd", out}, {"cp", "-r", disk + ":/etc/passwd", out}, {"cp", "-a", disk + ":/home/../" + name, out}, {"cp", "-T", disk + ":/etc/passwd", out},
				{"tar-out", disk + ":/", out}, {"map", "--svg", out, disk}, {"convert", "--force", disk, out}, {"convert", "-O", "qcow2", "--force", disk, out},
			} {
				if status, stdout, stderr := call(args...); status != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "the disk is read from it") {
					t.Errorf("%q: status %d, %q", args, status, stderr)
				}
			}
		}
		for _, args := range [][]string{{"cp", disk + ":/" + name, "."}, {"cp", "-a", disk + ":/.", "."}} {
			if status, _, stderr := call(args...); status != 1 || !strings.HasSuffix(stderr, "replace "+name+": the disk is read from it\n") {
				t.Errorf("%q: status %d, %q", args, status, stderr)
			}
			for _, made := range []string{"etc", "home", "usr", "lib", "lost+found"} {
				if err := os.RemoveAll(made); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, args := range [][]string{{"cp", "disk.cow:/etc/passwd", base + ":/new"}, {"cp", "-r", "disk.qcow2:/etc", base + ":/new"}} {
		if status, _, stderr := call(args...); status != 1 || !strings.Contains(stderr, "it is read from "+base+", which is changed at the same time: copy through a file of this machine\n") {
			t.Errorf("%q: status %d, %q", args, status, stderr)
		}
	}
	if status, _, stderr := call("put", "hard", base+":/new"); status != 1 || !strings.HasSuffix(stderr, ": hard is the image itself\n") {
		t.Errorf("an image into itself: status %d, %q", status, stderr)
	}
	// Names of an image's directory change with what is made in it.
	delete(before, dir)
	after, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range before {
		if after[path] != text {
			t.Errorf("%s has changed:\nbefore %s\nafter  %s", path, text, after[path])
		}
	}
	if got := must(t, "cat", base+":/etc/passwd"); !strings.HasPrefix(got, "root:") {
		t.Errorf("the image holds %q", got)
	}
}
