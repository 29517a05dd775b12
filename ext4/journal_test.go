package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

// held is a recorder whose next Sync waits when it is told to.
type held struct {
	*recorder
	mu    sync.Mutex
	hold  chan struct{} // Sync waits until it is closed
	waits chan struct{} // closed when one does
}

func newHeld(image []byte) *held { return &held{recorder: &recorder{data: bytes.Clone(image)}} }

func (d *held) holdNext() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold, d.waits = make(chan struct{}), make(chan struct{})
}

func (d *held) Sync() error {
	d.mu.Lock()
	hold, waits := d.hold, d.waits
	d.hold = nil
	d.mu.Unlock()
	if hold != nil {
		close(waits)
		<-hold
	}
	return d.recorder.Sync()
}

// Everybody who waits for the same transaction shares one commit.
func TestCommitIsJoined(t *testing.T) {
	d := newHeld(must(os.ReadFile(makeImage(t, 16<<20, "-t", "ext4", "-b", "4096"))))
	fs, err := Open(d, Options{CommitEvery: time.Hour})
	check(t, err)
	root := must(fs.Root())
	files := make([]*Inode, 33)
	for i := range files {
		files[i] = must(root.Create(fmt.Sprint(i), regular))
	}
	check(t, fs.Sync())
	before := fs.jnl.sequence

	must(files[0].WriteAt([]byte("x"), 0))
	d.holdNext()
	hold, waits := d.hold, d.waits
	var wg sync.WaitGroup
	wg.Go(func() { check(t, files[0].Sync(false)) })
	<-waits
	var written sync.WaitGroup
	for _, n := range files[1:] {
		written.Add(1)
		wg.Go(func() {
			must(n.WriteAt([]byte("x"), 0))
			written.Done()
			check(t, n.Sync(false))
		})
	}
	written.Wait() // all of them have changed the transaction after the one that waits
	close(hold)
	wg.Wait()
	if got := fs.jnl.sequence - before; got != 2 {
		t.Errorf("%d commits for one fsync and 32 beside it, want 2", got)
	}

	// fdatasync leaves the times to the next commit, fsync does not.
	before = fs.jnl.sequence
	must(files[0].WriteAt([]byte("y"), 0))
	check(t, files[0].Sync(true))
	if fs.jnl.sequence != before {
		t.Error("fdatasync of an overwritten file has committed")
	}
	check(t, files[0].Sync(false))
	if fs.jnl.sequence != before+1 {
		t.Error("fsync of an overwritten file has not committed")
	}
	must(files[0].WriteAt([]byte("longer"), 0))
	check(t, files[0].Sync(true))
	if fs.jnl.sequence != before+2 {
		t.Error("fdatasync of a file that grew has not committed")
	}
	for _, n := range files {
		check(t, n.Put())
	}
	check(t, root.Put())
	check(t, fs.Close())
}

// An fsync through an inode that was read again waits for the commit that is under way
// with its last change.
func TestFsyncWaitsForCommitUnderWay(t *testing.T) {
	d := newHeld(must(os.ReadFile(makeImage(t, 16<<20, "-t", "ext4", "-b", "4096"))))
	fs, err := Open(d, Options{CommitEvery: time.Hour})
	check(t, err)
	root := must(fs.Root())
	check(t, must(root.Create("first", regular)).Put())
	check(t, fs.Sync())
	n := must(root.Create("f", regular))
	must(n.WriteAt([]byte("content"), 0))
	check(t, n.Put())
	d.holdNext()
	waits, hold := d.waits, d.hold
	var wg sync.WaitGroup
	wg.Go(func() { check(t, fs.Sync()) })
	<-waits
	again := must(root.Lookup("f"))
	if again == n {
		t.Fatal("the inode is in memory still: the test proves nothing")
	}
	for _, dataOnly := range []bool{false, true} {
		done := make(chan error, 1)
		wg.Go(func() { done <- again.Sync(dataOnly) })
		select {
		case <-done:
			t.Errorf("fsync (data only: %v) has not waited for the commit", dataOnly)
		case <-time.After(30 * time.Millisecond):
		}
	}
	close(hold)
	wg.Wait()
	check(t, again.Put())
	check(t, root.Put())
	check(t, fs.Close())
}

