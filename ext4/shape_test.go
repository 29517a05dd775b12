package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

var regular = NewInode{Mode: format.ModeRegular | 0o644}

// An htree grows a second level of index blocks, shrinks by removal, and the kernel and
// e2fsck find every name.
func TestLargeDirectory(t *testing.T) {
	for _, f := range [][]string{
		{"-t", "ext4", "-b", "1024", "-N", "40000"},
		{"-t", "ext4", "-b", "1024", "-N", "40000", "-O", "^metadata_csum,^64bit"},
		{"-t", "ext4", "-b", "1024", "-N", "40000", "-O", "large_dir"},
		{"-t", "ext4", "-b", "4096", "-N", "40000", "-O", "^dir_index"},
	} {
		t.Run(strings.Join(f[5:], " "), func(t *testing.T) {
			image := makeImage(t, 192<<20, f...)
			count := 18000
			if f[3] == "4096" {
				count = 2000 // linear: every creation looks at every name
			}
			name := func(i int) string { return fmt.Sprintf("%s-%d", strings.Repeat("x", 60+i%100), i) }
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			for i := range count {
				n, err := root.Create(name(i), regular)
				if err != nil {
					t.Fatalf("file %d: %v", i, err)
				}
				check(t, n.Put())
			}
			if f[3] == "1024" {
				if b := must(root.dirBuffer(0, kindDxRoot)); b.data[format.DxRootInfoOffset+6] == 0 {
					t.Fatal("the tree has one level: the test proves nothing")
				}
			}
			for i := 0; i < count; i += 3 {
				check(t, root.Unlink(name(i)))
			}
			seen := map[string]bool{}
			for _, e := range readDir(t, root) {
				if seen[e.Name] {
					t.Fatalf("%s twice", e.Name)
				}
				seen[e.Name] = true
			}
			for i := range count {
				if seen[name(i)] != (i%3 != 0) {
					t.Fatalf("file %d listed: %v", i, i%3 == 0)
				}
				n, err := root.Lookup(name(i))
				if (err == nil) != (i%3 != 0) {
					t.Fatalf("lookup of file %d: %v", i, err)
				}
				if n != nil {
					check(t, n.Put())
				}
			}
			check(t, root.Put())
			closeFS(t, fs)
			fsck(t, image)
			if os.Geteuid() == 0 {
				m, umount := mount(t, image, "")
				list := must(os.ReadDir(m))
				if len(list) != len(seen)-2 {
					t.Errorf("the kernel lists %d names, want %d", len(list), len(seen)-2)
				}
				check(t, os.WriteFile(filepath.Join(m, "by-the-kernel"), nil, 0o644))
				umount()
				fsck(t, image)
			}
		})
	}
}

// A directory that is read while it changes shows what stays exactly once.
func TestReadDirWhileChanging(t *testing.T) {
	for _, f := range []string{"default", "plainest", "ext2"} {
		t.Run(f, func(t *testing.T) {
			var args []string
			for _, g := range forms {
				if g.name == f {
					args = g.args
				}
			}
			image := makeImage(t, 32<<20, args...)
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
			for i := range 20 {
				check(t, must(d.Create(fmt.Sprintf("stays-%d", i), regular)).Put())
			}
			seen := map[string]int{}
			cookie := uint64(0)
			for i := 0; ; i++ {
				got := false
				check(t, d.ReadDir(cookie, func(e DirEntry) bool {
					seen[e.Name]++
					cookie, got = e.Cookie, true
					return false
				}))
				if !got {
					break
				}
				if i < 30 { // one block becomes an htree, which splits
					for k := range 20 {
						check(t, must(d.Create(fmt.Sprintf("comes-%d-%d", i, k), regular)).Put())
					}
				}
				if i > 2 && i < 30 {
					check(t, d.Unlink(fmt.Sprintf("comes-%d-%d", i-2, 3)))
				}
			}
			for i := range 20 {
				if c := seen[fmt.Sprintf("stays-%d", i)]; c != 1 && !(f == "plainest" && c > 0) {
					t.Errorf("stays-%d was seen %d times", i, c)
				}
			}
			check(t, d.Put())
			check(t, root.Put())
			closeFS(t, fs)
			fsck(t, image)
		})
	}
}

