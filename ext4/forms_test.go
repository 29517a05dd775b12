package ext4

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// debian11 is what mke2fs of Debian 11 and 12 makes, debian13 that of Debian 13, in
// whatever release the tests run.
const (
	debian11 = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
	debian13 = debian11 + ",metadata_csum_seed,orphan_file"
)

// moreForms are forms beside those of forms, which take part in fewer tests.
var moreForms = [][]string{
	{"-t", "ext4", "-b", "4096", "-O", debian11},
	{"-t", "ext4", "-b", "4096", "-O", debian13},
	{"-t", "ext4", "-b", "1024", "-O", debian13},
	{"-t", "ext4", "-b", "4096", "-O", "fast_commit,stable_inodes"},
	{"-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,sparse_super2", "-G", "4"},
	{"-t", "ext4", "-b", "1024", "-g", "512", "-O", "^metadata_csum,^64bit,^flex_bg,uninit_bg"},
	{"-t", "ext4", "-b", "2048", "-O", "^extra_isize,^large_file,^dir_nlink,^huge_file"},
	{"-t", "ext4", "-b", "4096", "-G", "64", "-O", "large_dir"},
	{"-t", "ext2", "-b", "1024", "-r", "0"},
	{"-t", "ext3", "-b", "2048", "-I", "128"},
}

// smallTree makes a tree of a few files of every kind.
func smallTree(t testing.TB, dir string) {
	t.Helper()
	for i := range 120 {
		d := filepath.Join(dir, fmt.Sprint("d", i%7), fmt.Sprint(i%3))
		check(t, os.MkdirAll(d, 0o755))
		name := filepath.Join(d, strings.Repeat("n", 1+i*2)+fmt.Sprint(i))
		check(t, os.WriteFile(name, bytes.Repeat([]byte{byte(i + 1)}, i*i*7), 0o640))
		if i%9 == 0 {
			check(t, os.Symlink(strings.Repeat("t", 1+i), name+".sym"))
			check(t, os.Link(name, name+".hard"))
			check(t, unix.Setxattr(name, "user.a", bytes.Repeat([]byte("a"), 3+i*4), 0))
		}
	}
}

// useForm writes a tree through the engine, has the host's kernel read and change it,
// and removes all of it again.
func useForm(t *testing.T, image, tree string) {
	fs := openFS(t, image, Options{})
	copyIn(t, fs, tree)
	root := must(fs.Root())
	big := must(root.Create("big", regular)) // sets large_file where it is not
	must(big.WriteAt([]byte("far"), 1<<31+5000))
	check(t, big.Truncate(10))
	check(t, big.Put())
	check(t, root.Put())
	mine := engineTree(t, fs)
	closeFS(t, fs)
	fsck(t, image)
	m, umount := mount(t, image, "")
	sameTrees(t, "by the kernel", hostTree(t, m), mine)
	tool(t, "cp", "-a", filepath.Join(m, "d1"), filepath.Join(m, "copy"))
	check(t, os.RemoveAll(filepath.Join(m, "d2")))
	theirs := hostTree(t, m)
	umount()
	fsck(t, image)
	fs = openFS(t, image, Options{})
	sameTrees(t, "after the kernel", engineTree(t, fs), theirs)
	root = must(fs.Root())
	removeAll(t, root)
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// Forms that mke2fs of several releases makes, and rarer ones, are written and read.
func TestMoreForms(t *testing.T) {
	needRoot(t)
	tree := t.TempDir()
	smallTree(t, tree)
	for _, f := range moreForms {
		t.Run(strings.Join(f[2:], " "), func(t *testing.T) {
			useForm(t, makeImage(t, 64<<20, f...), tree)
		})
	}
}

// A filesystem that resize2fs made larger, with room kept for descriptors and without.
func TestGrownByOthers(t *testing.T) {
	needRoot(t)
	tree := t.TempDir()
	smallTree(t, tree)
	for _, f := range [][]string{
		{"-t", "ext4", "-b", "4096"},
		{"-t", "ext4", "-b", "1024", "-O", "^resize_inode"},
		{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit,^flex_bg,uninit_bg"},
	} {
		t.Run(strings.Join(f[2:], " "), func(t *testing.T) {
			image := makeImage(t, 20<<20, f...)
			check(t, os.Truncate(image, 400<<20))
			tool(t, "resize2fs", "-f", image)
			fsck(t, image)
			fs := openFS(t, image, Options{})
			if n := fs.Statfs().Blocks * uint64(fs.bs); n < 350<<20 {
				t.Errorf("it has %d bytes after growing", n)
			}
			closeFS(t, fs)
			useForm(t, image, tree)
		})
	}
}

// Fast commits in a log that was not left cleanly are refused by their name, also
// read-only: the blocks they stand for are nowhere else.
func TestFastCommitsLeft(t *testing.T) {
	needRoot(t)
	image := makeImage(t, 64<<20, "-t", "ext4", "-b", "4096", "-O", "fast_commit")
	m, umount := mount(t, image, "commit=300")
	for i := range 20 {
		f := must(os.Create(filepath.Join(m, fmt.Sprint(i))))
		must(f.Write(make([]byte, 5000)))
		check(t, f.Sync())
		check(t, f.Close())
	}
	crashed := image + ".crashed"
	tool(t, "cp", "--sparse=always", image, crashed)
	umount()
	for _, o := range []Options{{}, {ReadOnly: true}, {ReadOnly: true, NoWrite: true}} {
		_, err := Open(openDevice(t, crashed), o)
		if err == nil || !strings.Contains(err.Error(), "fast_commit") || !unixIs(err, unix.EOPNOTSUPP) {
			t.Errorf("error %v", err)
		}
	}
	tool(t, "cp", "--sparse=always", image, crashed) // left cleanly
	closeFS(t, openFS(t, crashed, Options{}))
	fsck(t, crashed)
}

// Clusters of blocks, which can only be read, are read.
func TestReadBigalloc(t *testing.T) {
	needRoot(t)
	tree := t.TempDir()
	smallTree(t, tree)
	for _, b := range []string{"1024", "4096"} {
		image := makeImage(t, 128<<20, "-t", "ext4", "-b", b, "-O", "bigalloc")
		m, umount := mount(t, image, "")
		tool(t, "cp", "-a", tree+"/.", m)
		want := hostTree(t, m)
		umount()
		fs := openFS(t, image, Options{ReadOnly: true})
		sameTrees(t, "bigalloc", engineTree(t, fs), want)
		closeFS(t, fs)
		fsck(t, image)
	}
}

// With huge_file a file may count blocks where others count sectors.
func TestHugeFileFlag(t *testing.T) {
	image := makeImage(t, 32<<20, "-t", "ext4", "-b", "4096")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	must(n.WriteAt(make([]byte, 40<<10), 0))
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	tool(t, "debugfs", "-w", "-R", fmt.Sprintf("sif f flags %#x", format.FlagExtents|format.FlagHugeFile), image)
	tool(t, "debugfs", "-w", "-R", "sif f blocks 10", image)
	fsck(t, image)
	fs = openFS(t, image, Options{})
	root = must(fs.Root())
	n = must(root.Lookup("f"))
	if got := n.Attr().Blocks512; got != 80 {
		t.Errorf("%d sectors", got)
	}
	must(n.WriteAt(make([]byte, 20<<10), 100<<10))
	check(t, n.SetXattr("user.x", make([]byte, 1000), XattrFlags{}))
	if got := n.Attr().Blocks512; got != 80+40+8 {
		t.Errorf("%d sectors", got)
	}
	check(t, n.Truncate(5000))
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}
