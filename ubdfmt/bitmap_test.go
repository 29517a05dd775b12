package ubdfmt

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// TestBitmapModel holds the bitmap against a slice of bools, across the borders of chunks
// and regions.
func TestBitmapModel(t *testing.T) {
	const (
		sectors = regionSectors + chunkSectors + 1003
		lowest  = regionSectors - 2*chunkSectors
	)
	h := sample
	h.Size = sectors * SectorSize
	b := newBitmap(h.Layout())
	model := make([]bool, sectors)
	rng := rand.New(rand.NewPCG(1, 2))
	last := int64(0)
	for range 300 {
		first := lowest + rng.Int64N(sectors-lowest)
		end := min(sectors, first+1+rng.Int64N([]int64{1, 5, 64, 200, 40000}[rng.IntN(5)]))
		mark(t, b, first, end)
		for i := first; i < end; i++ {
			model[i] = true
		}
		last = max(last, end)
		if rng.IntN(20) != 0 {
			continue
		}
		checkRuns(t, b, model, 0, sectors)
		if got, err := b.end(); got != last || err != nil {
			t.Fatalf("the last sector held ends at %d, want %d, %v", got, last, err)
		}
	}

	// Through the file's form and back, with bits past the end that must not count.
	file := make([]byte, b.length)
	var p [chunkBytes]byte
	for _, i := range b.takeDirty() {
		b.encode(i, &p)
		off, n := b.span(i)
		copy(file[off:], p[:n])
	}
	file[len(file)-1] |= 0x80
	file = append(file, bytes.Repeat([]byte{0xff}, 3*chunkBytes)...)
	back := newBitmap(h.Layout())
	back.read = func(i int64, r *region) (some bool, err error) {
		for off := i * regionBytes; off < min(int64(len(file)), (i+1)*regionBytes); off += 2 * chunkBytes {
			some = back.load(r, file[off:min(int64(len(file)), off+2*chunkBytes)], off) || some
		}
		return some, nil
	}
	checkRuns(t, back, model, 0, sectors)
	for i := range int(ceilDiv(sectors, chunkSectors)) {
		var want, got [chunkBytes]byte
		b.encode(i, &want)
		back.encode(i, &got)
		if got != want {
			t.Errorf("chunk %d is another when it is read back", i)
		}
	}
	if len(b.takeDirty()) != 0 {
		t.Error("a chunk is dirty that was taken")
	}
}

func mark(t *testing.T, b *bitmap, first, end int64) {
	t.Helper()
	if err := b.set(first, end); err != nil {
		t.Error(err)
	}
}

func checkRuns(t *testing.T, b *bitmap, model []bool, first, end int64) {
	t.Helper()
	for at := first; at < end; {
		held, next, err := b.run(at, end)
		if err != nil {
			t.Fatal(err)
		}
		if next <= at || next > end {
			t.Fatalf("the run at %d ends at %d", at, next)
		}
		for i := at; i < next; i++ {
			if model[i] != held {
				t.Fatalf("sector %d of the run [%d, %d) held %v, want %v", i, at, next, held, model[i])
			}
		}
		if next < end && model[next] == held {
			t.Fatalf("the run [%d, %d) ends too early", at, next)
		}
		at = next
	}
}

// TestBitmapReads: a region is read when it is asked for, once, by whoever comes first; what
// could not be read fails every kind of access, and is read when it is asked for again.
func TestBitmapReads(t *testing.T) {
	const size = 5*regionSectors*SectorSize + 4096
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), nil)
	if err := os.Truncate(base, size); err != nil {
		t.Fatal(err)
	}
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	const changed = 3*regionSectors*SectorSize + 40960
	for _, off := range []int64{changed, size - 4096} {
		if _, err := d.WriteAt(pattern(4096, 1), off); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, d)

	c := mustOpen(t, cow, "", Options{}).(*COW)
	defer mustClose(t, c)
	have := func() (indexes []int) {
		for i := range c.bits.regions {
			if c.bits.regions[i].Load() != nil {
				indexes = append(indexes, i)
			}
		}
		return indexes
	}
	if got := have(); got != nil {
		t.Errorf("opening it read the regions %v", got)
	}
	read, lost := c.bits.read, errors.New("lost")
	c.bits.read = func(int64, *region) (bool, error) { return false, lost }
	p := make([]byte, 4096)
	for name, do := range map[string]func() error{
		"read":         func() error { _, err := c.ReadAt(p, changed); return err },
		"write":        func() error { _, err := c.WriteAt(p, changed); return err },
		"write a part": func() error { _, err := c.WriteAt(p[:100], changed+7); return err },
		"stable write": func() error { _, err := c.WriteStable(p, changed); return err },
		"trim":         func() error { return c.Trim(changed, 4096) },
		"map":          func() error { return c.Extents(changed, 4096, func(Extent) bool { return true }) },
	} {
		if err := do(); !errors.Is(err, lost) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var reads atomic.Int32
	c.bits.read = func(i int64, r *region) (bool, error) {
		reads.Add(1)
		return read(i, r)
	}
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			p := make([]byte, 4096)
			if _, err := c.ReadAt(p, changed); err != nil || !bytes.Equal(p, pattern(4096, 1)) {
				t.Errorf("%x, %v", p[:8], err)
			}
			if _, err := c.WriteAt(pattern(512, 2), changed+regionSectors*SectorSize); err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	if got := have(); reads.Load() != 2 || !slices.Equal(got, []int{3, 4}) {
		t.Errorf("%d reads brought the regions %v", reads.Load(), got)
	}
	if c.bits.regions[4].Load() == vacant || vacant.end() != 0 {
		t.Error("a bit was set in the region that all vacant ones share")
	}
	if last, err := c.bits.end(); err != nil || last != c.bits.sectors {
		t.Errorf("the last sector held ends at %d, %v", last, err)
	}
}

// TestBitmapDirtyConcurrent: a bit set while dirty chunks are taken is in this take or
// in a later one.
func TestBitmapDirtyConcurrent(t *testing.T) {
	h := sample
	h.Size = 64 << 20
	b := newBitmap(h.Layout())
	file := make([]byte, b.length)
	take := func() {
		var p [chunkBytes]byte
		for _, i := range b.takeDirty() {
			b.encode(i, &p)
			off, n := b.span(i)
			copy(file[off:], p[:n])
		}
	}
	var writers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		writers.Go(func() {
			for s := int64(w); s < b.sectors; s += 4 {
				mark(t, b, s, s+1)
			}
		})
	}
	go func() { writers.Wait(); close(stop) }()
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		take()
	}
	for i, v := range file {
		if v != 0xff {
			t.Fatalf("byte %d of the bitmap is %#x", i, v)
		}
	}
}
