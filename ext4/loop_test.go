package ext4

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Structures that lead back to themselves are found, and every operation on them ends.
func TestLoopsEnd(t *testing.T) {
	super := func(d *memory, change func(s *format.Superblock)) {
		raw := make([]byte, format.SuperblockSize)
		must(d.ReadAt(raw, format.SuperblockOffset))
		var s format.Superblock
		check(t, s.Decode(raw))
		change(&s)
		check(t, s.Encode(raw))
		must(d.WriteAt(raw, format.SuperblockOffset))
	}
	// change edits an inode on disk.
	change := func(d *memory, fs *FS, n *Inode, f func(di *format.Inode)) {
		block, off, _ := fs.inodePlace(n.ino)
		at := int64(block)<<fs.bsBits + int64(off)
		raw := make([]byte, fs.inodeSize)
		must(d.ReadAt(raw, at))
		var di format.Inode
		check(t, di.Decode(raw))
		f(&di)
		check(t, di.Encode(raw))
		if fs.csum {
			format.SetInodeChecksum(n.iseed, raw)
		}
		must(d.WriteAt(raw, at))
	}
	edit := func(d *memory, fs *FS, nr uint64, f func(b []byte)) {
		b := make([]byte, fs.bs)
		must(d.ReadAt(b, int64(nr)<<fs.bsBits))
		f(b)
		must(d.WriteAt(b, int64(nr)<<fs.bsBits))
	}
	read := func(fs *FS, name string, off int64) error {
		n, err := must(fs.Root()).Lookup(name)
		if err != nil {
			return err
		}
		_, err = n.ReadAt(make([]byte, 10), off)
		return err
	}
	for _, c := range []struct {
		what, form string
		damage     func(d *memory, fs *FS, root *Inode)
		find       func(fs *FS) error
	}{
		{"extent node in itself", "32bit", func(d *memory, fs *FS, root *Inode) {
			n := must(root.Lookup("many-extents"))
			e := must(n.extentRoot())
			nr := e.index(0).Leaf
			change(d, fs, n, func(di *format.Inode) { le.PutUint16(di.Block[6:], 2) })
			edit(d, fs, nr, func(b []byte) {
				le.PutUint16(b[6:], 1)
				for i := range int(le.Uint16(b[2:])) {
					x := format.ExtentIndex{Block: uint32(i), Leaf: nr}
					_ = x.Encode(b[format.ExtentHeaderSize+i*format.ExtentSize:])
				}
				format.SetExtentChecksum(n.iseed, b)
			})
		}, func(fs *FS) error { return read(fs, "many-extents", 0) }},
		{"indirect block in itself", "ext3", func(d *memory, fs *FS, root *Inode) {
			n := must(root.Lookup("many-extents"))
			nr := le.Uint32(n.d.Block[48:])
			change(d, fs, n, func(di *format.Inode) {
				di.Size = 1 << 33
				for i := 12; i < 15; i++ {
					le.PutUint32(di.Block[4*i:], nr)
				}
			})
			edit(d, fs, uint64(nr), func(b []byte) {
				for i := 0; i < len(b); i += 4 {
					le.PutUint32(b[i:], nr)
				}
			})
		}, nil},
		{"htree leaf that is the root", "32bit", func(d *memory, fs *FS, root *Inode) {
			n := must(root.Lookup("dir"))
			edit(d, fs, must(n.mapBlock(0)).disk, func(b []byte) {
				for i := range int(le.Uint16(b[format.DxRootEntries+2:])) {
					le.PutUint32(b[format.DxRootEntries+8*i+4:], 0)
				}
				format.SetDxChecksum(n.iseed, b, format.DxRootEntries)
			})
		}, func(fs *FS) error {
			_, err := must(must(fs.Root()).Lookup("dir")).Lookup("name-3-xxx")
			return err
		}},
		{"htree index that is the root", "32bit", func(d *memory, fs *FS, root *Inode) {
			n := must(root.Lookup("dir"))
			edit(d, fs, must(n.mapBlock(0)).disk, func(b []byte) {
				b[format.DxRootInfoOffset+6] = 1
				le.PutUint32(b[format.DxRootEntries+4:], 0)
				format.SetDxChecksum(n.iseed, b, format.DxRootEntries)
			})
		}, func(fs *FS) error {
			_, err := must(must(fs.Root()).Lookup("dir")).Lookup("name-3-xxx")
			return err
		}},
		{"directory above itself", "ext3", func(d *memory, fs *FS, root *Inode) {
			n := must(root.Lookup("small"))
			edit(d, fs, must(n.mapBlock(0)).disk, func(b []byte) { le.PutUint32(b[12:], n.ino) })
		}, func(fs *FS) error {
			root := must(fs.Root())
			return fs.Rename(must(root.Lookup("small")), "one", must(root.Lookup("dir")), "elsewhere", RenameFlags{})
		}},
		{"two directories above each other", "ext3", func(d *memory, fs *FS, root *Inode) {
			a, b := must(root.Lookup("small")), must(root.Lookup("dir"))
			edit(d, fs, must(a.mapBlock(0)).disk, func(p []byte) { le.PutUint32(p[12:], b.ino) })
			edit(d, fs, must(b.mapBlock(0)).disk, func(p []byte) { le.PutUint32(p[12:], a.ino) })
		}, func(fs *FS) error {
			root := must(fs.Root())
			return fs.Rename(must(root.Lookup("small")), "one", root, "elsewhere", RenameFlags{})
		}},
		{"orphan list in a circle", "32bit", func(d *memory, fs *FS, root *Inode) {
			a, b := must(root.Lookup("file")), must(root.Lookup("slow"))
			change(d, fs, a, func(di *format.Inode) { di.Dtime = b.ino })
			change(d, fs, b, func(di *format.Inode) { di.Dtime = a.ino })
			super(d, func(s *format.Superblock) { s.LastOrphan = a.ino })
		}, func(fs *FS) error {
			if fs.Info().ErrorCount == 0 {
				return nil
			}
			return unix.EUCLEAN
		}},
		{"attribute block with entries over its values", "32bit", func(d *memory, fs *FS, root *Inode) {
			n := must(root.Lookup("file"))
			nr := n.d.FileACL
			edit(d, fs, nr, func(b []byte) {
				for off := format.XattrHeaderSize; off+20 < len(b); off += 16 {
					copy(b[off:], []byte{0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
				}
				le.PutUint32(b[0x10:], format.XattrBlockChecksum(fs.seed, nr, b))
			})
		}, func(fs *FS) error {
			_, err := must(must(fs.Root()).Lookup("file")).Xattrs()
			return err
		}},
	} {
		t.Run(strings.ReplaceAll(c.what, " ", "-"), func(t *testing.T) {
			v := getVictim(t, c.form)
			d := &memory{base: v.clean, pages: map[int64][]byte{}}
			fs, err := Open(d, Options{ReadOnly: true, NoWrite: true})
			check(t, err)
			c.damage(d, fs, must(fs.Root()))
			timer := time.AfterFunc(time.Minute, func() { panic("no end: " + c.what) })
			defer timer.Stop()
			if c.find != nil {
				fs, err := Open(&memory{base: d.whole(), pages: map[int64][]byte{}}, Options{Errors: ErrorsContinue})
				check(t, err)
				if err := c.find(fs); !unixIs(err, unix.EUCLEAN) {
					t.Errorf("not found: %v", err)
				}
			}
			exercise(d)
		})
	}
}

// What a superblock claims takes no more memory than the disk can justify.
func TestClaimsTakeNoMemory(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext2", "-b", "1024")
	for _, c := range []struct {
		what   string
		change func(s *format.Superblock)
	}{
		{"blocks", func(s *format.Superblock) { s.BlocksCountLo = 1 << 31 }},
		{"groups", func(s *format.Superblock) { s.BlocksPerGroup = 64 }},
		{"inodes", func(s *format.Superblock) { s.InodesCount = 1 << 31 }},
		{"inodes per group", func(s *format.Superblock) { s.InodesPerGroup = 8192 * 8 }},
		{"reserved descriptors", func(s *format.Superblock) { s.ReservedGDTBlocks = 65535 }},
	} {
		d := &memory{base: must(os.ReadFile(image)), pages: map[int64][]byte{}}
		var s format.Superblock
		check(t, s.Decode(d.base[format.SuperblockOffset:]))
		c.change(&s)
		bad := make([]byte, format.SuperblockSize)
		check(t, s.Encode(bad))
		must(d.WriteAt(bad, format.SuperblockOffset))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		fs, err := Open(d, Options{ReadOnly: true, NoWrite: true})
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
			t.Errorf("%s: opening took %d bytes", c.what, took)
		}
		if err == nil {
			check(t, fs.Close())
		}
	}
}
