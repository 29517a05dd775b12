package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	base, cow := mergePair(t, dir, 3<<20+512)
	before, want := read(t, cow), shown(t, cow, 3<<20+512)
	l := Header{Dialect: V3, Size: 3<<20 + 512, SectorSize: 512, Alignment: newAlignment}.Layout()
	r, err := Check(cow, CheckOptions{})
	if err != nil || len(r.Problems) != 0 || r.Layout != l || r.Partial != 0 || r.FileSize != int64(len(before)) ||
		r.Allocated != blocks(t, cow)*512 {
		t.Fatalf("%+v, %v", r, err)
	}
	held := int64(0)
	for _, b := range before[l.BitmapOffset : l.BitmapOffset+l.BitmapLength] {
		for ; b != 0; b &= b - 1 {
			held += 512
		}
	}
	if r.Held != held {
		t.Errorf("%d held, want %d", r.Held, held)
	}
	put := func(off int64, p ...byte) func(*os.File) error {
		return func(f *os.File) error { _, err := f.WriteAt(p, off); return err }
	}
	for _, test := range []struct {
		name   string
		change func(*os.File) error
		kind   ProblemKind
		repair bool
	}{
		{"stray bits", put(l.BitmapOffset+l.BitmapLength-1, 0xfe|before[l.BitmapOffset+l.BitmapLength-1]), Corrupt, true},
		{"a lost write", put(l.DataOffset+224<<10+100, pattern(5000, 9)...), Leak, true},
		{"something behind", put(int64(len(before)), pattern(5000, 9)...), Leak, true},
		{"header", put(24, 0xff), Corrupt, false},
		{"too short for its bits", func(f *os.File) error { return f.Truncate(l.DataOffset + 1<<20) }, Corrupt, false},
		{"too short for its bitmap", func(f *os.File) error { return f.Truncate(l.BitmapOffset + 10) }, Corrupt, false},
		{"backing file", func(*os.File) error { touch(t, base, 1500000000); return nil }, Unmatched, false},
	} {
		write(t, cow, nil)
		writeSparse(t, cow, before)
		f, err := os.OpenFile(cow, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := test.change(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		spoiled := read(t, cow)
		r, err := Check(cow, CheckOptions{})
		if err != nil || len(r.Problems) != 1 || r.Problems[0].Kind != test.kind || r.Problems[0].Repairable != test.repair {
			t.Errorf("%s: %+v, %v", test.name, r.Problems, err)
		}
		if !bytes.Equal(read(t, cow), spoiled) {
			t.Errorf("%s: checking changed the file", test.name)
		}
		r, err = Repair(cow, CheckOptions{})
		if err != nil || (len(r.Problems) == 0) != test.repair {
			t.Errorf("%s: after the repair %+v, %v", test.name, r.Problems, err)
		}
		if !test.repair && !bytes.Equal(read(t, cow), spoiled) {
			t.Errorf("%s: the repair changed the file", test.name)
		}
		if test.repair {
			if got := shown(t, cow, len(want)); !bytes.Equal(got, want) {
				t.Errorf("%s: repaired, the disk is another", test.name)
			}
			if !bytes.Equal(read(t, cow), before) {
				t.Errorf("%s: repaired, the file is another", test.name)
			}
		}
	}
}

// TestCheckLength: a file that lost a hole at its end is made whole again.
func TestCheckLength(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	mustClose(t, mustOpen(t, cow, base, Options{}))
	size := int64(len(read(t, cow)))
	if err := os.Truncate(cow, size-5000); err != nil {
		t.Fatal(err)
	}
	if r, err := Check(cow, CheckOptions{}); err != nil || len(r.Problems) != 1 || r.Problems[0].Bytes != 5000 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := Repair(cow, CheckOptions{}); err != nil || len(r.Problems) != 0 || r.FileSize != size {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCheckCannot(t *testing.T) {
	dir, base, cow, _ := rebaseCase(t)
	if r, err := Check(cow, CheckOptions{}); err != nil || r.Partial != 1 || len(r.Problems) != 0 {
		t.Errorf("a block held in part: %+v, %v", r, err)
	}
	var header *HeaderError
	if _, err := Check(base, CheckOptions{}); !errors.As(err, &header) || header.Field != "magic" {
		t.Errorf("a raw image: %v", err)
	}
	var dialect *DialectError
	if _, err := Check(write(t, filepath.Join(dir, "qemu"), headers()[QEMU]), CheckOptions{}); !errors.As(err, &dialect) {
		t.Errorf("QEMU's: %v", err)
	}
	d := mustOpen(t, cow, "", Options{})
	var locked *LockedError
	for _, f := range []func(string, CheckOptions) (Report, error){Check, Repair} {
		if _, err := f(cow, CheckOptions{}); !errors.As(err, &locked) {
			t.Errorf("in use: %v", err)
		}
	}
	if _, err := Check(cow, CheckOptions{Shared: true}); err != nil {
		t.Errorf("in use, shared: %v", err)
	}
	if _, err := Repair(cow, CheckOptions{Shared: true}); !errors.As(err, &locked) {
		t.Errorf("a repair beside a machine: %v", err)
	}
	mustClose(t, d)
	for _, backing := range []string{cow, filepath.Join(dir, "none"), dir} {
		if r, err := Check(cow, CheckOptions{Backing: backing}); err != nil || len(r.Problems) != 1 || r.Problems[0].Kind != Unmatched {
			t.Errorf("over %s: %+v, %v", backing, r, err)
		}
	}
}

func TestDiff(t *testing.T) {
	for _, size := range []int{1<<20 + 512, 700*512 + 100} {
		dir := t.TempDir()
		ctx := context.Background()
		// The disk of the pair is the new one; its backing file the old one.
		base, cow := mergePair(t, dir, size)
		want := shown(t, cow, size)
		merged := filepath.Join(dir, "new.img")
		if err := Merge(ctx, cow, merged, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		sums := sumFile(t, base) + sumFile(t, merged) + sumFile(t, cow)
		differ := int64(0)
		for at, old := 0, read(t, base); at < size; at += blockSize {
			if end := min(at+blockSize, size); !bytes.Equal(old[at:end], want[at:end]) {
				differ += int64(end - at)
			}
		}
		for _, new := range []string{merged, cow} {
			out := filepath.Join(dir, "diff.cow")
			n, err := Diff(ctx, base, new, out, DiffOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(t, out, size); !bytes.Equal(got, want) {
				t.Errorf("of %s: byte %d is another", filepath.Base(new), firstDifference(got, want))
			}
			r, err := Check(out, CheckOptions{})
			if err != nil || len(r.Problems) != 0 || r.Partial != 0 {
				t.Errorf("of %s: %+v, %v", filepath.Base(new), r, err)
			}
			// The last sector is a whole one.
			if pad := int64(roundUp(int64(size), 512)) - int64(size); n != differ && n != differ+pad || r.Held != roundUp(n, 512) {
				t.Errorf("of %s: %d bytes differ and %d are held, want %d", filepath.Base(new), n, r.Held, differ)
			}
			if _, err := Diff(ctx, base, new, out, DiffOptions{}); !errors.Is(err, os.ErrExist) {
				t.Errorf("over a file that is there: %v", err)
			}
			if err := os.Remove(out); err != nil {
				t.Fatal(err)
			}
		}
		if sumFile(t, base)+sumFile(t, merged)+sumFile(t, cow) != sums {
			t.Error("a source was changed")
		}
		out := filepath.Join(dir, "diff.cow")
		if n, err := Diff(ctx, base, base, out, DiffOptions{}); err != nil || n != 0 {
			t.Errorf("of an image and itself: %d, %v", n, err)
		}
		short := write(t, filepath.Join(dir, "short.img"), want[:512])
		stopped, stop := context.WithCancel(ctx)
		stop()
		for _, test := range []struct {
			ctx      context.Context
			old, new string
		}{{ctx, base, short}, {ctx, cow, merged}, {ctx, base, filepath.Join(dir, "none")}, {stopped, base, merged}} {
			if _, err := Diff(test.ctx, test.old, test.new, filepath.Join(dir, "bad.cow"), DiffOptions{}); err == nil {
				t.Errorf("of %s and %s: it was made", test.old, test.new)
			}
		}
		if names, err := filepath.Glob(filepath.Join(dir, "*bad*")); err != nil || len(names) != 0 {
			t.Errorf("left behind: %q", names)
		}
	}
}
