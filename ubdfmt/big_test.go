package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestBigDisk: 3 TiB and a bit, of which next to nothing is used, cost next to nothing.
func TestBigDisk(t *testing.T) {
	const size = 3<<40 + 512
	dir := t.TempDir()
	base := filepath.Join(dir, "base.img")
	f, err := os.Create(base)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(pattern(8192, 3), size-8192); err != nil {
		t.Fatal(err)
	}
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	start := time.Now()
	want := pattern(10000, 0x41)
	for _, off := range []int64{2<<40 - 5000, size - 10000, 7} {
		if _, err := d.WriteAt(want, off); err != nil {
			t.Fatal(err)
		}
	}
	// What fstrim would do: all but a few blocks, of which the backing file has none.
	if err := d.Trim(1<<20, 1<<40); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
	if n := blocks(t, cow) * 512; n > 1<<20 {
		t.Errorf("the COW file takes %d bytes", n)
	}
	d = mustOpen(t, cow, "", Options{})
	got := make([]byte, len(want))
	for _, off := range []int64{2<<40 - 5000, size - 10000, 7} {
		if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("at %d the disk shows something else: %v", off, err)
		}
	}
	mustClose(t, d)
	out := filepath.Join(dir, "out")
	if err := Merge(context.Background(), cow, out, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(out); err != nil || info.Size() != size || blocks(t, out)*512 > 1<<20 {
		t.Errorf("the merged image has %d bytes and takes %d: %v", info.Size(), blocks(t, out)*512, err)
	}
	if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{out, base} {
		r := mustOpen(t, path, "", Options{ReadOnly: true})
		for _, off := range []int64{2<<40 - 5000, size - 10000, 7} {
			if _, err := r.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s at %d shows something else: %v", path, off, err)
			}
		}
		mustClose(t, r)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestFullHost: a host without room gives ENOSPC, the disk stays as it was, and goes on
// when there is room again.
func TestFullHost(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	const size = 8 << 20
	base := filepath.Join(t.TempDir(), "base.img")
	write(t, base, pattern(size, 3))
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	model := pattern(size, 3)
	full := false
	for off := 0; off < size && !full; off += 256 << 10 {
		b := pattern(256<<10, 0x77)
		_, err := d.WriteAt(b, int64(off))
		if full = errors.Is(err, unix.ENOSPC); err != nil && !full {
			t.Fatal(err)
		}
		if !full {
			copy(model[off:], b)
		}
	}
	if !full {
		t.Fatal("the host was never full")
	}
	if err := Merge(context.Background(), cow, filepath.Join(dir, "out"), MergeOptions{}); err == nil {
		t.Error("a merge found room, or a disk in use")
	}
	if err := d.Trim(0, 1<<20); err != nil {
		t.Fatal(err)
	}
	clear(model[:1<<20])
	mustClose(t, d)
	if err := Merge(context.Background(), cow, filepath.Join(dir, "out"), MergeOptions{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a merge without room: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	d = mustOpen(t, cow, "", Options{})
	defer d.Close()
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if i := firstDifference(got, model); i >= 0 {
		// The write that failed may be there in part, as on any disk.
		if failed := i / (256 << 10); !bytes.Equal(got[:failed*256<<10], model[:failed*256<<10]) || got[i] != pattern(256<<10, 0x77)[i%(256<<10)] {
			t.Errorf("byte %d is %#x, want %#x", i, got[i], model[i])
		}
	}
}