// Extent trees of several levels grow, split in the middle, convert and shrink.
func TestDeepExtents(t *testing.T) {
	image := makeImage(t, 256<<20, "-t", "ext4", "-b", "1024")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	const count = 20000
	order := rand.New(rand.NewPCG(1, 1)).Perm(count)
	for _, i := range order {
		must(n.WriteAt([]byte{byte(i), byte(i >> 8)}, int64(i)*3072))
	}
	if e := must(n.extentRoot()); e.depth() < 2 {
		t.Fatalf("depth %d: the test proves nothing", e.depth())
	}
	verify := func(gone func(int) bool) {
		t.Helper()
		p := make([]byte, 2)
		for i := range count {
			want := []byte{byte(i), byte(i >> 8)}
			if gone(i) {
				want = []byte{0, 0}
			}
			must(n.ReadAt(p, int64(i)*3072))
			if !bytes.Equal(p, want) {
				t.Fatalf("place %d holds %x, want %x", i, p, want)
			}
		}
	}
	verify(func(int) bool { return false })
	for _, i := range order {
		if i%2 == 1 && i < count-1 {
			check(t, n.Punch(int64(i)*3072, 1024))
		}
	}
	gone := func(i int) bool { return i%2 == 1 && i < count-1 }
	verify(gone)
	check(t, n.Fallocate(0, count*3072, true))
	verify(gone)
	check(t, n.Zero(3072*1000, 3072*1000, true))
	verify(func(i int) bool { return gone(i) || i >= 1000 && i < 2000 })
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
	fs = openFS(t, image, Options{})
	root = must(fs.Root())
	n = must(root.Lookup("f"))
	verify(func(i int) bool { return gone(i) || i >= 1000 && i < 2000 })
	check(t, n.Truncate(3072*5))
	check(t, n.Truncate(0))
	if a := n.Attr(); a.Blocks512 != 0 {
		t.Errorf("%d sectors after truncating to nothing", a.Blocks512)
	}
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// Small appends in turn to several files give few extents each.
func TestAppendContiguity(t *testing.T) {
	image := makeImage(t, 128<<20, "-t", "ext4", "-b", "4096")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	var files []*Inode
	for i := range 4 {
		files = append(files, must(root.Create(fmt.Sprint(i), regular)))
	}
	for k := range 2000 {
		for _, f := range files {
			must(f.WriteAt(bytes.Repeat([]byte{byte(k)}, 4096), int64(k)*4096))
		}
	}
	for i, f := range files {
		extents := 0
		check(t, f.Map(0, 2000*4096, func(Extent) bool { extents++; return true }))
		if extents > 16 {
			t.Errorf("file %d has %d extents", i, extents)
		}
		check(t, f.Put())
	}
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// A file without a name lives while it is open, goes with the last Put, and can get a
// name back before.
func TestUnlinkedOpen(t *testing.T) {
	image := makeImage(t, 32<<20, "-t", "ext4")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	before := fs.Statfs()
	n := must(root.Create("f", regular))
	must(n.WriteAt(make([]byte, 100000), 0))
	check(t, root.Unlink("f"))
	must(n.WriteAt([]byte("still here"), 500))
	if a := n.Attr(); a.Links != 0 {
		t.Errorf("%d links", a.Links)
	}
	wantErr(t, lookupErr(root, "f"), unix.ENOENT)
	tmp := must(root.CreateUnlinked(regular))
	must(tmp.WriteAt([]byte("tmp"), 0))
	check(t, root.Link("named", tmp))
	if a := tmp.Attr(); a.Links != 1 {
		t.Errorf("%d links", a.Links)
	}
	check(t, tmp.Put())
	ino := n.Number()
	check(t, n.Put())
	_, err := fs.Inode(ino)
	wantErr(t, err, unix.ESTALE)
	check(t, root.Unlink("named"))
	check(t, fs.Sync())
	if after := fs.Statfs(); after.Free != before.Free || after.FilesFree != before.FilesFree {
		t.Errorf("%+v, before %+v", after, before)
	}
	left := must(root.CreateUnlinked(regular))
	must(left.WriteAt(make([]byte, 100000), 0))
	check(t, fs.Sync())
	closeFS(t, fs) // frees it
	fsck(t, image)
}

func lookupErr(n *Inode, name string) error {
	c, err := n.Lookup(name)
	if err == nil {
		return c.Put()
	}
	return err
}

// Mounting read-only and back: the image is clean in between and e2fsck is content.
func TestRemount(t *testing.T) {
	image := makeImage(t, 32<<20, "-t", "ext4")
	before := must(os.ReadFile(image))
	fs := openFS(t, image, Options{ReadOnly: true})
	root := must(fs.Root())
	_, err := root.Create("f", regular)
	wantErr(t, err, unix.EROFS)
	wantErr(t, root.SetAttr(AttrMode, Attr{}), unix.EROFS)
	check(t, fs.Sync())
	if !bytes.Equal(before, must(os.ReadFile(image))) {
		t.Error("a read-only filesystem was written to")
	}
	check(t, fs.Remount(false))
	check(t, must(root.Create("f", regular)).Put())
	check(t, fs.Remount(true))
	fsck(t, image)
	_, err = root.Create("g", regular)
	wantErr(t, err, unix.EROFS)
	check(t, fs.Remount(false))
	check(t, must(root.Create("g", regular)).Put())
	check(t, root.Put())
	closeFS(t, fs)
	wantErr(t, fs.Sync(), unix.EIO)
	_, err = fs.Root()
	wantErr(t, err, unix.EIO)
	fsck(t, image)
	fs = openFS(t, image, Options{})
	closeFS(t, fs) // opened for writing, and nothing changed
	fsck(t, image)
}

// What is not supported is refused by its name, or read only where that is right.
func TestFeatures(t *testing.T) {
	for _, c := range []struct {
		args []string
		name string
		read bool
	}{
		{[]string{"-t", "ext4", "-O", "bigalloc"}, "bigalloc", true},
		{[]string{"-t", "ext4", "-O", "encrypt"}, "encrypt", false},
		{[]string{"-t", "ext4", "-O", "casefold"}, "casefold", false},
		{[]string{"-t", "ext4", "-O", "mmp"}, "mmp", false},
		{[]string{"-t", "ext4", "-O", "verity"}, "verity", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := makeImage(t, 64<<20, c.args...)
			_, err := Open(openDevice(t, image), Options{})
			var u *UnsupportedError
			if !errors.As(err, &u) || len(u.Features) != 1 || u.Features[0] != c.name || u.Write != c.read {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Error("more than one line")
			}
			fs, err := Open(openDevice(t, image), Options{ReadOnly: true})
			if (err == nil) != c.read {
				t.Fatalf("read-only: %v", err)
			}
			if err == nil {
				engineTree(t, fs)
				wantErr(t, fs.Remount(false), unix.EROFS)
			}
		})
	}
}

// A journal on another disk, and such a disk itself.
func TestExternalJournal(t *testing.T) {
	refused := func(image, name string) {
		t.Helper()
		for _, o := range []Options{{}, {ReadOnly: true}} {
			_, err := Open(openDevice(t, image), o)
			var u *UnsupportedError
			if !errors.As(err, &u) || len(u.Features) != 1 || u.Features[0] != name || u.Write {
				t.Errorf("error %v, should name %s", err, name)
			}
		}
	}
	image := makeImage(t, 32<<20, "-t", "ext4")
	tool(t, "debugfs", "-w", "-R", "ssv journal_inum 0", image)
	tool(t, "debugfs", "-w", "-R", "ssv journal_dev 0x801", image)
	refused(image, "external journal")
	refused(makeImage(t, 8<<20, "-b", "4096", "-O", "journal_dev"), "journal_dev")
}

// Inline data and attributes in inodes of their own, written by others.
func TestInlineData(t *testing.T) {
	needRoot(t)
	image := makeImage(t, 32<<20, "-t", "ext4", "-b", "4096", "-O", "inline_data")
	m, umount := mount(t, image, "")
	for i := range 50 {
		check(t, os.WriteFile(filepath.Join(m, fmt.Sprintf("f%d", i)), bytes.Repeat([]byte{byte('a' + i%26)}, i*3), 0o644))
	}
	check(t, os.MkdirAll(filepath.Join(m, "small"), 0o755))
	check(t, os.WriteFile(filepath.Join(m, "small/one"), []byte("1"), 0o644))
	check(t, os.WriteFile(filepath.Join(m, "small/two"), []byte("2"), 0o644))
	want := hostTree(t, m)
	umount()
	fs := openFS(t, image, Options{})
	sameTrees(t, "inline", engineTree(t, fs), want)
	root := must(fs.Root())
	inline := 0
	for i := range 50 {
		n := must(root.Lookup(fmt.Sprintf("f%d", i)))
		if n.inline() {
			inline++
		}
		switch i % 3 {
		case 0:
			must(n.WriteAt([]byte("more"), int64(i*3)))
		case 1:
			check(t, n.Truncate(int64(i)))
		}
		check(t, n.Put())
	}
	if inline < 20 {
		t.Fatalf("only %d inline files: the test proves nothing", inline)
	}
	d := must(root.Lookup("small"))
	if !d.inline() {
		t.Fatal("the directory is not inline: the test proves nothing")
	}
	check(t, must(d.Create("three", regular)).Put())
	check(t, d.Unlink("one"))
	check(t, d.Put())
	check(t, root.Put())
	mine := engineTree(t, fs)
	closeFS(t, fs)
	fsck(t, image)
	m, umount = mount(t, image, "ro")
	got := hostTree(t, m)
	umount()
	sameTrees(t, "by the kernel", got, mine)

	image = makeImage(t, 32<<20, "-t", "ext4", "-b", "4096", "-O", "ea_inode")
	m, umount = mount(t, image, "")
	check(t, os.WriteFile(filepath.Join(m, "f"), nil, 0o644))
	check(t, unix.Setxattr(filepath.Join(m, "f"), "user.huge", bytes.Repeat([]byte("h"), 20000), 0))
	want = hostTree(t, m)
	umount()
	fs = openFS(t, image, Options{ReadOnly: true})
	sameTrees(t, "ea_inode", engineTree(t, fs), want)
}

// Attributes move between inode and block, shared blocks are copied before a change.
func TestXattrs(t *testing.T) {
	needRoot(t)
	image := makeImage(t, 32<<20, "-t", "ext4", "-b", "4096")
	m, umount := mount(t, image, "")
	for i := range 3 { // the kernel shares one block among these
		p := filepath.Join(m, fmt.Sprint(i))
		check(t, os.WriteFile(p, nil, 0o644))
		check(t, unix.Setxattr(p, "user.shared", bytes.Repeat([]byte("s"), 1000), 0))
	}
	umount()
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	a, b := must(root.Lookup("0")), must(root.Lookup("1"))
	if a.d.FileACL == 0 || a.d.FileACL != b.d.FileACL {
		t.Fatal("no block is shared: the test proves nothing")
	}
	check(t, a.SetXattr("user.more", bytes.Repeat([]byte("m"), 500), XattrFlags{}))
	if a.d.FileACL == b.d.FileACL {
		t.Error("the shared block was changed")
	}
	if v := must(b.Xattr("user.shared")); len(v) != 1000 {
		t.Errorf("%d bytes", len(v))
	}
	check(t, b.RemoveXattr("user.shared"))
	_, err := b.Xattr("user.shared")
	wantErr(t, err, unix.ENODATA)
	wantErr(t, b.RemoveXattr("user.shared"), unix.ENODATA)
	wantErr(t, b.SetXattr("user.a", nil, XattrFlags{Replace: true}), unix.ENODATA)
	check(t, b.SetXattr("user.a", nil, XattrFlags{Create: true}))
	wantErr(t, b.SetXattr("user.a", nil, XattrFlags{Create: true}), unix.EEXIST)
	wantErr(t, b.SetXattr("user.big", make([]byte, 5000), XattrFlags{}), unix.ENOSPC)
	wantErr(t, b.SetXattr("nobody.a", nil, XattrFlags{}), unix.EOPNOTSUPP)
	check(t, b.SetXattr("user.big", make([]byte, 3900), XattrFlags{}))
	check(t, b.SetXattr("user.small", []byte("in the inode"), XattrFlags{}))
	check(t, root.Unlink("2"))
	check(t, a.Put())
	check(t, b.Put())
	check(t, root.Put())
	mine := engineTree(t, fs)
	closeFS(t, fs)
	fsck(t, image)
	m, umount = mount(t, image, "ro")
	got := hostTree(t, m)
	umount()
	sameTrees(t, "by the kernel", got, mine)
}

// Trim and discard make holes of free blocks, and of no others.
func TestTrim(t *testing.T) {
	image := makeImage(t, 64<<20, "-t", "ext4", "-b", "4096")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	p := bytes.Repeat([]byte("x"), 8<<20)
	must(n.WriteAt(p, 0))
	keep := must(root.Create("keep", regular))
	must(keep.WriteAt(p[:1<<20], 0))
	check(t, fs.Sync())
	used := func() int64 {
		var st unix.Stat_t
		check(t, unix.Stat(image, &st))
		return st.Blocks * 512
	}
	full := used()
	check(t, n.Put())
	check(t, root.Unlink("f"))
	check(t, fs.Sync())
	if used() < full-1<<20 {
		t.Error("freed blocks were trimmed without being asked")
	}
	got, err := fs.Trim(context.Background(), 0, 1<<62, 0)
	check(t, err)
	if got < 8<<20 || used() > full-7<<20 {
		t.Errorf("trimmed %d bytes, image %d, before %d", got, used(), full)
	}
	fs.SetDiscard(true)
	n = must(root.Create("g", regular))
	must(n.WriteAt(p, 0))
	check(t, fs.Sync())
	check(t, n.Put())
	check(t, root.Unlink("g"))
	check(t, fs.Sync())
	if used() > full-7<<20 {
		t.Errorf("image %d after discard, before %d", used(), full)
	}
	sameFile(t, keep, p[:1<<20])
	check(t, keep.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// A full filesystem says ENOSPC, stays whole, and works again after a removal.
func TestNoSpace(t *testing.T) {
	image := makeImage(t, 8<<20, "-t", "ext4", "-m", "0", "-N", "64")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	for round := range 3 {
		n := must(root.Create("big", regular))
		p := make([]byte, 100_000)
		var err error
		off := int64(0)
		for err == nil {
			var c int
			c, err = n.WriteAt(p, off)
			off += int64(c)
		}
		wantErr(t, err, unix.ENOSPC)
		if s := fs.Statfs(); s.Free > 30 {
			t.Errorf("round %d: %d blocks free", round, s.Free)
		}
		_, err = root.Create("d", NewInode{Mode: format.ModeDir | 0o755})
		for i := 0; err == nil; i++ {
			_, err = root.Create(fmt.Sprintf("d%d", i), NewInode{Mode: format.ModeDir | 0o755})
		}
		wantErr(t, err, unix.ENOSPC)
		check(t, n.Put())
		removeAll(t, root)
	}
	for i := range 1000 {
		n, err := root.Create(fmt.Sprintf("f%d", i), regular)
		if err != nil {
			wantErr(t, err, unix.ENOSPC)
			break
		}
		check(t, n.Put())
	}
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// statfs counts as the kernel does.
func TestStatfs(t *testing.T) {
	needRoot(t)
	for _, f := range forms {
		image := makeImage(t, 64<<20, f.args...)
		fs := openFS(t, image, Options{ReadOnly: true, NoWrite: true})
		got := fs.Statfs()
		m, umount := mount(t, image, "ro")
		var st unix.Statfs_t
		check(t, unix.Statfs(m, &st))
		umount()
		want := Statfs{st.Bsize, st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, got.ID, int(st.Namelen)}
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", f.name, got, want)
		}
		if id := uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32; id != got.ID {
			t.Errorf("%s: id %#x, want %#x", f.name, got.ID, id)
		}
	}
}
