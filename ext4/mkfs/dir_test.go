package mkfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestEqualHashesAcrossLeaves puts two names of one hash into different leaves of an htree, where
// a lookup finds the second only if its leaf is marked as a continuation.
func TestEqualHashesAcrossLeaves(t *testing.T) {
	b, err := NewBuilder(nil, fixed())
	if err != nil {
		t.Fatal(err)
	}
	hash := func(name string) uint32 {
		h, _, _ := format.HashName([]byte(name), format.HashHalfMD4, b.hashSeed())
		return h
	}
	var pair [2]string
	seen := map[uint32]string{}
	for i := 0; pair[0] == ""; i++ {
		name := fmt.Sprintf("n%011d", i)
		h := hash(name)
		if other, ok := seen[h]; ok {
			pair = [2]string{other, name}
		}
		seen[h] = name
	}
	room := b.leafRoom() - b.leafRoom()/leafSlack
	perLeaf := room / format.DirEntryLen(12)
	names := []string{pair[0], pair[1]}
	below, above := 0, 0
	for i := 0; below < perLeaf-1 || above < 3*perLeaf; i++ {
		name := fmt.Sprintf("m%011d", i)
		switch h := hash(name); {
		case h < hash(pair[0]) && below < perLeaf-1:
			below++
			names = append(names, name)
		case h > hash(pair[0]) && above < 3*perLeaf:
			above++
			names = append(names, name)
		}
	}
	m := &model{}
	m.dir("d")
	for i, name := range names {
		m.add(item{path: "d/" + name, h: Header{Mode: format.ModeRegular | 0o600, UID: uint32(i)}})
	}
	file := image(t, 64<<20, fixed(), m)
	dump := oracle.Run(t, "debugfs", "-R", "htree_dump /d", file)
	if !strings.Contains(dump, fmt.Sprintf("Hash 0x%08x", hash(pair[0])|1)) {
		t.Fatalf("the pair %q does not lie in two leaves:\n%s", pair, dump)
	}
	if os.Geteuid() == 0 {
		dir := oracle.Mount(t, file, "ro")
		m.compare(t, dir)
	}
}

// TestDeepIndexes makes htrees of two and three levels, and lets a kernel add to them.
func TestDeepIndexes(t *testing.T) {
	for _, c := range []struct {
		o      Options
		count  int
		length int
		levels int // index levels: 0 for a plain list
	}{
		{Options{}, 3000, 255, 1},
		{Options{}, 12000, 255, 2},
		{Options{BlockSize: 1024}, 500, 200, 2},
		{Options{BlockSize: 1024, Features: []string{"large_dir"}}, 70000, 200, 3},
		{Options{BlockSize: 1024, Inodes: 80000}, 70000, 200, 0},
		{Options{Features: []string{"^dir_index"}}, 500, 200, 0},
	} {
		t.Run(fmt.Sprintf("%d names in blocks of %d, %d levels", c.count, c.o.BlockSize, c.levels), func(t *testing.T) {
			m := &model{}
			m.dir("d")
			for i := range c.count {
				m.add(item{path: fmt.Sprintf("d/%0*d", c.length, i), h: Header{Mode: format.ModeFIFO | 0o600}})
			}
			file := image(t, 400<<20, c.o, m)
			flags := oracle.Run(t, "debugfs", "-R", "stat /d", file)
			if indexed := strings.Contains(flags, "Flags: 0x81000"); indexed != (c.levels > 0) {
				t.Errorf("htree: %v, want %d levels", indexed, c.levels)
			}
			if c.levels > 0 {
				dump := oracle.Run(t, "debugfs", "-R", "htree_dump /d", file)
				if want := fmt.Sprintf("Indirect levels: %d", c.levels-1); !strings.Contains(dump, want) {
					t.Errorf("no %q in %s", want, dump[:min(len(dump), 500)])
				}
			}
			if os.Geteuid() != 0 {
				return
			}
			dir := oracle.Mount(t, file, "")
			rng := rand.New(rand.NewPCG(1, 2))
			for range min(c.count, 200) {
				i := rng.IntN(c.count)
				if _, err := os.Lstat(filepath.Join(dir, fmt.Sprintf("d/%0*d", c.length, i))); err != nil {
					t.Error(err)
				}
			}
			for i := range 300 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("d/%0*x", c.length-1, i)), nil, 0o600); err != nil {
					t.Error(err)
				}
			}
			oracle.Unmount(t, dir)
			oracle.Fsck(t, file)
		})
	}
}

// TestSharedAttributes gives more inodes the same attributes than may share a block.
func TestSharedAttributes(t *testing.T) {
	m := &model{}
	for i := range 2500 {
		m.add(item{path: fmt.Sprint(i), h: Header{Mode: format.ModeFIFO | 0o600, Xattrs: map[string][]byte{"security.s": bytes.Repeat([]byte("s"), 200)}}})
	}
	file := image(t, 64<<20, fixed(), m)
	empty := image(t, 64<<20, fixed(), &model{})
	free := func(file string) (n int) {
		_, _ = fmt.Sscan(header(t, file)["Free blocks"], &n)
		return n
	}
	// Three blocks of attributes, and the root directory with 2,500 names.
	if used := free(empty) - free(file); used > 20 {
		t.Errorf("%d blocks for 2,500 names and one set of attributes", used)
	}
	if os.Geteuid() == 0 {
		dir := oracle.Mount(t, file, "")
		m.compare(t, dir)
		for i := range 2500 {
			if err := unix.Lremovexattr(filepath.Join(dir, fmt.Sprint(i)), "security.s"); err != nil {
				t.Fatal(err)
			}
		}
		oracle.Unmount(t, dir)
		oracle.Fsck(t, file)
	}
}

