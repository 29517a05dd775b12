package ext4

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

// A name goes from one file to another in one change: also in a journal that is cut after
// it, the one or the other is there.
func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", path, "16M")
	fs, err := Open(openDevice(t, path), Options{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := fs.Root()
	if err != nil {
		t.Fatal(err)
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(text string) *Inode {
		n, err := root.CreateUnlinked(NewInode{Mode: format.ModeRegular | 0o644})
		ok(err)
		_, err = n.WriteAt([]byte(text), 0)
		ok(err)
		return n
	}
	for i := range 300 { // an htree
		n, err := root.Create(fmt.Sprintf("name %d", i), NewInode{Mode: format.ModeRegular | 0o644})
		ok(err)
		_, err = n.WriteAt([]byte("old"), 0)
		ok(err)
		ok(n.Put())
	}
	free := fs.Statfs().FilesFree
	for i := range 300 {
		n := file("new")
		ok(root.Replace(fmt.Sprintf("name %d", i), n))
		ok(n.Put())
	}
	if got := fs.Statfs().FilesFree; got != free {
		t.Errorf("%d inodes are free, %d were", got, free)
	}
	// A second name, itself, and what is refused.
	n, err := root.Lookup("name 7")
	ok(err)
	ok(root.Replace("name 8", n))
	ok(root.Replace("name 8", n))
	if links := n.Attr().Links; links != 2 {
		t.Errorf("%d links", links)
	}
	dir, err := root.Create("dir", NewInode{Mode: format.ModeDir | 0o755})
	ok(err)
	for _, c := range []struct {
		name   string
		target *Inode
		want   error
	}{{"none", n, unix.ENOENT}, {"dir", n, unix.EISDIR}, {"name 9", dir, unix.EPERM}, {strings.Repeat("x", 256), n, unix.ENAMETOOLONG}} {
		if err := root.Replace(c.name, c.target); !errors.Is(err, c.want) {
			t.Errorf("%.20s: %v, want %v", c.name, err, c.want)
		}
	}
	gone, err := root.Lookup("name 10")
	ok(err)
	ok(root.Unlink("name 10"))
	ok(root.Replace("name 11", gone)) // open, without a name: as CreateUnlinked's
	for _, n := range []*Inode{n, dir, gone, root} {
		ok(n.Put())
	}
	ok(fs.Close())
	oracle.Fsck(t, path)
	if got := tool(t, "debugfs", "-R", "cat \"/name 299\"", path); !strings.HasSuffix(got, "new") {
		t.Errorf("debugfs reads %q", got)
	}
}
