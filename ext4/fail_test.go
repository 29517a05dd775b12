package ext4

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// faulty is a Device that fails: at one call of a kind, or at all from then on. A write
// that fails has written its first half, in whole blocks.
type faulty struct {
	*memory
	kind    string // "write", "sync", "read"
	at      int    // the call that fails, from 1; 0: none
	forever bool
	err     error
	calls   int
	failed  int
}

func (d *faulty) fails(kind string) bool {
	if kind != d.kind {
		return false
	}
	d.calls++
	if d.at == 0 || d.calls < d.at || d.calls > d.at && !d.forever {
		return false
	}
	d.failed++
	return true
}

func (d *faulty) ReadAt(p []byte, off int64) (int, error) {
	if d.fails("read") {
		return 0, d.err
	}
	return d.memory.ReadAt(p, off)
}

func (d *faulty) WriteAt(p []byte, off int64) (int, error) {
	if d.fails("write") {
		n, _ := d.memory.WriteAt(p[:len(p)/2/4096*4096], off)
		return n, d.err
	}
	return d.memory.WriteAt(p, off)
}

func (d *faulty) Sync() error {
	if d.fails("sync") {
		return d.err
	}
	return nil
}

// failRun is what came of operations on a faulty device.
type failRun struct {
	stable   []synced
	err      error // the first, or Close's
	after    error // of a change after that
	readOnly bool
	panicked error
}

// failWork makes changes until one fails, and then one more.
func failWork(d Device, mode DataMode, policy ErrorPolicy) (r failRun) {
	fs, err := Open(d, Options{Errors: policy, Data: mode, CommitEvery: time.Hour, Panic: func(err error) { r.panicked = err }})
	if err != nil {
		return failRun{err: err}
	}
	fs.cache.limit = 4 // much is read again
	root, err := fs.Root()
	if err == nil {
		r.stable, err = failSteps(fs, root)
		r.readOnly = fs.ReadOnly()
		if err != nil {
			n, e := root.Create("after", regular)
			if e == nil {
				e = n.Sync(false)
				_ = n.Put()
			}
			r.after = e
		}
		_ = root.Put()
	}
	if e := fs.Close(); err == nil {
		err = e
	}
	r.err = err
	return r
}

func failSteps(fs *FS, root *Inode) (stable []synced, err error) {
	dir, err := root.Create("dir", NewInode{Mode: format.ModeDir | 0o755})
	if err != nil {
		return nil, err
	}
	defer dir.Put()
	step := func(i int) error {
		name := fmt.Sprint(i)
		n, err := dir.Create(name, regular)
		if err != nil {
			return err
		}
		defer n.Put()
		p := bytes.Repeat([]byte{byte(i + 1)}, 5000)
		if _, err := n.WriteAt(p, 0); err != nil {
			return err
		}
		if err := n.Sync(i%2 == 0); err != nil {
			return err
		}
		stable = append(stable, synced{name, p})
		other, err := root.Create("other"+name, regular)
		if err != nil {
			return err
		}
		defer other.Put()
		for k := range 6 { // more extents than fit the inode
			if _, err := other.WriteAt(p[:900], int64(k)*5000); err != nil {
				return err
			}
		}
		if err := other.SetXattr("user.x", bytes.Repeat([]byte("x"), 300), XattrFlags{}); err != nil {
			return err
		}
		if i%3 == 0 {
			if err := other.Punch(4000, 9000); err != nil {
				return err
			}
			if err := fs.Rename(root, "other"+name, dir, "moved"+name, RenameFlags{}); err != nil {
				return err
			}
		}
		if i > 1 && i%2 == 0 {
			if err := other.Truncate(int64(i) * 700); err != nil {
				return err
			}
			if err := root.Unlink(fmt.Sprint("other", i-1)); err != nil && !unixIs(err, unix.ENOENT) {
				return err
			}
		}
		return nil
	}
	for i := range 14 {
		if err := step(i); err != nil {
			return stable, err
		}
	}
	return stable, nil
}

