package tarball

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// memory is a tree.Store that keeps content in memory.
type memory struct{}

type kept struct {
	data []byte
	runs []tree.Region
	size int64
}

func (memory) Put(size int64, data []tree.Region, r io.Reader) (tree.Content, error) {
	if err := tree.CheckRegions(data, size); err != nil {
		return nil, err
	}
	if data == nil {
		data = []tree.Region{{Off: 0, Len: size}}
	}
	var total int64
	for _, run := range data {
		total += run.Len
	}
	if total > 1<<24 {
		return nil, errors.New("too much for a test")
	}
	all, err := io.ReadAll(io.LimitReader(r, total))
	if err == nil && int64(len(all)) < total {
		err = io.ErrUnexpectedEOF
	}
	return &kept{all, data, size}, err
}

func (k *kept) Open() (tree.Reader, error)         { return k, nil }
func (k *kept) Host(tree.Region) (*os.File, int64) { return nil, 0 }
func (k *kept) Close() error                       { return nil }
func (k *kept) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	at := int64(0)
	for _, run := range k.runs {
		for i := range run.Len {
			if pos := run.Off + i - off; pos >= 0 && pos < int64(len(p)) {
				p[pos] = k.data[at+i]
			}
		}
		at += run.Len
	}
	return len(p), nil
}

// entry is a header and its content.
type entry struct {
	tar.Header
	body string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if e.Mode == 0 && e.Typeflag != tar.TypeXGlobalHeader {
			e.Mode = 0o644
		}
		e.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}
func file(name, body string) entry { return entry{Header: tar.Header{Name: name}, body: body} }
func link(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}}
}
func symlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}}
}
func global(key, value string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{key: value}}}
}

// load reads an archive in both ways, from a file and from a stream, and sees that they
// give one tree.
func load(t testing.TB, data []byte) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	s := &Source{Path: path}
	defer s.Close()
	tr := tree.New()
	err := s.Fill(context.Background(), tr, memory{})
	var want string
	if err == nil {
		want = show(t, tr)
	}
	streamed := &Source{Path: "-", Stdin: bytes.NewReader(data)}
	tr = tree.New()
	err2 := streamed.Fill(context.Background(), tr, memory{})
	if (err == nil) != (err2 == nil) {
		t.Fatalf("a file gives %v, a stream %v", err, err2)
	}
	if err2 == nil {
		if got := show(t, tr); got != want {
			t.Fatalf("a file gives\n%sa stream\n%s", want, got)
		}
	}
	return want, err
}

// show is a line for each name of a tree.
func show(t testing.TB, tr *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	err := tr.Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, _ bool) error {
		fmt.Fprintf(&b, "%s %o", path, n.Mode)
		if n.IsSymlink() {
			fmt.Fprintf(&b, " -> %s", n.Target)
		}
		if n.IsRegular() {
			fmt.Fprintf(&b, " %d", n.Names())
			if n.Size < 1<<20 {
				data, err := n.Read()
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				fmt.Fprintf(&b, " %.40q", data)
			}
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []entry
		want    string // or, with "!" before, a part of the error
	}{
		{"parents are made", []entry{file("a/b/c", "x")}, "/a 40755\n/a/b 40755\n/a/b/c 100644 1 \"x\"\n"},
		{"absolute", []entry{file("/a", "x"), link("b", "/a")}, "/a 100644 2 \"x\"\n/b 100644 2 \"x\"\n"},
		{"dots", []entry{file("./a/./b//c", "")}, "/a 40755\n/a/b 40755\n/a/b/c 100644 1 \"\"\n"},
		{"up", []entry{file("a/../../b", "x")}, "!\"..\""},
		{"hard link up", []entry{file("a", "x"), link("b", "../a")}, "!\"..\""},
		{"symlinks stay as they are", []entry{symlink("a", "../../../etc")}, "/a 120777 -> ../../../etc\n"},
		{"through a symlink out", []entry{symlink("a", "../../.."), file("a/x", "y")}, "/a 120777 -> ../../..\n/x 100644 1 \"y\"\n"},
		{"through usrmerge", []entry{symlink("lib", "usr/lib"), file("lib/x", "y")}, "/lib 120777 -> usr/lib\n/usr 40755\n/usr/lib 40755\n/usr/lib/x 100644 1 \"y\"\n"},
		{"through a loop", []entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "y")}, "!too many levels"},
		{"later wins", []entry{file("a", "1"), file("a", "22")}, "/a 100644 1 \"22\"\n"},
		{"file for directory", []entry{dir("a"), file("a/b", "1"), file("a", "2")}, "/a 100644 1 \"2\"\n"},
		{"directory again", []entry{dir("a"), file("a/b", "1"), {Header: tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o700}}}, "/a 40700\n/a/b 100644 1 \"1\"\n"},
		{"a file is no directory", []entry{file("a", "1"), file("a/b", "2")}, "!not a directory"},
		{"link before file", []entry{link("a", "b"), file("b", "")}, "!did not come before"},
		{"link to directory", []entry{dir("b"), link("a", "b")}, "!directory"},
		{"link to itself", []entry{file("a", "1"), link("a", "a")}, "/a 100644 1 \"1\"\n"},
		{"replaced link", []entry{file("a", "1"), link("b", "a"), file("a", "2")}, "/a 100644 1 \"2\"\n/b 100644 1 \"1\"\n"},
		{"link to symlink", []entry{symlink("a", "x"), link("b", "a")}, "/a 120777 -> x\n/b 120777 -> x\n"},
		{"the root", []entry{dir("./"), file("x", "")}, "/x 100644 1 \"\"\n"},
		{"a root that is a file", []entry{file(".", "x")}, "!no directory"},
		{"long name", []entry{file(strings.Repeat("n", 256), "")}, "!name too long"},
		{"device", []entry{{Header: tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 4096}}}, "!out of range"},
		{"owner", []entry{{Header: tar.Header{Name: "d", Uid: 1<<32 - 1}}}, "!out of range"},
		{"global header that says nothing", []entry{global("comment", "0123456789"), file("a", "x"), global("comment", ""), file("b", "y")}, "/a 100644 1 \"x\"\n/b 100644 1 \"y\"\n"},
		{"global header", []entry{global("path", "a"), file("a", "x")}, "!not supported"},
		{"nothing", nil, "!holds no tar archive"},
	} {
		got, err := load(t, archive(t, c.entries...))
		if part, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want an error about %q", c.name, err, part)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%s: %v\n%s, want\n%s", c.name, err, got, c.want)
		}
	}
}

