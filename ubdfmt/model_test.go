package ubdfmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestModel does random operations on a disk and on a slice of bytes, and compares.
// The backing file has data, holes and zeros; sizes are whole and odd.
func TestModel(t *testing.T) {
	const most = 3 << 20
	sizes := []int{most, 40*SectorSize + 7, 511, chunkDisk + 3*SectorSize + 1}
	if testing.Short() {
		sizes = sizes[:3] // all but the one that crosses a chunk of the bitmap
	}
	for _, size := range sizes {
		for _, kind := range []string{"raw", "cow", "cow sync"} {
			t.Run(fmt.Sprintf("%s %d", kind, size), func(t *testing.T) {
				dir := t.TempDir()
				base := sparseImage(t, filepath.Join(dir, "base.img"), size)
				content, err := os.ReadFile(base)
				if err != nil {
					t.Fatal(err)
				}
				model := make([]byte, roundUp(int64(size), SectorSize))
				copy(model, content)
				path, backing, o := base, "", Options{}
				if kind != "raw" {
					path, backing = filepath.Join(dir, "disk.cow"), base
					o.Sync = kind == "cow sync"
				}
				modelRun(t, path, backing, o, model)
				if kind != "raw" {
					after, err := os.ReadFile(base)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(after, content) {
						t.Error("the backing file was changed")
					}
				}
			})
		}
	}
}

