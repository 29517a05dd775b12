package ext4

import (
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

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err error, no unix.Errno) {
	t.Helper()
	if !unixIs(err, no) {
		t.Fatalf("error %v, want %v", err, no)
	}
}

// copyIn writes a host directory into the filesystem through the engine.
func copyIn(t testing.TB, fs *FS, root string) {
	t.Helper()
	links := map[uint64]*Inode{}
	dirs := map[string]*Inode{}
	dirs["."] = must(fs.Root())
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var n *Inode
		if rel == "." {
			n = dirs["."]
			n.Ref()
		} else {
			dir, name := dirs[filepath.Dir(rel)], filepath.Base(rel)
			if old := links[st.Ino]; old != nil {
				return dir.Link(name, old)
			}
			m := NewInode{Mode: uint16(st.Mode), UID: st.Uid, GID: st.Gid, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				if m.Target, err = os.Readlink(path); err != nil {
					return err
				}
			}
			if n, err = dir.Create(name, m); err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			dirs[rel] = n
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for off := 0; off < len(data); { // holes stay holes
				c := min(40960-off%40960, len(data)-off)
				if strings.Trim(string(data[off:off+c]), "\x00") != "" {
					if _, err := n.WriteAt(data[off:off+c], int64(off)); err != nil {
						return fmt.Errorf("%s at %d: %w", rel, off, err)
					}
				}
				off += c
			}
			if err := n.Truncate(int64(len(data))); err != nil {
				return err
			}
		}
		list := make([]byte, 65536)
		c, err := unix.Llistxattr(path, list)
		if err != nil {
			return err
		}
		for _, name := range strings.Split(strings.TrimRight(string(list[:c]), "\x00"), "\x00") {
			if name == "" {
				continue
			}
			v := make([]byte, 65536)
			c, err := unix.Lgetxattr(path, name, v)
			if err != nil {
				return err
			}
			if err := n.SetXattr(name, v[:c], XattrFlags{}); err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			links[st.Ino] = n
			return nil
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return setTimes(n, st)
		}
		return nil
	})
	check(t, err)
	for rel, n := range dirs {
		var st unix.Stat_t
		check(t, unix.Lstat(filepath.Join(root, rel), &st))
		check(t, n.SetAttr(AttrMode|AttrUID|AttrGID, Attr{Mode: uint16(st.Mode), UID: st.Uid, GID: st.Gid}))
		check(t, setTimes(n, st))
		check(t, n.Put())
	}
	for ino, n := range links {
		_ = ino
		check(t, n.Put())
	}
}

func setTimes(n *Inode, st unix.Stat_t) error {
	return n.SetAttr(AttrMtime|AttrAtime, Attr{
		Mtime: Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
		Atime: Time{Sec: st.Atim.Sec, Nsec: uint32(st.Atim.Nsec)},
	})
}

// What the engine writes in every form is found clean by e2fsck and read by the host's
// kernel as it was.
func TestWriteForms(t *testing.T) {
	needRoot(t)
	tree := t.TempDir()
	makeTree(t, tree)
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			image := makeImage(t, 96<<20, f.args...)
			fs := openFS(t, image, Options{})
			copyIn(t, fs, tree)
			mine := engineTree(t, fs)
			closeFS(t, fs)
			fsck(t, image)
			fs = openFS(t, image, Options{ReadOnly: true, NoWrite: true})
			sameTrees(t, "opened again", engineTree(t, fs), mine)
			m, umount := mount(t, image, "ro")
			got := hostTree(t, m)
			umount()
			sameTrees(t, "by the kernel", got, mine)

			// And all of it goes again.
			fs = openFS(t, image, Options{})
			root := must(fs.Root())
			free := fs.Statfs()
			removeAll(t, root)
			check(t, root.Put())
			if now := fs.Statfs(); now.Free <= free.Free || now.FilesFree <= free.FilesFree {
				t.Errorf("removing everything: %+v, before %+v", now, free)
			}
			closeFS(t, fs)
			fsck(t, image)
		})
	}
}

func removeAll(t testing.TB, dir *Inode) {
	t.Helper()
	for _, e := range readDir(t, dir) {
		if e.Name == "." || e.Name == ".." || e.Name == "lost+found" {
			continue
		}
		n, err := dir.Lookup(e.Name)
		check(t, err)
		if n.Attr().Mode&format.ModeType == format.ModeDir {
			removeAll(t, n)
			check(t, n.Put())
			check(t, dir.Rmdir(e.Name))
		} else {
			check(t, n.Put())
			check(t, dir.Unlink(e.Name))
		}
	}
}