func TestAttributes(t *testing.T) {
	at := time.Unix(1234567890, 987654321)
	data := archive(t,
		entry{Header: tar.Header{Name: "f", Uid: 3000000, Gid: 7, Mode: 0o4755, ModTime: at, AccessTime: at.Add(time.Hour), Format: tar.FormatPAX,
			PAXRecords: map[string]string{
				"SCHILY.xattr.user.a":        "v\x01\xff",
				"SCHILY.xattr.user.b%3Dc%25": "x",
				"SCHILY.xattr.btrfs.x":       "not ours",
				"LIBARCHIVE.xattr.user.l%20": "aGVsbG8",
				"RHT.security.selinux":       "a:b:c",
				"SCHILY.acl.access":          "user::rw-,user:joe:r--:1000,user:ann:rwx,group::r--,group:77:-w-,mask::rwx,other::---",
			}}, body: "x"},
		file("etc/passwd", "ann:x:55:5::/:\n"),
	)
	s := &Source{Path: "-", Stdin: bytes.NewReader(data)}
	tr := tree.New()
	if err := s.Fill(context.Background(), tr, memory{}); err != nil {
		t.Fatal(err)
	}
	n := tr.Root.Child("f")
	if n.UID != 3000000 || n.GID != 7 || n.Mode != unix.S_IFREG|0o4755 || !n.Mtime.Equal(at) || !n.Atime.Equal(at.Add(time.Hour)) {
		t.Errorf("the attributes are %+v", n)
	}
	want := map[string]string{"user.a": "v\x01\xff", "user.b=c%": "x", "user.l ": "hello", "security.selinux": "a:b:c\x00"}
	for name, value := range want {
		if string(n.Xattrs[name]) != value {
			t.Errorf("%s is %q, want %q", name, n.Xattrs[name], value)
		}
	}
	acl, err := tree.DecodeACL(n.Xattrs[tree.ACLAccess])
	if err != nil {
		t.Fatal(err)
	}
	const no = tree.ACLNoID
	wantACL := []tree.ACLEntry{{Tag: 1, Perm: 6, ID: no}, {Tag: 2, Perm: 7, ID: 55}, {Tag: 2, Perm: 4, ID: 1000}, {Tag: 4, Perm: 4, ID: no}, {Tag: 8, Perm: 2, ID: 77}, {Tag: 16, Perm: 7, ID: no}, {Tag: 32, Perm: 0, ID: no}}
	if fmt.Sprint(acl) != fmt.Sprint(wantACL) {
		t.Errorf("the list is %v, want %v", acl, wantACL)
	}
	if len(n.Xattrs) != len(want)+1 {
		t.Errorf("the attributes are %q", n.Xattrs)
	}
	data = archive(t, entry{Header: tar.Header{Name: "f", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.acl.access": "user:bob:rwx,user::r,group::r,other::r"}}})
	if _, err := load(t, data); err == nil || !strings.Contains(err.Error(), "bob") {
		t.Errorf("an unknown user of a list: %v", err)
	}
}

// GNU tar's forms of a sparse file, all of them, hold what was packed.
func TestSparse(t *testing.T) {
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(900000); err != nil {
		t.Fatal(err)
	}
	for i := range 60 { // more runs than an old GNU header and one that continues it hold
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 5000), int64(i)*14336); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	for name, perm := range map[string]int64{"hole": 100000, "zz-end": 10} {
		if err := os.WriteFile(filepath.Join(src, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(src, name), perm); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range [][]string{{"--format=gnu"}, {"--format=oldgnu"}, {"--format=pax", "--sparse-version=0.0"},
		{"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		path := filepath.Join(t.TempDir(), "a.tar")
		args := append(form, "--sparse", "-cf", path, "-C", src, "sparse", "hole", "zz-end")
		oracle.Run(t, "tar", args...)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := load(t, data); err != nil {
			t.Errorf("%v: %v", form, err)
			continue
		}
		s := &Source{Path: path}
		tr := tree.New()
		if err := s.Fill(context.Background(), tr, nil); err != nil {
			t.Errorf("%v: %v", form, err)
			continue
		}
		n := tr.Root.Child("sparse")
		got, err := n.Read()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: other bytes (%v)", form, err)
		}
		if len(n.Data) < 30 {
			t.Errorf("%v: the file has %d runs of data", form, len(n.Data))
		}
		if hole := tr.Root.Child("hole"); hole.Size != 100000 || len(hole.Runs()) != 0 {
			t.Errorf("%v: the hole is %d bytes with %v", form, hole.Size, hole.Runs())
		}
		s.Close()
	}
}

// sized gives the first header of an archive another size field.
func sized(archive, field []byte) []byte {
	out := bytes.Clone(archive)
	copy(out[124:136], field)
	copy(out[148:156], "        ")
	sum := 0
	for _, c := range out[:512] {
		sum += int(c)
	}
	copy(out[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return out
}

func TestBroken(t *testing.T) {
	good := archive(t, file("a", strings.Repeat("x", 5000)), file("b", "y"))
	for name, data := range map[string][]byte{
		"empty":    nil,
		"text":     []byte(strings.Repeat("no tar\n", 300)),
		"huge":     sized(good, []byte("\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff")),
		"cut head": good[:300],
		"cut body": good[:2000],
	} {
		if _, err := load(t, data); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	packed := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(packed, good, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"gzip", "xz", "zstd", "bzip2"} {
		oracle.Run(t, tool, "-k", packed)
		suffix := map[string]string{"gzip": ".gz", "xz": ".xz", "zstd": ".zst", "bzip2": ".bz2"}[tool]
		data, err := os.ReadFile(packed + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := load(t, data); err != nil || !strings.Contains(got, "/b 100644") {
			t.Errorf("%s: %v", tool, err)
		}
		if _, err := load(t, data[:len(data)-3]); err == nil {
			t.Errorf("%s: a stream that is cut short is taken", tool)
		}
		data[len(data)/2] ^= 0x55
		if _, err := load(t, data); err == nil {
			t.Errorf("%s: a damaged stream is taken", tool)
		}
	}
}

// A stream that never ends its answer ends when the context does.
func TestInterruptedStream(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	s := &Source{Path: "-", Stdin: r}
	done := make(chan error, 1)
	go func() { done <- s.Fill(ctx, tree.New(), memory{}) }()
	go w.Write(archive(t, file("a", "x"))[:700])
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for ever")
	}
}

// No bytes break the reader; what it takes is inside the tree, and both ways of reading
// agree.
func FuzzFill(f *testing.F) {
	f.Add(archive(f, dir("d"), file("d/f", "x"), link("l", "d/f"), symlink("s", "d")))
	f.Add(archive(f, entry{Header: tar.Header{Name: "f", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-,user:5:r,group::r,mask::r,other::r", "SCHILY.xattr.user.a": "b"}}}))
	for _, form := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=1.0"}} {
		src := f.TempDir()
		path := filepath.Join(src, "sparse")
		if err := os.WriteFile(path, []byte("data"), 0o644); err != nil {
			f.Fatal(err)
		}
		if err := os.Truncate(path, 70000); err != nil {
			f.Fatal(err)
		}
		oracle.Run(f, "tar", append(form, "--sparse", "-cf", src+"/a.tar", "-C", src, "sparse")...)
		data, err := os.ReadFile(src + "/a.tar")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:min(len(data), 4096)])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := load(t, data); err != nil && strings.ContainsRune(err.Error(), 0) {
			t.Errorf("the error holds a NUL: %q", err)
		}
	})
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "/", "a/b", "../x", "a/../..", "././/a/", "a\x00b", "...", "..a/b.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := Clean(name)
		if err != nil {
			return
		}
		if strings.HasPrefix(got, "/") || strings.Contains("/"+got+"/", "/../") || strings.Contains("/"+got+"/", "/./") || strings.Contains(got, "//") || strings.ContainsRune(got, 0) {
			t.Errorf("Clean(%q) = %q", name, got)
		}
		if again, err := Clean(got); err != nil || again != got {
			t.Errorf("Clean(%q) = %q, %v", got, again, err)
		}
	})
}