// sparseImage makes a file of that size with runs of data, zeros and holes.
func sparseImage(t testing.TB, path string, size int) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	data := pattern(size, 5)
	const run = 24 << 10
	for off := 0; off < size; off += run {
		b := data[off:min(size, off+run)]
		switch off / run % 4 {
		case 1:
			clear(b)
		case 2, 3:
			continue
		}
		if _, err := f.WriteAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func modelRun(t *testing.T, path, backing string, o Options, model []byte) {
	rng := rand.New(rand.NewPCG(7, uint64(len(model))))
	size := int64(len(model))
	d := mustOpen(t, path, backing, o)
	defer func() { d.Close() }()
	if d.Size() != size {
		t.Fatalf("size %d, want %d", d.Size(), size)
	}
	span := func() (off, n int64) {
		n = rng.Int64N(min(size, []int64{700, 5000, 200 << 10}[rng.IntN(3)]) + 1)
		off = rng.Int64N(size - n + 1)
		if rng.IntN(2) == 0 { // as a kernel would
			off, n = off/SectorSize*SectorSize, n/SectorSize*SectorSize
		}
		return off, n
	}
	check := func(off, n int64) {
		t.Helper()
		got := make([]byte, n)
		if m, err := d.ReadAt(got, off); err != nil || m != len(got) {
			t.Fatalf("read of %d at %d: %d, %v", n, off, m, err)
		}
		if i := firstDifference(got, model[off:off+n]); i >= 0 {
			t.Fatalf("byte %d (sector %d) is %#x, want %#x", off+int64(i), (off+int64(i))/SectorSize, got[i], model[off+int64(i)])
		}
	}
	rounds := 400
	if o.Sync || testing.Short() {
		rounds = 60
	}
	for i := range rounds {
		off, n := span()
		switch op := rng.IntN(20); {
		case op < 9:
			b := pattern(int(n), byte(i))
			write := d.WriteAt
			if op < 2 {
				write = d.(stableWriter).WriteStable
			}
			if m, err := write(b, off); err != nil || m != len(b) {
				t.Fatalf("write of %d at %d: %d, %v", n, off, m, err)
			}
			copy(model[off:], b)
		case op < 13:
			if err := d.Trim(off, n); err != nil {
				t.Fatalf("trim of %d at %d: %v", n, off, err)
			}
			clear(model[off : off+n])
		case op < 17:
			check(off, n)
		case op == 17:
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
		case op == 18:
			mustClose(t, d)
			d = mustOpen(t, path, backing, o)
		case op == 19:
			if got, want := sumExtents(t, d), sum(t, bytes.NewReader(model)); got != want {
				t.Fatalf("by its extents the disk is another")
			}
		}
	}
	check(0, size)
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func TestRanges(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(2000, 3))
	for _, cow := range []string{"", filepath.Join(dir, "disk.cow")} {
		path, backing := base, ""
		if cow != "" {
			path, backing = cow, base
		}
		d := mustOpen(t, path, backing, Options{})
		b := make([]byte, 600)
		if n, err := d.ReadAt(b, 1500); n != 548 || err != io.EOF {
			t.Errorf("a read over the end: %d, %v", n, err)
		}
		if !bytes.Equal(b[:500], pattern(2000, 3)[1500:]) || !isZero(b[500:548]) {
			t.Error("the last sector is not the file's rest and zeros")
		}
		for _, off := range []int64{2048, 1 << 62} {
			if n, err := d.ReadAt(b, off); n != 0 || err != io.EOF {
				t.Errorf("a read at %d: %d, %v", off, n, err)
			}
		}
		for _, r := range [][2]int64{{-1, 1}, {2048, 1}, {2000, 49}, {0, 2049}, {1<<63 - 1, 1}} {
			if r[1] > 0 {
				if n, err := d.WriteAt(make([]byte, r[1]), r[0]); n != 0 || !errors.Is(err, unix.EINVAL) {
					t.Errorf("a write of %d at %d: %d, %v", r[1], r[0], n, err)
				}
			}
			if err := d.Trim(r[0], r[1]); !errors.Is(err, unix.EINVAL) {
				t.Errorf("a trim of %d at %d: %v", r[1], r[0], err)
			}
			if err := d.Extents(r[0], r[1], nil); !errors.Is(err, unix.EINVAL) {
				t.Errorf("extents of %d at %d: %v", r[1], r[0], err)
			}
		}
		if _, err := d.ReadAt(b, -1); !errors.Is(err, unix.EINVAL) {
			t.Errorf("a read at -1: %v", err)
		}
		if err := d.Trim(0, -1); !errors.Is(err, unix.EINVAL) {
			t.Errorf("a trim of -1: %v", err)
		}
		mustClose(t, d)
		if _, err := d.ReadAt(b, 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a read after Close: %v", err)
		}
		if _, err := d.WriteAt(b, 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a write after Close: %v", err)
		}
		if d.Sync() == nil || d.Trim(0, 512) == nil {
			t.Error("Sync and Trim do not fail after Close")
		}
	}
	if info, err := os.Stat(base); err != nil || info.Size() != 2000 {
		t.Errorf("the image changed its length: %v", err)
	}
}

func TestReadOnlyAndNoTrim(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	mustClose(t, mustOpen(t, cow, base, Options{}))
	for _, path := range []string{base, cow} {
		before := sumFile(t, path)
		d := mustOpen(t, path, "", Options{ReadOnly: true})
		if _, err := d.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: write: %v", path, err)
		}
		if err := d.Trim(0, 512); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: trim: %v", path, err)
		}
		if err := d.Sync(); err != nil {
			t.Error(err)
		}
		mustClose(t, d)
		if sumFile(t, path) != before {
			t.Errorf("%s was changed", path)
		}
		d = mustOpen(t, path, "", Options{NoTrim: true})
		if err := d.Trim(0, 0); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: trim with flag t: %v", path, err)
		}
		mustClose(t, d)
	}
	if _, err := Open(filepath.Join(dir, "new.cow"), base, Options{ReadOnly: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a COW file that does not exist, read-only: %v", err)
	}
}

