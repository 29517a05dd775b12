package ext4

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

func init() {
	overdrawn = func(used, room int) {
		panic(fmt.Sprintf("a handle for %d blocks put %d on the transaction", room, used))
	}
}

// fileDevice is a Device over one host file.
type fileDevice struct {
	*os.File
	size int64
}

func (d *fileDevice) Size() int64 { return d.size }
func (d *fileDevice) Sync() error { return nil } // the host does not crash in these tests
func (d *fileDevice) Trim(off, n int64) error {
	return unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func openDevice(t testing.TB, path string) *fileDevice {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &fileDevice{f, st.Size()}
}

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(oracle.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makeImage makes an image with mke2fs.
func makeImage(t testing.TB, size int64, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", append([]string{"-q", "-F"}, append(args, path)...)...)
	return path
}

// mkfsImage makes an image with package mkfs, and what build adds to it.
func mkfsImage(t testing.TB, size int64, features []string, build func(*mkfs.Builder)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mkfs.img")
	check(t, os.WriteFile(path, nil, 0o644))
	check(t, os.Truncate(path, size))
	b := must(mkfs.NewBuilder(openDevice(t, path), mkfs.Options{Inodes: 4000, Features: features}))
	if build != nil {
		build(b)
	}
	check(t, b.Close())
	return path
}

// fsck fails the test unless e2fsck finds nothing at all.
func fsck(t testing.TB, path string) {
	t.Helper()
	cmd := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		if len(out) > 4000 {
			out = out[:4000]
		}
		t.Fatalf("e2fsck -fn: %v\n%s", err, out)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts the image with the host's kernel")
	}
}

// mount mounts an image with the host's kernel and returns where, and a function that
// unmounts it.
func mount(t testing.TB, image, options string) (dir string, umount func()) {
	t.Helper()
	dir = oracle.Mount(t, image, options)
	return dir, func() { oracle.Unmount(t, dir) }
}

func openFS(t testing.TB, path string, o Options) *FS {
	t.Helper()
	if o.Logf == nil {
		o.Logf = t.Logf
	}
	fs, err := Open(openDevice(t, path), o)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	return fs
}

func closeFS(t testing.TB, fs *FS) {
	t.Helper()
	if err := fs.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// node is what one name of a tree looks like, for comparing trees line by line.
func describe(path string, a Attr, target string, data []byte, xattrs map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %#o %d:%d", path, a.Mode, a.UID, a.GID)
	if a.Mode&format.ModeType != format.ModeDir {
		fmt.Fprintf(&b, " links %d", a.Links)
	}
	fmt.Fprintf(&b, " mtime %d.%09d", a.Mtime.Sec, a.Mtime.Nsec)
	switch a.Mode & format.ModeType {
	case format.ModeRegular:
		fmt.Fprintf(&b, " size %d sum %#x", a.Size, format.CRC32C(0, data))
	case format.ModeSymlink:
		fmt.Fprintf(&b, " -> %s", target)
	case format.ModeChar, format.ModeBlock:
		fmt.Fprintf(&b, " %d:%d", a.Major, a.Minor)
	}
	var names []string
	for k := range xattrs {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		fmt.Fprintf(&b, " %s=%x", k, xattrs[k])
	}
	return b.String()
}

// hostTree describes a directory of the host, by name; lost+found is left out.
func hostTree(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if rel == "lost+found" {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		a := Attr{
			Mode: uint16(st.Mode), UID: st.Uid, GID: st.Gid, Links: uint32(st.Nlink), Size: st.Size,
			Mtime: Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
			Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
		}
		var target string
		var data []byte
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err = os.Readlink(path)
		case unix.S_IFREG:
			data, err = os.ReadFile(path)
		}
		if err != nil {
			return err
		}
		x := map[string]string{}
		list := make([]byte, 65536)
		n, err := unix.Llistxattr(path, list)
		if err != nil && err != unix.ENOTSUP {
			return err
		}
		for _, name := range strings.Split(strings.TrimRight(string(list[:max(n, 0)]), "\x00"), "\x00") {
			if name == "" {
				continue
			}
			v := make([]byte, 65536)
			n, err := unix.Lgetxattr(path, name, v)
			if err != nil {
				return err
			}
			x[name] = string(v[:n])
		}
		out = append(out, describe(rel, a, target, data, x))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

// engineTree describes the whole filesystem through the engine.
func engineTree(t testing.TB, fs *FS) []string {
	t.Helper()
	var out []string
	var walk func(path string, n *Inode)
	walk = func(path string, n *Inode) {
		a := n.Attr()
		var target string
		var data []byte
		var err error
		switch a.Mode & format.ModeType {
		case format.ModeSymlink:
			target, err = n.Readlink()
		case format.ModeRegular:
			data = make([]byte, a.Size)
			if _, err = n.ReadAt(data, 0); err == io.EOF {
				err = nil
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		x := map[string]string{}
		names, err := n.Xattrs()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, name := range names {
			v, err := n.Xattr(name)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			x[name] = string(v)
		}
		out = append(out, describe(path, a, target, data, x))
		if a.Mode&format.ModeType != format.ModeDir {
			return
		}
		for _, e := range readDir(t, n) {
			if e.Name == "." || e.Name == ".." || path == "." && e.Name == "lost+found" {
				continue
			}
			c, err := n.Lookup(e.Name)
			if err != nil {
				t.Fatalf("%s/%s: %v", path, e.Name, err)
			}
			if c.Number() != e.Ino || e.Type != 0 && c.Attr().Mode&format.ModeType != e.Type {
				t.Errorf("%s/%s: entry says inode %d type %#o, lookup %d %#o", path, e.Name, e.Ino, e.Type, c.Number(), c.Attr().Mode)
			}
			walk(filepath.Join(path, e.Name), c)
			if err := c.Put(); err != nil {
				t.Fatal(err)
			}
		}
	}
	root, err := fs.Root()
	if err != nil {
		t.Fatal(err)
	}
	walk(".", root)
	if err := root.Put(); err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

// readDir lists a directory, resuming every few entries.
func readDir(t testing.TB, n *Inode) []DirEntry {
	t.Helper()
	var all []DirEntry
	for cookie := uint64(0); ; {
		got := 0
		if err := n.ReadDir(cookie, func(e DirEntry) bool {
			all = append(all, e)
			cookie = e.Cookie
			got++
			return got < 7
		}); err != nil {
			t.Fatalf("readdir of inode %d: %v", n.Number(), err)
		}
		if got == 0 {
			return all
		}
	}
}

// sameTrees compares descriptions and shows where they part.
func sameTrees(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := 0; i < len(got) || i < len(want); i++ {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: %d and %d entries; first difference:\n got %.300s\nwant %.300s", what, len(got), len(want), g, w)
		}
	}
}

// makeTree makes a tree with something of everything below dir. Without root it has
// no device nodes and no trusted attributes.
func makeTree(t testing.TB, dir string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(s string) string { return filepath.Join(dir, s) }
	do(os.MkdirAll(p("a/b/c"), 0o750))
	do(os.MkdirAll(p("many"), 0o755))
	for i := range 3000 {
		do(os.WriteFile(p(fmt.Sprintf("many/file-with-some-name-%d", i)), []byte(fmt.Sprint(i)), 0o644))
	}
	do(os.WriteFile(p("a/empty"), nil, 0o600))
	do(os.WriteFile(p("a/small"), []byte("hello\n"), 0o4755))
	big := make([]byte, 3<<20+123)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	do(os.WriteFile(p("a/big"), big, 0o644))
	f, err := os.Create(p("a/sparse"))
	do(err)
	for i := range 400 { // more extents than one block of a tree holds at 1 KiB, and than a root
		_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 5000), int64(i)*40960)
		do(err)
	}
	do(f.Truncate(24 << 20))
	do(f.Close())
	do(os.Link(p("a/small"), p("a/b/hard")))
	do(os.Symlink("small", p("a/fast")))
	do(os.Symlink(strings.Repeat("long/", 40), p("a/slow")))
	do(os.Symlink(strings.Repeat("x", 59), p("a/sym59")))
	do(os.Symlink(strings.Repeat("x", 60), p("a/sym60")))
	do(unix.Mkfifo(p("a/fifo"), 0o640))
	do(os.WriteFile(p("a/"+strings.Repeat("n", 255)), []byte("long name"), 0o644))
	do(os.WriteFile(p("a/ünï"), []byte("bytes above 127"), 0o644))
	do(unix.Lsetxattr(p("a/small"), "user.one", []byte("1"), 0))
	do(unix.Lsetxattr(p("a/small"), "user.empty", nil, 0))
	do(unix.Lsetxattr(p("a/big"), "user.large", bytes.Repeat([]byte("v"), 700), 0))
	if os.Geteuid() == 0 {
		do(unix.Mknod(p("a/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		do(unix.Mknod(p("a/blk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
		do(os.Lchown(p("a/small"), 70000, 100001))
		do(os.Chmod(p("a/small"), 0o755|os.ModeSetuid))
		do(unix.Lsetxattr(p("a/b"), "trusted.t", []byte("tt"), 0))
		cap := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		do(unix.Lsetxattr(p("a/small"), "security.capability", cap, 0))
		acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0,
			4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}
		do(unix.Lsetxattr(p("a/big"), "system.posix_acl_access", acl, 0))
	}
	for i, f := range []string{"a/big", "a/small", "a/fast", "a/b"} {
		ts := []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: []int64{1 << 32, -5, 1700000000, 1<<31 + 9}[i], Nsec: 123456789}}
		do(unix.UtimesNanoAt(unix.AT_FDCWD, p(f), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// forms are the mke2fs options of filesystems that the engine must read and write.
var forms = []struct {
	name string
	args []string
}{
	{"default", []string{"-t", "ext4"}},
	{"4k", []string{"-t", "ext4", "-b", "4096"}},
	{"2k", []string{"-t", "ext4", "-b", "2048", "-I", "256"}},
	{"1k-noresize", []string{"-t", "ext4", "-b", "1024", "-O", "^resize_inode"}},
	{"nocsum", []string{"-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg"}},
	{"plainest", []string{"-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit,^flex_bg,^dir_index,^huge_file"}},
	{"32bit", []string{"-t", "ext4", "-b", "1024", "-O", "^64bit"}},
	{"inode128", []string{"-t", "ext4", "-b", "4096", "-I", "128"}},
	{"inode512", []string{"-t", "ext4", "-b", "4096", "-I", "512"}},
	{"nojournal", []string{"-t", "ext4", "-b", "4096", "-O", "^has_journal"}},
	{"meta_bg", []string{"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"}},
	{"sparse_super2", []string{"-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"}},
	{"csum_seed", []string{"-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed,large_dir"}},
	{"orphan_file", []string{"-t", "ext4", "-b", "4096", "-O", "orphan_file"}},
	{"noftype", []string{"-t", "ext4", "-b", "4096", "-O", "^filetype"}},
	{"ext3", []string{"-t", "ext3", "-b", "4096"}},
	{"ext2", []string{"-t", "ext2", "-b", "1024"}},
}
