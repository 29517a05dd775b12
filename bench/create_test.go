package bench

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// cost is what a program took, in seconds.
type cost struct{ wall, cpu float64 }

// run is the cost of a program, which must succeed.
func run(b *testing.B, cmd *exec.Cmd) cost {
	b.Helper()
	start := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(start).Seconds()
	if err != nil {
		b.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return cost{wall, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
}

func (c *cost) keepBest(o cost) { c.wall, c.cpu = min(c.wall, o.wall), min(c.cpu, o.cpu) }

var never = cost{math.Inf(1), math.Inf(1)}

// images is a place to make images with umlimg create and with mkfs.ext4 -d.
type images struct {
	umlimg, mkfs, path string
}

func newImages(b *testing.B) images {
	return images{guest.Binary(b, "umlimg"), oracle.Tool(b, "mkfs.ext4"), filepath.Join(b.TempDir(), "disk.img")}
}

// compare makes an image in both ways, in turns, and prints the best of each. It goes on
// for five rounds, or until mkfs alone has taken ten seconds.
func (m images) compare(b *testing.B, what string, wanted float64, pin bool, tree, size string) {
	command := func(argv ...string) *exec.Cmd {
		if pin {
			return pinned(b, argv...)
		}
		return exec.Command(argv[0], argv[1:]...)
	}
	ours, theirs := never, never
	spent := 0.0
	for i := 0; i < max(b.N, 5) && spent < 10; i++ {
		for _, way := range []struct {
			best *cost
			cmd  *exec.Cmd
		}{
			{&theirs, command(m.mkfs, "-q", "-d", tree, m.path, size)},
			{&ours, command(m.umlimg, "create", "--from", tree, "--size", size, m.path)},
		} {
			if err := os.RemoveAll(m.path); err != nil {
				b.Fatal(err)
			}
			c := run(b, way.cmd)
			way.best.keepBest(c)
			if way.best == &theirs {
				spent += c.wall
			}
		}
		oracle.Fsck(b, m.path)
	}
	pins := "unpinned"
	if pin {
		pins = "pinned"
	}
	fmt.Printf("create %s, %s: %.3f s (processor %.3f), mkfs.ext4 -d %.3f s (%.3f), ratio %.2f (processor %.2f) (wanted: at most %.2f)\n",
		what, pins, ours.wall, ours.cpu, theirs.wall, theirs.cpu, ours.wall/theirs.wall, ours.cpu/theirs.cpu, wanted)
	b.ReportMetric(ours.wall/theirs.wall, "ratio-"+pins)
}

// BenchmarkCreate makes an image of a Debian tree with umlimg create and with mkfs.ext4
// -d. Ours also edits the tree, and reads the archive in its packed forms.
func BenchmarkCreate(b *testing.B) {
	oracle.NeedsRoot(b) // to read all of the tree
	archive := debianTar(b)
	tree := b.TempDir()
	oracle.Run(b, "tar", "-C", tree, "--xattrs", "--numeric-owner", "-xpf", archive)
	packed := filepath.Join(b.TempDir(), "debian.tar.zst")
	oracle.Run(b, "zstd", "-q", "-o", packed, archive)
	m := newImages(b)
	m.compare(b, "of a Debian tree", 0.6, false, tree, "16G")
	m.compare(b, "of a Debian tree", 0.8, true, tree, "16G")
	for _, from := range []string{archive, packed} {
		best := never
		for range max(b.N, 5) {
			if err := os.RemoveAll(m.path); err != nil {
				b.Fatal(err)
			}
			best.keepBest(run(b, exec.Command(m.umlimg, "create", "--from", from, "--size", "16G", m.path)))
		}
		fmt.Printf("create from the same as %s: %.3f s (processor %.3f)\n", filepath.Base(from), best.wall, best.cpu)
	}
}

// BenchmarkCreateManyNames makes an image with a directory of 20,000 files.
func BenchmarkCreateManyNames(b *testing.B) {
	tree := b.TempDir()
	for i := range 20000 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("file-%d", i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	newImages(b).compare(b, "of 20,000 files in a directory", 0.1, true, tree, "1G")
}

// BenchmarkCreateLargeFile makes an image with one file of 1 GiB.
func BenchmarkCreateLargeFile(b *testing.B) {
	tree := b.TempDir()
	f, err := os.Create(filepath.Join(tree, "large"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), 1<<30); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	newImages(b).compare(b, "of one file of 1 GiB", 1.0/3, true, tree, "2G")
}

// BenchmarkCreateEmpty makes empty images of 16 GiB and of 1 TiB.
func BenchmarkCreateEmpty(b *testing.B) {
	m, tree := newImages(b), b.TempDir()
	for _, size := range []string{"16G", "1T"} {
		m.compare(b, "of nothing, "+size, 1, true, tree, size)
	}
}
