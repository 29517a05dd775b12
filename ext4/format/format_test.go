package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

func TestSizes(t *testing.T) {
	if n := binary.Size(Superblock{}); n != SuperblockSize {
		t.Errorf("superblock has %d bytes", n)
	}
	if n := binary.Size(JournalSuperblock{}); n != JournalSuperblockSize {
		t.Errorf("journal superblock has %d bytes", n)
	}
	for _, c := range []struct {
		incompat uint32
		size     int
	}{{0, 8}, {JournalIncompat64Bit, 12}, {JournalIncompatCsumV2, 10},
		{JournalIncompatCsumV2 | JournalIncompat64Bit, 14}, {JournalIncompatCsumV3, 16}} {
		if n := JournalTagSize(c.incompat); n != c.size {
			t.Errorf("tag under %#x has %d bytes, want %d", c.incompat, n, c.size)
		}
	}
}

// Random bytes must come back from Decode and Encode as they were, in every field
// and in every byte between them.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	same := func(what string, in, out []byte) {
		t.Helper()
		if !bytes.Equal(in, out) {
			t.Errorf("%s changed:\n%x\n%x", what, in, out)
		}
	}
	for range 200 {
		b := fill(SuperblockSize)
		b[0x65] &^= byte(RoMetadataCsum >> 8) // or Encode sets the checksum
		out := make([]byte, len(b))
		var s Superblock
		if err := errors.Join(s.Decode(b), s.Encode(out)); err != nil {
			t.Fatal(err)
		}
		same("superblock", b, out)

		for _, size := range []int{32, 64, 128} {
			b, out := fill(size), make([]byte, size)
			copy(out[min(size, 64):], b[min(size, 64):])
			var g GroupDesc
			if err := errors.Join(g.Decode(b), g.Encode(out)); err != nil {
				t.Fatal(err)
			}
			if size >= 64 {
				copy(out[0x3C:0x40], b[0x3C:0x40]) // reserved
			}
			same("group descriptor", b, out)
		}

		for _, extra := range []int{-1, 0, 4, 24, 28, 32} {
			size := 256
			if extra < 0 {
				size = 128
			}
			b := fill(size)
			for _, off := range []int{0x84, 0x88, 0x8C, 0x94} {
				if extra >= 0 {
					binary.LittleEndian.PutUint32(b[off:], (r.Uint32()%1e9)<<2|r.Uint32()&3)
				}
			}
			if extra >= 0 {
				binary.LittleEndian.PutUint16(b[0x80:], uint16(extra))
			}
			var i Inode
			out := bytes.Clone(b)
			if err := i.Decode(b); err != nil {
				t.Fatal(err)
			}
			clear(out[:0x70])
			if err := i.Encode(out); err != nil {
				t.Fatal(err)
			}
			same("inode", b, out)
		}

		b, out = fill(12), make([]byte, 12)
		var e Extent
		if e.Decode(b); e.Len == 0 {
			continue
		}
		e.Encode(out)
		same("extent", b, out)
		b[10], b[11] = 0, 0
		var x ExtentIndex
		x.Decode(b)
		x.Encode(out)
		same("extent index", b, out)

		b, out = fill(16), make([]byte, 16)
		var xe XattrEntry
		xe.Decode(b)
		xe.Encode(out)
		same("xattr entry", b, out)
		for _, f := range []uint32{0, JournalIncompat64Bit, JournalIncompatCsumV2 | JournalIncompat64Bit, JournalIncompatCsumV3 | JournalIncompat64Bit} {
			n := JournalTagSize(f)
			var tag JournalTag
			tag.Decode(b, f)
			tag.Encode(out, f)
			if f != JournalIncompatCsumV2|JournalIncompat64Bit {
				same("tag", b[:n], out[:n])
			} else {
				same("tag", b[:12], out[:12])
			}
		}
	}
}

