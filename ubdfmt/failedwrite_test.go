package ubdfmt

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFailedSync: the host says once that it lost data, and all later Syncs say it.
func TestFailedSync(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	for _, d := range []Device{mustOpen(t, filepath.Join(dir, "disk.cow"), base, Options{}), mustOpen(t, write(t, filepath.Join(dir, "raw.img"), pattern(4096, 3)), "", Options{})} {
		if _, err := d.WriteAt([]byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		observe = func(_ *hostFile, e event) error {
			if e.op == opSync {
				return unix.EIO
			}
			return nil
		}
		err := d.Sync()
		observe = nil
		if again := d.Sync(); !errors.Is(err, unix.EIO) || !errors.Is(again, unix.EIO) {
			t.Errorf("Sync of a disk that lost data: %v, then %v", err, again)
		}
		if err := d.Close(); !errors.Is(err, unix.EIO) {
			t.Errorf("Close of a disk that lost data: %v", err)
		}
	}
}

// TestFailedWrite: until its data is in the COW file, a write shows nothing, and one that
// fails leaves the disk as it was, whole blocks and parts of them alike.
func TestFailedWrite(t *testing.T) {
	const size = 256 << 10
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	want := pattern(size, 3)
	got := make([]byte, size)
	check := func(when string) {
		t.Helper()
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s, byte %d is another: %v", when, firstDifference(got, want), err)
		}
	}
	for _, w := range []struct{ off, n int64 }{{0, 8192}, {5000, 100}, {60<<10 + 1, 9000}, {size - 512, 512}} {
		for _, fail := range []bool{true, false} {
			writes := 0
			observe = func(_ *hostFile, e event) error {
				if e.op != opWrite {
					return nil
				}
				writes++
				check("before the host has the data of a write")
				if fail {
					return unix.ENOSPC
				}
				return nil
			}
			p := pattern(int(w.n), 0x71)
			_, err := d.WriteAt(p, w.off)
			observe = nil
			if fail != errors.Is(err, unix.ENOSPC) || writes == 0 {
				t.Fatalf("a write to a host that is full %v: %v after %d writes to the host", fail, err, writes)
			}
			if !fail {
				copy(want[w.off:], p)
			}
			check("after a write")
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			if got := shownShared(t, cow, size); !bytes.Equal(got, want) {
				t.Fatalf("the file shows another disk at byte %d", firstDifference(got, want))
			}
		}
	}
	mustClose(t, d)
}

// shownShared is what another reader of a disk in use sees.
func shownShared(t *testing.T, cow string, size int) []byte {
	t.Helper()
	d := mustOpen(t, cow, "", Options{ReadOnly: true, Shared: true})
	defer d.Close()
	b := make([]byte, size)
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}
