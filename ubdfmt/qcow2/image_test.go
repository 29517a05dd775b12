package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

// content is a disk of size bytes with data that compresses and data that does not, zeros
// written and holes.
func content(t testing.TB, path string, size int64, seed uint64) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 9))
	b := make([]byte, size)
	for off := int64(0); off < size; off += 32 << 10 {
		part := b[off:min(size, off+32<<10)]
		switch r.IntN(5) {
		case 0:
			for i := range part {
				part[i] = byte(r.Uint32())
			}
		case 3: // which a small window does not compress
			for i := range part {
				part[i] = byte(r.Uint32())
				if i >= 8<<10 {
					part[i] = part[i-8<<10]
				}
			}
		case 1:
			copy(part, strings.Repeat(fmt.Sprint("some text ", r.IntN(1000), " "), 4000))
		case 2:
			part[r.IntN(len(part))] = 1
		}
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// qemuShows is what qemu-img reads from an image.
func qemuShows(t testing.TB, image string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	oracle.Run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
	return read(t, raw)
}

func mustOpen(t testing.TB, path string) *Image {
	t.Helper()
	im, err := Open(path, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

// forms are images that qemu-img makes, by options of its -o; "-c" compresses.
var forms = []string{
	"compat=1.1", "compat=0.10", "compat=0.10,cluster_size=512", "cluster_size=4k", "cluster_size=2M",
	"extended_l2=on,cluster_size=64k", "extended_l2=on,cluster_size=16k", "-c compression_type=zlib",
	"-c compression_type=zlib,cluster_size=512", "-c compression_type=zstd,cluster_size=4k", "-c compression_type=zstd,cluster_size=2M",
	"-c compat=0.10", "refcount_bits=1", "lazy_refcounts=on", "-c extended_l2=on", "preallocation=metadata",
}

// Whatever qemu-img writes is read as qemu-img reads it, also by many at once and
// in parts, and the extents say where it is.
func TestReads(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	want := content(t, raw, 9<<20+512*3, seed)
	for i, form := range forms {
		image := filepath.Join(dir, fmt.Sprint(i, ".qcow2"))
		args := []string{"convert", "-f", "raw", "-O", "qcow2"}
		options, packed := strings.CutPrefix(form, "-c ")
		if packed {
			args = append(args, "-c")
		}
		oracle.Run(t, "qemu-img", append(args, "-o", options, raw, image)...)
		im := mustOpen(t, image)
		verify(t, form, im, want, seed)
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	}
}

// verify holds an image to what it is to show.
func verify(t *testing.T, what string, im *Image, want []byte, seed uint64) {
	t.Helper()
	if im.Size() != int64(len(want)) {
		t.Fatalf("%s: size %d, want %d", what, im.Size(), len(want))
	}
	got := make([]byte, len(want))
	if n, err := im.ReadAt(got, 0); err != nil || n != len(got) || !bytes.Equal(got, want) {
		t.Fatalf("%s: read as a whole: %d, %v, equal %v", what, n, err, bytes.Equal(got, want))
	}
	if n, err := im.ReadAt(make([]byte, 1000), im.Size()-300); n != 300 || err != io.EOF {
		t.Errorf("%s: across the end: %d, %v", what, n, err)
	}
	var group sync.WaitGroup
	for w := range 3 {
		group.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for range 200 {
				off := r.Int64N(im.Size())
				p := make([]byte, min(im.Size()-off, r.Int64N(200<<10)+1))
				if _, err := im.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+int64(len(p))]) {
					t.Errorf("%s, seed %d: %d bytes at %d: %v, wrong %v", what, seed, len(p), off, err, err == nil)
					return
				}
			}
		})
	}
	group.Wait()
	clear(got)
	at := int64(0)
	err := im.Extents(0, im.Size(), func(e ubdfmt.Extent) bool {
		if e.Offset != at || e.Length <= 0 {
			t.Fatalf("%s: extent at %d of %d bytes, want one at %d", what, e.Offset, e.Length, at)
		}
		at += e.Length
		p := got[e.Offset:at]
		var err error
		switch {
		case e.Compressed:
			_, err = im.ReadAt(p, e.Offset)
		case e.File != nil:
			if _, err = e.File.ReadAt(p, e.FileOffset); err == io.EOF {
				err = nil
			}
		}
		if err != nil {
			t.Fatalf("%s: extent at %d: %v", what, e.Offset, err)
		}
		return true
	})
	if err != nil || at != im.Size() || !bytes.Equal(got, want) {
		t.Errorf("%s: the extents end at %d of %d, %v, equal %v", what, at, im.Size(), err, bytes.Equal(got, want))
	}
	if _, err := im.WriteAt([]byte{1}, 0); err == nil {
		t.Errorf("%s: it can be written", what)
	}
	if err := im.Trim(0, 512); err == nil {
		t.Errorf("%s: it can be trimmed", what)
	}
}

