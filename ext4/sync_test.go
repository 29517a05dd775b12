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

// A commit that comes late, with nothing left to commit, does not wait for the end of a
// freeze: what only makes sure that all is stable would wait behind it.
func TestSyncWhileFrozen(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	must(n.WriteAt(make([]byte, 5000), 0))
	check(t, fs.Freeze())
	done := make(chan error, 3)
	go func() { done <- fs.commitNow() }()
	go func() { done <- fs.Sync() }()
	go func() { done <- n.Sync(false) }()
	for range 3 {
		select {
		case err := <-done:
			check(t, err)
		case <-time.After(20 * time.Second):
			t.Error("it waits for the end of the freeze")
		}
	}
	fs.Thaw()
	must(n.WriteAt([]byte("y"), 9000))
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}
