package ext4

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
		if name == "Free blocks" { // maps of what moved can be a few blocks longer or shorter
			var a, b int
			fmt.Sscan(got[name], &a)
			fmt.Sscan(want[name], &b)
			if d := a - b; d < -64 || d > 64 {
				t.Errorf("%d blocks free, resize2fs leaves %d", a, b)
			}
			continue
		}
		if got[name] != want[name] {
			t.Errorf("%s: %q, resize2fs has %q", name, got[name], want[name])
		}
	}
}

// resizeForms are what resizing is tested with every time; the nightly run takes all forms.
var resizeForms = map[string]bool{"default": true, "1k-noresize": true, "ext3": true, "ext2": true}

// lentTo is a log behind the end of a filesystem without a journal, in an image that becomes
// so much longer for it.
func lentTo(t testing.TB, image string, name string) Log {
	t.Helper()
	if name != "ext2" && name != "nojournal" {
		return Log{}
	}
	st := must(os.Stat(image))
	end := (st.Size() + 4095) &^ 4095
	check(t, os.Truncate(image, end+8<<20))
	return Log{end, 8 << 20}
}

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
				fs := openFS(t, image, Options{Log: lentTo(t, image, f.name)})
				before := engineTree(t, fs)
				check(t, fs.Grow(uint64(size)>>fs.bsBits))
				sameTrees(t, "after growing", engineTree(t, fs), before)
				closeFS(t, fs)
				check(t, os.Truncate(image, size))
				fsck(t, image)
				if f.name == "sparse_super2" || f.name == "1k-noresize" {
					// resize2fs moves what lies behind the descriptors; ours go on in meta_bg.
					if got := dump(t, image)["Block count"]; got != fmt.Sprint(size>>fs.bsBits) {
						t.Errorf("%s blocks, want %d", got, size>>fs.bsBits)
					}
					continue
				}
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

// TestGrowConcurrent grows in steps while files are made, read and removed: run it with the
// race detector.
func TestGrowConcurrent(t *testing.T) {
	image := makeImage(t, 20<<20, "-t", "ext4", "-b", "1024", "-O", "^resize_inode")
	check(t, os.Truncate(image, 600<<20))
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				name := fmt.Sprintf("%d-%d", w, i%40)
				n, err := root.Create(name, NewInode{Mode: 0o100644})
				if err != nil {
					t.Error(err)
					return
				}
				want := bytes.Repeat([]byte{byte(w), byte(i)}, 1+i*91%20000)
				got := make([]byte, len(want))
				if _, err := n.WriteAt(want, 0); err != nil {
					t.Error(err)
				}
				if _, err := n.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: other content, %v", name, err)
				}
				if i%7 == 0 {
					_ = n.Sync(false)
				}
				fs.Statfs()
				if err := n.Put(); err != nil {
					t.Error(err)
				}
				if err := root.Unlink(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, blocks := range []uint64{30000, 60000, 99000, 250000, 600 << 10} {
		if err := fs.Grow(blocks); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
	if got := dump(t, image); got["Block count"] != fmt.Sprint(600<<10) || !strings.Contains(got["Filesystem features"], "meta_bg") {
		t.Errorf("%s blocks, features %s", got["Block count"], got["Filesystem features"])
	}
}

// Others fill the transaction while a growth waits for its turn: it commits theirs first, so
// that a step is one transaction in the log.
func TestGrowBesideOthers(t *testing.T) {
	image := makeImage(t, 20<<20, "-t", "ext4", "-b", "1024", "-J", "size=1", "-E", "resize=33000000")
	check(t, os.Truncate(image, 40<<20))
	var mu sync.Mutex
	var parts []string
	fs := openFS(t, image, Options{CommitEvery: time.Hour, Logf: func(f string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		if line := fmt.Sprintf(f, a...); strings.Contains(line, "in one transaction") {
			parts = append(parts, line)
		}
	}})
	room := fs.txn.most - 2
	h := must(fs.beginFor(room))
	done := make(chan error)
	go func() { done <- fs.Grow(40 << 10) }()
	for fs.txn.gate.TryRLock() { // until it waits
		fs.txn.gate.RUnlock()
		time.Sleep(time.Millisecond)
	}
	r := must(fs.setAside(0, uint64(room)))
	for i := range uint64(room) { // free blocks, as they are
		h.dirty(must(fs.cache.get(r.start+i)), kindPlain, 0)
	}
	fs.giveBack(r)
	h.end()
	check(t, <-done)
	closeFS(t, fs)
	if len(parts) > 0 {
		t.Error(parts)
	}
	fsck(t, image)
}