// A device that fails at any one write, sync or read, once or from then on: the error
// reaches the caller, errors= is obeyed, and on a device that works what was stable is
// there and nothing is damaged.
func TestDeviceFails(t *testing.T) {
	every := 5
	if nightly {
		every = 1
	}
	for _, f := range []string{"default", "4k", "4k data=journal"} {
		t.Run(f, func(t *testing.T) {
			image := must(os.ReadFile(makeImage(t, 8<<20, formArgs(f)...)))
			system := usageOf(t, image)
			for k, kind := range []string{"write", "sync", "read"} {
				whole := &faulty{memory: &memory{base: image, pages: map[int64][]byte{}}, kind: kind}
				if r := failWork(whole, modeOf(f), 0); r.err != nil {
					t.Fatal(r.err)
				}
				counts := map[string]int{}
				for at := 1 + k; at <= whole.calls; at += every {
					d := &faulty{
						memory: &memory{base: image, pages: map[int64][]byte{}}, kind: kind, at: at,
						forever: at%2 == 0, err: []error{unix.EIO, unix.ENOSPC}[at/2%2],
					}
					if kind == "read" { // it cannot run full
						d.err = unix.EIO
					}
					policy := []ErrorPolicy{ErrorsContinue, ErrorsReadOnly, ErrorsPanic}[at/4%3]
					r := failWork(d, modeOf(f), policy)
					what := fmt.Sprintf("%s %d of %d (forever %v, %v, errors=%v)", kind, at, whole.calls, d.forever, d.err, policy)
					failed(t, what, d, r, policy, system, counts)
				}
				t.Logf("%s: %d calls: %v", kind, whole.calls, counts)
				if counts["read-only"] == 0 || counts["panicked"] == 0 {
					t.Errorf("%s: %v: the test proves little", kind, counts)
				}
			}
		})
	}
}

func failed(t *testing.T, what string, d *faulty, r failRun, policy ErrorPolicy, system *usage, counts map[string]int) {
	t.Helper()
	if d.failed == 0 {
		t.Fatalf("%s: never failed", what)
	}
	if r.err == nil {
		t.Fatalf("%s: no error came through", what)
	}
	if !unixIs(r.err, unix.EIO) && !unixIs(r.err, unix.ENOSPC) && !unixIs(r.err, unix.EROFS) {
		t.Fatalf("%s: error %v", what, r.err)
	}
	switch {
	case r.panicked != nil:
		counts["panicked"]++
		if policy != ErrorsPanic {
			t.Errorf("%s: panicked: %v", what, r.panicked)
		}
	case r.readOnly:
		counts["read-only"]++
		if policy == ErrorsPanic {
			t.Errorf("%s: read-only, no panic", what)
		}
		if !unixIs(r.after, unix.EROFS) {
			t.Errorf("%s: a change after that gives %v", what, r.after)
		}
	default:
		counts["went on"]++
	}
	d.at = 0
	fs, err := Open(d, Options{ReadOnly: true})
	if err == nil {
		err = fs.Remount(false)
	}
	if err == nil {
		err = system.check(fs)
	}
	if err != nil {
		t.Fatalf("%s: on a device that works: %v", what, err)
	}
	if len(r.stable) > 0 {
		root := must(fs.Root())
		dir := must(root.Lookup("dir"))
		for _, s := range r.stable {
			n, err := dir.Lookup(s.name)
			if err != nil {
				t.Fatalf("%s: stable file is lost: %v", what, err)
			}
			sameFile(t, n, s.data)
			check(t, n.Put())
		}
		check(t, dir.Put())
		check(t, root.Put())
	}
	check(t, fs.Close())
	if crashes++; crashes%25 == 0 {
		path := filepath.Join(t.TempDir(), "failed.img")
		writeSparse(t, path, d.whole())
		fsck(t, path)
		check(t, os.Remove(path))
	}
}

