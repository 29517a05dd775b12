package ubdfmt

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzOpen opens whatever bytes as a disk over a backing file that fits the sample's
// header, reads it all, writes to it, and merges it. Nothing may panic or hang.
func FuzzOpen(f *testing.F) {
	h := sample
	h.Backing, h.Size, h.MTime = "base.img", 64<<10, 1500000000
	good := append(encoded(f, h), make([]byte, 8192+4096-HeaderLength)...)
	good[8192] = 0x3c
	f.Add(append(good, pattern(64<<10, 9)...))
	f.Add(append(good, pattern(3<<10, 9)...))
	f.Add(good)
	f.Add(good[:5000])
	f.Add(encoded(f, sample))
	for d, b := range headers() {
		f.Add(b)
		if _, ok := dialectFields[d]; ok {
			h.Dialect, h.Alignment = d, inDialect(d).Alignment
			file := append(encoded(f, h), make([]byte, int(h.Layout().DataOffset)-dialectFields[d].length)...)
			file[h.Layout().BitmapOffset] = 0x3c
			f.Add(append(file, pattern(64<<10, 9)...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		t.Chdir(dir)
		base := sparseImage(t, filepath.Join(dir, "base.img"), 64<<10)
		at := time.Unix(1500000000, 0)
		if err := os.Chtimes(base, at, at); err != nil {
			t.Fatal(err)
		}
		before := sumFile(t, base)
		path := write(t, filepath.Join(dir, "disk.cow"), b)
		d, err := Open(path, "", Options{})
		if err == nil {
			_, isCOW := d.(*COW)
			if _, err := io.Copy(io.Discard, io.NewSectionReader(d, 0, d.Size())); err != nil && isCOW {
				t.Errorf("a COW file that opens cannot be read: %v", err)
			}
			if ro, ok := d.(interface{ ReadOnly() bool }); d.Size() > 1000 && !(ok && ro.ReadOnly()) {
				if _, err := d.WriteAt(make([]byte, 700), d.Size()-900); err != nil {
					t.Error(err)
				}
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if isCOW {
				if err := Merge(context.Background(), path, filepath.Join(dir, "out"), MergeOptions{}); err != nil {
					t.Error(err)
				}
			}
		}
		if sumFile(t, base) != before {
			t.Error("the backing file was changed")
		}
	})
}
