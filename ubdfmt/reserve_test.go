package ubdfmt

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestReserve: what has its blocks reserved on ext4 is written there and nowhere else, in a
// COW file and in a merged image, and zeros stay holes.
func TestReserve(t *testing.T) {
	oracle.NeedsRoot(t)
	host := filepath.Join(t.TempDir(), "host.img")
	if err := os.WriteFile(host, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(host, 64<<20); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mkfs.ext4", "-q", host)
	dir := oracle.Mount(t, host, "")
	const size = 16 << 20
	base := write(t, filepath.Join(dir, "base.img"), nil)
	if err := os.Truncate(base, size); err != nil {
		t.Fatal(err)
	}
	cow, out := filepath.Join(dir, "disk.cow"), filepath.Join(dir, "out.img")
	d := mustOpen(t, cow, base, Options{})
	if c := d.(*COW); !c.reserves {
		t.Fatal("on ext4 nothing is reserved")
	}
	want := make([]byte, size)
	for _, w := range []struct {
		off int64
		b   []byte
	}{
		{3 << 20, pattern(1<<20, 1)},
		{3 << 20, pattern(1<<20, 2)}, // held by now
		{8 << 20, append(pattern(reserveLeast, 3), make([]byte, reserveLeast)...)},
		{12<<20 + 4096, pattern(reserveLeast+8192, 4)},
	} {
		if _, err := d.WriteAt(w.b, w.off); err != nil {
			t.Fatal(err)
		}
		copy(want[w.off:], w.b)
	}
	mustClose(t, d)
	r, err := Check(cow, CheckOptions{})
	const held = 1<<20 + 2*reserveLeast + reserveLeast + 8192
	if err != nil || len(r.Problems) != 0 || r.Held != held || r.Allocated < held || r.Allocated > held+16<<10 {
		t.Errorf("the COW file takes %d bytes of the host for %d: %+v, %v", r.Allocated, held, r.Problems, err)
	}
	if got := shown(t, cow, size); !bytes.Equal(got, want) {
		t.Error("the COW file shows another disk")
	}
	if err := Merge(context.Background(), cow, out, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, out), want) {
		t.Error("the merged image is another")
	}
	if got, data := blocks(t, out)*512, int64(held-reserveLeast); got < data || got > data+4096 {
		t.Errorf("the merged image takes %d bytes of the host for %d that are not zeros", got, data)
	}
}
