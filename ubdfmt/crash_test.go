package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// A tape has every change that was made to some host files, in order.
type tape struct {
	start  map[string][]byte // the files as they were
	events []taped
}

type taped struct {
	path string
	event
}

// record keeps on a tape what happens to the files until the test ends.
func record(t *testing.T, paths ...string) *tape {
	t.Helper()
	r := &tape{start: map[string][]byte{}}
	var mu sync.Mutex // a merge writes from several goroutines
	for _, p := range paths {
		r.start[p] = read(t, p)
	}
	observe = func(h *hostFile, e event) error {
		mu.Lock()
		defer mu.Unlock()
		if _, ok := r.start[h.path]; !ok {
			if e.op != opSync { // a mark's
				t.Errorf("%s was changed", h.path)
			}
			return nil
		}
		e.data = bytes.Clone(e.data)
		r.events = append(r.events, taped{h.path, e})
		return nil
	}
	t.Cleanup(func() { observe = nil })
	return r
}

func (r *tape) stop() { observe = nil }

// after is what a file is after a crash of the host before event n: all that was synced,
// and of what was done since, what keep says, by the sector.
func (r *tape) after(path string, n int, keep func() bool) []byte {
	stable := 0
	for i, e := range r.events[:n] {
		if e.path == path && e.op == opSync {
			stable = i
		}
	}
	// The host writes sectors as its cache has them, with all that was done to them.
	disk, cache := bytes.Clone(r.start[path]), bytes.Clone(r.start[path])
	for i, e := range r.events[:n] {
		if e.path != path {
			continue
		}
		end := e.off + int64(len(e.data))
		switch e.op {
		case opWrite:
			if grow := end - int64(len(cache)); grow > 0 {
				cache = append(cache, make([]byte, grow)...)
				disk = append(disk, make([]byte, grow)...)
			}
			copy(cache[e.off:], e.data)
		case opZero:
			end = min(e.off+e.n, int64(len(cache)))
			clear(cache[min(e.off, end):end])
		case opLength:
			disk = append(disk, make([]byte, max(0, e.n-int64(len(disk))))...)[:e.n]
			cache = append(cache, make([]byte, max(0, e.n-int64(len(cache))))...)[:e.n]
		}
		all := e.op == opZero && keep() // a hole comes at once
		for at := e.off / SectorSize * SectorSize; at < end; at += SectorSize {
			if i < stable || all || e.op == opWrite && keep() {
				copy(disk[at:min(at+SectorSize, int64(len(disk)))], cache[at:])
			}
		}
	}
	return disk
}

// TestCrash writes at random to a COW file, and then crashes the host before every single
// thing that was done to the file, with any part of what was not synced lost. Every
// sector must show something that was written to it since the last Sync that returned,
// or what it had then; and a block that the COW file did not hold then shows one of
// these whole.
func TestCrash(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 1))
	const size, steps = 256 << 10, 120
	for _, dialect := range []Dialect{V3, V2, V1} {
		dir := t.TempDir()
		base := write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
		cow := filepath.Join(dir, "disk.cow")
		makeDialect(t, cow, base, dialect)
		tape := record(t, cow)
		d := mustOpen(t, cow, "", Options{})
		// versions are the disk as it was at each moment; one begins at an event.
		type version struct {
			event, synced int // synced: the version of the last Sync that had returned
			disk          []byte
		}
		versions := []version{{0, 0, pattern(size, 3)}}
		synced := 0
		step := func(change func(disk []byte)) {
			disk := bytes.Clone(versions[len(versions)-1].disk)
			change(disk)
			versions = append(versions, version{len(tape.events), synced, disk})
		}
		for i := range steps {
			off := rng.Int64N(size)
			n := min(1+rng.Int64N(12<<10), size-off)
			begun := len(tape.events)
			switch rng.IntN(8) {
			case 0, 1:
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
				synced = len(versions) - 1
				step(func([]byte) {})
			case 2, 3:
				if err := d.Trim(off, n); err != nil {
					t.Fatal(err)
				}
				step(func(disk []byte) { clear(disk[off : off+n]) })
			default:
				p := pattern(int(n), byte(i))
				if _, err := d.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
				step(func(disk []byte) { copy(disk[off:], p) })
			}
			// What a change did may show from its first event on.
			if v := &versions[len(versions)-1]; !bytes.Equal(v.disk, versions[len(versions)-2].disk) {
				v.event = begun
			}
		}
		mustClose(t, d)
		tape.stop()
		// All that can be seen from here on is the last version.
		cuts, stride := 0, 1
		if !oracle.Nightly() {
			stride = 3
		}
		for n := rng.IntN(stride); n <= len(tape.events); n += stride {
			lo, hi := 0, 0
			for i, v := range versions {
				if v.event <= n {
					hi = i
					if v.event < n || i == 0 {
						lo = v.synced
					}
				}
			}
			for _, chance := range []float64{0, 1, 0.5} {
				after := filepath.Join(dir, "after.cow")
				write(t, after, tape.after(cow, n, func() bool { return rng.Float64() < chance }))
				got := shown(t, after, size)
				held := bitsOf(t, tape.after(cow, n, func() bool { return false }))
				for at := 0; at < size; at += blockSize {
					unit := SectorSize
					if held, _, err := held.run(int64(at/SectorSize), size/SectorSize); err != nil || !held {
						unit = blockSize
					}
					for s := at; s < at+blockSize; s += unit {
						ok := false
						for _, v := range versions[lo : hi+1] {
							ok = ok || bytes.Equal(got[s:s+unit], v.disk[s:s+unit])
						}
						if !ok {
							t.Fatalf("%v: a crash before event %d of %d (chance %v): %d bytes at %d are of none of the versions %d to %d",
								dialect, n, len(tape.events), chance, unit, s, lo, hi)
						}
					}
				}
				cuts++
			}
		}
		t.Logf("%v: %d crashes over %d events", dialect, cuts, len(tape.events))
	}
}

