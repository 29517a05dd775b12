package ext4

import (
	"fmt"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
)

// usage is the part of e2fsck that can be done a thousand times in a second: every block
// and every inode in use belongs to somebody, once, and the counts are right. It knows
// the filesystem's own blocks from the fresh image.
type usage struct {
	own map[uint64]bool // blocks in use that no file has
}

// usageOf learns a fresh image.
func usageOf(t testing.TB, image []byte) *usage {
	fs, err := Open(&memory{base: image, pages: map[int64][]byte{}}, Options{ReadOnly: true, NoWrite: true})
	check(t, err)
	u := &usage{own: map[uint64]bool{}}
	files, _, err := u.files(fs)
	check(t, err)
	check(t, u.eachBlock(fs, func(nr uint64, used bool) error {
		if used && files[nr] == 0 {
			u.own[nr] = true
		}
		return nil
	}))
	return u
}

func (u *usage) eachBlock(fs *FS, f func(nr uint64, used bool) error) error {
	for g := range uint32(len(*fs.groups.Load())) {
		gr := fs.group(g)
		gr.mu.Lock()
		b, err := fs.blockBitmap(g)
		gr.mu.Unlock()
		if err != nil {
			return err
		}
		for i := range uint32(fs.groupBlocks(g)) {
			if err := f(fs.groupStart(g)+uint64(i), b.data[i/8]>>(i%8)&1 != 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// blocks calls f for every block of an inode.
func (n *Inode) everyBlock(f func(nr uint64) error) error {
	if a := n.d.FileACL; a != 0 {
		if err := f(a); err != nil {
			return err
		}
	}
	if !n.hasBlocks() {
		return nil
	}
	if !n.extents() {
		var down func(nr uint64, depth int) error
		down = func(nr uint64, depth int) error {
			if nr == 0 {
				return nil
			}
			if err := f(nr); err != nil || depth == 0 {
				return err
			}
			b, err := n.indirectBlock(nr)
			if err != nil {
				return err
			}
			for i := 0; i < len(b.data); i += 4 {
				if err := down(uint64(le.Uint32(b.data[i:])), depth-1); err != nil {
					return err
				}
			}
			return nil
		}
		for i := range 15 {
			if err := down(uint64(le.Uint32(n.d.Block[4*i:])), max(i-format.DirectBlocks+1, 0)); err != nil {
				return err
			}
		}
		return nil
	}
	var down func(e enode) error
	down = func(e enode) error {
		for i := range e.entries() {
			if e.depth() == 0 {
				x := e.extent(i)
				for k := range uint64(x.Len) {
					if err := f(x.Start + k); err != nil {
						return err
					}
				}
				continue
			}
			c, err := n.extentChild(e, i)
			if err != nil {
				return err
			}
			if err := f(c.b.nr); err != nil {
				return err
			}
			if err := down(c); err != nil {
				return err
			}
		}
		return nil
	}
	root, err := n.extentRoot()
	if err != nil {
		return err
	}
	return down(root)
}

// files gives the blocks that files in the tree have, and how often each inode is named.
func (u *usage) files(fs *FS) (blocks map[uint64]uint32, names map[uint32]int, err error) {
	blocks, names = map[uint64]uint32{}, map[uint32]int{}
	var walk func(n *Inode) error
	walk = func(n *Inode) error {
		names[n.ino]++
		if names[n.ino] > 1 {
			if n.isDir() {
				return fmt.Errorf("directory %d has two names", n.ino)
			}
			return nil
		}
		count := int64(0)
		if err := n.everyBlock(func(nr uint64) error {
			if other := blocks[nr]; other != 0 || u.own[nr] {
				return fmt.Errorf("block %d of inode %d belongs to %d", nr, n.ino, other)
			}
			blocks[nr] = n.ino
			count++
			return nil
		}); err != nil {
			return err
		}
		if got := n.sectors(); got != count*int64(fs.bs/512) {
			return fmt.Errorf("inode %d has %d sectors by its count, %d blocks by its map", n.ino, got, count)
		}
		if !n.isDir() {
			return nil
		}
		var list []DirEntry
		if err := n.ReadDir(0, func(e DirEntry) bool { list = append(list, e); return true }); err != nil {
			return err
		}
		for _, e := range list {
			if e.Name == "." || e.Name == ".." {
				continue
			}
			c, err := fs.Inode(e.Ino)
			if err != nil {
				return err
			}
			if err := walk(c); err != nil {
				return err
			}
			c.unref()
		}
		return nil
	}
	root, err := fs.Root()
	if err != nil {
		return nil, nil, err
	}
	defer root.unref()
	return blocks, names, walk(root)
}

// check compares bitmaps and counts with what the tree holds.
func (u *usage) check(fs *FS) error {
	blocks, names, err := u.files(fs)
	if err != nil {
		return err
	}
	if err := u.eachBlock(fs, func(nr uint64, used bool) error {
		if want := u.own[nr] || blocks[nr] != 0; used != want {
			return fmt.Errorf("block %d: in use %v by the bitmap, %v by the tree (inode %d)", nr, used, want, blocks[nr])
		}
		return nil
	}); err != nil {
		return err
	}
	for ino := fs.firstIno; ino <= fs.inodes.Load(); ino++ {
		g, bit := (ino-1)/uint32(fs.ipg), (ino-1)%uint32(fs.ipg)
		fs.group(g).mu.Lock()
		b, err := fs.inodeBitmap(g)
		fs.group(g).mu.Unlock()
		if err != nil {
			return err
		}
		if used := b.data[bit/8]>>(bit%8)&1 != 0; used != (names[ino] > 0) && uint32(fs.sb.OrphanFileInum) != ino {
			return fmt.Errorf("inode %d: in use %v by the bitmap, has %d names", ino, used, names[ino])
		}
	}
	return nil
}
