package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

// cutDevice takes so many writes and fails then.
type cutDevice struct {
	ubdfmt.Device
	left int
}

func (c *cutDevice) WriteAt(p []byte, off int64) (int, error) {
	if c.left--; c.left < 0 {
		return 0, os.ErrClosed
	}
	return c.Device.WriteAt(p, off)
}

// A partition create that was cut short is done again without --force: nothing but its own
// sectors is on the disk. Anything else there is kept.
func TestPartitionAgain(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	const size = 24 << 20
	for _, kind := range []partition.Kind{partition.GPT, partition.MBR} {
		texts := []string{"4M", "rest"}
		if kind == partition.MBR {
			texts = []string{"4M", "rest:extended", "2M", "3M", "rest"}
		}
		again := append([]string{"partition", "create", "--table", strings.ToLower(string(kind)), image}, texts...)
		specs, err := parseSpecs(kind, texts)
		if err != nil {
			t.Fatal(err)
		}
		table, err := partition.New(kind, size, randomUUID(), specs)
		if err != nil {
			t.Fatal(err)
		}
		for cut := 0; ; cut += 1 + cut/8*5 { // each of the first, and some later ones
			must(t, "create", "--force", "--blank", "--size", "24M", image)
			dev, err := ubdfmt.OpenRaw(image, ubdfmt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			err = partition.Write(&cutDevice{dev, cut}, table)
			if cut == 3 { // and then somebody took the disk for something
				if _, err := dev.WriteAt([]byte{7}, 12<<20+5); err != nil {
					t.Fatal(err)
				}
			}
			if err := dev.Close(); err != nil {
				t.Fatal(err)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, os.ErrClosed) {
				t.Fatal(err)
			}
			status, _, stderr := call(again...)
			if want := cut == 3; status != 0 != want || want && !strings.Contains(stderr, "--force gives it up") {
				t.Fatalf("%s cut at write %d: status %d, %s", kind, cut, status, stderr)
			}
			if cut != 3 {
				must(t, "partition", "list", image)
			}
		}
		if status, _, stderr := call(again...); status != 1 || !strings.Contains(stderr, "the disk holds a partition table") {
			t.Errorf("over a whole table: status %d, %s", status, stderr)
		}
	}
	// The end of the disk is somebody else's, as of a RAID.
	must(t, "create", "--force", "--blank", "--size", "24M", image)
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("EFI PART or what"), size-512); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := call("partition", "create", image, "rest"); status != 1 || !strings.Contains(stderr, "data at byte") {
		t.Errorf("over another's end: status %d, %s", status, stderr)
	}
}