// A disk of 1 TiB opens at once, takes little memory, and is written to. So is the largest
// that a file on ext4 can hold, and at night one of 16 TiB on the host's memory filesystem.
func TestHugeDisk(t *testing.T) {
	sizes := []int64{1 << 40, 16<<40 - 4096}
	if nightly {
		sizes = append(sizes, 16<<40)
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			if size == 16<<40 {
				t.Setenv("TMPDIR", "/dev/shm")
			}
			image := makeImage(t, size, "-t", "ext4", "-b", "4096", "-J", "size=16", "-E", "lazy_itable_init=1,nodiscard", "-i", fmt.Sprint(max(4<<20, size>>18)))
			hugeDisk(t, image, size)
		})
	}
}

func hugeDisk(t *testing.T, image string, size int64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	fs := openFS(t, image, Options{})
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	grew := int64(after.TotalAlloc - before.TotalAlloc)
	if limit := int64(20<<20) + size>>16; grew > limit { // 64 bytes of each 4 MiB, 32 groups of which have a descriptor
		t.Errorf("opening took %d bytes, at most %d are wanted", grew, limit)
	}
	t.Logf("opened in %v with %d KiB", took, grew>>10)
	root := must(fs.Root())
	// Nothing is to be found but at the end: the numbers there are the large ones.
	near := func(bad bool) {
		for g := range fs.groupCount() - 40 {
			gr := fs.group(g)
			gr.mu.Lock()
			gr.bad = bad
			gr.mu.Unlock()
		}
	}
	near(true)
	for i := range 30 {
		d := must(root.Create(fmt.Sprint(i), NewInode{Mode: format.ModeDir | 0o755}))
		n := must(d.Create("f", regular))
		must(n.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 300_000), int64(i)<<33))
		m := must(n.mapBlock(uint64(i) << 33 >> fs.bsBits))
		if m.state != Written || m.disk < uint64(size)>>fs.bsBits/64*63 {
			t.Fatalf("file %d lies at block %d", i, m.disk)
		}
		check(t, n.Put())
		check(t, d.Put())
	}
	near(false)
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
	fs = openFS(t, image, Options{ReadOnly: true})
	root = must(fs.Root())
	for i := range 30 {
		d := must(root.Lookup(fmt.Sprint(i)))
		n := must(d.Lookup("f"))
		got := make([]byte, 300_000)
		must(n.ReadAt(got, int64(i)<<33))
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, 300_000)) {
			t.Errorf("file %d has another content", i)
		}
		check(t, n.Put())
		check(t, d.Put())
	}
	check(t, root.Put())
	closeFS(t, fs)
}

// Damage is reported by name, counted in the superblock, and met as errors= says.
func TestDamagedIsReported(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "4096")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
	m := must(d.mapBlock(0))
	check(t, d.Put())
	check(t, root.Put())
	closeFS(t, fs)
	f := openDevice(t, image)
	must(f.WriteAt([]byte{0xFF, 0xFF}, int64(m.disk)*4096+4))
	for _, policy := range []ErrorPolicy{ErrorsContinue, ErrorsReadOnly, ErrorsPanic} {
		var panicked error
		fs := openFS(t, image, Options{Errors: policy, Panic: func(err error) { panicked = err }})
		root := must(fs.Root())
		d := must(root.Lookup("d"))
		_, err := d.Lookup("x")
		wantErr(t, err, unix.EIO)
		wantErr(t, err, unix.EUCLEAN)
		if fs.ReadOnly() != (policy != ErrorsContinue) || fs.Damaged() != fs.ReadOnly() || (panicked != nil) != (policy == ErrorsPanic) {
			t.Errorf("%v: read-only %v, panic %v", policy, fs.ReadOnly(), panicked)
		}
		_, err = root.Create(fmt.Sprint(policy), regular)
		if (err == nil) != (policy == ErrorsContinue) {
			t.Errorf("%v: create gives %v", policy, err)
		}
		_ = fs.Close()
		fs = openFS(t, image, Options{ReadOnly: true})
		if i := fs.Info(); i.ErrorCount == 0 {
			t.Errorf("%v: the superblock does not tell", policy)
		}
	}
}
