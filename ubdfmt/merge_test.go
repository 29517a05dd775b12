package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// mergePair makes a backing file of that size with data, zeros and holes, and a COW file
// over it with writes, zeros and trims; the backing file is older than a second.
func mergePair(t testing.TB, dir string, size int) (base, cow string) {
	t.Helper()
	base = sparseImage(t, filepath.Join(dir, "base.img"), size)
	at := time.Now().Add(-time.Hour)
	if err := os.Chtimes(base, at, at); err != nil {
		t.Fatal(err)
	}
	cow = filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	put := func(b []byte, off int64) {
		if off+int64(len(b)) > int64(size) {
			return
		}
		if _, err := d.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	put(pattern(100, 0x31), 1000)             // copies up
	put(pattern(64<<10, 0x33), 20<<10)        // over data, zeros and a hole
	put(make([]byte, 16<<10), 96<<10)         // zeros over data
	put(pattern(512, 0x35), int64(size)-1024) // near the end
	for off := int64(256 << 10); off < int64(size); off += 16 << 10 {
		put(pattern(4096, byte(off>>12)), off)
	}
	if size > 300<<10 {
		if err := d.Trim(192<<10, 32<<10); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, d)
	return base, cow
}

// shown is what the disk shows, as far as the backing file is long.
func shown(t testing.TB, cow string, size int) []byte {
	t.Helper()
	d := mustOpen(t, cow, "", Options{ReadOnly: true})
	defer d.Close()
	b := make([]byte, size)
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMergeLikeDebian(t *testing.T) {
	moo := oracle.Tool(t, "uml_moo")
	for _, size := range []int{1 << 20, 3<<20 + 512, 777 * 512} {
		dir := t.TempDir()
		base, cow := mergePair(t, dir, size)
		want, cowBytes, baseBytes := shown(t, cow, size), read(t, cow), read(t, base)
		theirs, ours := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
		oracle.Run(t, moo, cow, theirs)
		if err := Merge(context.Background(), cow, ours, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, ours), want) || !bytes.Equal(read(t, theirs), want) {
			t.Errorf("%d bytes: the new images and the disk are not the same", size)
		}
		if !bytes.Equal(read(t, base), baseBytes) || !bytes.Equal(read(t, cow), cowBytes) {
			t.Fatalf("%d bytes: a merge changed its sources", size)
		}
		oracle.Run(t, "sync", theirs) // what is not on the disk yet is not counted whole
		if a, b := blocks(t, ours), blocks(t, theirs); a > b {
			t.Errorf("%d bytes: ours takes %d blocks of the host, theirs %d", size, a, b)
		}

		copied := filepath.Join(dir, "copied.img")
		oracle.Run(t, "cp", "-p", base, copied)
		oracle.Run(t, moo, "-d", "-b", copied, cow)
		if err := MergeInPlace(context.Background(), cow, MergeOptions{Keep: true}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, base), want) || !bytes.Equal(read(t, copied), want) {
			t.Errorf("%d bytes: the merged images and the disk are not the same", size)
		}
		merged := mustOpen(t, base, "", Options{ReadOnly: true})
		if end, hole, err := (&cursor{file: merged.(*Raw).file}).at(96 << 10); err != nil || !hole || end < 112<<10 {
			t.Errorf("%d bytes: zeros that were merged in place are no hole: %v up to %d, %v", size, hole, end, err)
		}
		mustClose(t, merged)
		if !bytes.Equal(read(t, cow), cowBytes) {
			t.Errorf("%d bytes: merging in place changed the COW file", size)
		}
		var e *MismatchError
		if _, err := Open(cow, "", Options{}); !errors.As(err, &e) {
			t.Errorf("after merging in place the COW file opens: %v", err)
		}
		names, err := filepath.Glob(filepath.Join(dir, "*.merging"))
		if err != nil || len(names) != 0 {
			t.Errorf("left behind: %q, %v", names, err)
		}
	}
}

