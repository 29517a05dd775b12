package ubdfmt

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkDevice compares blocks of a COW file with blocks of a raw image: held ones,
// ones of the backing file, and ones copied up a moment ago.
func BenchmarkDevice(b *testing.B) {
	const size = 256 << 20
	dir := b.TempDir()
	base := filepath.Join(dir, "base.img")
	if err := os.WriteFile(base, make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	raw := filepath.Join(dir, "raw.img")
	if err := os.WriteFile(raw, make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	empty := mustOpen(b, filepath.Join(dir, "empty.cow"), base, Options{})
	defer empty.Close()
	held := mustOpen(b, filepath.Join(dir, "held.cow"), base, Options{})
	defer held.Close()
	if _, err := held.WriteAt(make([]byte, size), 0); err != nil {
		b.Fatal(err)
	}
	rawDisk := mustOpen(b, raw, "", Options{})
	defer rawDisk.Close()
	for _, disk := range []struct {
		name string
		Device
	}{{"raw", rawDisk}, {"backing", empty}, {"held", held}} {
		for _, n := range []int{4096, 128 << 10} {
			for _, op := range []string{"read", "write"} {
				if disk.name == "backing" && op == "write" {
					continue // it would not be of the backing file for long
				}
				b.Run(fmt.Sprintf("%s/%s/%d", disk.name, op, n), func(b *testing.B) {
					b.SetBytes(int64(n))
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						p := make([]byte, n)
						do := disk.ReadAt
						if op == "write" {
							do = disk.WriteAt
						}
						rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
						for pb.Next() {
							if _, err := do(p, rng.Int64N(size/int64(n))*int64(n)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				})
			}
		}
	}
}
