package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestBlockDevice: a COW file over a block device of the host shows, keeps, merges and
// empties as one over a file, and the device is written by the merge in place alone.
func TestBlockDevice(t *testing.T) {
	oracle.NeedsRoot(t)
	const size = 1<<20 + 3*SectorSize
	dir := t.TempDir()
	image := write(t, filepath.Join(dir, "device.img"), pattern(size, 3))
	device := strings.TrimSpace(oracle.Run(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { oracle.Run(t, "losetup", "-d", device) })
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, device, Options{})
	if d.Size() != size {
		t.Fatalf("the disk has %d bytes, the device %d", d.Size(), size)
	}
	want := pattern(size, 3)
	for i, off := range []int64{100, 256<<10 - 700, size - 1000} {
		p := pattern(1000, byte(0x40+i))
		if _, err := d.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], p)
	}
	if err := d.Trim(64<<10, 32<<10); err != nil {
		t.Fatal(err)
	}
	clear(want[64<<10 : 96<<10])
	var e *LockedError
	if _, err := Open(device, "", Options{}); !errors.As(err, &e) || e.PID != os.Getpid() {
		t.Errorf("the device of a disk in use opens for writing: %v", err)
	}
	mustClose(t, d)
	if got := shown(t, cow, size); !bytes.Equal(got, want) {
		t.Fatalf("byte %d is another", firstDifference(got, want))
	}
	if r, err := Check(cow, CheckOptions{}); err != nil || len(r.Problems) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	out := filepath.Join(dir, "out")
	if err := Merge(context.Background(), cow, out, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, out); !bytes.Equal(got, want) {
		t.Error("the new image is another")
	}
	unix.Sync()
	if got := read(t, image); !bytes.Equal(got, pattern(size, 3)) {
		t.Fatal("the device was written")
	}
	if err := MergeInPlace(context.Background(), cow, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, device); !bytes.Equal(got, want) {
		t.Errorf("byte %d of the merged device is another", firstDifference(got, want))
	}
	checkEmpty(t, cow, want)
}
