package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// Compare finds what a comparison byte by byte finds, over any mixture of layers and
// holes.
func TestCompareModel(t *testing.T) {
	runs := 40
	if oracle.Nightly() {
		runs = 2000
	}
	seed := uint64(oracle.Seed(t))
	for i := range runs {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		dir := t.TempDir()
		size := int64(64+r.IntN(2000)) * SectorSize
		content := sparse(r, size)
		base := writeHoley(t, filepath.Join(dir, "base.img"), content, false)
		open := func(name string) Device {
			if r.IntN(2) == 0 {
				other := append(slices.Clone(content), make([]byte, r.IntN(8)*SectorSize)...)
				if r.IntN(2) == 0 {
					other[r.IntN(len(other))] ^= 1
				}
				return mustOpen(t, writeHoley(t, filepath.Join(dir, name+".img"), other, r.IntN(2) == 0), "", Options{})
			}
			return mustOpen(t, filepath.Join(dir, name+".cow"), base, Options{})
		}
		a, b := open("a"), open("b")
		for range max(0, r.IntN(9)-3) {
			off := r.Int64N(size)
			p := make([]byte, r.Int64N(min(size-off, 9000))+1)
			if r.IntN(2) == 0 {
				p[r.IntN(len(p))] = 1
			}
			for _, d := range []Device{a, b} {
				if r.IntN(12) == 0 {
					continue // so that they differ
				}
				if r.IntN(3) == 0 {
					if err := d.Trim(off, int64(len(p))); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := d.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := firstSectorApart(contentOf(t, a), contentOf(t, b))
		got, err := Compare(context.Background(), a, b, CompareOptions{})
		if err != nil || (got.Difference == Same) != (want < 0) || want >= 0 && (got.Offset != want || got.Difference != DifferentContent) {
			t.Fatalf("seed %d, run %d: %+v, %v; the first sector that differs is at %d", seed, i, got, err, want)
		}
		strict, err := Compare(context.Background(), a, b, CompareOptions{Strict: true})
		if err != nil || strict.Difference == Same && (want >= 0 || a.Size() != b.Size()) || a.Size() != b.Size() && strict.Difference != DifferentSize {
			t.Fatalf("seed %d, run %d: strictly %+v, %v", seed, i, strict, err)
		}
		mustClose(t, a)
		mustClose(t, b)
	}
}

// sparse is content with blocks of zeros in it.
func sparse(r *rand.Rand, size int64) []byte {
	b := make([]byte, size)
	for off := 0; off < len(b); off += 4096 {
		if r.IntN(3) == 0 {
			b[off+r.IntN(min(4096, len(b)-off))] = byte(r.IntN(3))
		}
	}
	return b
}

// writeHoley makes a file in which blocks of zeros are holes, unless full.
func writeHoley(t *testing.T, path string, content []byte, full bool) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(content); off += zeroBlock {
		if b := content[off:min(len(content), off+zeroBlock)]; full || !isZero(b) {
			if _, err := f.WriteAt(b, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}

func contentOf(t *testing.T, d Device) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if n, err := d.ReadAt(b, 0); n != len(b) {
		t.Fatal(err)
	}
	return b
}

// firstSectorApart is the first sector that differs, or -1.
func firstSectorApart(a, b []byte) int64 {
	long := max(len(a), len(b))
	a, b = append(a, make([]byte, long-len(a))...), append(b, make([]byte, long-len(b))...)
	for off := 0; off < long; off += SectorSize {
		if !bytes.Equal(a[off:off+SectorSize], b[off:off+SectorSize]) {
			return int64(off)
		}
	}
	return -1
}

// What two disks share, and what is a hole on both, is not read.
func TestCompareReadsLittle(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(8<<20, 1))
	a := mustOpen(t, filepath.Join(dir, "a.cow"), base, Options{})
	defer mustClose(t, a)
	b := mustOpen(t, filepath.Join(dir, "b.cow"), base, Options{})
	defer mustClose(t, b)
	for _, d := range []Device{a, b} {
		if _, err := d.WriteAt(pattern(64<<10, 2), 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := d.Trim(4<<20, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Compare(context.Background(), a, b, CompareOptions{})
	if err != nil || got.Difference != Same || got.Read != 2*64<<10 {
		t.Errorf("%+v, %v; 2 * 64 KiB have to be read", got, err)
	}
}

// One file in two disks is the same only in the same place.
func TestCompareShared(t *testing.T) {
	f, err := os.Open(write(t, filepath.Join(t.TempDir(), "f"), pattern(8192, 1)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := &comparer{infos: map[*os.File]os.FileInfo{}}
	for off, want := range map[int64]bool{4096: true, 0: false} {
		if got := c.shared(Extent{Offset: 0, Length: 4096, File: f, FileOffset: 4096}, Extent{Offset: 0, Length: 4096, File: f, FileOffset: off}); got != want {
			t.Errorf("bytes at 4096 and at %d of a file: %v", off, got)
		}
	}
}

// failing is a disk that fails in one way.
type failing struct {
	Device
	mapErr, readErr error
}

func (f failing) Extents(off, n int64, visit func(Extent) bool) error {
	if f.mapErr != nil {
		return f.mapErr
	}
	return f.Device.Extents(off, n, visit)
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if f.readErr != nil {
		return 0, f.readErr
	}
	return f.Device.ReadAt(p, off)
}

func TestCompareErrors(t *testing.T) {
	dir := t.TempDir()
	a := mustOpen(t, write(t, filepath.Join(dir, "a.img"), pattern(1<<20, 1)), "", Options{})
	defer mustClose(t, a)
	b := mustOpen(t, write(t, filepath.Join(dir, "b.img"), pattern(1<<20, 1)), "", Options{})
	defer mustClose(t, b)
	broken := errors.New("broken")
	var unmapped *MapError
	if _, err := Compare(context.Background(), a, failing{Device: b, mapErr: broken}, CompareOptions{}); !errors.As(err, &unmapped) || !errors.Is(err, broken) {
		t.Errorf("a disk without a map: %v", err)
	}
	if _, err := Compare(context.Background(), a, failing{Device: b, readErr: broken}, CompareOptions{}); errors.As(err, &unmapped) || !errors.Is(err, broken) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if _, err := Compare(ctx, a, b, CompareOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
