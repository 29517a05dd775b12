package mkfs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestRandomTrees does random things to a builder and a model of it.
func TestRandomTrees(t *testing.T) {
	rounds := 30
	if os.Getenv("UMLKIT_NIGHTLY") != "" {
		rounds = 1000
	}
	for round := range rounds {
		randomTree(t, uint64(round))
	}
}

func randomTree(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	o := fixed()
	o.BlockSize = []int{1024, 2048, 4096}[rng.IntN(3)]
	o.InodeSize = []int{128, 256, 256, 512, 1024}[rng.IntN(5)]
	switch rng.IntN(3) {
	case 0:
		o.InodeRatio = 4096 << rng.IntN(5)
	case 1:
		o.Inodes = 2000 + rng.Int64N(20000)
	}
	for _, f := range []string{"^has_journal", "^resize_inode", "^dir_index", "^metadata_csum", "uninit_bg", "^flex_bg", "^filetype", "^huge_file", "large_dir"} {
		if rng.IntN(6) == 0 && (f != "large_dir" || len(o.Features) == 0) {
			o.Features = append(o.Features, f)
		}
	}
	if rng.IntN(5) == 0 {
		o.Features = append(o.Features, "^64bit", "^extent")
	}
	if rng.IntN(5) == 0 {
		o.Features = append(o.Features, "^resize_inode", "^sparse_super")
	}
	if rng.IntN(4) == 0 {
		o.Features = append(o.Features, "quota")
		if !slices.Contains(o.Features, "^has_journal") {
			o.Features = append(o.Features, "orphan_file")
		}
	}
	size := 60<<20 + rng.Int64N(200<<20)
	dev, file := newFile(t, size)
	defer os.Remove(file)
	b, err := NewBuilder(dev, o)
	if err != nil {
		t.Fatalf("seed %d: %d bytes, %+v: %v", seed, size, o, err)
	}
	files, dirs := map[string]*item{}, []string{"."}
	nodes := map[string]*Node{".": b.Root()}
	var order []string
	budget := int64(20 << 20)
	for range rng.IntN(1500) {
		dir := dirs[rng.IntN(len(dirs))]
		name := path.Join(dir, randomName(rng))
		if files[name] != nil {
			if files[name].h.Mode&format.ModeType != format.ModeDir && files[name].link == "" && rng.IntN(2) == 0 {
				shared := false
				for _, it := range files {
					shared = shared || it.link == name
				}
				if !shared {
					if err := b.Remove(nodes[dir], path.Base(name)); err != nil {
						t.Fatal(err)
					}
					delete(files, name)
				}
			}
			continue
		}
		it := randomItem(rng, name, o.InodeSize > 128, o.BlockSize)
		if it.h.Size > budget {
			continue
		}
		if rng.IntN(20) == 0 && len(order) > 0 {
			target := order[rng.IntN(len(order))]
			if f := files[target]; f != nil && f.link == "" && f.h.Mode&format.ModeType != format.ModeDir {
				if err := b.Link(nodes[dir], path.Base(name), nodes[target]); err != nil {
					t.Fatal(err)
				}
				files[name] = &item{path: name, link: target}
				order = append(order, name)
			}
			continue
		}
		n, err := b.Add(nodes[dir], path.Base(name), it.h)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		nodes[name] = n
		files[name] = it
		order = append(order, name)
		if it.h.Mode&format.ModeType == format.ModeDir {
			dirs = append(dirs, name)
		}
		if it.h.Size > 0 && it.h.Mode&format.ModeType == format.ModeRegular {
			budget -= it.h.Size
			one := &model{items: []item{*it}}
			one.fillIn(t, b, nodes)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	out, err := fsck(t, file)
	if err != nil {
		t.Fatalf("seed %d: %d bytes, %+v: %v\n%s", seed, size, o, err, out)
	}
	if os.Geteuid() != 0 {
		return
	}
	m := &model{}
	for _, name := range order {
		if it := files[name]; it != nil && m.index[name] == 0 {
			it := *it
			if o.BlockSize < 4096 && it.regions != nil {
				it.regions = nil // SEEK_HOLE in smaller blocks is not what compareData expects
				continue
			}
			m.add(it)
		}
	}
	dir := oracle.Mount(t, file, "ro")
	defer oracle.Unmount(t, dir)
	for i := range m.items {
		it := &m.items[i]
		if it.link != "" {
			continue
		}
		links := uint32(1)
		for _, other := range files {
			if other.link == it.path {
				links++
			}
		}
		m.compareInode(t, path.Join(dir, it.path), it, links, nil)
	}
	if t.Failed() {
		t.Fatalf("seed %d: %d bytes, %+v", seed, size, o)
	}
}

func randomName(rng *rand.Rand) string {
	n := 1 + rng.IntN(4)
	if rng.IntN(4) == 0 {
		n = 1 + rng.IntN(255)
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = "abcdefgh\xff\xc3"[rng.IntN(10)]
	}
	return string(p)
}

func randomItem(rng *rand.Rand, name string, wide bool, blockSize int) *item {
	stamp := func() Time {
		if !wide {
			return at(rng.Int64N(1<<31), 0)
		}
		return at(rng.Int64N(1<<34)-1<<31, uint32(rng.IntN(1e9)))
	}
	it := &item{path: name, h: Header{UID: rng.Uint32(), GID: rng.Uint32(), Atime: stamp(), Mtime: stamp(), Ctime: stamp()}}
	if wide {
		it.h.Btime = stamp()
	}
	perm := uint16(rng.IntN(0o10000))
	switch rng.IntN(12) {
	case 0, 1:
		it.h.Mode = format.ModeDir | perm
	case 2:
		it.h.Mode, it.h.Target = format.ModeSymlink|0o777, strings.Repeat("t", 1+rng.IntN(min(blockSize-1, 4095)))
		it.h.Size = int64(len(it.h.Target))
	case 3:
		it.h.Mode, it.h.Major, it.h.Minor = format.ModeChar|perm, rng.Uint32()&0xFFF, rng.Uint32()&0xFFFFF
	case 4:
		it.h.Mode = format.ModeFIFO | perm
	case 5:
		it.h.Mode = format.ModeSocket | perm
	default:
		it.h.Mode, it.h.Size = format.ModeRegular|perm, rng.Int64N(1<<(1+rng.IntN(22)))
		it.data = noise(rng.Uint64())
		if rng.IntN(4) == 0 {
			it.regions = []Region{}
			for off := int64(0); ; {
				off += rng.Int64N(1 + rng.Int64N(1<<uint(1+rng.IntN(18))))
				n := rng.Int64N(1 << uint(1+rng.IntN(16)))
				if off+n > it.h.Size || len(it.regions) > 2000 {
					break
				}
				it.regions = append(it.regions, Region{off, n})
				off += n
			}
		}
	}
	if rng.IntN(4) == 0 {
		it.h.Xattrs = map[string][]byte{}
		room := blockSize - 100
		for range rng.IntN(6) {
			value := bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(1<<rng.IntN(10)))
			key := []string{"trusted.", "security."}[rng.IntN(2)] + strings.Repeat("k", 1+rng.IntN(40))
			if room -= len(value) + 64; room < 0 {
				break
			}
			it.h.Xattrs[key] = value
		}
	}
	return it
}
