package ext4

import (
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
)

// TestSyncCost holds what an fsync that brings nothing but times writes to the log: a
// descriptor, a block of the inode table and the commit. One that changes a count takes
// the superblock too.
func TestSyncCost(t *testing.T) {
	image := makeImage(t, 64<<20, "-t", "ext4")
	fs := openFS(t, image, Options{CommitEvery: time.Hour})
	root := must(fs.Root())
	f := must(root.Create("f", NewInode{Mode: format.ModeRegular | 0o644}))
	p := make([]byte, 4096)
	must(f.WriteAt(p, 0))
	check(t, f.Sync(false))
	cost := func() uint32 {
		before := fs.jnl.used()
		check(t, f.Sync(false))
		return fs.jnl.used() - before
	}
	must(f.WriteAt(p, 0))
	if n := cost(); n != 3 {
		t.Errorf("an fsync after an overwrite takes %d blocks of the log, want 3", n)
	}
	must(f.WriteAt(p, 4096)) // besides the inode: superblock, group descriptor, bitmap
	if n := cost(); n != 6 {
		t.Errorf("an fsync after an append takes %d blocks of the log, want 6", n)
	}
	check(t, f.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}