// Remounting waits for a commit and a commit for it, and neither for ever.
func TestRemountUnderCommits(t *testing.T) {
	image := must(os.ReadFile(makeImage(t, 16<<20, "-t", "ext4", "-b", "4096")))
	d := &syncing{&memory{base: image, pages: map[int64][]byte{}}, func() { time.Sleep(200 * time.Microsecond) }}
	fs, err := Open(d, Options{CommitEvery: 300 * time.Microsecond})
	check(t, err)
	root := must(fs.Root())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				n, err := root.Create(fmt.Sprintf("%d-%d", w, i%50), regular)
				if err == nil {
					err = n.Sync(false)
					_ = n.Put()
				} else if unixIs(err, unix.EEXIST) {
					err = root.Unlink(fmt.Sprintf("%d-%d", w, i%50))
				}
				if err != nil && !unixIs(err, unix.EROFS) {
					t.Errorf("worker %d: %v", w, err)
					return
				}
			}
		})
	}
	for range 60 {
		time.Sleep(2 * time.Millisecond)
		check(t, fs.Remount(true))
		check(t, fs.Remount(false))
	}
	close(stop)
	wg.Wait()
	check(t, root.Put())
	check(t, fs.Close())
}

// slow is a Device whose reads take long, so that many handles are open at once.
type slow struct {
	*memory
	delay time.Duration
}

func (d *slow) ReadAt(p []byte, off int64) (int, error) {
	if d.delay > 0 {
		time.Sleep(d.delay)
	}
	return d.memory.ReadAt(p, off)
}

// The smallest log there can be, and many large operations at once: no transaction
// outgrows it, nobody waits for ever.
func TestSmallLogManyHandles(t *testing.T) {
	for _, form := range [][]string{
		{"-t", "ext4", "-b", "1024", "-g", "512", "-J", "size=1"},
		{"-t", "ext3", "-b", "1024", "-g", "512", "-J", "size=1"},
	} {
		t.Run(form[1], func(t *testing.T) {
			image := makeImage(t, 40<<20, form...)
			d := &slow{memory: &memory{base: must(os.ReadFile(image)), pages: map[int64][]byte{}}}
			logf := func(f string, a ...any) {
				if s := fmt.Sprintf(f, a...); strings.Contains(s, "in one transaction") {
					t.Error(s)
				}
			}
			fs, err := Open(d, Options{Logf: logf, CacheBytes: 1, CommitEvery: time.Hour})
			check(t, err)
			if fs.jnl.capacity() > 1024 {
				t.Fatalf("the log has %d blocks", fs.jnl.capacity())
			}
			// Files of single blocks all over the disk, which takes many bitmaps to free.
			root := must(fs.Root())
			r := rand.New(rand.NewPCG(4, 4))
			const files, blocks = 24, 150
			list := make([]*Inode, files)
			for i := range list {
				list[i] = must(root.Create(fmt.Sprint(i), regular))
			}
			for b := range blocks {
				for _, i := range r.Perm(files) {
					must(list[i].WriteAt([]byte{1}, int64(b)*2048))
				}
			}
			check(t, fs.Sync())
			d.delay = 500 * time.Microsecond
			var wg sync.WaitGroup
			for i, n := range list {
				wg.Go(func() {
					if i%2 == 0 {
						check(t, n.Truncate(100))
					} else {
						check(t, root.Unlink(fmt.Sprint(i)))
					}
					check(t, n.Put())
				})
			}
			wg.Wait()
			d.delay = 0
			check(t, root.Put())
			check(t, fs.Close())
			path := filepath.Join(t.TempDir(), "after.img")
			writeSparse(t, path, d.whole())
			fsck(t, path)
		})
	}
}

// MarkWritten of a range of thousands of extents takes several handles.
func TestMarkWrittenOfManyExtents(t *testing.T) {
	image := makeImage(t, 40<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	fs := openFS(t, image, Options{CommitEvery: time.Hour, Logf: func(f string, a ...any) { t.Errorf(f, a...) }})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	const count = 12000
	check(t, n.Fallocate(0, count*2048, false))
	for i := range int64(count / 2) { // written ones at a distance: extents of their own
		check(t, n.MarkWritten(i*4096, 1024))
	}
	check(t, fs.Sync())
	fs.txn.limit = 20
	before := fs.txn.seq
	check(t, n.MarkWritten(0, count*2048))
	if fs.txn.seq == before {
		t.Error("all went into one transaction")
	}
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// A file that is open without a name outlives a remount to read-only and back.
func TestRemountKeepsOpenOrphans(t *testing.T) {
	for _, f := range []string{"4k", "orphan_file"} {
		t.Run(f, func(t *testing.T) {
			image := makeImage(t, 16<<20, formArgs(f)...)
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			var list []*Inode
			for i := range 4 {
				n := must(root.Create(fmt.Sprint(i), regular))
				must(n.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 20000), 0))
				check(t, root.Unlink(fmt.Sprint(i)))
				list = append(list, n)
			}
			check(t, fs.Remount(true))
			check(t, list[1].Put()) // freed by the next remount
			check(t, fs.Remount(false))
			other := must(root.Create("other", regular))
			must(other.WriteAt(bytes.Repeat([]byte{0xEE}, 8<<20), 0))
			for i, n := range list {
				if i != 1 {
					sameFile(t, n, bytes.Repeat([]byte{byte(i + 1)}, 20000))
					check(t, n.Put())
				}
			}
			check(t, other.Put())
			check(t, root.Put())
			closeFS(t, fs)
			fsck(t, image)
		})
	}
}

