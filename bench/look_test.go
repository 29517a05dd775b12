package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// BenchmarkLook looks at a disk of 16 GiB with 1 GiB in use and 125 MiB changed: ours at
// a COW file, qemu-img at an equal qcow2 overlay. Everything is in the page cache.
func BenchmarkLook(b *testing.B) {
	dir := b.TempDir()
	cow := lookPair(b, dir)
	merged, overlay := filepath.Join(dir, "merged.img"), filepath.Join(dir, "disk.qcow2")
	if err := ubdfmt.Merge(context.Background(), cow, merged, ubdfmt.MergeOptions{}); err != nil {
		b.Fatal(err)
	}
	oracle.Run(b, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-B", filepath.Join(dir, "base.img"), "-F", "raw", merged, overlay)
	ours, theirs := guest.Binary(b, "umlimg"), oracle.Tool(b, "qemu-img")
	for _, v := range []struct {
		verb         string
		ours, theirs []string
	}{
		{"map", []string{"map", "--json", cow}, []string{"map", "--output=json", overlay}},
		{"check", []string{"check", cow}, []string{"check", overlay}},
		{"compare", []string{"compare", cow, merged}, []string{"compare", overlay, merged}},
	} {
		times := map[string]time.Duration{}
		for range 15 {
			for program, args := range map[string][]string{ours: v.ours, theirs: v.theirs} {
				start := time.Now()
				if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
					b.Fatalf("%s %v: %v\n%s", program, args, err, out)
				}
				if d := time.Since(start); times[program] == 0 || d < times[program] {
					times[program] = d
				}
			}
		}
		ratio := times[ours].Seconds() / times[theirs].Seconds()
		fmt.Printf("%s of 16 GiB with 1 GiB in use and 125 MiB changed: %.3f s, qemu-img of qcow2 %.3f s, ratio %.3f (wanted: at most 1)\n",
			v.verb, times[ours].Seconds(), times[theirs].Seconds(), ratio)
		b.ReportMetric(ratio, v.verb+"-ratio")
	}
}

// lookPair is base.img and, over it, the COW file that it returns.
func lookPair(b *testing.B, dir string) string {
	b.Helper()
	const (
		size    = 16 << 30
		run     = 4 << 20
		runs    = 256 // 1 GiB
		change  = 64 << 10
		changes = 2000 // 125 MiB
	)
	rng := rand.NewChaCha8([32]byte{1})
	data := make([]byte, run)
	base, cow := filepath.Join(dir, "base.img"), filepath.Join(dir, "disk.cow")
	f, err := os.Create(base)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	for i := int64(0); i < runs; i++ {
		rng.Read(data)
		if _, err := f.WriteAt(data, i*(size/runs)); err != nil {
			b.Fatal(err)
		}
	}
	d, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i := int64(0); i < changes; i++ {
		rng.Read(data[:change])
		if _, err := d.WriteAt(data[:change], i*(size/changes/change)*change); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	return cow
}