// bitsOf is the bitmap of a COW file's content.
func bitsOf(t *testing.T, content []byte) *bitmap {
	t.Helper()
	h, err := DecodeHeader(content)
	if err != nil {
		t.Fatal(err)
	}
	l := h.Layout()
	b := newBitmap(l)
	b.read = func(i int64, r *region) (bool, error) {
		p := content[l.BitmapOffset : l.BitmapOffset+l.BitmapLength]
		return b.load(r, p[i*regionBytes:min(int64(len(p)), (i+1)*regionBytes)], i*regionBytes), nil
	}
	return b
}

// makeDialect makes a COW file of that dialect that holds nothing.
func makeDialect(t testing.TB, cow, base string, d Dialect) {
	t.Helper()
	h, err := newHeader(base, Options{Alignment: KernelAlignment})
	if err != nil {
		t.Fatal(err)
	}
	if h.Dialect = d; d != V3 && d != V3Broken {
		h.Alignment = SectorSize
	}
	b := encoded(t, h)
	write(t, cow, append(b, make([]byte, h.Layout().DataOffset+h.Size-int64(len(b)))...))
}

// writeSparse makes a file with that content, and holes for its zeros.
func writeSparse(t testing.TB, path string, b []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(b); off += blockSize {
		if block := b[off:min(len(b), off+blockSize)]; !isZero(block) {
			if _, err := f.WriteAt(block, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// files is what a crash leaves of the two files of a merge, and of its mark.
type files struct {
	mtime time.Time
	mark  []byte // nil: none
}

// TestMergeCrash crashes the host before everything that a merge in place does, with any
// part of what was not synced lost, and does the merge again. Whatever shows in between
// does so with a backing file that no COW file matches, or is the disk as it was.
func TestMergeCrash(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 2))
	for _, test := range []struct {
		dialect Dialect
		size    int
	}{{V3, 512 << 10}, {V2, 512 << 10}, {V3, 300*512 + 100}} {
		dir := t.TempDir()
		base := sparseImage(t, filepath.Join(dir, "base.img"), test.size)
		old := time.Unix(1500000000, 0)
		if err := os.Chtimes(base, old, old); err != nil {
			t.Fatal(err)
		}
		cow := filepath.Join(dir, "disk.cow")
		makeDialect(t, cow, base, test.dialect)
		d := mustOpen(t, cow, "", Options{})
		whole := int(d.Size())
		for off := 0; off < test.size; off += 24 << 10 {
			if _, err := d.WriteAt(pattern(min(5000, whole-off), byte(off>>10)), int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.WriteAt([]byte("tail"), int64(whole)-4); err != nil {
			t.Fatal(err)
		}
		if err := d.Trim(40<<10, 64<<10); err != nil {
			t.Fatal(err)
		}
		mustClose(t, d)
		want := shown(t, cow, whole)

		tape := record(t, cow, base)
		inner := observe
		var seen []files
		look := func() {
			info, err := os.Stat(base)
			if err != nil {
				t.Fatal(err)
			}
			mark, err := os.ReadFile(base + ".merging")
			if err != nil {
				mark = nil
			}
			seen = append(seen, files{mtime: info.ModTime(), mark: mark})
		}
		var mu sync.Mutex // what is seen and what is taped go together
		observe = func(h *hostFile, e event) error {
			mu.Lock()
			defer mu.Unlock()
			if h.path == base || h.path == cow {
				look()
			}
			return inner(h, e)
		}
		if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		tape.stop()
		look()
		checkEmpty(t, cow, want)
		for n := range seen {
			for _, chance := range []float64{0, 1, 0.5} {
				keep := func() bool { return rng.Float64() < chance }
				writeSparse(t, cow, tape.after(cow, n, keep))
				write(t, base, tape.after(base, n, keep))
				// The host may have lost the time and kept the data.
				mtime := seen[n].mtime
				if rng.IntN(2) == 0 {
					mtime = old
					for i, e := range tape.events[:n] {
						if e.path == base && e.op == opSync {
							mtime = seen[i].mtime
						}
					}
				}
				if err := os.Chtimes(base, mtime, mtime); err != nil {
					t.Fatal(err)
				}
				os.Remove(base + ".merging")
				if seen[n].mark != nil {
					write(t, base+".merging", seen[n].mark)
				}
				if c, err := OpenCOW(cow, COWOptions{}); err == nil {
					got := make([]byte, whole)
					if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%v: a crash before event %d of %d: the COW file opens and byte %d is another: %v",
							test.dialect, n, len(tape.events), firstDifference(got, want), err)
					}
					c.Close()
				}
				if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
					t.Fatalf("%v: after a crash before event %d of %d: %v", test.dialect, n, len(tape.events), err)
				}
				got := read(t, base)
				if padded := append(got, make([]byte, whole-len(got))...); !bytes.Equal(padded, want) {
					t.Fatalf("%v: done again after event %d the image is another", test.dialect, n)
				}
				checkEmpty(t, cow, want)
				if exists(base + ".merging") {
					t.Fatalf("after event %d the mark stays", n)
				}
			}
		}
		t.Logf("%v: %d events", test.dialect, len(tape.events))
	}
}

// TestRebaseCrash does the same to a COW file that gets another backing file.
func TestRebaseCrash(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 3))
	const size = 256 << 10
	for _, dialect := range []Dialect{V3, V1, V3Broken} {
		dir := t.TempDir()
		base := write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
		cow := filepath.Join(dir, "disk.cow")
		makeDialect(t, cow, base, dialect)
		d := mustOpen(t, cow, "", Options{})
		for off := int64(0); off < size; off += 24 << 10 {
			if _, err := d.WriteAt(pattern(5000, byte(off>>10)), off); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, d)
		want := shown(t, cow, size)
		changed := pattern(size, 3)
		copy(changed[30<<10:], pattern(70<<10, 77))
		next := write(t, filepath.Join(dir, "next.img"), changed)
		at := time.Now().Add(-time.Hour)
		if err := os.Chtimes(next, at, at); err != nil {
			t.Fatal(err)
		}
		tape := record(t, cow)
		if _, err := Rebase(context.Background(), cow, next, RebaseOptions{}); err != nil {
			t.Fatal(err)
		}
		tape.stop()
		for n := range len(tape.events) + 1 {
			for _, chance := range []float64{0, 1, 0.5} {
				// The header is one sector, or lost whole.
				write(t, cow, tape.after(cow, n, func() bool { return rng.Float64() < chance }))
				if got := shown(t, cow, size); !bytes.Equal(got, want) {
					t.Fatalf("%v: after event %d of %d byte %d is another", dialect, n, len(tape.events), firstDifference(got, want))
				}
				if _, err := Rebase(context.Background(), cow, next, RebaseOptions{}); err != nil {
					t.Fatalf("%v: done again after event %d: %v", dialect, n, err)
				}
				if h, err := ReadHeader(cow); err != nil || h.Backing != next {
					t.Fatalf("%v: after event %d the header names %q: %v", dialect, n, h.Backing, err)
				}
				if got := shown(t, cow, size); !bytes.Equal(got, want) {
					t.Fatalf("%v: done again after event %d it shows another disk", dialect, n)
				}
			}
		}
		t.Logf("%v: %d events", dialect, len(tape.events))
	}
}

var errKilled = errors.New("killed")

// TestMergeFails: the host refuses everything from some moment on. What is left can be
// merged, as after a kill, and nothing else is beside it.
func TestMergeFails(t *testing.T) {
	for n := 0; ; n += 3 {
		dir := t.TempDir()
		base, cow := mergePair(t, dir, 512<<10)
		want := shown(t, cow, 512<<10)
		var left atomic.Int64
		left.Store(int64(n))
		observe = func(*hostFile, event) error {
			if left.Add(-1) < 0 {
				return errKilled
			}
			return nil
		}
		err := MergeInPlace(context.Background(), cow, MergeOptions{})
		observe = nil
		if err == nil {
			if n == 0 {
				t.Fatal("nothing was done")
			}
			return
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
			t.Fatalf("done again after %d events: %v", n, err)
		}
		if !bytes.Equal(read(t, base), want) {
			t.Fatalf("after %d events and again the image is another", n)
		}
		checkEmpty(t, cow, want)
		if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
			t.Fatal(fmt.Sprint("left behind: ", names), err)
		}
	}
}
