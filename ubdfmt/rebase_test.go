package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// touch gives a file a modification time, in seconds.
func touch(t testing.TB, path string, sec int64) {
	t.Helper()
	if err := os.Chtimes(path, time.Unix(sec, 0), time.Unix(sec, 0)); err != nil {
		t.Fatal(err)
	}
}

// rebaseCase is a COW file over a backing file that was changed at 1 500 000 000, with a
// part of a block held, too.
func rebaseCase(t *testing.T) (dir, base, cow string, want []byte) {
	t.Helper()
	const size = 600 << 10
	dir = t.TempDir()
	base = write(t, filepath.Join(dir, "base.img"), pattern(size, 3))
	touch(t, base, 1500000000)
	cow = filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	if _, err := d.WriteAt(pattern(20<<10, 0x41), 100<<10); err != nil {
		t.Fatal(err)
	}
	// As a kernel leaves it: a sector, and not its block.
	if err := d.(*COW).bits.set(41, 42); err != nil {
		t.Fatal(err)
	}
	if _, err := d.(*COW).file.WriteAt(pattern(512, 0x51), d.(*COW).layout.DataOffset+41*512); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
	return dir, base, cow, shown(t, cow, size)
}

func rebased(t *testing.T, cow, backing string, o RebaseOptions, want []byte) Rebased {
	t.Helper()
	done, err := Rebase(context.Background(), cow, backing, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(t, cow, len(want)); !bytes.Equal(got, want) {
		t.Errorf("byte %d is another", firstDifference(got, want))
	}
	if h, err := ReadHeader(cow); err != nil || h != done.Header {
		t.Errorf("the header is %+v, %v; it was said to be %+v", h, err, done.Header)
	}
	return done
}

func TestRebaseVerify(t *testing.T) {
	dir, base, cow, want := rebaseCase(t)
	ctx := context.Background()
	verify := RebaseOptions{Mode: RebaseVerify}
	before := read(t, cow)
	refused := func(backing string, o RebaseOptions, check func(error) bool) {
		t.Helper()
		_, err := Rebase(ctx, cow, backing, o)
		if err == nil || !check(err) || strings.Contains(err.Error(), "\n") {
			t.Errorf("over %q: %v", backing, err)
		}
		if !bytes.Equal(read(t, cow), before) {
			t.Error("what was refused changed the COW file")
		}
	}
	noReference := func(err error) bool {
		var e *MismatchError
		return errors.Is(err, ErrNoReference) && errors.As(err, &e) && e.Field == "mtime"
	}

	// Touched, and nothing to compare with.
	touch(t, base, 1600000000)
	refused("", verify, noReference)
	refused("", RebaseOptions{}, noReference)
	// A copy that was made before tells that only the time has changed.
	copied := write(t, filepath.Join(dir, "copy.img"), read(t, base))
	verify.Reference = copied
	if done := rebased(t, cow, "", verify, want); !done.Compared || done.Copied != 0 || done.Header.MTime != 1600000000 || done.Header.Backing != base {
		t.Errorf("touched: %+v", done)
	}
	before = read(t, cow)

	// A true change, where the COW file holds nothing: told, with its place.
	changed := read(t, base)
	changed[333333] ^= 1
	write(t, base, changed)
	touch(t, base, 1700000000)
	refused("", verify, func(err error) bool {
		var e *DifferenceError
		return errors.As(err, &e) && e.Offset == 333333/4096*4096 && e.Reference == copied
	})
	// One that the COW file covers is none.
	changed[333333] ^= 1
	changed[110<<10] ^= 1
	changed[41*512] ^= 1
	write(t, base, changed)
	touch(t, base, 1700000000)
	rebased(t, cow, "", verify, want)
	// The neighbours of a sector that is held are not.
	before = read(t, cow)
	changed[42*512] ^= 1
	write(t, base, changed)
	touch(t, base, 1700000001)
	refused("", verify, func(err error) bool { var e *DifferenceError; return errors.As(err, &e) })
	changed[42*512] ^= 1
	write(t, base, changed)
	touch(t, base, 1700000000)

	// Moved: size and time are the header's, and that is all there is to compare.
	moved := filepath.Join(dir, "moved.img")
	if err := os.Rename(base, moved); err != nil {
		t.Fatal(err)
	}
	if done := rebased(t, cow, moved, RebaseOptions{Mode: RebaseVerify}, want); done.Compared || done.Header.Backing != moved {
		t.Errorf("moved: %+v", done)
	}
	// Copied: the header's own file is the reference, though the times are the same.
	oracle.Run(t, "cp", "-p", moved, base)
	if done := rebased(t, cow, base, RebaseOptions{Mode: RebaseVerify}, want); !done.Compared || done.Reference != moved {
		t.Errorf("copied: %+v", done)
	}
	before = read(t, cow)

	// What can never be.
	size := func(err error) bool { var e *MismatchError; return errors.As(err, &e) && e.Field == "size" }
	short := write(t, filepath.Join(dir, "short.img"), changed[:len(changed)-512])
	for _, mode := range []RebaseMode{RebaseMerge, RebaseVerify, RebaseUnsafe} {
		refused(short, RebaseOptions{Mode: mode}, size)
		refused(cow, RebaseOptions{Mode: mode}, func(error) bool { return true })
		refused(filepath.Join(dir, "none.img"), RebaseOptions{Mode: mode}, func(err error) bool { return errors.Is(err, os.ErrNotExist) })
	}
	refused("", RebaseOptions{Reference: short}, size)
	refused("", RebaseOptions{Reference: base}, func(error) bool { return true })
	refused("", RebaseOptions{Reference: cow}, func(error) bool { return true })
	held := mustOpen(t, cow, "", Options{})
	var locked *LockedError
	refused(moved, verify, func(err error) bool { return errors.As(err, &locked) && locked.PID == os.Getpid() })
	mustClose(t, held)
}

// TestRebaseMerge: over a backing file that is another, the disk is the same.
func TestRebaseMerge(t *testing.T) {
	dir, base, cow, want := rebaseCase(t)
	baseSum := sumFile(t, base)
	other := make([]byte, len(want))
	copy(other[:200<<10], read(t, base))
	copy(other[50000:], pattern(7000, 0x99))
	next := write(t, filepath.Join(dir, "next.img"), other)
	if err := os.Truncate(next, 200<<10); err != nil { // zeros, then a hole
		t.Fatal(err)
	}
	if err := os.Truncate(next, int64(len(want))); err != nil {
		t.Fatal(err)
	}
	nextSum := sumFile(t, next)
	done := rebased(t, cow, next, RebaseOptions{}, want)
	// 50000 to 57000 lies in two blocks, and behind 200 KiB everything differs.
	if n := int64(2*4096 + 400<<10); done.Copied != n || done.Header.Backing != next {
		t.Errorf("%+v, want %d copied", done, n)
	}
	if sumFile(t, base) != baseSum || sumFile(t, next) != nextSum {
		t.Error("a backing file was changed")
	}
	// Back again nothing is copied any more.
	if done := rebased(t, cow, base, RebaseOptions{}, want); done.Copied != 0 {
		t.Errorf("back again: %+v", done)
	}
	// Without looking, what the COW file does not hold is the other file's.
	shows := shown(t, cow, len(want))
	flipped := read(t, base)
	flipped[150<<10] ^= 1
	wild := write(t, filepath.Join(dir, "wild.img"), flipped)
	shows[150<<10] ^= 1
	if done := rebased(t, cow, wild, RebaseOptions{Mode: RebaseUnsafe}, shows); done.Compared {
		t.Errorf("%+v", done)
	}
}

// TestRebaseShortBitmap: sectors that have no bit cannot be taken over.
func TestRebaseShortBitmap(t *testing.T) {
	dir := t.TempDir()
	base, cow, want := golden(t, dir, "v2-short", 8192+1000)
	ctx := context.Background()
	for _, test := range []struct {
		at int
		ok bool
	}{{600, true}, {8192 + 10, false}} {
		changed := read(t, base)
		changed[test.at] ^= 1
		next := write(t, filepath.Join(dir, fmt.Sprint("next", test.at)), changed)
		_, err := Rebase(ctx, cow, next, RebaseOptions{Reference: base})
		var e *DifferenceError
		if test.ok != (err == nil) || err != nil && (!errors.As(err, &e) || e.Offset != 8192) {
			t.Errorf("a difference at %d: %v", test.at, err)
		}
		if test.ok {
			if got := shown(t, cow, len(want)); !bytes.Equal(got, want) {
				t.Errorf("byte %d is another", firstDifference(got, want))
			}
		}
	}
}

// TestAnyTime: a disk whose backing file was touched can be looked at, and stays as it is.
func TestAnyTime(t *testing.T) {
	_, base, cow, want := rebaseCase(t)
	touch(t, base, 1600000000)
	before := read(t, cow)
	c, err := OpenCOW(cow, COWOptions{Options{ReadOnly: true}, Policy{AnyTime: true}})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("it shows something else: %v", err)
	}
	mustClose(t, c)
	if err := os.Truncate(base, 512); err != nil {
		t.Fatal(err)
	}
	var e *MismatchError
	if _, err := OpenCOW(cow, COWOptions{Policy: Policy{AnyTime: true}}); !errors.As(err, &e) || e.Field != "size" {
		t.Errorf("another size: %v", err)
	}
	if !bytes.Equal(read(t, cow), before) {
		t.Error("the COW file was changed")
	}
}

