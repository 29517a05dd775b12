package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
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

// A resize of a partition that was cut short while it wrote the table mends it when it is
// done again, also when nothing else is left to do.
func TestResizePartitionMendsTable(t *testing.T) {
	dir := t.TempDir()
	tree, _ := sources(t)
	fresh, image := filepath.Join(dir, "fresh.img"), filepath.Join(dir, "disk.img")
	must(t, "create", "--partition", "gpt", "--from", tree, "--as-is", "--size", "24M", fresh)
	must(t, "resize", "--shrink", fresh+"#1", "12M")
	// The backup has 33 sectors, the front as many, of which the header is written last, and
	// then comes the first sector.
	for _, cut := range []int{0, 1, 20, 33, 64, 65, 66, 67} {
		copyFile(t, fresh, image)
		dev, err := ubdfmt.OpenRaw(image, ubdfmt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		table, err := partition.Read(dev)
		if err != nil {
			t.Fatal(err)
		}
		table.Partitions[0].Size = 16 << 20
		err = partition.Write(&cutDevice{dev, cut}, table)
		if e := dev.Close(); e != nil {
			t.Fatal(e)
		}
		must(t, "resize", image+"#1", "16M")
		if out := oracle.Run(t, "sgdisk", "-v", image); !strings.Contains(out, "No problems found") {
			t.Errorf("cut at write %d: %s", cut, out)
		}
		must(t, "check", image+"#1")
		if (err == nil) != (cut == 67) {
			t.Errorf("cut at write %d: %v", cut, err)
		}
	}
}
