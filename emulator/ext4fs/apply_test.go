package ext4fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// countingDisk counts what the engine asks of an image beside reading and writing.
type countingDisk struct {
	*os.File
	size         int64
	syncs, trims atomic.Int64
}

func (d *countingDisk) Size() int64             { return d.size }
func (d *countingDisk) Sync() error             { d.syncs.Add(1); return nil }
func (d *countingDisk) Trim(off, n int64) error { d.trims.Add(1); return nil }

// TestOptionsReachTheEngine holds that options do what they say, given with the mount, in
// a remount or by the superblock, and do it no more when they are taken back.
func TestOptionsReachTheEngine(t *testing.T) {
	const size = 16 << 20
	for _, c := range []struct {
		super, first, then string
	}{
		{"", "nobarrier,discard,max_dir_size_kb=8", "barrier,nodiscard,max_dir_size_kb=0"},
		{"", "barrier=0,discard,max_dir_size_kb=8", "barrier=1,nodiscard,max_dir_size_kb=0"},
		{"nobarrier,discard", "max_dir_size_kb=8", "barrier,nodiscard,max_dir_size_kb=0"},
	} {
		image := filepath.Join(t.TempDir(), "disk.img")
		oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", image, fmt.Sprint(size/1024))
		if c.super != "" {
			oracle.Run(t, "tune2fs", "-o", c.super, image)
		}
		f, err := os.OpenFile(image, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		disk := &countingDisk{File: f, size: size}
		engine, err := ext4.Open(disk, ext4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		fs := &filesystem{engine: engine}
		root, err := engine.Root()
		if err != nil {
			t.Fatal(err)
		}
		// work says how often the disk was made stable and was given space back, and
		// whether a directory grew over 8 KiB.
		work := func() (syncs, trims int64, large bool) {
			t.Helper()
			disk.syncs.Store(0)
			disk.trims.Store(0)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			dir, err := root.Create("dir", ext4.NewInode{Mode: format.ModeDir | 0o755})
			must(err)
			made := 0
			for ; err == nil && made < 1000; made++ {
				var n *ext4.Inode
				if n, err = dir.Create(fmt.Sprint("name-", made), ext4.NewInode{Mode: format.ModeRegular | 0o644}); err == nil {
					_, err = n.WriteAt(make([]byte, 2000), 0)
					err = errors.Join(err, n.Put())
				}
			}
			large = err == nil
			if !large {
				made--
				if !errors.Is(err, unix.ENOSPC) {
					t.Fatal(err)
				}
			}
			must(engine.Sync())
			for i := range made {
				must(dir.Unlink(fmt.Sprint("name-", i)))
			}
			must(dir.Put())
			must(root.Rmdir("dir"))
			must(engine.Sync())
			return disk.syncs.Load(), disk.trims.Load(), large
		}
		var o *options
		for i, data := range []string{c.first, c.then} {
			base := o
			if base == nil {
				base = defaultOptions(engine.Info())
			}
			if o, err = parseOptions(data, base); err != nil {
				t.Fatal(err)
			}
			fs.apply(o)
			syncs, trims, large := work()
			if back := i == 1; (syncs > 0) != back || (trims == 0) != back || large != back {
				t.Errorf("superblock %q, options %q: %d syncs, %d trims, a large directory: %v", c.super, data, syncs, trims, large)
			}
		}
		if err := errors.Join(root.Put(), engine.Close()); err != nil {
			t.Fatal(err)
		}
		oracle.Fsck(t, image)
	}
}
