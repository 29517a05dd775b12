package bench

import (
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// BenchmarkMount opens an image of a million files with the engine and with the host's
// kernel, and reads the root directory.
func BenchmarkMount(b *testing.B) {
	oracle.NeedsRoot(b) // to mount
	image := filepath.Join(b.TempDir(), "disk.img")
	d := newDisk(b, image, 20<<30)
	builder, err := mkfs.NewBuilder(d, mkfs.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		dir, err := builder.Add(builder.Root(), fmt.Sprintf("d%d", i), mkfs.Header{Mode: format.ModeDir | 0o755})
		for k := 0; k < 10000 && err == nil; k++ {
			_, err = builder.Add(dir, fmt.Sprintf("file-%d", k), mkfs.Header{Mode: format.ModeRegular | 0o644})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := builder.Close(); err != nil {
		b.Fatal(err)
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}

	ours, host, memory := math.Inf(1), math.Inf(1), 0.0
	for range max(b.N, 5) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		dev, err := ubdfmt.OpenRaw(image, ubdfmt.Options{})
		if err != nil {
			b.Fatal(err)
		}
		fs, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			b.Fatal(err)
		}
		root, err := fs.Root()
		if err != nil {
			b.Fatal(err)
		}
		if err := root.ReadDir(0, func(ext4.DirEntry) bool { return true }); err != nil {
			b.Fatal(err)
		}
		ours = min(ours, time.Since(start).Seconds())
		runtime.ReadMemStats(&after) // with garbage
		memory = max(memory, float64(after.TotalAlloc-before.TotalAlloc)/1e6)
		if err := root.Put(); err != nil {
			b.Fatal(err)
		}
		if err := fs.Close(); err != nil {
			b.Fatal(err)
		}
		if err := dev.Close(); err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		mount := oracle.Mount(b, image, "")
		host = min(host, time.Since(start).Seconds())
		oracle.Unmount(b, mount)
	}
	fmt.Printf("mount of a million files: %.1f ms (wanted: at most 50), %.1f MB allocated (wanted: at most 20); mount(8) by the host's kernel %.1f ms\n",
		ours*1e3, memory, host*1e3)
	b.ReportMetric(ours*1e3, "ms")
	b.ReportMetric(memory, "MB")
}
