package ubdfmt

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// gunzip is what a compressed file holds.
func gunzip(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// unpack puts a sample of ../shared/samples into dir.
func unpack(t *testing.T, dir, name string) string {
	t.Helper()
	return write(t, filepath.Join(dir, name), gunzip(t, oracle.Shared(t, "samples/"+name+".gz")))
}

// samples unpacks the samples, the backing file with the mtime of the headers.
func samples(t *testing.T) (base, kernelCOW, emptyCOW, merged string) {
	t.Helper()
	dir := t.TempDir()
	base = unpack(t, dir, "base.img")
	at := time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)
	if err := os.Chtimes(base, at, at); err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(oracle.Shared(t, "samples/merged.sha256"))
	if err != nil {
		t.Fatal(err)
	}
	return base, unpack(t, dir, "kernel.cow"), unpack(t, dir, "mkcow.cow"), strings.Fields(string(sum))[0]
}

func sumFile(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return sum(t, f)
}

func sum(t testing.TB, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sumDevice(t testing.TB, d Device) string {
	t.Helper()
	return sum(t, io.NewSectionReader(d, 0, d.Size()))
}

// write makes a file with that content, and returns its path.
func write(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// pattern is n bytes that are nowhere zero and differ from sector to sector.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i/SectorSize)*7 + seed | 1
	}
	return b
}