func TestShort(t *testing.T) {
	var (
		s Superblock
		g GroupDesc
		i Inode
		h ExtentHeader
		d DirEntry
		j JournalSuperblock
		x XattrHeader
	)
	b := make([]byte, 7)
	for n, err := range map[string]error{
		"super": s.Decode(b), "group": g.Decode(b), "inode": i.Decode(b), "extent": h.Decode(b),
		"dirent": d.Decode(b), "journal": j.Decode(b), "xattr": x.Decode(b),
		"super out": s.Encode(b), "group out": g.Encode(b), "inode out": i.Encode(b), "extent out": h.Encode(b),
		"dirent out": d.Encode(b), "journal out": j.Encode(b), "xattr out": x.Encode(b),
	} {
		if !errors.Is(err, ErrShort) {
			t.Errorf("%s: %v", n, err)
		}
	}
}

func TestTime(t *testing.T) {
	for _, c := range []struct {
		in, out Time
	}{
		{Time{0, 0}, Time{0, 0}},
		{Time{-1, 999999999}, Time{-1, 999999999}},
		{Time{1 << 31, 5}, Time{1 << 31, 5}},
		{Time{1<<32 + 7, 5}, Time{1<<32 + 7, 5}},
		{Time{MaxTimeSec, 1}, Time{MaxTimeSec, 1}},
		{Time{MinTimeSec, 1}, Time{MinTimeSec, 1}},
		{Time{MaxTimeSec + 1, 1}, Time{MaxTimeSec, 1}},
		{Time{MinTimeSec - 1, 1}, Time{MinTimeSec, 1}},
	} {
		if got := DecodeTime(c.in.Encode()); got != c.out {
			t.Errorf("%v becomes %v, want %v", c.in, got, c.out)
		}
	}
	if got := DecodeTime(5, 0xFFFFFFFC); got != (Time{5, 0}) {
		t.Errorf("absurd nanoseconds give %v", got)
	}
}

func TestDevice(t *testing.T) {
	for _, c := range [][2]uint32{{0, 0}, {1, 3}, {255, 255}, {256, 0}, {98, 256}, {4095, 1<<20 - 1}, {0, 300}} {
		var b [InodeBlockSize]byte
		EncodeDevice(&b, c[0], c[1])
		if ma, mi := DecodeDevice(&b); ma != c[0] || mi != c[1] {
			t.Errorf("%v becomes %d:%d", c, ma, mi)
		}
	}
}

func TestRecLen(t *testing.T) {
	for n := uint32(4); n <= 65536; n += 4 {
		if got := DecodeRecLen(EncodeRecLen(n)); got != n {
			t.Fatalf("%d becomes %d", n, got)
		}
	}
}

func TestGroupHasSuper(t *testing.T) {
	s := Superblock{FeatureRoCompat: RoSparseSuper}
	want := map[uint32]bool{0: true, 1: true, 3: true, 5: true, 7: true, 9: true, 25: true, 27: true, 49: true, 81: true}
	for g := range uint32(100) {
		if s.GroupHasSuper(g) != want[g] {
			t.Errorf("group %d: %v", g, !want[g])
		}
	}
	s = Superblock{FeatureCompat: CompatSparseSuper2, BackupBgs: [2]uint32{1, 77}}
	for g := range uint32(100) {
		if s.GroupHasSuper(g) != (g == 0 || g == 1 || g == 77) {
			t.Errorf("sparse_super2, group %d", g)
		}
	}
	if s = (Superblock{}); !s.GroupHasSuper(6) {
		t.Error("without sparse_super every group has one")
	}
}

func TestFeatureNames(t *testing.T) {
	f := IncompatExtents | Incompat64Bit | 1<<21
	if got := f.String(); got != "extent 64bit FEATURE_I21" {
		t.Error(got)
	}
}

func TestKnownSums(t *testing.T) {
	if c := ^CRC32C(^uint32(0), []byte("123456789")); c != 0xE3069283 {
		t.Errorf("crc32c %#x", c)
	}
	if c := CRC16(0, []byte("123456789")); c != 0xBB3D {
		t.Errorf("crc16 %#x", c)
	}
	if c := CRC32BE(^uint32(0), []byte("123456789")); c != 0x0376E6E7 {
		t.Errorf("crc32be %#x", c)
	}
}
