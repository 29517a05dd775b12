package ext4

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/ext4/mkfs"
)

// TestMemory holds the memory of a filesystem of a million files: little to open it, and
// not more than the cache's bound while everything in it is touched.
func TestMemory(t *testing.T) {
	const (
		dirs, each = 100, 10000
		cacheBytes = 8 << 20
		forOpen    = 20 << 20
		beside     = 16 << 20 // the engine's own, and garbage between two collections
	)
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<30); err != nil {
		t.Fatal(err)
	}
	dev := openDevice(t, path)
	b := must(mkfs.NewBuilder(dev, mkfs.Options{Inodes: dirs*each + 1000, JournalBlocks: 1024}))
	for i := range dirs {
		d := must(b.Add(b.Root(), fmt.Sprintf("d%d", i), mkfs.Header{Mode: format.ModeDir | 0o755}))
		for k := range each {
			must(b.Add(d, fmt.Sprintf("file-%d", k), mkfs.Header{Mode: format.ModeRegular | 0o644}))
		}
	}
	check(t, b.Close())
	b = nil

	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	fs := openFS(t, path, Options{CacheBytes: cacheBytes})
	defer func() { closeFS(t, fs) }()
	if used := heap() - before; used > forOpen {
		t.Errorf("opening takes %d bytes, at most %d are wanted", used, forOpen)
	}
	root := must(fs.Root())
	defer root.Put()
	for i := range dirs {
		d := must(root.Lookup(fmt.Sprintf("d%d", i)))
		for k := 0; k < each; k += 16 { // one inode of every block of the tables
			must(d.Lookup(fmt.Sprintf("file-%d", k))).Put()
		}
		check(t, d.Put())
		if i%10 != 9 {
			continue
		}
		if used := heap() - before; used > cacheBytes+beside {
			t.Fatalf("%d bytes in use after %d directories, at most %d are wanted", used, i+1, cacheBytes+beside)
		}
	}
	if n := fs.cache.count.Load(); n > cacheBytes/4096 || n < cacheBytes/4096/4 {
		t.Errorf("%d blocks in the cache, which may hold %d", n, cacheBytes/4096)
	}
}
