package ext4

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// syncCounter counts what the engine asks a device to make stable.
type syncCounter struct {
	*fileDevice
	syncs atomic.Int64
}

func (d *syncCounter) Sync() error {
	d.syncs.Add(1)
	return nil
}

// Without barriers a commit syncs nothing; going read-only and closing do.
func TestBarrier(t *testing.T) {
	for _, form := range [][]string{{"-t", "ext4"}, {"-t", "ext2"}} {
		image := makeImage(t, 16<<20, form...)
		d := &syncCounter{fileDevice: openDevice(t, image)}
		fs, err := Open(d, Options{NoBarrier: true, Logf: t.Logf})
		check(t, err)
		root := must(fs.Root())
		work := func(name string) int64 {
			before := d.syncs.Load()
			n := must(root.Create(name, regular))
			must(n.WriteAt(make([]byte, 9000), 0))
			check(t, n.Sync(false))
			check(t, fs.Sync())
			check(t, n.Put())
			return d.syncs.Load() - before
		}
		if n := work("lax"); n != 0 {
			t.Errorf("%v: %d syncs without barriers", form, n)
		}
		fs.SetBarrier(true)
		if n := work("strict"); n < 2 {
			t.Errorf("%v: %d syncs with barriers", form, n)
		}
		fs.SetBarrier(false)
		if n := work("lax again"); n != 0 {
			t.Errorf("%v: %d syncs without barriers, again", form, n)
		}
		before := d.syncs.Load()
		check(t, fs.Remount(true))
		if d.syncs.Load() == before {
			t.Errorf("%v: nothing was synced to go read-only", form)
		}
		check(t, fs.Remount(false))
		work("last")
		before = d.syncs.Load()
		check(t, root.Put())
		closeFS(t, fs)
		if d.syncs.Load() == before {
			t.Errorf("%v: nothing was synced to close", form)
		}
		fsck(t, image)
	}
}

// A directory does not grow over a limit; names that fit still go in.
func TestMaxDir(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "1024")
	fs := openFS(t, image, Options{})
	fs.SetMaxDir(4096)
	root := must(fs.Root())
	d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
	var err error
	made := 0
	for ; err == nil && made < 10000; made++ {
		var n *Inode
		if n, err = d.Create(fmt.Sprint("name-", made), regular); err == nil {
			check(t, n.Put())
		}
	}
	wantErr(t, err, unix.ENOSPC)
	if size := d.Attr().Size; size != 4096 || made < 50 {
		t.Errorf("%d bytes, %d names", size, made)
	}
	check(t, d.Unlink("name-7"))
	check(t, must(d.Create("name-7", regular)).Put())
	fs.SetMaxDir(0)
	check(t, must(d.Create(strings.Repeat("x", 200), regular)).Put())
	check(t, d.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// A change waits for the disk as long as CommitEvery says, also when that changes.
func TestCommitEvery(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4")
	fs := openFS(t, image, Options{CommitEvery: time.Hour})
	root := must(fs.Root())
	stable := func() uint32 {
		fs.txn.mu.Lock()
		defer fs.txn.mu.Unlock()
		return fs.txn.stable
	}
	check(t, must(root.Create("slow", regular)).Put())
	time.Sleep(100 * time.Millisecond)
	if stable() != 0 {
		t.Error("committed before its time")
	}
	fs.SetCommitEvery(10 * time.Millisecond)
	check(t, fs.Sync())
	check(t, must(root.Create("fast", regular)).Put())
	for wait := 0; stable() < 2; wait++ {
		if wait == 3000 {
			t.Fatal("no commit within 30 s of one that was due after 10 ms")
		}
		time.Sleep(10 * time.Millisecond)
	}
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}