// Orphans that a kernel left in its orphan file are freed; a crash while that is done
// frees none of them twice.
func TestCrashOrphanFile(t *testing.T) {
	// Small groups: each directory, and the file in it, is in one of its own.
	image := makeImage(t, 48<<20, "-t", "ext4", "-b", "1024", "-g", "256", "-N", "3000", "-J", "size=1", "-O", "orphan_file,^flex_bg,^resize_inode")
	m, umount := mount(t, image, "")
	var open []*os.File
	for i := range 180 {
		check(t, os.Mkdir(filepath.Join(m, fmt.Sprint(i)), 0o755))
		f := must(os.Create(filepath.Join(m, fmt.Sprint(i), "f")))
		must(f.Write(make([]byte, 30000)))
		check(t, os.Remove(f.Name()))
		open = append(open, f)
	}
	dir := must(os.Open(m))
	check(t, unix.Syncfs(int(dir.Fd())))
	check(t, dir.Close())
	base := must(os.ReadFile(image))
	for _, f := range open {
		check(t, f.Close())
	}
	umount()

	d := &recorder{data: bytes.Clone(base)}
	orphans := 0
	count := func(f string, a ...any) {
		if strings.Contains(f, "orphan inodes processed") {
			orphans = a[0].(int)
		}
	}
	fs, err := Open(d, Options{Logf: count})
	check(t, err)
	if orphans != 180 {
		t.Fatalf("%d orphans, want 180", orphans)
	}
	if fs.txn.stable == 0 {
		t.Fatalf("all orphans were freed in one transaction, of %d blocks: the test proves little", len(fs.txn.bufs))
	}
	check(t, fs.Close())
	r := rand.New(rand.NewPCG(6, 6))
	partly := 0
	for i := range 8 {
		data, _ := replayTo(base, d.log[:len(d.log)*(i+1)/9], r, i%2 == 0)
		fs, err := Open(&recorder{data: bytes.Clone(data)}, Options{Logf: count})
		check(t, err)
		if orphans < 180 {
			partly++
		}
		check(t, fs.Close())
		crashCheck(t, data, nil, fmt.Sprintf("cut %d", i), i%3 == 0)
	}
	if partly == 0 {
		t.Error("no cut left some of the orphans: the test proves little")
	}
}

// What a log holds that the superblock calls clean is void, and the next transaction
// has a number of its own.
func TestVoidLog(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "1024")
	d := &logOnly{fileDevice: openDevice(t, image)}
	fs, err := Open(d, Options{})
	check(t, err)
	for _, r := range fs.jnl.blocks {
		d.log = append(d.log, [2]int64{int64(r.start) << fs.bsBits, int64(r.end()) << fs.bsBits})
	}
	d.on = true
	root := must(fs.Root())
	for i := range 9 {
		check(t, must(root.Create(fmt.Sprint(i), regular)).Put())
		check(t, fs.Sync())
	}
	last := fs.jnl.sequence
	d.on = false
	tool(t, "debugfs", "-w", "-R", "feature -needs_recovery", image)
	fs = openFS(t, image, Options{})
	if fs.jnl.sequence <= last {
		t.Errorf("the next transaction is number %d, the void log goes to %d", fs.jnl.sequence, last-1)
	}
	closeFS(t, fs)
	fsck(t, image)
}

// Errors that were counted survive a replay, and the journal's own is taken over.
func TestErrorsSurviveReplay(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "4096")
	d := &recorder{data: must(os.ReadFile(image))}
	fs, err := Open(d, Options{Errors: ErrorsContinue})
	check(t, err)
	root := must(fs.Root())
	check(t, must(root.Create("f", regular)).Put())
	check(t, fs.Sync())
	_ = fs.corrupt(&CorruptError{"test", "field", 1})
	for _, noWrite := range []bool{true, false} {
		again, err := Open(&recorder{data: bytes.Clone(d.data)}, Options{ReadOnly: true, NoWrite: noWrite})
		check(t, err)
		if i := again.Info(); i.ErrorCount != 1 || again.sb.State&format.StateError == 0 {
			t.Errorf("no write %v: %d errors, state %#x", noWrite, i.ErrorCount, again.sb.State)
		}
	}
	check(t, root.Put())
	check(t, fs.Close())

	fs = openFS(t, image, Options{})
	fs.jnl.super.Errno = ^uint32(4)
	check(t, fs.jnl.writeSuper())
	fs = openFS(t, image, Options{})
	if fs.sb.State&format.StateError == 0 || fs.jnl.super.Errno != 0 {
		t.Errorf("state %#x, journal's error %d", fs.sb.State, fs.jnl.super.Errno)
	}
	closeFS(t, fs)
	if out, err := exec.Command(oracle.Tool(t, "dumpe2fs"), "-h", image).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("clean with errors")) {
		t.Errorf("dumpe2fs: %v\n%s", err, out)
	}
}

