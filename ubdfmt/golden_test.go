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
)

// The golden files, one a dialect, were built by hand from the formats' descriptions:
// over /golden/base.img as it was at goldenTime, holding the sectors 0, 5, 6 and 15, each
// filled with 0x80 and its number. What they have in place of the others is 0xee.
var (
	goldenTime = time.Unix(1000000000, 0)
	goldenHeld = []int{0, 5, 6, 15}
)

// golden unpacks a golden file and makes the backing file that it wants, of which every
// sector is filled with its number and one.
func golden(t testing.TB, dir, name string, size int) (base, cow string, shows []byte) {
	t.Helper()
	shows = make([]byte, size)
	for i := range shows {
		shows[i] = byte(i/SectorSize) + 1
	}
	base = write(t, filepath.Join(dir, "base.img"), shows)
	if err := os.Chtimes(base, goldenTime, goldenTime); err != nil {
		t.Fatal(err)
	}
	for _, n := range goldenHeld {
		copy(shows[n*SectorSize:], bytes.Repeat([]byte{0x80 + byte(n)}, SectorSize))
	}
	return base, write(t, filepath.Join(dir, name+".cow"), gunzip(t, filepath.Join("testdata", name+".cow.gz"))), shows
}

func TestGolden(t *testing.T) {
	for _, test := range []struct {
		name     string
		dialect  Dialect
		size     int
		readOnly bool
	}{
		{"v1-32", V1, 8192, false},
		{"v1-64", V1Wide, 8192, false},
		{"v2", V2, 8192, false},
		{"v2-short", V2, 8192 + 1000, true},
		{"v3", V3, 8192, false},
		{"v3-broken", V3Broken, 8192, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			base, cow, want := golden(t, dir, test.name, test.size)
			before := read(t, cow)
			h, err := DecodeHeader(before)
			align := int64(512)
			if test.dialect == V3 || test.dialect == V3Broken {
				align = 4096
			}
			if wanted := (Header{test.dialect, "/golden/base.img", 1000000000, int64(test.size), 512, align}); err != nil || h != wanted {
				t.Fatalf("the header is %+v, %v; want %+v", h, err, wanted)
			}
			out := filepath.Join(dir, "out.img")
			if err := Merge(context.Background(), cow, out, MergeOptions{Backing: base}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, out), want) {
				t.Error("merged, it is another disk")
			}

			var log []string
			d := mustOpen(t, cow, base, Options{Logf: logTo(&log)})
			got := make([]byte, test.size)
			if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("byte %d is another: %v", firstDifference(got, want), err)
			}
			padded := append(bytes.Clone(want), make([]byte, d.Size()-int64(test.size))...)
			if got, want := sumExtents(t, d), sum(t, bytes.NewReader(padded)); got != want {
				t.Error("its extents show another disk")
			}
			if ro := d.(*COW).ReadOnly(); ro != test.readOnly {
				t.Fatalf("read-only: %v; it said %q", ro, log)
			}
			if test.readOnly {
				if _, err := d.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EROFS) {
					t.Errorf("a write: %v", err)
				}
				mustClose(t, d)
				if !bytes.Equal(read(t, cow), before) {
					t.Error("reading changed it")
				}
			} else {
				put := pattern(700, 0x41)
				if _, err := d.WriteAt(put, 5000); err != nil {
					t.Fatal(err)
				}
				copy(want[5000:], put)
				if err := d.Trim(0, 4096); err != nil {
					t.Fatal(err)
				}
				clear(want[:4096])
				mustClose(t, d)
				checkDialectKept(t, before, read(t, cow), h, base)
				if got := shown(t, cow, test.size); !bytes.Equal(got, want) {
					t.Errorf("byte %d is another after writing", firstDifference(got, want))
				}
			}
			if err := MergeInPlace(context.Background(), cow, MergeOptions{Backing: base}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, base), want) {
				t.Error("merged in place, it is another disk")
			}
		})
	}
}

// checkDialectKept checks that writing left the header as it was but for the backing
// file's name, and what lies between the parts of the file and in the places of sectors
// that it does not hold too.
func checkDialectKept(t *testing.T, before, after []byte, h Header, base string) {
	t.Helper()
	if len(before) != len(after) {
		t.Errorf("it had %d bytes and has %d", len(before), len(after))
	}
	want := bytes.Clone(before)
	copy(want[dialectFields[h.Dialect].path:], base+"\x00")
	l := h.Layout()
	if i := firstDifference(after[:l.BitmapOffset], want[:l.BitmapOffset]); i >= 0 {
		t.Errorf("header byte %d is %#x, want %#x", i, after[i], want[i])
	}
	// The first block was trimmed, the second is held whole: both now are.
	bits := after[l.BitmapOffset : l.BitmapOffset+l.BitmapLength]
	if !bytes.Equal(bits, []byte{0xff, 0xff}) {
		t.Errorf("the bitmap is %x", bits)
	}
	if gap := after[l.BitmapOffset+l.BitmapLength : l.DataOffset]; len(bytes.Trim(gap, "\x00")) != 0 {
		t.Errorf("something was written between bitmap and data")
	}
}
