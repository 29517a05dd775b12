package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// BenchmarkDevice reads and writes a disk through a COW file, and a raw file as large
// by the plain calls of the host, in turns. All is in the page cache. Where the COW file
// holds nothing yet, a write gets it new blocks of the host, and the raw file has its own:
// for that there is a raw file that begins as a hole, too.
func BenchmarkDevice(b *testing.B) {
	const size = 512 << 20
	dir := b.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("base.img"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(at("base.img"), size); err != nil {
		b.Fatal(err)
	}
	for _, shape := range []struct {
		name string
		n    int
		next func(rng *rand.Rand, i int64) int64
		ops  int64
	}{
		{"4 KiB random", 4096, func(rng *rand.Rand, _ int64) int64 { return rng.Int64N(size/4096) * 4096 }, 60000},
		{"1 MiB sequential", 1 << 20, func(_ *rand.Rand, i int64) int64 { return i << 20 % size }, size >> 20},
	} {
		pass := func(do func([]byte, int64) (int, error)) time.Duration {
			p, rng := make([]byte, shape.n), rand.New(rand.NewPCG(1, 1))
			p[0] = 1
			start := time.Now()
			for i := range shape.ops {
				if _, err := do(p, shape.next(rng, i)); err != nil && err != io.EOF {
					b.Fatal(err)
				}
			}
			return time.Since(start)
		}
		best := map[string]time.Duration{}
		note := func(name string, d time.Duration) {
			if old, ok := best[name]; !ok || d < old {
				best[name] = d
			}
		}
		// In turns: a file that is written later gets other pages of the host's memory.
		held := openDisk(b, at("held.cow"), at("base.img"))
		raw, err := os.Create(at("raw.img"))
		if err != nil {
			b.Fatal(err)
		}
		p := make([]byte, 1<<20)
		for off := int64(0); off < size; off += int64(len(p)) {
			for _, to := range []io.WriterAt{held, raw} {
				if _, err := to.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
			}
		}
		unix.Sync()
		for range 9 {
			note("raw read", pass(raw.ReadAt))
			note("held read", pass(held.ReadAt))
			note("raw write", pass(raw.WriteAt))
			note("held write", pass(held.WriteAt))
			unix.Sync()
			first := openDisk(b, at("first.cow"), at("base.img"))
			note("first write", pass(first.WriteAt))
			first.Close()
			hole, err := os.Create(at("hole.img"))
			if err != nil {
				b.Fatal(err)
			}
			if err := hole.Truncate(size); err != nil {
				b.Fatal(err)
			}
			note("raw hole write", pass(hole.WriteAt))
			hole.Close()
			for _, name := range []string{"first.cow", "hole.img"} {
				if err := os.Remove(at(name)); err != nil {
					b.Fatal(err)
				}
			}
			unix.Sync()
		}
		held.Close()
		raw.Close()
		os.Remove(at("held.cow"))
		os.Remove(at("raw.img"))
		for _, r := range []struct{ cow, raw, wanted string }{
			{"held read", "raw read", "0.9"}, {"held write", "raw write", "0.9"},
			{"first write", "raw write", "0.5"}, {"first write", "raw hole write", "0.5"},
		} {
			rate := func(name string) float64 { return float64(shape.ops) * float64(shape.n) / 1e6 / best[name].Seconds() }
			ratio := rate(r.cow) / rate(r.raw)
			fmt.Printf("%s, %s %.0f MB/s, %s %.0f MB/s, ratio %.2f (wanted: at least %s)\n",
				shape.name, r.cow, rate(r.cow), r.raw, rate(r.raw), ratio, r.wanted)
		}
	}
}

// BenchmarkOpen opens a COW file over a disk of 1 TiB of which up to 1 GiB is changed in runs
// of 64 KiB, and then asks it where all of the disk lies.
func BenchmarkOpen(b *testing.B) {
	const size = 1 << 40
	dir := b.TempDir()
	base := filepath.Join(dir, "base.img")
	if err := os.WriteFile(base, nil, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(base, size); err != nil {
		b.Fatal(err)
	}
	for _, changes := range []int64{0, 16, 1600, 16000} {
		cow := filepath.Join(dir, fmt.Sprint(changes, ".cow"))
		d := openDisk(b, cow, base)
		for i := range changes {
			if _, err := d.WriteAt(make([]byte, 64<<10), i*(size/changes)&^4095); err != nil {
				b.Fatal(err)
			}
		}
		d.Close()
		var best [2]time.Duration
		var memory [2]uint64
		for range 9 {
			kept := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before := kept()
			var d ubdfmt.Device
			for i, do := range []func() error{
				func() error { d = openDisk(b, cow, ""); return nil },
				func() error { return d.Extents(0, size, func(ubdfmt.Extent) bool { return true }) },
			} {
				start := time.Now()
				if err := do(); err != nil {
					b.Fatal(err)
				}
				if took := time.Since(start); best[i] == 0 || took < best[i] {
					best[i] = took
				}
				memory[i] = kept() - before
			}
			d.Close()
		}
		fmt.Printf("open a COW file of 1 TiB with %d MiB changed in runs of 64 KiB: %.2f ms (wanted: below 5), memory kept %d KiB; then map all of it: %.1f ms, %d KiB\n",
			changes>>4, best[0].Seconds()*1e3, memory[0]>>10, best[1].Seconds()*1e3, memory[1]>>10)
	}
}

func openDisk(b *testing.B, path, backing string) ubdfmt.Device {
	b.Helper()
	d, err := ubdfmt.Open(path, backing, ubdfmt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return d
}
