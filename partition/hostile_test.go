package partition

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
)

// sample is a disk in memory with a table that we made.
func sample(t testing.TB, kind Kind, size int64, specs ...Spec) []byte {
	t.Helper()
	table, err := New(kind, size, [16]byte{1, 2, 3, 4}, specs)
	if err != nil {
		t.Fatal(err)
	}
	_, dev := blankImage(t, size)
	if err := Write(dev, table); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// seal makes the checksums of a GPT right again.
func seal(b []byte, at int) {
	le := binary.LittleEndian
	h := b[at*sector:]
	array := le.Uint64(h[72:]) * sector
	n := uint64(le.Uint32(h[80:])) * 128
	if array < uint64(len(b)) && n <= uint64(len(b))-array {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[array:array+n]))
	}
	le.PutUint32(h[16:], 0)
	length := min(max(int(le.Uint32(h[12:])), 20), sector)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:length]))
}

// Each contradiction is named by its field and value.
func TestHostileGPT(t *testing.T) {
	le := binary.LittleEndian
	const size = 4 << 20
	good := sample(t, GPT, size, Spec{Size: 1 << 20}, Spec{Size: 1 << 20})
	put32 := func(off int, v uint32) func(h []byte) { return func(h []byte) { le.PutUint32(h[off:], v) } }
	put64 := func(off int, v uint64) func(h []byte) { return func(h []byte) { le.PutUint64(h[off:], v) } }
	entry := func(n int, f func(h []byte)) func([]byte) { return func(h []byte) { f(h[sector+128*n:]) } }
	for _, c := range []struct {
		change func(h []byte) // of the bytes from the header on
		want   string
	}{
		{put64(0, 5), `GPT header at sector 1: signature 5 is not "EFI PART"`},
		{put32(8, 0x20000), "revision 131072 is not 65536"},
		{put32(12, 91), "header size 91 is not from 92 to 512"},
		{put32(12, 513), "header size 513 is not from 92 to 512"},
		{put64(24, 2), "own sector 2 is not 1"},
		{put64(32, 8192), "backup's sector 8192 is not on the disk of 8192 sectors"},
		{put64(48, 8192), "last usable sector 8192 is not on the disk of 8192 sectors"},
		{put64(48, 1<<63), "last usable sector 9223372036854775808 is not on the disk"},
		{put64(40, 9000), "first usable sector 9000 lies behind the last, 8158"},
		{put64(40, 20), "first sector of the entries 2 lies among the usable sectors, 20 to 8158"},
		{func(h []byte) { put64(40, 1)(h); put64(72, 8159)(h) }, "own sector 1 lies among the usable sectors"},
		{put64(72, 0), "first sector of the entries 0 and 31 more are not on the disk"},
		{put64(72, 8170), "first sector of the entries 8170 and 31 more are not on the disk of 8192 sectors"},
		{put64(72, 1<<63), "first sector of the entries 9223372036854775808 and 31 more are not on the disk"},
		{put32(80, 0), "number of entries 0 is not from 1 to 8192"},
		{put32(80, 1<<31), "number of entries 2147483648 is not from 1 to 8192"},
		{put32(84, 256), "size of an entry 256 is not 128"},
		{entry(0, put64(32, 33)), "GPT partition 1: first sector 33 lies before the first usable one, 34"},
		{entry(0, put64(40, 8159)), "GPT partition 1: last sector 8159 lies behind the last usable one, 8158"},
		{entry(0, put64(40, 2047)), "GPT partition 1: first sector 2048 lies behind its last, 2047"},
		{entry(1, put64(32, 4095)), "GPT partition 2: first sector 4095 lies in GPT partition 1, which ends with sector 4095"},
	} {
		b := bytes.Clone(good)
		clear(b[size-sector:]) // no backup
		c.change(b[sector:])
		seal(b, 1)
		_, err := Read(bytes.NewReader(b))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	for off, want := range map[int]string{16: "header checksum", 88: "checksum"} {
		b := bytes.Clone(good)
		clear(b[size-sector:])
		b[sector+off] ^= 1
		if _, err := Read(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A damaged front is no matter while the backup is whole.
func TestBackup(t *testing.T) {
	good := sample(t, GPT, 4<<20, Spec{Size: 1 << 20, Name: "one"}, Spec{})
	want, err := Read(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{sector + 40, 2*sector + 57} {
		b := bytes.Clone(good)
		b[at] ^= 1
		have, err := Read(bytes.NewReader(b))
		if err != nil || !have.Backup {
			t.Fatalf("backup %v, %v", have.Backup, err)
		}
		want.Backup = true
		same(t, "the backup", have, want)
	}
}

func TestHostileMBR(t *testing.T) {
	le := binary.LittleEndian
	const size = 32 << 20
	good := sample(t, MBR, size, Spec{Size: 1 << 20}, Spec{Size: 20 << 20, Type: "5"}, Spec{Size: 2 << 20}, Spec{Size: 3 << 20})
	table, err := Read(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	ebr := func(n int) int { return int(table.Partitions[n].ebr) * sector }
	put := func(at, field int, v uint32) func(b []byte) {
		return func(b []byte) { le.PutUint32(b[at+446+field:], v) }
	}
	for _, c := range []struct {
		change func(b []byte)
		want   string
	}{
		{put(0, 8, 0), "MBR partition 1: first sector 0 is that of the table"},
		{put(0, 8, 70000), "MBR partition 1: first sector 70000 is not on the disk of 65536 sectors"},
		{put(0, 12, 1<<31), "MBR partition 1: number of sectors 2147483648 from 2048 on are not on the disk of 65536"},
		{put(0, 12, 2049), "MBR partition 2: first sector 4096 lies in MBR partition 1, which ends with sector 4096"},
		{func(b []byte) { b[446+4] = 0x0f }, "MBR partition 2: type 5 is of a second extended partition"},
		{put(ebr(2), 16+8, 0), "next table's sector 4096 was there before: the chain is a loop"},
		{put(ebr(2), 16+8, 50000), "next table's sector 54096 lies behind the partition's last, 45055"},
		{put(ebr(2), 16+8, 7000), "extended partition's table at sector 11096: signature 0 is not 43605"},
		{put(ebr(2), 12, 1<<30), "MBR partition 5: last sector 1073747967 lies behind that of the extended partition, 45055"},
		{put(ebr(2), 12, 5000), "extended partition's table at sector 10240: first sector 10240 lies in MBR partition 5"},
		{put(ebr(2), 8, 0), "lies in"},
		{func(b []byte) { b[ebr(2)+446+4] = 5 }, "next table's sector"},
		{func(b []byte) { b[ebr(2)+446+16+4] = 0x83 }, "is of a second logical partition"},
	} {
		b := bytes.Clone(good)
		c.change(b)
		_, err := Read(bytes.NewReader(b))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// A chain that never ends is left.
func TestLongChain(t *testing.T) {
	b := sample(t, MBR, 32<<20, Spec{Type: "5"})
	ext := 2048
	for i := range 200 {
		e := b[(ext+i)*sector:]
		e[510], e[511] = 0x55, 0xaa
		e[446+4] = 5
		binary.LittleEndian.PutUint32(e[446+8:], uint32(i+1))
		binary.LittleEndian.PutUint32(e[446+12:], 1)
	}
	if _, err := Read(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
}

// Disks without a table say so: empty ones, short ones, filesystems on the whole disk.
func TestNoTable(t *testing.T) {
	fat := make([]byte, 1<<20)
	copy(fat, "\xeb\x3c\x90mkfs.fat")
	copy(fat[54:], "FAT16   ")
	fat[510], fat[511] = 0x55, 0xaa
	flags := make([]byte, 1<<20)
	flags[510], flags[511], flags[446] = 0x55, 0xaa, 0x41
	for name, b := range map[string][]byte{"empty": {}, "short": make([]byte, 100), "zeros": make([]byte, 4096), "FAT": fat, "code": flags} {
		if _, err := Read(bytes.NewReader(b)); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRead: whatever the bytes, partitions lie on the disk, one beside the other.
func FuzzRead(f *testing.F) {
	const size = 8 << 20
	for _, b := range [][]byte{
		sample(f, GPT, size, Spec{Size: 64 << 10}, Spec{}),
		sample(f, MBR, size, Spec{Size: 1 << 20}, Spec{Type: "5"}, Spec{Size: 1 << 20}, Spec{}),
	} {
		f.Add(b[:34*sector], b[4096*sector:][:sector], b[8192*sector:][:sector], byte(1))
	}
	f.Fuzz(func(t *testing.T, front, first, second []byte, fix byte) {
		b := make([]byte, 34*sector)
		copy(b, front)
		if fix&1 != 0 {
			b[510], b[511] = 0x55, 0xaa
			seal(b, 1)
		}
		dev := &blank{size: size, sectors: map[int64][]byte{}}
		for at, part := range map[int64][]byte{0: b, 4096: first, 8192: second} {
			part = append(part, make([]byte, sector-1)...)
			if _, err := dev.WriteAt(part[:len(part)&^(sector-1)][:min(len(part)&^(sector-1), 34*sector)], at*sector); err != nil {
				t.Fatal(err)
			}
		}
		table, err := Read(dev)
		if err != nil {
			return
		}
		list := table.Partitions
		for i, p := range list {
			if p.Start < 0 || p.Size <= 0 || p.Start > size-p.Size {
				t.Fatalf("partition %+v is not on the disk", p)
			}
			for _, q := range list[:i] {
				if p.Start < q.Start+q.Size && q.Start < p.Start+p.Size && !q.Extended && !p.Extended {
					t.Fatalf("%+v and %+v overlap", p, q)
				}
			}
			_ = p.TypeText()
		}
	})
}
