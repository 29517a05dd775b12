package bench

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// BenchmarkEmpty makes empty filesystems of 16 GiB and 1 TiB with umlimg create and with
// mkfs.ext4 as it comes, in turns and on one processor, and resizes ours and theirs.
func BenchmarkEmpty(b *testing.B) {
	umlimg, mkfs, taskset := guest.Binary(b, "umlimg"), oracle.Tool(b, "mkfs.ext4"), oracle.Tool(b, "taskset")
	empty := b.TempDir()
	dir := b.TempDir()
	ours, theirs := filepath.Join(dir, "ours.img"), filepath.Join(dir, "theirs.img")
	pinned := func(args ...string) float64 {
		start := time.Now()
		oracle.Run(b, taskset, append([]string{"-c", "1"}, args...)...)
		return time.Since(start).Seconds()
	}
	fresh := func(path string, size int64) {
		if err := os.RemoveAll(path); err != nil {
			b.Fatal(err)
		}
		if size == 0 {
			return
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		size int64
	}{{"16G", 16 << 30}, {"1T", 1 << 40}} {
		best := [4]float64{math.Inf(1), math.Inf(1), math.Inf(1), math.Inf(1)}
		for range max(b.N, 7) {
			fresh(theirs, c.size)
			best[1] = min(best[1], pinned(mkfs, "-q", "-F", theirs))
			fresh(ours, 0)
			best[0] = min(best[0], pinned(umlimg, "create", "--from", empty, "--as-is", "--size", c.name, ours))
			best[2] = min(best[2], pinned(umlimg, "resize", ours, fmt.Sprint(2*c.size)))
			fresh(theirs, c.size)
			oracle.Run(b, mkfs, "-q", "-F", theirs)
			if err := os.Truncate(theirs, 2*c.size); err != nil {
				b.Fatal(err)
			}
			best[3] = min(best[3], pinned(oracle.Tool(b, "resize2fs"), "-f", theirs))
		}
		report(b, "empty "+c.name, best[0], best[1])
		fmt.Printf("doubling it: umlimg resize %.3f s, resize2fs %.3f s\n", best[2], best[3])
		if best[0] > best[1] {
			b.Errorf("empty %s: %.2f of mkfs.ext4's time, at most 1 is wanted", c.name, best[0]/best[1])
		}
	}
}