func TestChain(t *testing.T) {
	dir, base, cow, _ := rebaseCase(t)
	chain, err := Chain(cow)
	if err != nil || len(chain) != 2 || chain[0].Path != cow || chain[0].Header == nil || chain[1].Path != base ||
		chain[1].Header != nil || chain[1].Size != 600<<10 {
		t.Errorf("%+v, %v", chain, err)
	}
	if chain, err := Chain(base); err != nil || len(chain) != 1 || chain[0].Header != nil {
		t.Errorf("a raw image: %+v, %v", chain, err)
	}
	make := func(name, backing string) string {
		h := sample
		h.Backing = backing
		return write(t, filepath.Join(dir, name), encoded(t, h))
	}
	self := make("self.cow", filepath.Join(dir, "self.cow"))
	loop := make("loop1.cow", filepath.Join(dir, "loop2.cow"))
	make("loop2.cow", loop)
	for path, n := range map[string]int{self: 1, loop: 2, make("gone.cow", "/none"): 1} {
		if chain, err := Chain(path); err == nil || len(chain) != n {
			t.Errorf("%s: %d layers, %v", path, len(chain), err)
		}
	}
	for i := range 20 {
		make(fmt.Sprint(i), filepath.Join(dir, fmt.Sprint(i+1)))
	}
	if chain, err := Chain(filepath.Join(dir, "0")); err == nil || len(chain) != maxLayers {
		t.Errorf("%d layers, %v", len(chain), err)
	}
}

func TestSiblings(t *testing.T) {
	dir, base, cow, _ := rebaseCase(t)
	far := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "a.cow"), filepath.Join(dir, "b.cow"), filepath.Join(far, "far.cow")} {
		if err := CreateCOW(path, base, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(cow, filepath.Join(dir, "c.cow")); err != nil { // itself
		t.Fatal(err)
	}
	other := write(t, filepath.Join(dir, "other.img"), pattern(512, 1))
	if err := CreateCOW(filepath.Join(dir, "d.cow"), other, Options{}); err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(dir, "a.cow"), filepath.Join(dir, "b.cow")
	if got, err := Siblings(cow, base); err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("%q, %v", got, err)
	}
	// From elsewhere both directories are looked through.
	if got, err := Siblings(filepath.Join(far, "far.cow"), base); err != nil || len(got) != 3 {
		t.Errorf("%q, %v", got, err)
	}
	t.Chdir(dir)
	if got, err := Siblings("disk.cow", "base.img"); err != nil || len(got) != 2 || got[0] != "a.cow" {
		t.Errorf("%q, %v", got, err)
	}
}