// Overlays over images of other sizes and formats, with zeros, discarded clusters,
// snapshots and parts of clusters, show what qemu-img shows.
func TestChains(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(seed, 1))
	base, middle, top := filepath.Join(dir, "base.raw"), filepath.Join(dir, "sub", "middle.qcow2"), filepath.Join(dir, "top.qcow2")
	if err := os.Mkdir(filepath.Dir(middle), 0o755); err != nil {
		t.Fatal(err)
	}
	content(t, base, 5<<20+512, seed)
	oracle.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "../base.raw", middle, "8M")
	for _, form := range []string{"compat=1.1", "extended_l2=on,cluster_size=128k", "cluster_size=4k"} {
		oracle.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", form, "-F", "qcow2", "-b", "sub/middle.qcow2", top, "7M")
		for _, image := range []string{middle, top} {
			var cmds []string
			for range 60 {
				off, n := r.Int64N(6<<20)/512*512, (r.Int64N(150<<10)/512+1)*512
				switch r.IntN(4) {
				case 0:
					cmds = append(cmds, fmt.Sprintf("write -z %d %d", off, n))
				case 1:
					cmds = append(cmds, fmt.Sprintf("discard %d %d", off, n))
				default:
					cmds = append(cmds, fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off, n))
				}
			}
			args := []string{"-f", "qcow2"}
			for _, c := range cmds {
				args = append(args, "-c", c)
			}
			oracle.Run(t, "qemu-io", append(args, image)...)
		}
		oracle.Run(t, "qemu-img", "snapshot", "-c", "before", top)
		oracle.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 77 1M 100k", top)
		want := qemuShows(t, top)
		im := mustOpen(t, top)
		if h := im.Header(); h.Snapshots != 1 || h.Backing != "sub/middle.qcow2" || h.BackingFormat != "qcow2" {
			t.Errorf("the header is %+v", h)
		}
		if got := im.Files(); !slices.Equal(got, []string{top, middle, filepath.Join(dir, "sub") + "/../base.raw"}) {
			t.Errorf("the files are %q", got)
		}
		verify(t, fmt.Sprintf("%s, seed %d", form, seed), im, want, seed)
		im.Close()
	}
}

// A backing file without a format is looked at, as by qemu-img.
func TestBackingFormats(t *testing.T) {
	dir := t.TempDir()
	raw, qcow, top := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow"), filepath.Join(dir, "top")
	want := content(t, raw, 1<<20, 3)
	oracle.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow)
	for name, c := range map[string]struct {
		backing, format string
		fails           string
	}{
		"raw":         {"raw", "raw", ""},
		"raw, probed": {"raw", "", ""},
		"qcow2":       {"qcow", "", ""},
		"file:":       {"file:" + raw, "raw", ""},
		"other":       {"raw", "vmdk", `the format "vmdk" is not supported`},
		"protocol":    {"nbd:localhost:10809", "raw", `the protocol of "nbd:localhost:10809" is not supported`},
		"json":        {`json:{"file":{"driver":"file"}}`, "raw", "the protocol of"},
		"itself":      {"top", "", "form a loop"},
		"missing":     {"none", "raw", "no such file"},
		"directory":   {".", "raw", "is a directory"},
		"newline":     {"a\nb\xff", "raw", "no such file"},
	} {
		oracle.Run(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "placeholder", top, "1M")
		patchBacking(t, top, c.backing, c.format)
		im, err := Open(top, ubdfmt.Options{})
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v, want %q", name, err, c.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		verify(t, name, im, want, 1)
		im.Close()
	}
}