func blocks(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// TestMergeStable: a new image gets its name when it is stable, and not before; without
// waiting for that nothing is made stable.
func TestMergeStable(t *testing.T) {
	dir := t.TempDir()
	_, cow := mergePair(t, dir, 1<<20)
	out := filepath.Join(dir, "out")
	var mu sync.Mutex
	last, synced := op(-1), false
	observe = func(h *hostFile, e event) error {
		mu.Lock()
		defer mu.Unlock()
		if h.path == out {
			last = e.op
			synced = e.op == opSync && !exists(out)
		}
		return nil
	}
	err := Merge(context.Background(), cow, out, MergeOptions{})
	observe = nil
	if err != nil || last != opSync || !synced || !exists(out) {
		t.Errorf("the last thing done to the image was %d, synced before it had its name %v: %v", last, synced, err)
	}
	want := read(t, out)
	observe = func(h *hostFile, e event) error {
		mu.Lock()
		defer mu.Unlock()
		if e.op == opSync {
			t.Errorf("%s was made stable", h.path)
		}
		return nil
	}
	err = Merge(context.Background(), cow, out, MergeOptions{NoSync: true})
	observe = nil
	if err != nil || !bytes.Equal(read(t, out), want) {
		t.Errorf("merged without a sync it is another image: %v", err)
	}
}

// TestMergeFreesLast: a merge in place gives the space of the data back when all else is done
// and stable, and makes nothing stable after it. One that was killed before leaves that to the
// next, which first makes stable what the killed one may only have said to the host.
func TestMergeFreesLast(t *testing.T) {
	dir := t.TempDir()
	base, cow := mergePair(t, dir, 1<<20)
	want := shown(t, cow, 1<<20)
	var ops []op
	var marked bool
	merge := func(o MergeOptions, fails error) {
		t.Helper()
		ops = nil
		var mu sync.Mutex
		observe = func(h *hostFile, e event) error {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case h.path == cow:
				ops = append(ops, e.op)
				if e.op == opZero && e.off >= KernelAlignment && e.n >= 1<<20 {
					marked = exists(base + ".merging")
					return fails
				}
			case len(ops) > 0:
				t.Errorf("%s is changed when the COW file is", h.path)
			}
			return nil
		}
		defer func() { observe = nil }()
		if err := MergeInPlace(context.Background(), cow, o); !errors.Is(err, fails) {
			t.Errorf("got %v, want %v", err, fails)
		}
	}
	merge(MergeOptions{}, errKilled)
	if !slices.Equal(ops, []op{opZero, opWrite, opSync, opZero}) || marked {
		t.Errorf("done to the COW file: %v; with the mark there: %v", ops, marked)
	}
	// It holds nothing, and is not touched by one that is to keep it.
	merge(MergeOptions{Keep: true}, nil)
	if len(ops) != 0 || blocks(t, cow) < 100 {
		t.Errorf("keeping it did %v, and it has %d blocks", ops, blocks(t, cow))
	}
	merge(MergeOptions{}, nil)
	if !slices.Equal(ops, []op{opSync, opZero}) {
		t.Errorf("done to the COW file the second time: %v", ops)
	}
	checkEmpty(t, cow, want)
	merge(MergeOptions{}, nil)
	if !slices.Equal(ops, []op{opSync}) {
		t.Errorf("done to a COW file that has nothing to free: %v", ops)
	}
}

// TestMergeOddSize: the historic uml_moo loses a last sector that is not whole.
func TestMergeOddSize(t *testing.T) {
	const size = 40*512 + 100
	for _, test := range []struct {
		name string
		at   int64
		want int
	}{
		{"untouched", 0, size},
		{"within the file", size - 50, size},
		{"past its end", 40*512 + 300, 41 * 512},
	} {
		dir := t.TempDir()
		base, cow := mergePair(t, dir, size)
		d := mustOpen(t, cow, "", Options{})
		if _, err := d.WriteAt([]byte("tail"), test.at); err != nil {
			t.Fatal(err)
		}
		mustClose(t, d)
		want := shown(t, cow, test.want)
		out := filepath.Join(dir, "out")
		if err := Merge(context.Background(), cow, out, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{out, base} {
			if got := read(t, path); !bytes.Equal(got, want) {
				t.Errorf("%s: %s has %d bytes, want %d, or other ones", test.name, filepath.Base(path), len(got), test.want)
			}
		}
	}
}

func TestMergeOutput(t *testing.T) {
	dir := t.TempDir()
	base, cow := mergePair(t, dir, 1<<20)
	baseBytes, cowBytes := read(t, base), read(t, cow)
	link := func(name, to string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	hard := filepath.Join(dir, "hard")
	if err := os.Link(base, hard); err != nil {
		t.Fatal(err)
	}
	busy := write(t, filepath.Join(dir, "busy"), []byte("in use"))
	machine := mustOpen(t, busy, "", Options{})
	defer machine.Close()
	for name, out := range map[string]string{
		"backing file": base, "COW file": cow, "symlink to the backing file": link("s1", "base.img"),
		"hard link to the backing file": hard, "symlink to the COW file": link("s2", cow),
		"directory": dir, "missing directory": filepath.Join(dir, "none", "out"), "device": "/dev/null",
		"symlink loop": link("loop", "loop"), "in use": busy, "through a missing file": base + "/out",
	} {
		err := Merge(context.Background(), cow, out, MergeOptions{})
		var e *MergeError
		if !errors.As(err, &e) || e.Step != "Output file open" {
			t.Errorf("%s as output: %v", name, err)
		}
		if !bytes.Equal(read(t, base), baseBytes) || !bytes.Equal(read(t, cow), cowBytes) {
			t.Fatalf("%s as output: a source was changed", name)
		}
	}

	// One that exists is replaced, through a symbolic link too, and the link stays.
	want := shown(t, cow, 1<<20)
	old := write(t, filepath.Join(dir, "old"), []byte("old"))
	for _, out := range []string{old, link("s3", "old"), link("s4", "new")} {
		if err := Merge(context.Background(), cow, out, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, out), want) {
			t.Errorf("%s is not the merged image", out)
		}
	}
	for _, name := range []string{"s3", "s4"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s is no symbolic link any more: %v", name, err)
		}
	}
	umask := unix.Umask(0o027)
	defer unix.Umask(umask)
	fresh := filepath.Join(dir, "fresh")
	if err := Merge(context.Background(), cow, fresh, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(fresh); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v; want 0640", info.Mode(), err)
	}
}

