package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

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
	lookOverlay(b, filepath.Join(dir, "base.img"), merged, overlay)
	ours, theirs := guest.Binary(b, "umlimg"), oracle.Tool(b, "qemu-img")
	for _, v := range []struct {
		verb         string
		ours, theirs []string
	}{
		{"map", []string{"map", "--json", cow}, []string{"map", "--output=json", overlay}},
		{"check", []string{"check", cow}, []string{"check", overlay}},
		{"compare", []string{"compare", cow, merged}, []string{"compare", overlay, merged}},
	} {
		var best [2]took
		for range 40 {
			for i, argv := range [][]string{append([]string{ours}, v.ours...), append([]string{theirs}, v.theirs...)} {
				best[i].run(b, argv)
			}
		}
		ratio, cpu := best[0].ratios(best[1])
		fmt.Printf("%s of 16 GiB with 1 GiB in use and 125 MiB changed: %.4f s, qemu-img of qcow2 %.4f s, ratio %.3f (wanted: at most 1); processor %.4f s, %.4f s, ratio %.3f\n",
			v.verb, best[0].clock.Seconds(), best[1].clock.Seconds(), ratio, best[0].cpu.Seconds(), best[1].cpu.Seconds(), cpu)
		b.ReportMetric(cpu, v.verb+"-cpu")
		b.ReportMetric(ratio, v.verb+"-ratio")
	}
}

// lookOverlay makes the qcow2 file over base that shows what the image merged does, and holds
// only the clusters that differ, as the COW file does. (qemu-img convert -B would put into it
// all that merged has.)
func lookOverlay(b *testing.B, base, merged, overlay string) {
	b.Helper()
	oracle.Run(b, guest.Binary(b, "umlimg"), "convert", "-O", "qcow2", "-b", base, merged, overlay)
	oracle.Run(b, "qemu-img", "check", "-q", overlay)
	oracle.Run(b, "qemu-img", "compare", overlay, merged)
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
