package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

// scatter fills a filesystem with files of all kinds whose inodes and blocks lie up to its
// end: what was before them is removed again.
func scatter(t testing.TB, fs *FS) {
	t.Helper()
	root := must(fs.Root())
	filler := must(root.Create("filler", NewInode{Mode: format.ModeRegular | 0o644}))
	room := int64(fs.Statfs().Available) * int64(fs.bs) * 6 / 10
	step := int64(8 << 20)
	if !filler.extents() { // written in parts that leave gaps, for they cannot be unwritten
		for off := int64(0); off < room/4; off += step {
			must(filler.WriteAt(make([]byte, 1<<20), off))
		}
	} else {
		check(t, filler.Fallocate(0, room, true))
	}
	for d := range 24 { // the allocator spreads directories of the root over the groups
		dir := must(root.Create(fmt.Sprintf("dir-%d", d), NewInode{Mode: format.ModeDir | 0o755}))
		for i := range 12 {
			n := must(dir.Create(fmt.Sprintf("file-with-a-long-name-%d", i), NewInode{Mode: format.ModeRegular | 0o640, UID: uint32(i)}))
			must(n.WriteAt(bytes.Repeat([]byte{byte(d), byte(i), 7}, 1000*(i+1)), 0))
			check(t, n.SetXattr("user.large", bytes.Repeat([]byte{byte(i % 3)}, 500), XattrFlags{}))
			if i%4 == 0 {
				check(t, root.Link(fmt.Sprintf("hard-%d-%d", d, i), n))
			}
			check(t, n.Put())
		}
		sub := must(dir.Create("sub", NewInode{Mode: format.ModeDir | 0o700}))
		for i := range 3 {
			check(t, must(sub.Create(fmt.Sprint("below", i), NewInode{Mode: format.ModeDir | 0o700})).Put())
		}
		check(t, must(sub.Create("slow", NewInode{Mode: format.ModeSymlink | 0o777, Target: string(bytes.Repeat([]byte("t"), 200))})).Put())
		check(t, sub.Put())
		if d%6 == 5 { // an htree, and a file whose map has blocks of its own
			for i := range 400 {
				check(t, must(dir.Create(fmt.Sprintf("one-of-many-names-that-fill-blocks-%d", i), NewInode{Mode: format.ModeFIFO | 0o600})).Put())
			}
			n := must(dir.Create("sparse", NewInode{Mode: format.ModeRegular | 0o600}))
			for i := range 400 {
				must(n.WriteAt([]byte(fmt.Sprint("part ", i)), int64(i)*int64(3*fs.bs)))
			}
			check(t, n.Put())
		}
		check(t, dir.Put())
	}
	check(t, filler.Put())
	check(t, root.Unlink("filler"))
	check(t, root.Put())
}

func TestShrink(t *testing.T) {
	for _, f := range forms {
		if !resizeForms[f.name] && os.Getenv("UMLKIT_NIGHTLY") == "" {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			size := int64(100 << 20)
			if bytes.Contains([]byte(fmt.Sprint(f.args)), []byte("4096")) {
				size = 700 << 20
			}
			image := makeImage(t, size, f.args...)
			fs := openFS(t, image, Options{})
			scatter(t, fs)
			closeFS(t, fs)
			fsck(t, image)
			var all Moved
			for _, to := range []int64{size*6/10 + 4096*9, size * 4 / 10, 0} {
				peer := image + ".peer"
				tool(t, "cp", "--sparse=always", image, peer)
				fs := openFS(t, image, Options{Log: lentTo(t, image, f.name)})
				before := engineTree(t, fs)
				blocks := uint64(to) >> fs.bsBits
				if to == 0 {
					blocks = must(fs.Least())
				}
				moved, err := fs.Shrink(t.Context(), blocks)
				check(t, err)
				t.Logf("to %d blocks: moved %d blocks and %d inodes", blocks, moved.Blocks, moved.Inodes)
				all.Blocks, all.Inodes = all.Blocks+moved.Blocks, all.Inodes+moved.Inodes
				sameTrees(t, "after shrinking", engineTree(t, fs), before)
				end := int64(fs.blocks.Load()) << fs.bsBits
				closeFS(t, fs)
				check(t, os.Truncate(image, end))
				fsck(t, image)
				fs = openFS(t, image, Options{})
				sameTrees(t, "after opening again", engineTree(t, fs), before)
				if to == 0 {
					var small *TooSmallError
					if _, err := fs.Shrink(t.Context(), blocks/2); !errors.As(err, &small) || small.Least > blocks+64 {
						t.Errorf("half of the least: %v", err)
					}
				}
				closeFS(t, fs)
				if to != 0 {
					tool(t, "resize2fs", "-f", peer, fmt.Sprintf("%dK", end>>10))
					sameDump(t, dump(t, image), dump(t, peer))
				} else {
					tool(t, "resize2fs", "-f", "-M", peer)
					t.Logf("minimum %d, resize2fs -M makes %s", blocks, dump(t, peer)["Block count"])
				}
				check(t, os.Remove(peer))
			}
			if all.Blocks == 0 || all.Inodes == 0 {
				t.Errorf("moved %+v: the test proves little", all)
			}
			if os.Geteuid() == 0 {
				dir := oracle.Mount(t, image, "")
				check(t, os.RemoveAll(dir+"/dir-3"))
				check(t, os.Chmod(dir+"/dir-4", 0o711))
				oracle.Unmount(t, dir)
				fsck(t, image)
			}
		})
	}
}

