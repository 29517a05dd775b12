package ubdfmt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sample is the header that uml_mkcow wrote over ../../shared/samples/base.img.
var sample = Header{
	Dialect: V3, Backing: "/srv/uml/base.img", MTime: 0x5e362d9a, Size: 8 << 20,
	SectorSize: 512, Alignment: 4096,
}

func encoded(t testing.TB, h Header) []byte {
	t.Helper()
	b, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEncodeGolden(t *testing.T) {
	got := encoded(t, sample)
	const want = "4f4f4f4d" + "00000003" + "5e362d9a" + "0000000000800000" + "00000200" + "00001000" + "00000000" +
		"2f7372762f756d6c2f626173652e696d67" + "00"
	if s := hex.EncodeToString(got[:len(want)/2]); s != want {
		t.Errorf("header is\n%s, want\n%s", s, want)
	}
	if len(got) != 4128 || len(bytes.Trim(got[len(want)/2:], "\x00")) != 0 {
		t.Errorf("the rest of the header, %d bytes in all, is not zeros", len(got))
	}
	back, err := DecodeHeader(got)
	if err != nil || back != sample {
		t.Errorf("decoded %+v, %v; want %+v", back, err, sample)
	}
}

func TestLayout(t *testing.T) {
	for _, test := range []struct {
		size, alignment int64
		want            Layout
	}{
		{8 << 20, 4096, Layout{8192, 2048, 12288, 16384}},
		{2 << 30, 4096, Layout{8192, 524288, 8192 + 524288, 4 << 20}},
		{1, 4096, Layout{8192, 1, 12288, 1}},
		{513, 4096, Layout{8192, 1, 12288, 2}},
		{1000003, 4096, Layout{8192, 245, 12288, 1954}},
		{8 << 20, 1, Layout{4128, 2048, 6176, 16384}},
		{8 << 20, 65536, Layout{65536, 2048, 131072, 16384}},
		{MaxSize, 4096, Layout{8192, MaxSize / 4096, 8192 + MaxSize/4096, MaxSize / 512}},
	} {
		h := sample
		h.Size, h.Alignment = test.size, test.alignment
		if got := h.Layout(); got != test.want {
			t.Errorf("layout of %d bytes aligned to %d is %+v, want %+v", test.size, test.alignment, got, test.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	be := binary.BigEndian
	put32 := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { be.PutUint32(b[off:], v); return b }
	}
	put64 := func(off int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { be.PutUint64(b[off:], v); return b }
	}
	for _, test := range []struct {
		name   string
		change func([]byte) []byte
		field  string
		value  uint64
	}{
		{"other magic", put32(0, 0x514649fb), "magic", 0x514649fb},
		{"empty", func(b []byte) []byte { return nil }, "magic", 0},
		{"version 0", put32(4, 0), "version", 0},
		{"version 4", put32(4, 4), "version", 4},
		{"torn after magic", func(b []byte) []byte { return b[:4] }, "length", 4},
		{"torn in the path", func(b []byte) []byte { return b[:4127] }, "length", 4127},
		{"size 0", put64(12, 0), "size", 0},
		{"size above the limit", put64(12, MaxSize+1), "size", MaxSize + 1},
		{"size with the sign bit", put64(12, 1<<63), "size", 1 << 63},
		{"sector size 0", put32(20, 0), "sectorsize", 0},
		{"sector size 4096", put32(20, 4096), "sectorsize", 4096},
		{"alignment 0", put32(24, 0), "alignment", 0},
		{"alignment huge", put32(24, 1<<31), "alignment", 1 << 31},
		{"alignment odd", put32(24, 4095), "alignment", 4095},
		{"unknown format", put32(28, 1), "cow_format", 1},
		{"no path", func(b []byte) []byte { clear(b[32:]); return b }, "backing_file", 0},
		{"path without NUL", func(b []byte) []byte {
			copy(b[32:], bytes.Repeat([]byte{'x'}, 4096))
			return b
		}, "backing_file", 4096},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := DecodeHeader(test.change(encoded(t, sample)))
			var e *HeaderError
			if !errors.As(err, &e) || e.Field != test.field || e.Value != test.value {
				t.Fatalf("got %v, want a HeaderError for %s %d", err, test.field, test.value)
			}
			if !errors.Is(err, unix.EINVAL) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is not one line, or not EINVAL", err)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*Header){
		"path too long": func(h *Header) { h.Backing = "/" + strings.Repeat("x", 4095) },
		"no path":       func(h *Header) { h.Backing = "" },
		"NUL in path":   func(h *Header) { h.Backing = "/a\x00b" },
		"size 0":        func(h *Header) { h.Size = 0 },
		"sector size":   func(h *Header) { h.SectorSize = 1024 },
		"version 2":     func(h *Header) { h.Dialect = V2 }, // aligned as version 3 is,
	} {
		h := sample
		change(&h)
		if b, err := h.Encode(); err == nil {
			t.Errorf("%s: encoded to %d bytes", name, len(b))
		}
	}
	h := sample
	h.Backing = "/" + strings.Repeat("x", 4094)
	if got, err := DecodeHeader(encoded(t, h)); err != nil || got != h {
		t.Errorf("the longest path does not come back: %v", err)
	}
}

// headers are headers of the dialects, built from their descriptions.
func headers() map[Dialect][]byte {
	be, le := binary.BigEndian, binary.LittleEndian
	m := map[Dialect][]byte{}

	v1 := make([]byte, 280)
	le.PutUint32(v1, 0x4f4f4f4d)
	le.PutUint32(v1[4:], 1)
	copy(v1[8:], "/srv/uml/base.img")
	le.PutUint32(v1[264:], sample.MTime)
	le.PutUint64(v1[268:], uint64(sample.Size))
	le.PutUint32(v1[276:], 512)
	m[V1] = v1

	wide := make([]byte, 288)
	copy(wide, v1[:264])
	le.PutUint64(wide[264:], uint64(sample.MTime))
	le.PutUint64(wide[272:], uint64(sample.Size))
	le.PutUint32(wide[280:], 512)
	m[V1Wide] = wide

	big := make([]byte, 288)
	be.PutUint32(big, 0x4f4f4f4d)
	be.PutUint32(big[4:], 1)
	copy(big[8:], "/srv/uml/base.img")
	m[V1BigEndian] = big

	v2 := make([]byte, 4120)
	be.PutUint32(v2, 0x4f4f4f4d)
	be.PutUint32(v2[4:], 2)
	copy(v2[8:], "/srv/uml/base.img")
	be.PutUint32(v2[4104:], sample.MTime)
	be.PutUint64(v2[4108:], uint64(sample.Size))
	be.PutUint32(v2[4116:], 512)
	m[V2] = v2

	broken := make([]byte, 4136)
	be.PutUint32(broken, 0x4f4f4f4d)
	be.PutUint32(broken[4:], 3)
	be.PutUint32(broken[8:], sample.MTime)
	be.PutUint64(broken[16:], uint64(sample.Size))
	be.PutUint32(broken[24:], 512)
	be.PutUint32(broken[28:], 4096)
	copy(broken[36:], "/srv/uml/base.img")
	m[V3Broken] = broken

	qemu := make([]byte, 8192)
	be.PutUint32(qemu, 0x4f4f4f4d)
	be.PutUint32(qemu[4:], 2)
	copy(qemu[8:], "base.img")
	be.PutUint32(qemu[1032:], sample.MTime)
	be.PutUint64(qemu[1040:], uint64(sample.Size))
	be.PutUint32(qemu[1048:], 512)
	m[QEMU] = qemu
	return m
}

// inDialect is the sample as that dialect has it.
func inDialect(d Dialect) Header {
	h := sample
	h.Dialect = d
	if d != V3 && d != V3Broken {
		h.Alignment = 512
	}
	return h
}

func TestDialects(t *testing.T) {
	for d, b := range headers() {
		if got := Detect(b); got != d {
			t.Errorf("%v: detected as %v", d, got)
		}
		got, err := DecodeHeader(b)
		if d == QEMU || d == V1BigEndian {
			var e *DialectError
			if !errors.As(err, &e) || e.Dialect != d || !strings.Contains(err.Error(), d.String()) {
				t.Errorf("%v: got %v", d, err)
			}
			if _, err := inDialect(d).Encode(); !errors.As(err, &e) {
				t.Errorf("%v: it was encoded: %v", d, err)
			}
			continue
		}
		want := inDialect(d)
		if err != nil || got != want {
			t.Errorf("%v: decoded %+v, %v", d, got, err)
		}
		if again := encoded(t, want); !bytes.Equal(again, b) {
			t.Errorf("%v: encoded to other bytes", d)
		}
		for n := 8; n < len(b); n++ {
			if _, err := DecodeHeader(b[:n]); err == nil {
				t.Errorf("%v: decoded from %d bytes of %d", d, n, len(b))
			}
		}
		// A path of the longest kind, and one that is too long.
		f := dialectFields[d]
		want.Backing = "/" + strings.Repeat("x", f.pathLength-2)
		if got, err := DecodeHeader(encoded(t, want)); err != nil || got != want {
			t.Errorf("%v: the longest path does not come back: %v", d, err)
		}
		want.Backing += "x"
		if _, err := want.Encode(); err == nil {
			t.Errorf("%v: a path of %d bytes was encoded", d, f.pathLength)
		}
	}
}

func TestOldLayouts(t *testing.T) {
	for _, test := range []struct {
		d     Dialect
		size  int64
		want  Layout
		whole bool
	}{
		{V1, 8 << 20, Layout{280, 2048, 2560, 16384}, true},
		{V1Wide, 8 << 20, Layout{288, 2048, 2560, 16384}, true},
		{V2, 8 << 20, Layout{4120, 2048, 6656, 16384}, true},
		// The bitmap is rounded wrongly: nine sectors, one byte.
		{V2, 9 * 512, Layout{4120, 1, 4608, 9}, false},
		{V2, 15 * 512, Layout{4120, 1, 4608, 15}, false},
		{V2, 15*512 + 1, Layout{4120, 2, 4608, 16}, true},
		{V2, 7 * 512, Layout{4120, 0, 4608, 7}, false},
		// A bitmap that ends with a sector of the file.
		{V2, 488 * 4096, Layout{4120, 488, 4608, 3904}, true},
		{V3Broken, 8 << 20, Layout{8192, 2048, 12288, 16384}, true},
	} {
		h := inDialect(test.d)
		h.Size = test.size
		if got := h.Layout(); got != test.want || got.Whole() != test.whole {
			t.Errorf("%v: layout of %d bytes is %+v, whole %v; want %+v", test.d, test.size, got, got.Whole(), test.want)
		}
	}
	h := inDialect(V3Broken)
	h.Alignment = 1
	if got := h.Layout(); got.BitmapOffset != 4136 {
		t.Errorf("unaligned, the bitmap of the unpacked layout begins at %d", got.BitmapOffset)
	}
}

// TestWordSize: a header that makes sense for both widths of time_t is told by the file's
// length, or refused.
func TestWordSize(t *testing.T) {
	h := inDialect(V1Wide)
	h.MTime, h.Size = 0, 2<<40+4096
	b := encoded(t, h)
	narrow, err := decode(V1, b)
	if err != nil || narrow.Size != 16<<40 {
		t.Fatalf("the header is not ambiguous: %+v, %v", narrow, err)
	}
	var e *HeaderError
	if _, err := DecodeHeader(b); !errors.As(err, &e) || e.Field != "size" {
		t.Errorf("without a length: %v", err)
	}
	for length, want := range map[int64]Dialect{
		h.Layout().DataOffset + h.Size:           V1Wide,
		narrow.Layout().DataOffset + narrow.Size: V1,
		1 << 30:                                  NotCOW,
	} {
		if got, err := decodeHeader(b, length); got.Dialect != want {
			t.Errorf("a file of %d bytes: %v, %v", length, got.Dialect, err)
		}
	}
	// A bitmap behind a header of 32 bits may look like a sector size; the size that
	// goes with it does not look like one.
	b = append(headers()[V1], make([]byte, 600)...)
	binary.LittleEndian.PutUint32(b[280:], 512)
	if got, err := DecodeHeader(b); err != nil || got.Dialect != V1 {
		t.Errorf("bit 9 held: %+v, %v", got, err)
	}
	b = append(headers()[V1Wide], 0)
	binary.LittleEndian.PutUint64(b[264:], 1<<32)
	if _, err := DecodeHeader(b); !errors.As(err, &e) {
		t.Errorf("a time past 2106: %v", err)
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(encoded(f, sample))
	f.Add(encoded(f, sample)[:40])
	for _, b := range headers() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeHeader(b)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than a line", err)
			}
			return
		}
		l := h.Layout()
		if l.BitmapOffset < int64(dialectFields[h.Dialect].length) || l.DataOffset < l.BitmapOffset+l.BitmapLength ||
			l.BitmapLength*8 < l.Sectors-7 || l.Whole() != (l.BitmapLength*8 >= l.Sectors) || l.Sectors*512 < h.Size || l.DataOffset%h.Alignment != 0 {
			t.Fatalf("%+v has the layout %+v", h, l)
		}
		// What was read and is written again reads the same.
		again, err := h.Encode()
		if err != nil {
			t.Fatalf("%+v does not encode: %v", h, err)
		}
		if back, err := decodeHeader(again, l.DataOffset+h.Size); err != nil || back != h {
			t.Fatalf("%+v came back as %+v, %v", h, back, err)
		}
	})
}

// FuzzEncode: what a header can say in a dialect comes back from its bytes.
func FuzzEncode(f *testing.F) {
	for d := range dialectFields {
		f.Add(int(d), sample.Backing, sample.MTime, sample.Size, int64(512))
		f.Add(int(d), "x", uint32(0), int64(2<<40+4096), int64(4096))
	}
	f.Fuzz(func(t *testing.T, d int, path string, mtime uint32, size, alignment int64) {
		h := Header{Dialect: Dialect(d), Backing: path, MTime: mtime, Size: size, SectorSize: 512, Alignment: alignment}
		b, err := h.Encode()
		if err != nil {
			return
		}
		if back, err := decodeHeader(b, h.Layout().DataOffset+size); err != nil || back != h {
			t.Fatalf("%+v came back as %+v, %v", h, back, err)
		}
	})
}
