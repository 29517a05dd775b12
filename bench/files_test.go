package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// BenchmarkFiles copies a large file and a tree of 5,000 files into an image and out of it,
// with umlimg cp and with debugfs. Ours makes all stable at the end and goes through the
// journal; debugfs writes past it, and a kill in its midst is e2fsck's to repair.
func BenchmarkFiles(b *testing.B) {
	dir := b.TempDir()
	umlimg, debugfs := guest.Binary(b, "umlimg"), oracle.Tool(b, "debugfs")
	large := filepath.Join(dir, "large")
	f, err := os.Create(large)
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	for range 1 << 10 {
		_, _ = random.Read(block)
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	var script strings.Builder
	script.WriteString("mkdir tree\ncd tree\n")
	for d := range 50 {
		sub := filepath.Join(tree, fmt.Sprint(d))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(&script, "mkdir %d\ncd %d\n", d, d)
		for i := range 100 {
			name := filepath.Join(sub, fmt.Sprint(i))
			if err := os.WriteFile(name, block[:(d*100+i)*7919%40000], 0o644); err != nil {
				b.Fatal(err)
			}
			fmt.Fprintf(&script, "write %s %d\n", name, i)
		}
		script.WriteString("cd ..\n")
	}
	image := filepath.Join(dir, "disk.img")
	// What is copied out goes to a new place each time: the host's ext4 goes a long way round
	// inodes that were freed in the last five seconds.
	const out = "OUT"
	outs := 0
	for _, c := range []struct {
		what   string
		ours   []string
		theirs string // debugfs's commands
		write  bool
	}{
		{"a file of 1 GiB in", []string{"cp", large, image + ":/large"}, "write " + large + " large\n", true},
		{"a file of 1 GiB out", []string{"cp", image + ":/large", out}, "dump large " + out + "\n", false},
		{"5,000 files in", []string{"cp", "-r", tree, image + ":/"}, script.String(), true},
		{"5,000 files out", []string{"cp", "-r", image + ":/tree", out}, "rdump tree " + out + "\n", false},
		{"5,000 files removed", []string{"rm", "-r", image + ":/tree"}, "", true},
	} {
		ours, theirs := never, never
		for range max(b.N, 3) {
			for _, way := range []struct {
				best *cost
				argv []string
			}{{&theirs, []string{debugfs, "-w", "-f", "-", image}}, {&ours, append([]string{umlimg}, c.ours...)}} {
				if way.best == &theirs && c.theirs == "" {
					continue
				}
				outs++
				to := filepath.Join(dir, fmt.Sprint("out", outs))
				if strings.Contains(c.theirs, "rdump") && way.best == &theirs {
					if err := os.Mkdir(to, 0o755); err != nil {
						b.Fatal(err)
					}
				}
				if c.write {
					newFilesImage(b, umlimg, image, c.theirs == "", tree)
				} else if _, err := os.Stat(image); err != nil {
					b.Fatal(err)
				}
				argv := slices.Clone(way.argv)
				for i := range argv {
					argv[i] = strings.Replace(argv[i], out, to, 1)
				}
				cmd := exec.Command(argv[0], argv[1:]...)
				if way.best == &theirs {
					cmd.Stdin = strings.NewReader(strings.Replace(c.theirs, out, to, 1))
				}
				way.best.keepBest(run(b, cmd))
				if c.write {
					oracle.Fsck(b, image)
				}
			}
		}
		if c.theirs == "" {
			fmt.Printf("umlimg: %s: %.3f s (processor %.3f)\n", c.what, ours.wall, ours.cpu)
			continue
		}
		fmt.Printf("umlimg cp, %s: %.3f s (processor %.3f), debugfs %.3f s (%.3f), ratio %.2f\n", c.what, ours.wall, ours.cpu, theirs.wall, theirs.cpu, ours.wall/theirs.wall)
		b.ReportMetric(ours.wall/theirs.wall, "ratio-"+strings.ReplaceAll(c.what, " ", "-"))
	}
}

// newFilesImage makes an empty image, or one with the tree in it.
func newFilesImage(b *testing.B, umlimg, image string, full bool, tree string) {
	b.Helper()
	if err := os.RemoveAll(image); err != nil {
		b.Fatal(err)
	}
	empty := filepath.Join(filepath.Dir(tree), "empty")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		b.Fatal(err)
	}
	oracle.Run(b, umlimg, "create", "--from", empty, "--as-is", "--size", "4G", image)
	if full {
		oracle.Run(b, umlimg, "cp", "-r", tree, image+":/")
	}
}