// TestRemovedNames takes away names, inodes, data and attributes before the end.
func TestRemovedNames(t *testing.T) {
	dev, file := newFile(t, 64<<20)
	b, err := NewBuilder(dev, fixed())
	if err != nil {
		t.Fatal(err)
	}
	m := &model{}
	dir, err := b.Add(b.Root(), "d", Header{Mode: format.ModeDir | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	m.add(item{path: "d", h: Header{Mode: format.ModeDir | 0o755}})
	for i := range 4000 {
		it := item{path: fmt.Sprintf("d/%d", i), data: noise(uint64(i)), h: Header{Mode: format.ModeRegular | 0o600, Size: int64(i % 9000),
			Xattrs: map[string][]byte{"security.x": bytes.Repeat([]byte{byte(i % 5)}, 150)}}}
		n, err := b.Add(dir, fmt.Sprint(i), it.h)
		if err != nil {
			t.Fatal(err)
		}
		one := &model{items: []item{it}}
		one.fillIn(t, b, map[string]*Node{it.path: n})
		if i%3 == 0 || i >= 3900 {
			if i%2 == 0 {
				it.link = it.path
				it.path += "-link"
				if err := b.Link(dir, fmt.Sprintf("%d-link", i), n); err != nil {
					t.Fatal(err)
				}
				it.link = ""
				m.add(it)
			}
			if err := b.Remove(dir, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			if b.Lookup(dir, fmt.Sprint(i)) != nil {
				t.Fatalf("%d is still there", i)
			}
			continue
		}
		if b.Lookup(dir, fmt.Sprint(i)) != n {
			t.Fatalf("%d is not there", i)
		}
		m.add(it)
	}
	sub, err := b.Add(dir, "sub", Header{Mode: format.ModeDir})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(dir, "sub"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Add(sub, "x", Header{Mode: format.ModeFIFO}); err == nil {
		t.Error("a name in a directory that was removed")
	}
	h := Header{Mode: format.ModeDir | 0o700, UID: 5}
	if err := b.SetHeader(dir, h); err != nil {
		t.Fatal(err)
	}
	m.items[0].h = h
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.Fsck(t, file)
	if os.Geteuid() == 0 {
		m.compare(t, oracle.Mount(t, file, "ro"))
	}
}

// FuzzHeader adds what a hostile source could hold: it is refused, or e2fsck finds it good.
func FuzzHeader(f *testing.F) {
	f.Add("name", uint16(0o100644), uint32(0), uint32(0), int64(5000), int64(1<<33), uint32(1), uint32(0), "user.a", []byte("value"), "target", int64(4096), int64(100))
	f.Add("n", uint16(0o120777), uint32(1), uint32(1), int64(0), int64(-1), uint32(1), uint32(0x10), "security.capability", bytes.Repeat([]byte("v"), 3000), strings.Repeat("t", 61), int64(0), int64(0))
	f.Add("\xff", uint16(0o020644), uint32(4095), uint32(1<<20-1), int64(0), int64(1<<60), uint32(1), uint32(0x80), "trusted.", []byte{}, "", int64(0), int64(0))
	f.Add("acl", uint16(0o040755), uint32(0), uint32(0), int64(0), int64(0), uint32(0), uint32(0), aclDefault,
		acl([3]uint32{aclUserObj, 7, nobody}, [3]uint32{aclGroupObj, 5, nobody}, [3]uint32{aclOther, 0, nobody}), "", int64(0), int64(0))
	f.Fuzz(func(t *testing.T, name string, mode uint16, major, minor uint32, size, sec int64, nsec, flags uint32, attr string, value []byte, target string, off, length int64) {
		dev, file := newFile(t, 8<<20)
		b, err := NewBuilder(dev, fixed())
		if err != nil {
			t.Fatal(err)
		}
		stamp := at(sec, nsec)
		h := Header{Mode: mode, UID: major, GID: minor, Major: major, Minor: minor, Size: size, Atime: stamp, Mtime: stamp, Ctime: stamp, Btime: stamp,
			Flags: flags, Target: target}
		if attr != "" {
			h.Xattrs = map[string][]byte{attr: value, "user.other": value}
		}
		n, err := b.Add(b.Root(), name, h)
		if err == nil && !n.IsDir() {
			if err := b.Link(b.Root(), "link", n); err != nil && name != "link" {
				t.Fatal(err)
			}
		}
		if err == nil && n.Size() > 0 && mode&format.ModeType == format.ModeRegular {
			extents, err := b.Place(n, []Region{{off, length}})
			if err != nil {
				return
			}
			if !slices.IsSortedFunc(extents, func(a, b Extent) int { return int(a.Offset - b.Offset) }) {
				t.Errorf("extents %v", extents)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if out, err := fsck(t, file); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