// TestConcurrent has goroutines own interleaved strips, none of them whole sectors, and
// trims between them: no write may be lost to a neighbour's copying of the sector.
// The race detector looks on.
func TestConcurrent(t *testing.T) {
	const (
		size    = 1 << 20
		workers = 8
		strip   = 200 // bytes: several owners in one sector
	)
	dir := t.TempDir()
	base := sparseImage(t, filepath.Join(dir, "base.img"), size)
	d := mustOpen(t, filepath.Join(dir, "disk.cow"), base, Options{})
	defer d.Close()
	model := make([]byte, size)
	if _, err := d.ReadAt(model, 0); err != nil {
		t.Fatal(err)
	}
	var all, readers sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(w)))
			for i := range 600 {
				n := rng.IntN(size/strip/workers)*workers + w
				mine := model[n*strip : min(size, (n+1)*strip)]
				if rng.IntN(8) == 0 {
					clear(mine)
					if err := d.Trim(int64(n*strip), int64(len(mine))); err != nil {
						t.Error(err)
						return
					}
				} else {
					copy(mine, pattern(len(mine), byte(i)))
					if _, err := d.WriteAt(mine, int64(n*strip)); err != nil {
						t.Error(err)
						return
					}
				}
				got := make([]byte, len(mine))
				if _, err := d.ReadAt(got, int64(n*strip)); err != nil || !bytes.Equal(got, mine) {
					t.Errorf("worker %d does not read what it wrote: %v", w, err)
					return
				}
				if i%150 == 0 {
					if err := d.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	var stop atomic.Bool
	readers.Go(func() {
		b := make([]byte, size)
		for !stop.Load() {
			if _, err := d.ReadAt(b, 0); err != nil {
				t.Error(err)
			}
			if err := d.Extents(0, size, func(Extent) bool { return true }); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	stop.Store(true)
	readers.Wait()
	mustClose(t, d)
	d = mustOpen(t, filepath.Join(dir, "disk.cow"), "", Options{})
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if i := firstDifference(got, model); i >= 0 {
		t.Errorf("byte %d is %#x, want %#x", i, got[i], model[i])
	}
}

// TestCopyUpRace has goroutines write their parts of the same blocks at the same time,
// when the blocks are yet to be copied up.
func TestCopyUpRace(t *testing.T) {
	const (
		size    = 8 << 20
		workers = 4
		part    = blockSize / workers
	)
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
	d := mustOpen(t, filepath.Join(dir, "disk.cow"), base, Options{})
	defer d.Close()
	want := pattern(size, 3)
	var turn [size / blockSize]sync.WaitGroup
	for i := range turn {
		turn[i].Add(workers)
	}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range turn {
				// All but the last byte: the block's every part is half a write.
				off := i*blockSize + w*part
				mine := want[off : off+part-1]
				for j := range mine {
					mine[j] = byte(i + w)
				}
				turn[i].Done()
				turn[i].Wait()
				if _, err := d.WriteAt(mine, int64(off)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if i := firstDifference(got, want); i >= 0 {
		t.Errorf("byte %d, %d of its block, is %#x, want %#x", i, i%blockSize, got[i], want[i])
	}
}

// TestTrimRace trims blocks while another goroutine writes a part of them, which copies
// them up: whichever came last, nothing of the backing file may show.
func TestTrimRace(t *testing.T) {
	const size = 8 << 20
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
	d := mustOpen(t, filepath.Join(dir, "disk.cow"), base, Options{})
	defer d.Close()
	part := bytes.Repeat([]byte{0x5a}, 1000)
	var turn [size / blockSize]sync.WaitGroup
	for i := range turn {
		turn[i].Add(2)
	}
	each := func(do func(off int64) error) {
		for i := range turn {
			turn[i].Done()
			turn[i].Wait()
			if err := do(int64(i * blockSize)); err != nil {
				t.Error(err)
			}
		}
	}
	var all sync.WaitGroup
	all.Go(func() { each(func(off int64) error { return d.Trim(off, blockSize) }) })
	all.Go(func() { each(func(off int64) error { _, err := d.WriteAt(part, off+1500); return err }) })
	all.Wait()
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < size; off += blockSize {
		b := got[off : off+blockSize]
		if mid := b[1500:2500]; !bytes.Equal(mid, part) && !isZero(mid) {
			t.Fatalf("block %d: the write is half there", off/blockSize)
		}
		if !isZero(b[:1500]) || !isZero(b[2500:]) {
			t.Fatalf("block %d shows the backing file", off/blockSize)
		}
	}
}

// TestLostBits: what a COW file holds of writes whose bits were lost with a machine must
// not come back, neither by a trim nor by a write of a part of the sector.
func TestLostBits(t *testing.T) {
	const size = 64 << 10
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	if _, err := d.WriteAt(pattern(size, 0x51), 0); err != nil {
		t.Fatal(err)
	}
	// The machine dies: its descriptors close, nothing is flushed.
	d.(*COW).file.Close()
	d.(*COW).backing.Close()

	model := pattern(size, 3)
	d = mustOpen(t, cow, "", Options{})
	check := func(when string) {
		t.Helper()
		got := make([]byte, size)
		if _, err := d.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if i := firstDifference(got, model); i >= 0 {
			t.Fatalf("%s, byte %d is %#x, want %#x", when, i, got[i], model[i])
		}
	}
	check("after the machine died")
	if err := d.Trim(700, 9000); err != nil {
		t.Fatal(err)
	}
	clear(model[700:9700])
	check("after a trim")
	if _, err := d.WriteAt([]byte("part"), 30000); err != nil {
		t.Fatal(err)
	}
	copy(model[30000:], "part")
	check("after a write of a part of a sector")
	mustClose(t, d)
	d = mustOpen(t, cow, "", Options{})
	check("opened again")
	mustClose(t, d)
}

type stableWriter interface {
	WriteStable(p []byte, off int64) (int, error)
}

// TestWriteStable: what WriteStable wrote is there when the machine has died at once, and
// once the file holds the range nothing else is made stable with it.
func TestWriteStable(t *testing.T) {
	const size = 256 << 10
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
	cow := filepath.Join(dir, "disk.cow")
	model := pattern(size, 3)
	for round := range 3 {
		d := mustOpen(t, cow, base, Options{})
		if round > 0 { // its bit is lost with the machine
			if _, err := d.WriteAt(pattern(8192, 0x77), int64(round)*65536); err != nil {
				t.Fatal(err)
			}
			if !d.(*COW).bits.isDirty(0, size/SectorSize) {
				t.Fatal("no bit waits")
			}
			d.(*COW).bits.dirty(0).Store(false) // as if it were in a chunk of its own
		}
		p := pattern(12288, byte(0x50+round))
		if n, err := d.(stableWriter).WriteStable(p, 4096); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
		copy(model[4096:], p)
		d.(*COW).file.Close()
		d.(*COW).backing.Close()
		d = mustOpen(t, cow, "", Options{})
		got := make([]byte, size)
		if _, err := d.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if i := firstDifference(got, model); i >= 0 {
			t.Fatalf("round %d: byte %d is %#x, want %#x", round, i, got[i], model[i])
		}
		mustClose(t, d)
	}

	// Held, but not on the disk yet: the bit must be made stable with the data.
	d := mustOpen(t, cow, base, Options{})
	for _, b := range []byte{0x11, 0x12} {
		write := d.WriteAt
		if b == 0x12 {
			write = d.(stableWriter).WriteStable
		}
		if _, err := write(pattern(4096, b), 200<<10); err != nil {
			t.Fatal(err)
		}
	}
	d.(*COW).file.Close()
	d.(*COW).backing.Close()
	if got := shown(t, cow, size)[200<<10 : 204<<10]; !bytes.Equal(got, pattern(4096, 0x12)) {
		t.Error("a stable write over one that was not is lost")
	}

	d = mustOpen(t, cow, "", Options{ReadOnly: true})
	if _, err := d.(stableWriter).WriteStable([]byte("x"), 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a disk that is read-only: %v", err)
	}
	mustClose(t, d)
	d = mustOpen(t, base, "", Options{})
	if _, err := d.(stableWriter).WriteStable(pattern(100, 9), size-50); !errors.Is(err, unix.EINVAL) {
		t.Errorf("write past the end: %v", err)
	}
	mustClose(t, d)
}

// TestWholeBlocks: whatever is written or trimmed, a block is held whole or not at all.
func TestWholeBlocks(t *testing.T) {
	const size = 1<<20 + 1536
	dir := t.TempDir()
	base := sparseImage(t, filepath.Join(dir, "base.img"), size)
	c, err := Open(filepath.Join(dir, "disk.cow"), base, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rng := rand.New(rand.NewPCG(5, 5))
	for range 200 {
		n := rng.Int64N(9000)
		off := rng.Int64N(size - n)
		if rng.IntN(2) == 0 {
			err = c.Trim(off, n)
		} else {
			_, err = c.WriteAt(pattern(int(n), 1), off)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	bits := c.(*COW).bits
	for at := int64(0); at < bits.sectors; {
		_, next, err := bits.run(at, bits.sectors)
		if err != nil {
			t.Fatal(err)
		}
		if next%(blockSize/SectorSize) != 0 && next != bits.sectors {
			t.Errorf("a run of sectors ends at %d, within a block", next)
		}
		at = next
	}
}
