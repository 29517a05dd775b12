package ext4

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// dump is what dumpe2fs -h says, by name.
func dump(t testing.TB, path string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, line := range strings.Split(tool(t, "dumpe2fs", "-h", path), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			out[name] = strings.TrimSpace(value)
		}
	}
	return out
}

// sameDump compares what resizing decides with what resize2fs made of a copy.
func sameDump(t testing.TB, got, want map[string]string) {
	t.Helper()
	for _, name := range []string{"Filesystem features", "Inode count", "Block count", "Reserved block count", "Free blocks", "Free inodes",
		"Reserved GDT blocks", "Blocks per group", "Inodes per group", "First meta block group", "Total journal size", "Filesystem state"} {
		if got[name] != want[name] {
			t.Errorf("%s: %q, resize2fs has %q", name, got[name], want[name])
		}
	}
}

// resizeForms are what resizing must do right, of forms; the rest is in the nightly run.
var resizeForms = map[string]bool{"default": true, "4k": true, "nocsum": true, "32bit": true, "meta_bg": true, "csum_seed": true, "orphan_file": true, "ext3": true, "ext2": true, "nojournal": true, "sparse_super2": true}

// TestGrow grows filesystems of every form, past the reserved descriptors too, and compares
// with what resize2fs makes.
func TestGrow(t *testing.T) {
	for _, f := range forms {
		if !resizeForms[f.name] && os.Getenv("UMLKIT_NIGHTLY") == "" {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			image := makeImage(t, 43<<20, f.args...)
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			for i := range 40 {
				n := must(root.Create(fmt.Sprint(i), NewInode{Mode: 0o100644}))
				must(n.WriteAt(make([]byte, 100000), 0))
				check(t, n.Put())
			}
			check(t, root.Put())
			closeFS(t, fs)
			for _, size := range []int64{45 << 20, 300<<20 + 12288, 3 << 30} {
				peer := image + ".peer"
				tool(t, "cp", "--sparse=always", image, peer)
				tool(t, "truncate", "-s", fmt.Sprint(size), peer)
				check(t, os.Truncate(image, size))
				fs := openFS(t, image, Options{})
				before := engineTree(t, fs)
				check(t, fs.Grow(uint64(size)>>fs.bsBits))
				sameTrees(t, "after growing", engineTree(t, fs), before)
				closeFS(t, fs)
				fsck(t, image)
				tool(t, "resize2fs", "-f", peer)
				sameDump(t, dump(t, image), dump(t, peer))
				check(t, os.Remove(peer))
			}
			if os.Geteuid() == 0 {
				dir := oracle.Mount(t, image, "")
				for i := range 300 {
					check(t, os.WriteFile(fmt.Sprintf("%s/more-%d", dir, i), make([]byte, 1<<20), 0o644))
				}
				oracle.Unmount(t, dir)
				fsck(t, image)
			}
		})
	}
}