// Forty handles that use all they may, at once, in a log of a thousand blocks.
func TestHandlesWaitForRoom(t *testing.T) {
	image := makeImage(t, 40<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	fs := openFS(t, image, Options{CommitEvery: time.Hour, Logf: func(f string, a ...any) { t.Errorf(f, a...) }})
	var wg sync.WaitGroup
	for i := range 40 {
		blocks := []int{handleBlocks, 250}[i%2]
		wg.Go(func() {
			r := must(fs.setAside(20000, uint64(blocks)))
			defer fs.giveBack(r)
			h := must(fs.beginFor(blocks))
			defer h.end()
			time.Sleep(time.Millisecond) // for the others to begin
			for nr := r.start; nr < r.end(); nr++ {
				h.dirty(fs.cache.fresh(nr), kindPlain, 0)
			}
		})
	}
	wg.Wait()
	if fs.txn.stable < 5 {
		t.Errorf("%d transactions: the test proves little", fs.txn.stable)
	}
	closeFS(t, fs)
	fsck(t, image)
}

// syncing calls a function at every Sync.
type syncing struct {
	*memory
	f func()
}

func (d *syncing) Sync() error {
	if d.f != nil {
		d.f()
	}
	return nil
}

// A directory block that is evicted after a name was found in it and before the handle
// began, as a full transaction makes possible, is read again before it changes.
func TestEvictedBeforeHandle(t *testing.T) {
	for _, f := range []string{"4k", "ext3"} {
		t.Run(f, func(t *testing.T) {
			d := &syncing{memory: &memory{base: must(os.ReadFile(makeImage(t, 16<<20, formArgs(f)...))), pages: map[int64][]byte{}}}
			fs, err := Open(d, Options{CommitEvery: time.Hour})
			check(t, err)
			root := must(fs.Root())
			a := must(root.Create("a", NewInode{Mode: format.ModeDir | 0o755}))
			b := must(root.Create("b", NewInode{Mode: format.ModeDir | 0o755}))
			for _, name := range []string{"unlinked", "moved", "over", "left", "right", "last"} {
				check(t, must(a.Create(name, regular)).Put())
				check(t, must(b.Create(name, regular)).Put())
			}
			check(t, must(a.Create("dir", NewInode{Mode: format.ModeDir | 0o755})).Put())
			// Held, for to free them would commit.
			hold := []*Inode{must(a.Lookup("unlinked")), must(a.Lookup("dir")), must(b.Lookup("over"))}
			evict := func() {
				if fs.txn.gate.TryLock() {
					fs.cache.limit = 0
					fs.cache.evict()
					fs.cache.limit = 1 << 20
					fs.txn.gate.Unlock()
				}
			}
			for _, op := range []struct {
				what string
				do   func() error
				gone *Inode
				name string
			}{
				{"unlink", func() error { return a.Unlink("unlinked") }, a, "unlinked"},
				{"rmdir", func() error { return a.Rmdir("dir") }, a, "dir"},
				{"rename", func() error { return fs.Rename(a, "moved", b, "over", RenameFlags{}) }, a, "moved"},
				{"exchange", func() error { return fs.Rename(a, "left", b, "right", RenameFlags{Exchange: true}) }, nil, ""},
			} {
				check(t, fs.Sync())
				left, right := must(a.Lookup("left")), must(b.Lookup("right"))
				check(t, root.SetAttr(AttrMode, Attr{Mode: 0o755})) // something to commit
				fs.txn.limit, d.f = 1, evict
				check(t, op.do())
				fs.txn.limit, d.f = 1000, nil
				if op.gone != nil {
					if _, err := op.gone.Lookup(op.name); !unixIs(err, unix.ENOENT) {
						t.Errorf("%s: %q is still there (%v)", op.what, op.name, err)
					}
				} else if n := must(a.Lookup("left")); n != right || must(b.Lookup("right")) != left {
					t.Errorf("%s: nothing is exchanged", op.what)
				}
			}
			for _, n := range hold {
				check(t, n.Put())
			}
			check(t, fs.Close())
			path := filepath.Join(t.TempDir(), "after.img")
			writeSparse(t, path, d.whole())
			fsck(t, path)
		})
	}
}