func mustOpen(t testing.TB, path, backing string, o Options) Device {
	t.Helper()
	d, err := Open(path, backing, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustClose(t testing.TB, d Device) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSamples(t *testing.T) {
	base, kernelCOW, emptyCOW, merged := samples(t)
	for _, test := range []struct{ cow, want string }{
		{kernelCOW, merged},
		{emptyCOW, sumFile(t, base)},
	} {
		before := sumFile(t, test.cow)
		d, err := OpenCOW(test.cow, COWOptions{Options{ReadOnly: true}, Policy{Backing: base}})
		if err != nil {
			t.Fatal(err)
		}
		if d.Size() != 8<<20 {
			t.Errorf("size %d", d.Size())
		}
		if got := sumDevice(t, d); got != test.want {
			t.Errorf("%s shows %s, want %s", test.cow, got, test.want)
		}
		if got := sumExtents(t, d); got != test.want {
			t.Errorf("%s shows %s by its extents, want %s", test.cow, got, test.want)
		}
		mustClose(t, d)
		if sumFile(t, test.cow) != before {
			t.Errorf("%s was changed by reading", test.cow)
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := Merge(context.Background(), test.cow, out, MergeOptions{Backing: base}); err != nil {
			t.Fatal(err)
		}
		if got := sumFile(t, out); got != test.want {
			t.Errorf("%s merges to %s, want %s", test.cow, got, test.want)
		}
	}
}

// sumExtents reads a disk by what Extents says of it.
func sumExtents(t testing.TB, d Device) string {
	t.Helper()
	var all bytes.Buffer
	err := d.Extents(0, d.Size(), func(e Extent) bool {
		if e.Offset != int64(all.Len()) || e.Length <= 0 {
			t.Fatalf("extent %+v does not follow %d", e, all.Len())
		}
		b := make([]byte, e.Length)
		if e.File != nil {
			if n, err := e.File.ReadAt(b, e.FileOffset); err != nil && (err != io.EOF || e.Length-int64(n) >= SectorSize) {
				t.Fatalf("extent %+v: read %d, %v", e, n, err)
			}
		}
		all.Write(b)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum(t, &all)
}

func TestCreateCOW(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	t.Chdir(dir)
	var log []string
	d := mustOpen(t, "disk.cow", "base.img", Options{Logf: logTo(&log)})
	mustClose(t, d)
	if want := []string{`Creating "disk.cow" as COW file for "base.img"`}; !slices.Equal(log, want) {
		t.Errorf("logged %q, want %q", log, want)
	}

	// uml_mkcow makes the same header but for the alignment, and with its alignment the
	// same file.
	theirs, alike := filepath.Join(dir, "theirs.cow"), filepath.Join(dir, "alike.cow")
	oracle.Run(t, "uml_mkcow", theirs, base)
	h, err := ReadHeader(cow)
	if err != nil {
		t.Fatal(err)
	}
	if l := h.Layout(); h.Alignment != 1<<20 || l.BitmapOffset != 1<<20 || l.DataOffset != 2<<20 {
		t.Errorf("the header is %+v, its layout %+v", h, l)
	}
	h.Alignment = KernelAlignment
	if want, err := ReadHeader(theirs); err != nil || h != want {
		t.Errorf("the header is %+v, uml_mkcow's %+v, %v", h, want, err)
	}
	if err := CreateCOW(alike, base, Options{Alignment: KernelAlignment}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(alike)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the file differs from uml_mkcow's")
	}
	var st unix.Stat_t
	if err := unix.Stat(cow, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 16384 || st.Mode&0o777 != 0o644 {
		t.Errorf("it takes %d bytes of the host, mode %o", st.Blocks*512, st.Mode)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}

	if err := CreateCOW(cow, base, Options{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("creating over a COW file: %v", err)
	}
	if err := CreateCOW(filepath.Join(dir, "odd.cow"), base, Options{Alignment: 4095}); !errors.As(err, new(*HeaderError)) {
		t.Errorf("an alignment of 4095: %v", err)
	}
	if err := CreateCOW(filepath.Join(dir, "second.cow"), cow, Options{}); err == nil {
		t.Error("a COW file became a backing file")
	}
	empty := write(t, filepath.Join(dir, "empty.img"), nil)
	var e *HeaderError
	if err := CreateCOW(filepath.Join(dir, "empty.cow"), empty, Options{}); !errors.As(err, &e) {
		t.Errorf("a COW file over an empty image: %v", err)
	}
	if err := CreateCOW(filepath.Join(dir, "n.cow"), filepath.Join(dir, "none.img"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a COW file over no image: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none"), "", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no image: %v", err)
	}
	if _, err := Open(dir, "", Options{ReadOnly: true}); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Open(cow, base, Options{NoCOW: true}); err == nil {
		t.Error("flag d and a backing file were taken together")
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(fifo, "", Options{ReadOnly: true}); err == nil {
		t.Error("a FIFO was opened as a disk")
	}
}

// TestCreateAtOnce: of many that want a COW file that is not there one creates it, and it
// is there for all.
func TestCreateAtOnce(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	for i := range 20 {
		cow := filepath.Join(dir, fmt.Sprint(i))
		var all sync.WaitGroup
		for j := range 8 {
			all.Go(func() {
				time.Sleep(time.Duration(j) * 200 * time.Microsecond)
				d, err := Open(cow, base, Options{Shared: true})
				if err != nil {
					t.Error(err)
					return
				}
				d.Close()
			})
		}
		all.Wait()
	}
}

func logTo(lines *[]string) func(string, ...any) {
	return func(format string, args ...any) { *lines = append(*lines, fmt.Sprintf(format, args...)) }
}

func TestDetection(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	if err := CreateCOW(cow, base, Options{}); err != nil {
		t.Fatal(err)
	}
	d := mustOpen(t, cow, "", Options{})
	if c, ok := d.(*COW); !ok || c.Backing() != base || d.Size() != 1<<20 {
		t.Errorf("opened as %T of %d bytes", d, d.Size())
	}
	mustClose(t, d)
	d = mustOpen(t, cow, "", Options{NoCOW: true, ReadOnly: true})
	if _, ok := d.(*Raw); !ok {
		t.Errorf("with flag d opened as %T", d)
	}
	mustClose(t, d)
	if _, err := Open(base, base, Options{}); err == nil {
		t.Error("a raw image was taken for a COW file")
	}
	for _, dialect := range []Dialect{V1BigEndian, QEMU} {
		path := write(t, filepath.Join(dir, "other.cow"), headers()[dialect])
		var e *DialectError
		if _, err := Open(path, "", Options{}); !errors.As(err, &e) || e.Dialect != dialect || e.Path != path {
			t.Errorf("%v: %v", dialect, err)
		}
	}
}

// TestMismatch: size first, then mtime; what is refused is not touched, and what is put
// back opens again.
func TestMismatch(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	d := mustOpen(t, cow, base, Options{})
	if _, err := d.WriteAt(pattern(4096, 9), 8192); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
	info, err := os.Stat(base)
	if err != nil {
		t.Fatal(err)
	}
	before, cowBefore := sumFile(t, base), sumFile(t, cow)
	refused := func(field string, header, actual int64, message string) {
		t.Helper()
		state := sumFile(t, base)
		for _, backing := range []string{"", base} {
			_, err := Open(cow, backing, Options{})
			var e *MismatchError
			if !errors.As(err, &e) || e.Field != field || e.Header != header || e.Actual != actual {
				t.Fatalf("got %v, want a mismatch of %s", err, field)
			}
			if err.Error() != message {
				t.Errorf("message %q, want %q", err, message)
			}
		}
		if sumFile(t, base) != state || sumFile(t, cow) != cowBefore {
			t.Error("a refused file was changed")
		}
	}

	later := info.ModTime().Add(3 * time.Second)
	if err := os.Truncate(base, 1<<20+512); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(base, later, later); err != nil {
		t.Fatal(err)
	}
	refused("size", 1<<20, 1<<20+512, `Size mismatch (1048576 vs 1049088) of COW header vs backing file "`+base+`"`)
	if err := os.Truncate(base, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(base, later, later); err != nil {
		t.Fatal(err)
	}
	refused("mtime", info.ModTime().Unix(), later.Unix(),
		fmt.Sprintf(`mtime mismatch (%d vs %d) of COW header vs backing file "%s"`, info.ModTime().Unix(), later.Unix(), base))

	// Other nanoseconds are no other time.
	at := time.Unix(info.ModTime().Unix(), 123456789)
	if err := os.Chtimes(base, at, at); err != nil {
		t.Fatal(err)
	}
	if sumFile(t, base) != before {
		t.Fatal("the test changed the backing file")
	}
	mustClose(t, mustOpen(t, cow, "", Options{}))

	// A COW file that was removed is made anew, whatever the backing file has become.
	if err := os.Chtimes(base, later, later); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(cow); err != nil {
		t.Fatal(err)
	}
	d = mustOpen(t, cow, base, Options{})
	if got := sumDevice(t, d); got != before {
		t.Error("the new COW file shows something else than its backing file")
	}
	mustClose(t, d)
}

func TestSwitchBacking(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "a-rather-long-name-of-a-base.img"), pattern(1<<20, 3))
	cow := filepath.Join(dir, "disk.cow")
	mustClose(t, mustOpen(t, cow, base, Options{}))
	moved := filepath.Join(dir, "b.img")
	oracle.Run(t, "cp", "-p", base, moved)

	var log []string
	same := filepath.Join(dir, "same.img")
	if err := os.Link(base, same); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, cow, same, Options{Logf: logTo(&log)}))
	if len(log) != 0 {
		t.Errorf("another name of the same file: logged %q", log)
	}

	mustClose(t, mustOpen(t, cow, moved, Options{Logf: logTo(&log), ReadOnly: true}))
	mismatch := fmt.Sprintf("Backing file mismatch - %q requested, %q specified in COW header of %q", moved, base, cow)
	if want := []string{mismatch}; !slices.Equal(log, want) {
		t.Errorf("read-only: logged %q, want %q", log, want)
	}
	log = nil
	mustClose(t, mustOpen(t, cow, moved, Options{Logf: logTo(&log)}))
	if want := []string{mismatch, "Switching backing file to '" + moved + "'"}; !slices.Equal(log, want) {
		t.Errorf("logged %q, want %q", log, want)
	}
	d := mustOpen(t, cow, "", Options{})
	if got := d.(*COW).Backing(); got != moved {
		t.Errorf("the header names %q", got)
	}
	mustClose(t, d)

	// One that does not match leaves the header alone.
	other := write(t, filepath.Join(dir, "other.img"), pattern(1<<20+512, 3))
	before := sumFile(t, cow)
	var e *MismatchError
	if _, err := Open(cow, other, Options{}); !errors.As(err, &e) {
		t.Errorf("another size: %v", err)
	}
	if sumFile(t, cow) != before {
		t.Error("a refused backing file changed the header")
	}

	// The named file is gone: the one given takes its place.
	if err := os.Rename(moved, base); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, cow, base, Options{}))
	mustClose(t, mustOpen(t, cow, "", Options{}))

	if _, err := Open(cow, cow, Options{Shared: true}); err == nil {
		t.Error("a COW file became its own backing file")
	}
}

// TestBadFiles: a header may be sound and the file not.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(1<<20, 3))
	info, err := os.Stat(base)
	if err != nil {
		t.Fatal(err)
	}
	h := Header{Dialect: V3, Backing: base, MTime: uint32(info.ModTime().Unix()), Size: 1 << 20,
		SectorSize: 512, Alignment: 4096}
	good := encoded(t, h)
	bitmap := make([]byte, 4096)
	bitmap[255] = 0x80 // the last sector
	full := append(append(append(good, make([]byte, 8192-len(good))...), bitmap...), make([]byte, 1<<20)...)
	for name, test := range map[string]struct {
		length int
		field  string
	}{
		"header torn":             {2000, "length"},
		"no bitmap":               {8192, "size"},
		"bitmap torn":             {8192 + 255, "size"},
		"held sector past end":    {12288 + 1<<20 - 512, "bitmap"},
		"held sector partly past": {12288 + 1<<20 - 1, "bitmap"},
	} {
		path := write(t, filepath.Join(dir, "bad.cow"), full[:test.length])
		_, err := Open(path, "", Options{})
		var e *HeaderError
		if !errors.As(err, &e) || e.Field != test.field || e.Path != path {
			t.Errorf("%s: %v", name, err)
		}
		if sumFile(t, path) != sum(t, bytes.NewReader(full[:test.length])) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	d := mustOpen(t, write(t, filepath.Join(dir, "good.cow"), full), "", Options{})
	mustClose(t, d)
}