// patchBacking rewrites the backing file's name and format behind the header.
func patchBacking(t *testing.T, path, backing, format string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	be := binary.BigEndian
	var head [112]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	length := be.Uint32(head[100:])
	copy(b, head[:length])
	at := int(length)
	if format != "" {
		be.PutUint32(b[at:], extensionFormat)
		be.PutUint32(b[at+4:], uint32(len(format)))
		at += 8 + copy(b[at+8:], format)
		at = (at + 7) &^ 7
	}
	at += 8
	be.PutUint64(b[8:], uint64(at))
	be.PutUint32(b[16:], uint32(len(backing)))
	copy(b[at:], backing)
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

// A loop of several files, and a chain that is too long, are refused, and soon.
func TestLoops(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		path := filepath.Join(dir, fmt.Sprint(i))
		oracle.Run(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", fmt.Sprint((i+1)%3), path, "1M")
	}
	if _, err := Open(filepath.Join(dir, "0"), ubdfmt.Options{}); err == nil || !strings.Contains(err.Error(), "form a loop") {
		t.Errorf("a loop of three: %v", err)
	}
	first := read(t, filepath.Join(dir, "0"))
	for i := range maxChain + 1 {
		path := filepath.Join(dir, fmt.Sprint("c", i))
		if err := os.WriteFile(path, first, 0o644); err != nil {
			t.Fatal(err)
		}
		patchBacking(t, path, fmt.Sprint("c", i+1), "qcow2")
	}
	if _, err := Open(filepath.Join(dir, "c0"), ubdfmt.Options{}); err == nil || !strings.Contains(err.Error(), "more than 64 images") {
		t.Errorf("a chain of %d: %v", maxChain+1, err)
	}
}

// What makes no sense is named, with its field.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	raw, good := filepath.Join(dir, "raw"), filepath.Join(dir, "good")
	content(t, raw, 2<<20, 4)
	oracle.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, good)
	sound := read(t, good)
	be := binary.BigEndian
	l1 := be.Uint64(sound[40:])
	l2 := be.Uint64(sound[l1:]) & offsetMask
	used := l2
	for be.Uint64(sound[used:])&offsetMask == 0 {
		used += 8
	}
	put32 := func(at uint64, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { be.PutUint32(b[at:], v); return b }
	}
	put64 := func(at uint64, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { be.PutUint64(b[at:], v); return b }
	}
	cut := func(n uint64) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	for name, c := range map[string]struct {
		change func([]byte) []byte
		fails  string
	}{
		"empty":         {cut(0), "magic 0x0"},
		"magic":         {put32(0, 0x4f4f4f4d), "magic 0x4f4f4f4d"},
		"version":       {put32(4, 4), "version 4 is not known"},
		"short":         {cut(100), "length"},
		"cluster_bits":  {put32(20, 40), "cluster_bits 40"},
		"small cluster": {put32(20, 3), "cluster_bits 3"},
		"size":          {put64(24, 1<<63), "size 9223372036854775808 is more"},
		"size and L1":   {put64(24, 1<<60), "l1_size 1 is less than the"},
		"AES":           {put32(32, 1), "AES encryption is not supported"},
		"LUKS":          {put32(32, 2), "LUKS encryption is not supported"},
		"method":        {put32(32, 3), "crypt_method 3 is not known"},
		"l1_size":       {put32(36, 1<<31), "l1_size 2147483648 is more than"},
		"l1 unaligned":  {put64(40, l1+512), "l1_table_offset"},
		"l1 far":        {put64(40, 1<<50), "l1_table_offset"},
		"l1 overflow":   {put64(40, 1<<63), "l1_table_offset"},
		"snapshots":     {put32(60, 1<<30), "nb_snapshots 1073741824"},
		"corrupt":       {put64(72, incompatCorrupt), "marked as corrupt"},
		"data file":     {put64(72, incompatDataFile), "an external data file is not supported"},
		"unknown":       {put64(72, 1<<40), "incompatible_features 0x10000000000 is not supported"},
		"refcounts":     {put32(96, 7), "refcount_order 7"},
		"header length": {put32(100, 99), "header_length 99"},
		"long header":   {put32(100, 1<<30), "header_length 1073741824"},
		"compression":   {put64(72, incompatCompression), "compression_type 0 contradicts"},
		"name far":      {func(b []byte) []byte { put64(8, 1<<40)(b); return put32(16, 9)(b) }, "backing_file_offset"},
		"name long":     {func(b []byte) []byte { put64(8, 512)(b); return put32(16, 2000)(b) }, "backing_file_size 2000"},
		"no name":       {func(b []byte) []byte { put64(8, 512)(b); return put32(16, 0)(b) }, "without a name"},
		"extension":     {put32(116, 1<<31), "header extension length"},
		// Found when it is read.
		"L2 unaligned":   {put64(l1, l2+512), "L1 entry"},
		"L2 far":         {put64(l1, 1<<50), "cut short"},
		"data unaligned": {put64(used, 512*3), "L2 entry"},
		"data far":       {put64(used, 1<<50), "cut short"},
		"zeros in v2":    {func(b []byte) []byte { put32(4, 2)(b); return put64(used, zeroFlag)(b) }, "zero flag"},
		"compressed far": {put64(used, compressed|1<<50), "cut short"},
		"no deflate":     {put64(used, compressed|1<<54|4), "compressed cluster's offset"},
		"truncated":      {cut(l2 + 65536), "cut short"},
		"no tables":      {cut(l2), "cut short"},
	} {
		path := filepath.Join(dir, "image")
		if err := os.WriteFile(path, c.change(slices.Clone(sound)), 0o644); err != nil {
			t.Fatal(err)
		}
		im, err := Open(path, ubdfmt.Options{})
		if err == nil {
			_, err = im.ReadAt(make([]byte, im.Size()), 0)
			im.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.fails) || !strings.HasPrefix(err.Error(), path+": qcow2: ") {
			t.Errorf("%s: %v, want %q", name, err, c.fails)
		}
		var format *FormatError
		var unsupported *UnsupportedError
		if !errors.As(err, &format) && !errors.As(err, &unsupported) {
			t.Errorf("%s: the error is a %T", name, err)
		}
	}
	// Parts of clusters that are and are not there.
	extended := filepath.Join(dir, "extended")
	oracle.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on", raw, extended)
	b := read(t, extended)
	entry := be.Uint64(b[be.Uint64(b[40:]):]) & offsetMask
	for be.Uint64(b[entry:])&offsetMask == 0 {
		entry += 16
	}
	for name, c := range map[string]struct{ desc, states uint64 }{
		"zero and allocated": {65536 * 5, 1<<32 | 1}, "allocated nowhere": {0, 1},
	} {
		be.PutUint64(b[entry:], c.desc)
		be.PutUint64(b[entry+8:], c.states)
		if err := os.WriteFile(extended, b, 0o644); err != nil {
			t.Fatal(err)
		}
		im := mustOpen(t, extended)
		if _, err := im.ReadAt(make([]byte, im.Size()), 0); err == nil || !strings.Contains(err.Error(), "contradicts itself") {
			t.Errorf("%s: %v", name, err)
		}
		im.Close()
	}
	// What says nothing of the disk is none of a reader's business.
	for name, change := range map[string]func([]byte) []byte{
		"dirty": put64(72, incompatDirty), "refcount table": put64(48, 1<<62+7), "unknown compatible": put64(80, 1<<50), "unknown autoclear": put64(88, 1<<50),
	} {
		path := filepath.Join(dir, "image")
		if err := os.WriteFile(path, change(slices.Clone(sound)), 0o644); err != nil {
			t.Fatal(err)
		}
		verify(t, name, mustOpen(t, path), read(t, raw), 2)
	}
}

// A disk of a TiB takes no time and no memory to speak of to open.
func TestOpensLarge(t *testing.T) {
	image := filepath.Join(t.TempDir(), "large")
	oracle.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "1T")
	if n := testing.AllocsPerRun(1, func() {
		im, err := Open(image, ubdfmt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		runs := 0
		if err := im.Extents(0, im.Size(), func(ubdfmt.Extent) bool { runs++; return true }); err != nil || runs != 1 {
			t.Errorf("%d extents, %v", runs, err)
		}
		im.Close()
	}); n > 200 {
		t.Errorf("opening allocates %v times", n)
	}
}
