package tree

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func file(text string) *Node {
	return &Node{Mode: unix.S_IFREG | 0o644, Size: int64(len(text)), Content: Bytes(text)}
}

func sample(t *testing.T) *Tree {
	t.Helper()
	tr := New()
	for path, text := range map[string]string{"/usr/lib/x": "x", "/etc/passwd": "p", "/a/b/c/d": "d"} {
		if err := tr.Put(path, file(text)); err != nil {
			t.Fatal(err)
		}
	}
	for path, target := range map[string]string{"/lib": "usr/lib", "/a/up": "../../../../etc", "/a/abs": "/a/b", "/l1": "l2", "/l2": "l1", "/dangling": "new/place"} {
		if err := tr.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestLookup(t *testing.T) {
	tr := sample(t)
	for _, c := range []struct {
		path string
		err  error
		text string
	}{
		{"/usr/lib/x", nil, "x"}, {"lib/x", nil, "x"}, {"//lib/./x", nil, "x"}, {"/a/up/passwd", nil, "p"},
		{"/a/abs/c/d", nil, "d"}, {"/a/b/../abs/c/../c/d", nil, "d"}, {"/../../etc/passwd", nil, "p"}, {"/a/abs/../abs/c/d", nil, "d"},
		{"/lib/../lib/x", nil, "x"},
		{"/nothing", unix.ENOENT, ""}, {"/nothing/below", unix.ENOENT, ""}, {"/etc/passwd/x", unix.ENOTDIR, ""},
		{"/l1", unix.ELOOP, ""}, {"/l1/x", unix.ELOOP, ""},
	} {
		data, err := tr.ReadFile(c.path, 10)
		if !errors.Is(err, c.err) || string(data) != c.text {
			t.Errorf("%s: %q, %v", c.path, data, err)
		}
	}
	if n, err := tr.Lookup("/lib", false); err != nil || !n.IsSymlink() {
		t.Errorf("/lib itself: %v %v", n, err)
	}
	if n, err := tr.Lookup("/", true); err != nil || n != tr.Root {
		t.Errorf("/: %v %v", n, err)
	}
	if n, err := tr.Lookup("/a/b/../../..", true); err != nil || n != tr.Root {
		t.Errorf("above the root: %v %v", n, err)
	}
	if _, err := tr.ReadFile("/etc", 10); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a directory read: %v", err)
	}
	if err := tr.WriteFile("/etc/passwd", []byte("more than ten"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.ReadFile("/etc/passwd", 10); !errors.Is(err, unix.EFBIG) {
		t.Errorf("a file above the limit: %v", err)
	}
}

func TestPutAndWrite(t *testing.T) {
	tr := sample(t)
	if err := tr.Put("/lib/modules/1/x", file("m")); err != nil {
		t.Fatal(err)
	}
	if n, err := tr.Lookup("/usr/lib/modules/1/x", false); err != nil || n.Size != 1 {
		t.Errorf("below a link: %v %v", n, err)
	}
	if err := tr.WriteFile("/dangling/x", []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := tr.ReadFile("/new/place/x", 10); err != nil || string(data) != "y" {
		t.Errorf("through a dangling link: %q %v", data, err)
	}
	// A write keeps the inode, a put replaces the name.
	n, _ := tr.Lookup("/etc/passwd", false)
	n.UID = 9
	if err := tr.Root.Set("hard", n); err != nil {
		t.Fatal(err)
	}
	if err := tr.WriteFile("/etc/passwd", []byte("new"), 0o777); err != nil {
		t.Fatal(err)
	}
	if n.Names() != 2 || n.UID != 9 || n.Mode != unix.S_IFREG|0o644 {
		t.Errorf("after a write: %+v", n)
	}
	if err := tr.Put("/etc/passwd", file("other")); err != nil {
		t.Fatal(err)
	}
	if data, _ := tr.ReadFile("/hard", 10); string(data) != "new" || n.Names() != 1 {
		t.Errorf("after a put: %q, %d names", data, n.Names())
	}
	for path, want := range map[string]error{"/": unix.EBUSY, "/etc/passwd/x": unix.ENOTDIR, "/l1/x": unix.ELOOP,
		"/" + strings.Repeat("n", 256): unix.ENAMETOOLONG, "/a\x00b": unix.EINVAL} {
		if err := tr.Put(path, file("")); !errors.Is(err, want) {
			t.Errorf("put %q: %v, want %v", path, err, want)
		}
	}
	if err := tr.Put("/"+strings.Repeat("d/", maxDepth+1), file("")); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("too deep: %v", err)
	}
	if _, err := tr.Mkdir("/hard"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a directory where a file is: %v", err)
	}
	dir, _ := tr.Lookup("/a", false)
	if err := tr.Root.Set("again", dir); !errors.Is(err, unix.EPERM) {
		t.Errorf("a second name of a directory: %v", err)
	}
}

func TestRemoveCountsNames(t *testing.T) {
	tr := New()
	n := file("x")
	for _, path := range []string{"/d/one", "/d/e/two", "/three"} {
		if err := tr.Put(path, n); err != nil {
			t.Fatal(err)
		}
	}
	tr.Root.Remove("d")
	tr.Root.Remove("nothing")
	if n.Names() != 1 {
		t.Errorf("one name is left, but %d are counted", n.Names())
	}
}

func TestWalkIsSorted(t *testing.T) {
	tr := sample(t)
	n, _ := tr.Lookup("/usr/lib/x", false)
	if err := tr.Put("/zz", n); err != nil {
		t.Fatal(err)
	}
	var got []string
	firsts := 0
	err := tr.Walk(func(path string, dir *Node, name string, node *Node, first bool) error {
		if dir.Child(name) != node {
			t.Errorf("%s is not where it stands", path)
		}
		if node == n && first {
			firsts++
		}
		got = append(got, path)
		return nil
	})
	want := "/a /a/abs /a/b /a/b/c /a/b/c/d /a/up /dangling /etc /etc/passwd /l1 /l2 /lib /usr /usr/lib /usr/lib/x /zz"
	if err != nil || strings.Join(got, " ") != want || firsts != 1 {
		t.Errorf("%v, %d firsts: %v", err, firsts, got)
	}
	stop := errors.New("stop")
	if err := tr.Walk(func(string, *Node, string, *Node, bool) error { return stop }); err != stop {
		t.Errorf("the walk ends with %v", err)
	}
}

func TestACL(t *testing.T) {
	list := []ACLEntry{{ACLOther, 1, ACLNoID}, {ACLUser, 7, 9}, {ACLUser, 6, 3}, {ACLUserObj, 5, ACLNoID}}
	value := EncodeACL(SortACL(list))
	got, err := DecodeACL(value)
	if err != nil || len(got) != 4 || got[0].Tag != ACLUserObj || got[1].ID != 3 || got[2].ID != 9 || got[3].Tag != ACLOther {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range [][]byte{nil, value[:5], append([]byte{3, 0, 0, 0}, value[4:]...)} {
		if _, err := DecodeACL(bad); err == nil {
			t.Errorf("%x is a list", bad)
		}
	}
}

func TestCheckRegions(t *testing.T) {
	for _, c := range []struct {
		runs []Region
		ok   bool
	}{
		{nil, true}, {[]Region{{0, 10}}, true}, {[]Region{{0, 4}, {5, 5}}, true},
		{[]Region{{0, 11}}, false}, {[]Region{{5, 1}, {0, 1}}, false}, {[]Region{{0, 0}}, false},
		{[]Region{{-1, 2}}, false}, {[]Region{{4, 1<<63 - 1}}, false}, {[]Region{{0, 5}, {4, 2}}, false},
	} {
		if err := CheckRegions(c.runs, 10); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.runs, err)
		}
	}
}

func TestBytes(t *testing.T) {
	n := file("content")
	if data, err := n.Read(); err != nil || !bytes.Equal(data, []byte("content")) {
		t.Errorf("%q %v", data, err)
	}
	n.Size = 9 // more than there is
	if _, err := n.Read(); err == nil {
		t.Error("content that is shorter than the file is taken")
	}
	hole := &Node{Mode: unix.S_IFREG, Size: 5}
	if data, err := hole.Read(); err != nil || !bytes.Equal(data, make([]byte, 5)) || hole.Runs() != nil {
		t.Errorf("a hole reads %q %v", data, err)
	}
}