// TestShrinkQuota moves quota files, whose blocks are metadata, and goes on working with
// them: e2fsck counts the same usage. Where inodes of values of attributes would have to
// move, too, it refuses.
func TestShrinkQuota(t *testing.T) {
	for _, values := range []bool{false, true} {
		t.Run(fmt.Sprintf("values=%v", values), func(t *testing.T) {
			image := makeImage(t, 300<<20, "-t", "ext4", "-b", "1024", "-O", "quota,project,ea_inode", "-E", "quotatype=usrquota:grpquota:prjquota")
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			fillUpTo(t, fs, root, 200<<20)
			work := func(seed uint32) {
				for i := range uint32(200) {
					n, err := root.Create(fmt.Sprint("of ", i), regular)
					if unixIs(err, unix.EEXIST) {
						n, err = root.Lookup(fmt.Sprint("of ", i))
					}
					check(t, err)
					must(n.WriteAt(make([]byte, 1000+seed), int64(seed)))
					if values {
						check(t, n.SetXattr("user.large", bytes.Repeat([]byte{byte(i + seed)}, 3000), XattrFlags{}))
					}
					check(t, n.SetAttr(AttrUID|AttrGID|AttrProject, Attr{UID: i * 7919 * seed, GID: i << 16, Project: i + seed}))
					check(t, n.Put())
				}
			}
			work(1)
			moving := 0 // blocks of quota files in the part that goes
			for _, q := range fs.quotas.files {
				for b := range q.n.d.Size >> fs.bsBits {
					if m := must(q.n.mapBlock(b)); m.state == Written && m.disk > 100<<10 {
						moving++
					}
				}
			}
			if moving == 0 {
				t.Fatal("no quota file has to move: the test proves nothing")
			}
			check(t, root.Unlink("filler"))
			check(t, fs.Sync())
			_, err := fs.Shrink(t.Context(), 100<<10)
			if values {
				wantErr(t, err, unix.EOPNOTSUPP)
			} else {
				check(t, err)
			}
			work(2)
			check(t, root.Put())
			size := int64(fs.blocks.Load()) << fs.bsBits
			closeFS(t, fs)
			check(t, os.Truncate(image, size))
			fsckQuota(t, image)
		})
	}
}

// fillUpTo makes a file, filler, that takes all that is free before a place on the disk.
func fillUpTo(t testing.TB, fs *FS, root *Inode, place int64) {
	t.Helper()
	filler := must(root.Create("filler", regular))
	free := int64(fs.Statfs().Available) << fs.bsBits
	check(t, filler.Fallocate(0, free, true))
	var behind []Extent
	check(t, filler.Map(0, free, func(e Extent) bool {
		if e.State != Hole && e.Disk > place {
			behind = append(behind, e)
		}
		return true
	}))
	for _, e := range behind {
		check(t, filler.Punch(e.Offset, e.Length))
	}
	check(t, filler.Put())
	check(t, fs.Sync())
}

// TestShrinkRefuses holds what cannot shrink, and that it stays as it was.
func TestShrinkRefuses(t *testing.T) {
	image := makeImage(t, 40<<20, "-t", "ext4", "-b", "1024")
	bad := image + ".bad"
	check(t, os.WriteFile(bad, []byte("30000\n"), 0o644))
	out := tool(t, "sh", "-c", "e2fsck -fy -l '"+bad+"' '"+image+"' || test $? = 1")
	fs := openFS(t, image, Options{})
	if _, err := fs.Shrink(t.Context(), 20000); err == nil || !strings.Contains(err.Error(), "bad blocks") {
		t.Errorf("with bad blocks: %v\n%s", err, out)
	}
	if err := fs.Grow(20000); !errors.Is(err, unix.EINVAL) {
		t.Errorf("growing to less: %v", err)
	}
	if _, err := fs.Shrink(t.Context(), 50000); !errors.Is(err, unix.EINVAL) {
		t.Errorf("shrinking to more: %v", err)
	}
	if err := fs.Grow(50000); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("growing beyond the disk: %v", err)
	}
	closeFS(t, fs)
	fsck(t, image)

	image = makeImage(t, 40<<20, "-t", "ext4", "-b", "1024")
	tool(t, "debugfs", "-w", "-R", "set_super_value state 3", image)
	fs = openFS(t, image, Options{})
	if _, err := fs.Shrink(t.Context(), 20000); !errors.Is(err, unix.EPERM) {
		t.Errorf("with errors: %v", err)
	}
	closeFS(t, fs)
	fs = openFS(t, image, Options{ReadOnly: true})
	if _, err := fs.Shrink(t.Context(), 20000); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only: %v", err)
	}
	closeFS(t, fs)

	image = makeImage(t, 60<<20, "-t", "ext4", "-b", "1024")
	ctx, cancel := context.WithCancel(t.Context())
	fs = openFS(t, image, Options{})
	scatter(t, fs)
	before := engineTree(t, fs)
	cancel()
	if _, err := fs.Shrink(ctx, 30000); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	sameTrees(t, "after an interruption", engineTree(t, fs), before)
	closeFS(t, fs)
	fsck(t, image)
}
