package ext4

import (
	"fmt"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
)

// Each of these changes more blocks of metadata than most: bitmaps and descriptors of
// many groups, inodes in many blocks of the table. None of their handles puts more on
// the transaction than it said, which overdrawn watches over.
func TestRoomOfHandles(t *testing.T) {
	t.Run("long extents over small groups", func(t *testing.T) {
		image := makeImage(t, 100<<20, "-t", "ext4", "-b", "1024", "-g", "256", "-N", "5000", "-G", "512", "-m", "0",
			"-O", "sparse_super2,^resize_inode,quota", "-J", "size=1")
		fs := openFS(t, image, Options{})
		root := must(fs.Root())
		longest := uint64(0)
		for i, take := range []func(n *Inode) error{
			func(n *Inode) error { return n.Truncate(0) },
			func(n *Inode) error { return n.Collapse(1<<10, 69<<20) },
			func(n *Inode) error { return root.Unlink("f2") },
		} {
			n := must(root.Create(fmt.Sprint("f", i), regular))
			check(t, n.Fallocate(0, 70<<20, false))
			for at := uint64(0); at < 70<<10; {
				m := must(n.mapBlock(at))
				at += m.count
				longest = max(longest, m.count)
			}
			check(t, take(n))
			check(t, n.Put())
			check(t, fs.Sync())
		}
		if longest < 32000 {
			t.Errorf("the longest extent has %d blocks: the test proves little", longest)
		}
		check(t, root.Put())
		closeFS(t, fs)
		fsckQuota(t, image)
	})
	t.Run("a value in pieces", func(t *testing.T) {
		image := makeImage(t, 24<<20, "-t", "ext4", "-b", "1024", "-g", "256", "-N", "5000", "-m", "0", "-O", "ea_inode,quota", "-J", "size=1")
		fs := openFS(t, image, Options{})
		root := must(fs.Root())
		fill := must(root.Create("fill", regular))
		n := must(root.Create("f", regular))
		check(t, fill.Fallocate(0, int64(fs.freeBlocks.Load()-4)<<10, false))
		check(t, fs.Sync())
		for at, group := uint64(0), uint32(0); at < fill.mapped(t); at++ { // a block of every group
			if g, _ := fs.locate(must(fill.mapBlock(at)).disk); g != group {
				group = g
				check(t, fill.Punch(int64(at)<<10, 1<<10))
			}
		}
		check(t, fs.Sync())
		check(t, n.SetXattr("user.v", value(1, 60<<10), XattrFlags{}))
		check(t, fs.Sync())
		check(t, root.Unlink("f"))
		for _, n := range []*Inode{n, fill, root} {
			check(t, n.Put())
		}
		closeFS(t, fs)
		fsckQuota(t, image)
	})
	t.Run("many values", func(t *testing.T) {
		image := makeImage(t, 64<<20, "-t", "ext4", "-b", "4096", "-N", "8000", "-O", "ea_inode,quota", "-J", "size=4")
		fs := openFS(t, image, Options{})
		root := must(fs.Root())
		n := must(root.Create("f", regular))
		for i := range 160 {
			check(t, n.SetXattr(fmt.Sprintf("user.%c%c", 'a'+i%20, 'a'+i/20), value(i, 3900+i), XattrFlags{}))
			for k := range 16 { // the next value's inode lies in another block
				check(t, must(root.Create(fmt.Sprint("between", i, k), NewInode{Mode: format.ModeFIFO})).Put())
			}
		}
		check(t, fs.Sync())
		check(t, root.Unlink("f"))
		check(t, n.Put())
		check(t, root.Put())
		closeFS(t, fs)
		fsckQuota(t, image)
	})
}

// mapped is the number of blocks of a file up to its size.
func (n *Inode) mapped(t testing.TB) uint64 {
	t.Helper()
	return uint64(n.Attr().Size) >> n.fs.bsBits
}