// A file's bytes after random writes, truncates, punches, zeroes and allocations are
// those of a slice under the same.
func TestFileModel(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			image := makeImage(t, 32<<20, f.args...)
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			n := must(root.Create("f", NewInode{Mode: format.ModeRegular | 0o644}))
			r := rand.New(rand.NewPCG(7, uint64(len(f.name))))
			var model []byte
			const limit = 3 << 20
			grow := func(end int) {
				if end > len(model) {
					model = append(model, make([]byte, end-len(model))...)
				}
			}
			for i := range 1500 {
				off := r.IntN(limit)
				length := 1 + r.IntN(1<<(4+r.IntN(14)))
				if r.IntN(3) == 0 {
					off, length = off&^4095, (length+4095)&^4095
				}
				op := r.IntN(14)
				var err error
				switch {
				case op < 6:
					p := make([]byte, length)
					for k := range p {
						p[k] = byte(i) | 1
					}
					grow(off + length)
					copy(model[off:], p)
					_, err = n.WriteAt(p, int64(off))
				case op == 6:
					if off < len(model) {
						model = model[:off]
					}
					grow(off)
					err = n.Truncate(int64(off))
				case op == 7:
					if off < len(model) {
						clear(model[off:min(off+length, len(model))])
					}
					err = n.Punch(int64(off), int64(length))
				case op == 8 && n.extents():
					grow(off + length)
					clear(model[off : off+length])
					err = n.Zero(int64(off), int64(length), false)
				case (op == 8 || op == 9) && !n.extents():
					// Blocks behind the end that hold nothing yet cannot be told.
					for _, keep := range []bool{false, true} {
						if e := n.Zero(int64(off), int64(length), keep); !errors.Is(e, unix.EOPNOTSUPP) {
							t.Fatalf("step %d: zero range without extents: %v", i, e)
						}
						if e := n.Fallocate(int64(off), int64(length), keep); !errors.Is(e, unix.EOPNOTSUPP) {
							t.Fatalf("step %d: fallocate without extents: %v", i, e)
						}
					}
				case op == 9 && n.extents():
					keep := r.IntN(2) == 0
					if !keep {
						grow(off + length)
					}
					err = n.Fallocate(int64(off), int64(length), keep)
				case op >= 12:
					off, length = off&^(fs.bs-1), (length+fs.bs-1)&^(fs.bs-1)
					err = shiftModel(n, op == 12, off, length, &model)
				case op == 10:
					err = placeData(n, off&^(fs.bs-1), fs.bs*(1+r.IntN(5)), byte(i)|1, &model)
				default:
					got := make([]byte, length)
					c, _ := n.ReadAt(got, int64(off))
					want := []byte{}
					if off < len(model) {
						want = model[off:min(off+length, len(model))]
					}
					if string(got[:c]) != string(want) {
						t.Fatalf("step %d: read %d+%d differs", i, off, length)
					}
				}
				if err != nil {
					t.Fatalf("step %d: op %d: %v", i, op, err)
				}
				if i%50 == 0 {
					check(t, n.Sync(i%100 == 0))
				}
				if i%500 == 499 {
					sameFile(t, n, model)
					check(t, n.Put())
					check(t, root.Put())
					closeFS(t, fs)
					fsck(t, image)
					fs = openFS(t, image, Options{})
					root = must(fs.Root())
					n = must(root.Lookup("f"))
					sameFile(t, n, model)
				}
			}
			check(t, n.Put())
			check(t, root.Put())
			closeFS(t, fs)
			fsck(t, image)
		})
	}
}

// placeData writes as a page cache does: Allocate, write to where Map says, SetSize,
// MarkWritten.
func placeData(n *Inode, off, length int, c byte, model *[]byte) error {
	if err := n.Allocate(int64(off), int64(length)); err != nil {
		return err
	}
	p := make([]byte, length)
	for i := range p {
		p[i] = c
	}
	var werr error
	err := n.Map(int64(off), int64(length), func(e Extent) bool {
		lo, hi := max(e.Offset, int64(off)), min(e.Offset+e.Length, int64(off+length))
		if e.State == Hole {
			werr = fmt.Errorf("hole at %d after Allocate", lo)
			return false
		}
		_, werr = n.fs.dev.WriteAt(p[lo-int64(off):hi-int64(off)], e.Disk+lo-e.Offset)
		return werr == nil
	})
	if err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	if end := off + length; end > len(*model) {
		*model = append(*model, make([]byte, end-len(*model))...)
		if err := n.SetSize(int64(end)); err != nil {
			return err
		}
	}
	copy((*model)[off:], p)
	return n.MarkWritten(int64(off), int64(length))
}

func sameFile(t testing.TB, n *Inode, want []byte) {
	t.Helper()
	if got := n.Attr().Size; got != int64(len(want)) {
		t.Fatalf("size %d, want %d", got, len(want))
	}
	got := make([]byte, len(want))
	if c, err := n.ReadAt(got, 0); err != nil || c != len(want) {
		if len(want) > 0 {
			t.Fatalf("read %d of %d: %v", c, len(want), err)
		}
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

// TestFlagsThatSayHowDataLies sees that no change of attributes makes extents of block
// numbers or the other way round.
func TestFlagsThatSayHowDataLies(t *testing.T) {
	for _, args := range [][]string{{"-t", "ext4"}, {"-t", "ext4", "-O", "^extent,^64bit"}} {
		image := makeImage(t, 16<<20, args...)
		fs := openFS(t, image, Options{})
		root := must(fs.Root())
		n := must(root.Create("f", NewInode{Mode: format.ModeRegular | 0o644}))
		must(n.WriteAt([]byte("content"), 100_000))
		a := n.Attr()
		before := a.Flags
		a.Flags ^= format.FlagExtents | format.FlagEOFBlocks | format.FlagCasefold | format.FlagHugeFile | format.FlagNoDump
		check(t, n.SetAttr(AttrFlags, a))
		if got := n.Attr().Flags; got != before^format.FlagNoDump {
			t.Errorf("mke2fs %q: flags %#x, want %#x", args, got, before^format.FlagNoDump)
		}
		check(t, n.Put())
		check(t, root.Put())
		closeFS(t, fs)
		fsck(t, image)
	}
}
