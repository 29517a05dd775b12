package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

var valueForms = [][]string{
	{"-t", "ext4", "-b", "4096", "-O", "ea_inode"},
	{"-t", "ext4", "-b", "1024", "-O", "ea_inode,^metadata_csum,^extent,^64bit"},
	{"-t", "ext4", "-b", "2048", "-I", "128", "-O", "ea_inode"},
	{"-t", "ext4", "-b", "4096", "-I", "1024", "-O", "ea_inode,inline_data"},
	{"-t", "ext4", "-b", "4096", "-O", "ea_inode,metadata_csum_seed,^has_journal"},
}

func value(seed, size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i*i>>5 + seed*31 + i)
	}
	return p
}

// Values too large for a block lie in inodes of their own, which the host's kernel reads
// and changes and e2fsck finds right; when the last entry goes, so do they.
func TestValueInodes(t *testing.T) {
	for _, f := range valueForms {
		t.Run(fmt.Sprint(f[3:]), func(t *testing.T) {
			image := makeImage(t, 48<<20, f...)
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			start := fs.Statfs()
			set := func(n *Inode, name string, v []byte) {
				t.Helper()
				if err := n.SetXattr(name, v, XattrFlags{}); err != nil {
					t.Fatalf("%s of %d bytes: %v", name, len(v), err)
				}
			}
			for i := range 6 {
				n := must(root.Create(fmt.Sprint("f", i), regular))
				set(n, "user.small", value(i, 40))
				set(n, "user.large", value(i%2, 20000)) // shared by three files each
				set(n, "user.max", value(i, 65536))
				set(n, "trusted.block", value(i, 5000))
				set(n, "user.max", value(i+1, 65535)) // replaced by another
				set(n, "user.large", value(i%2, 20000))
				set(n, "user.gone", value(i, 9000))
				check(t, n.RemoveXattr("user.gone"))
				check(t, n.Put())
			}
			d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
			set(d, "user.large", value(0, 20000))
			check(t, d.Put())
			got := engineTree(t, fs)
			closeFS(t, fs)
			fsck(t, image)
			fs = openFS(t, image, Options{})
			sameTrees(t, "opened again", engineTree(t, fs), got)
			closeFS(t, fs)
			if os.Geteuid() == 0 {
				m, umount := mount(t, image, "")
				sameTrees(t, "host's kernel", hostTree(t, m), got)
				check(t, unix.Setxattr(filepath.Join(m, "f1"), "user.theirs", value(1, 20000), 0))
				check(t, unix.Setxattr(filepath.Join(m, "f2"), "user.large", value(9, 300), 0))
				check(t, unix.Removexattr(filepath.Join(m, "f3"), "user.max"))
				check(t, os.Remove(filepath.Join(m, "f4")))
				got = hostTree(t, m)
				umount()
				fsck(t, image)
			}
			fs = openFS(t, image, Options{})
			sameTrees(t, "after the host's kernel", engineTree(t, fs), got)
			root = must(fs.Root())
			check(t, root.Rmdir("d"))
			for i := range 6 {
				err := root.Unlink(fmt.Sprint("f", i))
				if err != nil && !unixIs(err, unix.ENOENT) {
					t.Fatal(err)
				}
			}
			check(t, root.Put())
			if end := fs.Statfs(); end.FilesFree != start.FilesFree || end.Free != start.Free {
				t.Errorf("%d blocks and %d inodes are free, before %d and %d", end.Free, end.FilesFree, start.Free, start.FilesFree)
			}
			closeFS(t, fs)
			fsck(t, image)
		})
	}
}