func TestMergeSteps(t *testing.T) {
	dir := t.TempDir()
	base, cow := mergePair(t, dir, 1<<20)
	ctx := context.Background()
	out := filepath.Join(dir, "out")
	junk := write(t, filepath.Join(dir, "junk"), pattern(9000, 1))
	torn := write(t, filepath.Join(dir, "torn.cow"), read(t, cow)[:8200])
	for _, test := range []struct{ cow, backing, step string }{
		{filepath.Join(dir, "none"), "", "COW file open"},
		{junk, "", "Reading COW header failed"},
		{cow, filepath.Join(dir, "none"), "Stating backing file"},
		{cow, dir, "Opening backing file"},
		{cow, cow, "Opening backing file"},
		{torn, "", "Reading COW bitmap"},
	} {
		var e *MergeError
		if err := Merge(ctx, test.cow, out, MergeOptions{Backing: test.backing}); !errors.As(err, &e) || e.Step != test.step {
			t.Errorf("got %v, want step %q", err, test.step)
		}
		if err := MergeInPlace(ctx, test.cow, MergeOptions{Backing: test.backing}); !errors.As(err, &e) || e.Step != test.step {
			t.Errorf("in place: got %v, want step %q", err, test.step)
		}
	}
	later := time.Now()
	if err := os.Chtimes(base, later, later); err != nil {
		t.Fatal(err)
	}
	before := read(t, base)
	var e *MismatchError
	if err := Merge(ctx, cow, out, MergeOptions{}); !errors.As(err, &e) {
		t.Errorf("a changed backing file: %v", err)
	}
	if err := MergeInPlace(ctx, cow, MergeOptions{}); !errors.As(err, &e) {
		t.Errorf("a changed backing file, in place: %v", err)
	}
	if !bytes.Equal(read(t, base), before) {
		t.Error("a refused backing file was changed")
	}
	if exists(out) {
		t.Error("a merge that failed left an output")
	}
}

// TestMergeCut: a merge that is cut short leaves nothing, or in place is done again.
func TestMergeCut(t *testing.T) {
	const size = 40 << 20
	dir := t.TempDir()
	base, cow := mergePair(t, dir, size)
	want := shown(t, cow, size)
	cut := func(at int64) (context.Context, MergeOptions) {
		ctx, stop := context.WithCancel(context.Background())
		t.Cleanup(stop)
		return ctx, MergeOptions{Progress: func(done, total int64) {
			if total != size || done > total {
				t.Errorf("progress %d of %d", done, total)
			}
			if done >= at {
				stop()
			}
		}}
	}
	ctx, o := cut(1)
	if err := Merge(ctx, cow, filepath.Join(dir, "out"), o); !errors.Is(err, context.Canceled) {
		t.Errorf("cut short: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("left behind: %v, %v", names, err)
	}

	ctx, o = cut(1)
	if err := MergeInPlace(ctx, cow, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cut short in place: %v", err)
	}
	if bytes.Equal(read(t, base), want) {
		t.Fatal("it was done before it could be cut short")
	}
	// Another COW file's merge does not go on with it.
	other := filepath.Join(dir, "other.cow")
	oracle.Run(t, "cp", "-p", cow, other)
	var e *MismatchError
	if err := MergeInPlace(context.Background(), other, MergeOptions{}); !errors.As(err, &e) {
		t.Errorf("another COW file: %v", err)
	}
	// This one's does, by whatever name the files are called.
	t.Chdir(dir)
	alias := filepath.Join(t.TempDir(), "alias.img")
	if err := os.Symlink(base, alias); err != nil {
		t.Fatal(err)
	}
	if err := MergeInPlace(context.Background(), filepath.Base(cow), MergeOptions{Backing: alias}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, base), want) {
		t.Error("done again, the image is another")
	}
	if exists(base + ".merging") {
		t.Error("the mark was left")
	}
	checkEmpty(t, filepath.Base(cow), want)
	if got := read(t, cow); !bytes.Contains(got[:HeaderLength], []byte(base+"\x00")) {
		t.Error("another name of the same backing file went into the header")
	}
	if err := MergeInPlace(context.Background(), other, MergeOptions{}); !errors.As(err, &e) {
		t.Errorf("another COW file, once it is done: %v", err)
	}
}

