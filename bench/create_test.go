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

// BenchmarkCreate makes an image of a Debian tree with umlimg create and with mkfs.ext4 -d,
// in turns, and compares the best of each. Ours also edits the tree and reads the archive
// in its packed forms.
func BenchmarkCreate(b *testing.B) {
	oracle.NeedsRoot(b) // to read all of the tree
	archive := debianTar(b)
	tree := b.TempDir()
	oracle.Run(b, "tar", "-C", tree, "--xattrs", "--numeric-owner", "-xpf", archive)
	packed := filepath.Join(b.TempDir(), "debian.tar.zst")
	oracle.Run(b, "zstd", "-q", "-o", packed, archive)
	image := filepath.Join(b.TempDir(), "disk.img")
	umlimg, mkfs := guest.Binary(b, "umlimg"), oracle.Tool(b, "mkfs.ext4")

	ways := []struct {
		name string
		make func()
	}{
		{"mkfs.ext4 -d", func() {
			oracle.Run(b, "truncate", "-s", "16G", image)
			oracle.Run(b, mkfs, "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", tree, image)
		}},
		{"umlimg create", func() { oracle.Run(b, umlimg, "create", "--from", tree, "--size", "16G", image) }},
		{"from a tar", func() { oracle.Run(b, umlimg, "create", "--from", archive, "--size", "16G", image) }},
		{"from a tar.zst", func() { oracle.Run(b, umlimg, "create", "--from", packed, "--size", "16G", image) }},
	}
	best := make([]float64, len(ways))
	for i := range best {
		best[i] = math.Inf(1)
	}
	for range max(b.N, 5) {
		for i, way := range ways {
			if err := os.RemoveAll(image); err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			way.make()
			best[i] = min(best[i], time.Since(start).Seconds())
		}
	}
	for i, way := range ways {
		fmt.Printf("create: %-14s %.3f s, %.2f of mkfs.ext4 -d\n", way.name, best[i], best[i]/best[0])
	}
	if best[1] > best[0] {
		b.Errorf("umlimg create takes %.2f of mkfs.ext4 -d's time, at most 1 is wanted", best[1]/best[0])
	}
}
