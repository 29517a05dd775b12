package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// writeImage writes a disk in batches of random sizes, several at once.
func writeImage(t testing.TB, path string, disk, base []byte, o WriterOptions, seed uint64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o.Size = int64(len(disk))
	w, err := NewWriter(f, o)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 5))
	show := make([]byte, len(disk))
	copy(show, base)
	var group sync.WaitGroup
	for off := 0; off < len(disk); {
		n := min(len(disk)-off, (r.IntN(8)+1)*WriteCluster)
		b := disk[off : off+n]
		var states []State
		some := false
		for at := 0; at < n; at += WriteCluster {
			have, want := show[off+at:min(len(disk), off+at+WriteCluster)], b[at:min(n, at+WriteCluster)]
			state := Data
			if bytes.Equal(have, want) {
				state = Absent
			} else if bytes.Count(want, []byte{0}) == len(want) {
				state = Zero
			}
			some = some || state != Absent
			states = append(states, state)
		}
		if some || r.IntN(2) == 0 {
			batch, err := w.Prepare(int64(off), b, states)
			if err != nil {
				t.Fatal(err)
			}
			if err := batch.Place(); err != nil {
				t.Fatal(err)
			}
			group.Go(func() {
				if err := batch.Write(); err != nil {
					t.Error(err)
				}
			})
		}
		off += n
	}
	group.Wait()
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
}

// What is written passes qemu-img check, and shows to QEMU and to us what was asked for.
func TestWrites(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	dir := t.TempDir()
	raw, base, image := filepath.Join(dir, "raw"), filepath.Join(dir, "base"), filepath.Join(dir, "image")
	for _, size := range []int64{512, WriteCluster, 9<<20 + 512*5} {
		disk := content(t, raw, size, seed)
		short := content(t, base, min(5<<20+512, size), seed+1)
		for i := 0; i+1<<20 < len(short); i += 2 << 20 { // half of it is alike
			copy(short[i:i+1<<20], disk[i:])
		}
		if err := os.WriteFile(base, short, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, o := range []WriterOptions{{}, {Compress: true}, {Backing: base, BackingFormat: "raw"}, {Backing: "base", BackingFormat: "raw", Compress: true}} {
			what := fmt.Sprintf("%d bytes, %+v, seed %d", size, o, seed)
			below := short
			if o.Backing == "" {
				below = nil
			}
			writeImage(t, image, disk, below, o, seed)
			oracle.Run(t, "qemu-img", "check", "-q", image)
			oracle.Run(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, raw)
			if out := oracle.Run(t, "qemu-img", "info", "-U", image); strings.Contains(out, "backing file:") != (o.Backing != "") || o.Backing != "" && !strings.Contains(out, "backing file format: raw") {
				t.Errorf("%s: %s", what, out)
			}
			im := mustOpen(t, image)
			verify(t, what, im, disk, seed)
			im.Close()
			again := filepath.Join(dir, "again")
			writeImage(t, again, disk, below, o, seed)
			if !bytes.Equal(read(t, again), read(t, image)) {
				t.Errorf("%s: a second time other bytes are written", what)
			}
			// A writer of QEMU's goes on where ours ended.
			oracle.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 5 0 512", image)
			oracle.Run(t, "qemu-img", "check", "-q", image)
		}
	}
}

// sparse is a file of which only the length counts.
type sparse struct{ *os.File }

func (s sparse) WriteAt(b []byte, off int64) (int, error) {
	if len(b) > 1 && bytes.Count(b[:2], []byte{7}) == 2 { // data
		return len(b), nil
	}
	return s.File.WriteAt(b, off)
}

// An image of so many clusters that it takes more than one block of reference counts, and
// a large disk with next to nothing in it.
func TestWritesLarge(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	for _, c := range []struct{ size, data int64 }{{3 << 30, 2<<30 + 77*WriteCluster}, {64 << 40, 4 * WriteCluster}} {
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		w, err := NewWriter(sparse{f}, WriterOptions{Size: c.size})
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Repeat([]byte{7}, 1<<20)
		states := slices.Repeat([]State{Data}, len(b)/WriteCluster)
		for off := int64(0); off < c.data; off += int64(len(b)) {
			batch, err := w.Prepare(off, b, states)
			if err != nil {
				t.Fatal(err)
			}
			if err := batch.Place(); err != nil {
				t.Fatal(err)
			}
			if err := batch.Write(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		oracle.Run(t, "qemu-img", "check", "-q", image)
		im := mustOpen(t, image)
		if im.Size() != c.size {
			t.Errorf("size %d, want %d", im.Size(), c.size)
		}
		if err := im.Extents(0, im.Size(), func(ubdfmt.Extent) bool { return true }); err != nil {
			t.Error(err)
		}
		im.Close()
	}
	for name, o := range map[string]WriterOptions{
		"no sectors": {Size: 513}, "negative": {Size: -512}, "too large": {Size: MaxSize + 512}, "long name": {Size: 512, Backing: strings.Repeat("x", 1024)},
	} {
		if _, err := NewWriter(nil, o); err == nil {
			t.Errorf("%s: it is begun", name)
		}
	}
}