// checkEmpty checks that a COW file that was merged in place holds nothing, takes next to
// nothing of the host, and shows the same disk as before.
func checkEmpty(t testing.TB, cow string, want []byte) {
	t.Helper()
	r, err := Check(cow, CheckOptions{})
	if err != nil || len(r.Problems) != 0 || r.Held != 0 || r.Allocated > 20<<10 {
		t.Errorf("the merged COW file: %+v, %v", r, err)
	}
	if got := shown(t, cow, len(want)); !bytes.Equal(got, want) {
		t.Errorf("over the merged backing file byte %d is another", firstDifference(got, want))
	}
}

// TestMergeCutAtTheEnd: a merge that has made the last sector whole, and no more, is done
// again in spite of the backing file's new size.
func TestMergeCutAtTheEnd(t *testing.T) {
	const size = 40*512 + 100
	base, cow := mergePair(t, t.TempDir(), size)
	d := mustOpen(t, cow, "", Options{})
	if _, err := d.WriteAt([]byte("tail"), size); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
	want := shown(t, cow, 41*512)
	c, err := openMerge(cow, "", inPlace)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	m := merger{source: c, target: c.backing, cloned: true}
	if err := m.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.close()
	if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, base), want) || exists(base+".merging") {
		t.Error("done again, the image is another, or the mark was left")
	}
}

// TestMergeInTheSameSecond: a merge in place shows to every COW file over the backing
// file before it has written anything, also in the second in which that was last changed.
func TestMergeInTheSameSecond(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow, other := filepath.Join(dir, "disk.cow"), filepath.Join(dir, "other.cow")
	// Early in a second, so that it does not end before the merge.
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	now := time.Now()
	if err := os.Chtimes(base, now, now); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{cow, other} {
		d := mustOpen(t, path, base, Options{})
		if _, err := d.WriteAt(pattern(4096, 9), 0); err != nil {
			t.Fatal(err)
		}
		mustClose(t, d)
	}
	if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	var e *MismatchError
	if _, err := Open(other, "", Options{}); !errors.As(err, &e) {
		t.Errorf("another COW file over a backing file that was merged into: %v", err)
	}
}

// TestMergeClone: where the host shares blocks between files, neither the backing file's
// nor long runs of the COW file's are copied.
func TestMergeClone(t *testing.T) {
	oracle.NeedsRoot(t)
	host := filepath.Join(t.TempDir(), "xfs.img")
	f, err := os.Create(host)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(400 << 20); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mkfs.xfs", "-q", "-m", "reflink=1", host)
	dir := oracle.Mount(t, host, "")
	for _, size := range []int{3 << 20, 40*512 + 100} {
		base, cow := mergePair(t, dir, size)
		want, before := shown(t, cow, size), read(t, base)
		out := filepath.Join(dir, "out")
		if err := Merge(context.Background(), cow, out, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, out), want) || !bytes.Equal(read(t, base), before) {
			t.Errorf("%d bytes: the new image or the backing file is another", size)
		}
		for _, from := range []string{base, cow} {
			if from == cow && size < 1<<20 {
				continue // it has no long run
			}
			if got := oracle.Run(t, "filefrag", "-v", from); !strings.Contains(got, "shared") {
				t.Errorf("%d bytes: nothing of %s is shared:\n%s", size, filepath.Base(from), got)
			}
		}
		if err := os.Remove(out); err != nil { // nothing else shall share
			t.Fatal(err)
		}
		if err := MergeInPlace(context.Background(), cow, MergeOptions{Keep: true}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, base), want) {
			t.Errorf("%d bytes: the image that was merged into is another", size)
		}
		if got := oracle.Run(t, "filefrag", "-v", base); size >= 1<<20 && !strings.Contains(got, "shared") {
			t.Errorf("%d bytes: in place nothing is shared:\n%s", size, got)
		}
		for _, name := range []string{base, cow} {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}
