package ext4

import (
	"fmt"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// A file has 65,000 names and no more; a directory with more subdirectories says that it
// has one link.
func TestManyLinks(t *testing.T) {
	image := makeImage(t, 128<<20, "-t", "ext4", "-b", "1024", "-N", "70000", "-m", "0")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	dir := must(root.Create("dir", NewInode{Mode: format.ModeDir | 0o755}))
	n := must(dir.Create("0", regular))
	for i := 1; i < 65000; i++ {
		check(t, dir.Link(fmt.Sprint(i), n))
	}
	wantErr(t, dir.Link("more", n), unix.EMLINK)
	check(t, dir.Unlink("7"))
	check(t, dir.Link("more", n))
	if got := n.Attr().Links; got != 65000 {
		t.Errorf("the file has %d links", got)
	}
	check(t, n.Put())
	sub := func(i int) string { return fmt.Sprint("sub", i) }
	for i := range 65010 {
		d, err := dir.Create(sub(i), NewInode{Mode: format.ModeDir | 0o755})
		if err != nil {
			t.Fatalf("directory %d: %v", i, err)
		}
		check(t, d.Put())
		if want := uint32(i + 3); i < 64990 && dir.Attr().Links != want {
			t.Fatalf("%d links after %d directories", dir.Attr().Links, i+1)
		}
	}
	if got := dir.Attr().Links; got != 1 {
		t.Errorf("a directory of 65,010 has %d links, want 1", got)
	}
	for i := range 100 {
		check(t, dir.Rmdir(sub(i)))
	}
	if got := dir.Attr().Links; got != 1 {
		t.Errorf("after removing some it has %d links, want 1", got)
	}
	check(t, dir.Put())
	check(t, root.Put())
	check(t, fs.SetLabel("many links"))
	closeFS(t, fs)
	fsck(t, image)
	fs = openFS(t, image, Options{ReadOnly: true})
	if got := fs.Label(); got != "many links" {
		t.Errorf("label %q", got)
	}
	wantErr(t, fs.SetLabel("x"), unix.EROFS)
}
