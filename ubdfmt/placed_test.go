package ubdfmt

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// What the host says of all of a file at once is what it says of it bit by bit, with more
// extents than fit into an answer, preallocated parts, and data it has not placed yet.
func TestPlaced(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 1))
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 64<<20 + 700
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for i := range 1500 {
		off := r.Int64N(size/4096) * 4096
		if i%10 == 0 {
			if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, 16384); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.WriteAt([]byte{1}, min(off+r.Int64N(4096), size-1)); err != nil {
			t.Fatal(err)
		}
		if i == 700 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	h, err := openHost(f.Name(), Options{ReadOnly: true}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var want, got []span
	add := func(list *[]span, off, n int64) {
		if l := len(*list); l > 0 && (*list)[l-1].off+(*list)[l-1].n == off {
			(*list)[l-1].n += n
			return
		}
		*list = append(*list, span{off, n})
	}
	known, err := h.placed(func(off, n int64) { add(&got, off, n) })
	if err != nil {
		t.Fatal(err)
	}
	if !known {
		t.Log("this file system does not tell; TestCheckOnTmpfs is of those")
		return
	}
	if err := h.segments(0, h.size, func(off, n int64, hole bool) bool {
		if !hole {
			add(&want, off, n)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(want) < fiemapBatch {
		t.Fatalf("only %d runs", len(want))
	}
	if len(got) != len(want) {
		t.Fatalf("%d runs, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("run %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

// A host that does not tell all extents at once, as tmpfs, tells leaks as well.
func TestCheckOnTmpfs(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8M"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 1))
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	if _, err := d.WriteAt(pattern(64<<10, 2), 512<<10); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
	f, err := os.OpenFile(cow, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(pattern(32<<10, 3), d.(*COW).layout.DataOffset+64<<10); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := Check(cow, CheckOptions{})
	if err != nil || len(report.Problems) != 1 || report.Problems[0].Kind != Leak || report.Problems[0].Bytes != 32<<10 {
		t.Errorf("%+v, %v", report.Problems, err)
	}
	if report, err = Repair(cow, CheckOptions{}); err != nil || len(report.Problems) != 0 {
		t.Errorf("repaired: %+v, %v", report.Problems, err)
	}
}