// What the host's kernel wrote is read and changed: also blocks of attributes that
// several files share, whose entries refer to inodes.
func TestValueInodesOfTheKernel(t *testing.T) {
	needRoot(t)
	for _, f := range valueForms {
		t.Run(fmt.Sprint(f[3:]), func(t *testing.T) {
			image := makeImage(t, 48<<20, f...)
			m, umount := mount(t, image, "")
			for i := range 9 {
				name := filepath.Join(m, fmt.Sprint("k", i))
				check(t, os.WriteFile(name, []byte(name), 0o644))
				for _, x := range []int{100, 3000, 12000, 65536} {
					check(t, unix.Setxattr(name, fmt.Sprint("user.x", x), value(i/8, x), 0))
				}
			}
			want := hostTree(t, m)
			umount()
			fsck(t, image)
			fs := openFS(t, image, Options{})
			sameTrees(t, "engine", engineTree(t, fs), want)
			root := must(fs.Root())
			shared := 0
			for i := range 9 {
				n := must(root.Lookup(fmt.Sprint("k", i)))
				if b, _ := n.xattrBlock(); b != nil && le.Uint32(b.data[4:]) > 1 {
					shared++
				}
				switch i % 4 {
				case 0:
					check(t, n.SetXattr("user.x12000", value(5, 13000), XattrFlags{}))
				case 1:
					check(t, n.RemoveXattr("user.x65536"))
				case 2:
					check(t, n.SetXattr("user.y", value(0, 12000), XattrFlags{}))
				}
				check(t, n.Put())
			}
			if shared == 0 {
				t.Error("no files share a block of attributes: the test proves less than it says")
			}
			check(t, root.Unlink("k3"))
			check(t, root.Put())
			got := engineTree(t, fs)
			closeFS(t, fs)
			fsck(t, image)
			m, umount = mount(t, image, "")
			sameTrees(t, "host's kernel", hostTree(t, m), got)
			umount()
		})
	}
}

// Random changes of attributes of a few files, with values that repeat, against a map.
func TestValueInodesAtRandom(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	r := rand.New(rand.NewPCG(seed, 1))
	image := makeImage(t, 24<<20, valueForms[0]...)
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	model := map[string]map[string]string{}
	for step := range 1500 {
		file := fmt.Sprint(r.IntN(8))
		n, err := root.Lookup(file)
		if err != nil {
			n = must(root.Create(file, regular))
			model[file] = map[string]string{}
		}
		name := fmt.Sprint("user.", r.IntN(5))
		switch r.IntN(12) {
		case 0:
			check(t, root.Unlink(file))
			delete(model, file)
		case 1, 2, 3:
			err := n.RemoveXattr(name)
			if _, ok := model[file][name]; ok != (err == nil) {
				t.Fatalf("seed %d step %d: remove %s of %s: %v", seed, step, name, file, err)
			}
			delete(model[file], name)
		default:
			v := value(r.IntN(3), []int{0, 10, 100, 1000, 3900, 4100, 40000, 65536}[r.IntN(8)])
			if err := n.SetXattr(name, v, XattrFlags{}); err != nil {
				t.Fatalf("seed %d step %d: %s of %s: %v", seed, step, name, file, err)
			}
			model[file][name] = string(v)
		}
		check(t, n.Put())
	}
	for file, attrs := range model {
		n := must(root.Lookup(file))
		names := must(n.Xattrs())
		if len(names) != len(attrs) {
			t.Errorf("seed %d: %s has %d attributes, want %d", seed, file, len(names), len(attrs))
		}
		for name, v := range attrs {
			if got, err := n.Xattr(name); err != nil || !bytes.Equal(got, []byte(v)) {
				t.Errorf("seed %d: %s of %s: %d bytes, %v; want %d", seed, name, file, len(got), err, len(v))
			}
		}
		check(t, n.Put())
	}
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// A disk that is full of values: what finds no room leaves nothing behind, and what goes
// makes room again.
func TestValueInodesOnAFullDisk(t *testing.T) {
	image := makeImage(t, 8<<20, append([]string{"-t", "ext4"}, quotaForms[2]...)...)
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	full := 0
	for i := 0; full < 20; i++ {
		n, err := root.Create(fmt.Sprint(i), regular)
		if err == nil {
			err = n.SetXattr("user.v", value(i, 30000+i*100), XattrFlags{})
			check(t, n.Put())
		}
		if err != nil {
			wantErr(t, err, unix.ENOSPC)
			full++
		}
		if i == 1000 {
			t.Fatal("the disk does not fill")
		}
	}
	check(t, fs.Sync())
	check(t, root.Unlink("3"))
	n := must(root.Lookup("4"))
	check(t, n.SetXattr("user.w", value(77, 25000), XattrFlags{}))
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsckQuota(t, image)
}
