package partition

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strconv"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

// Write gives a disk a table, and keeps the boot code in the first sector. A GPT's backup
// goes to the end of the disk, wherever it was before. Nothing is written of a table that
// Read would refuse. The first sector, which makes the table valid, is written last.
func Write(dev Writer, t Table) error {
	b, err := encoded(dev, t)
	if err != nil {
		return err
	}
	return b.copyTo(dev)
}

// Begun returns what tells of each sector of a disk that is not zeros whether a Write that
// was cut short, of a table like t, can have left it. Such a disk has no table, and nothing
// that a new one could spoil. Of a GPT the identity may be another.
func Begun(dev Reader, t Table) (left func(at int64, b []byte) bool, err error) {
	b, err := encoded(dev, t)
	if err != nil {
		return nil, err
	}
	if t.Kind == MBR {
		return func(at int64, s []byte) bool { return bytes.Equal(b.sectors[at], s) }, nil
	}
	// The last sector is written first.
	end := b.size/sector - 1
	last, err := readSectors(dev, end, 1)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sum := le.Uint32(last[16:])
	clear(last[16:20])
	ours := string(last[:8]) == gptSignature && le.Uint64(last[24:]) == uint64(end) && sum == crc32.ChecksumIEEE(last[:gptHeaderLen])
	return func(at int64, _ []byte) bool { return ours && at > 0 && b.sectors[at] != nil }, nil
}

// encoded is what Write writes.
func encoded(dev Reader, t Table) (*blank, error) {
	b := &blank{size: dev.Size(), sectors: map[int64][]byte{}}
	front := make([]byte, sector)
	if _, err := dev.ReadAt(front[:mbrDiskSignature], 0); err != nil && err != io.EOF {
		return nil, err
	}
	encode := encodeMBR
	if t.Kind == GPT {
		encode = encodeGPT
	}
	if err := encode(b, t, front); err != nil {
		return nil, err
	}
	if _, err := b.WriteAt(front, 0); err != nil {
		return nil, err
	}
	if have, err := Read(b); err != nil {
		return nil, err
	} else if len(have.Partitions) != len(t.Partitions) {
		return nil, fmt.Errorf("the table would hold %d of %d partitions", len(have.Partitions), len(t.Partitions))
	}
	return b, nil
}

// Wipe makes zeros where tables, boot code and the superblocks of whole disks lie: the
// first MiB of a disk and the backup of a GPT at its end.
func Wipe(dev Writer) error {
	zeros := make([]byte, min(Align, dev.Size()))
	if _, err := dev.WriteAt(zeros, 0); err != nil {
		return err
	}
	tail := min(int64(gptTables*sector), dev.Size())
	if _, err := dev.WriteAt(zeros[:tail], dev.Size()&^(sector-1)-tail); err != nil {
		return err
	}
	return dev.Sync()
}

// encodeGPT writes both copies and fills in the protective MBR.
func encodeGPT(b *blank, t Table, front []byte) error {
	sectors := b.size / sector
	if sectors < 2*(1+gptTables) {
		return fmt.Errorf("a disk of %d bytes has no room for a GPT", b.size)
	}
	g := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, GUID: t.UUID}
	for _, p := range t.Partitions {
		if p.Number > gptEntries {
			return &Error{"GPT", "partition", uint64(p.Number), fmt.Sprintf("is above %d", gptEntries)}
		}
		g.Partitions = append(g.Partitions, &gpt.Partition{
			Index: p.Number, Type: gpt.Type(p.Type), Name: p.Name, GUID: p.UUID, Attributes: p.Attributes,
			Start: uint64(p.Start / sector), End: uint64((p.Start+p.Size)/sector - 1), Size: uint64(p.Size),
		})
	}
	if err := g.Write(b, sectors*sector); err != nil {
		return err
	}
	// One partition over all of the disk, or as much as it can say.
	e := front[mbrEntries:]
	copy(e, []byte{0, 0, 2, 0, typeProtective, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 1<<32-1)))
	front[mbrMagic], front[mbrMagic+1] = 0x55, 0xaa
	return nil
}

// encodeMBR fills in the first sector and writes the tables of the logical partitions.
func encodeMBR(b *blank, t Table, front []byte) error {
	signature, err := strconv.ParseUint(t.UUID, 0, 32)
	if err != nil {
		return fmt.Errorf("disk signature %q: %w", t.UUID, err)
	}
	var primary [4]*mbr.Partition
	var logicals []Partition
	var extended Partition
	for _, p := range t.Partitions {
		switch {
		case p.ebr != 0:
			logicals = append(logicals, p)
			continue
		case p.Number < 1 || p.Number > len(primary):
			return &Error{"MBR", "partition", uint64(p.Number), "is neither from 1 to 4 nor logical"}
		case p.Extended:
			extended = p
		}
		if primary[p.Number-1], err = mbrPartition(p, 0); err != nil {
			return err
		}
	}
	if err := (&mbr.Table{Partitions: used(primary[:])}).Write(memory{front}, b.size); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(front[mbrDiskSignature:], uint32(signature))
	base := extended.Start / sector
	if len(logicals) > 0 && logicals[0].ebr != base {
		return &Error{"extended partition", "first table's sector", uint64(logicals[0].ebr), fmt.Sprintf("is not its own first, %d", base)}
	}
	for i, p := range logicals {
		own, err := mbrPartition(p, p.ebr)
		if err != nil {
			return err
		}
		list := []*mbr.Partition{own}
		if i+1 < len(logicals) {
			next := logicals[i+1]
			link := Partition{Number: 2, Type: "5", Start: next.ebr * sector, Size: next.Start + next.Size - next.ebr*sector}
			l, err := mbrPartition(link, base)
			if err != nil {
				return err
			}
			list = append(list, l)
		}
		e := make([]byte, sector)
		if err := (&mbr.Table{Partitions: used(list)}).Write(memory{e}, b.size); err != nil {
			return err
		}
		if _, err := b.WriteAt(e, p.ebr*sector); err != nil {
			return err
		}
	}
	return nil
}

// used puts empty entries where there is no partition.
func used(list []*mbr.Partition) []*mbr.Partition {
	for i := range list {
		if list[i] == nil {
			list[i] = &mbr.Partition{}
		}
	}
	return list
}

// mbrPartition is an entry; its place counts from a sector. Cylinders, heads and sectors
// are those that stand for "see the numbers": 1023, 254, 63.
func mbrPartition(p Partition, from int64) (*mbr.Partition, error) {
	typ, err := strconv.ParseUint(p.Type, 16, 8)
	if err != nil {
		return nil, fmt.Errorf("type %q of partition %d: %w", p.Type, p.Number, err)
	}
	first, n := p.Start/sector-from, p.Size/sector
	for field, v := range map[string]int64{"first sector": first, "number of sectors": n} {
		if v < 1 || v > 1<<32-1 {
			return nil, &Error{fmt.Sprintf("MBR partition %d", p.Number), field, uint64(v), "is not from 1 to 4294967295"}
		}
	}
	return &mbr.Partition{
		Bootable: p.Bootable, Type: mbr.Type(typ), Start: uint32(first), Size: uint32(n),
		StartHead: 254, StartSector: 0xff, StartCylinder: 0xff, EndHead: 254, EndSector: 0xff, EndCylinder: 0xff,
	}, nil
}

// memory is one sector, as go-diskfs wants a disk.
type memory struct{ b []byte }

var _ backend.WritableFile = memory{}

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m.b)) || len(p) > len(m.b)-int(off) {
		return 0, io.ErrShortWrite
	}
	return copy(m.b[off:], p), nil
}

func (memory) ReadAt([]byte, int64) (int, error) { return 0, fs.ErrInvalid }
func (memory) Read([]byte) (int, error)          { return 0, fs.ErrInvalid }
func (memory) Seek(int64, int) (int64, error)    { return 0, fs.ErrInvalid }
func (memory) Stat() (fs.FileInfo, error)        { return nil, fs.ErrInvalid }
func (memory) Close() error                      { return nil }

// blank is a disk of zeros that remembers what was written. Tables are made on it before
// they go to the disk itself.
type blank struct {
	memory
	size    int64
	sectors map[int64][]byte
}

func (b *blank) Size() int64 { return b.size }

// ReadAt implements Reader, for whole sectors.
func (b *blank) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); n += sector {
		clear(p[n : n+sector])
		copy(p[n:], b.sectors[(off+int64(n))/sector])
	}
	return len(p), nil
}

// WriteAt remembers whole sectors.
func (b *blank) WriteAt(p []byte, off int64) (int, error) {
	if off%sector != 0 || len(p)%sector != 0 || off < 0 || off > b.size-int64(len(p)) {
		return 0, fmt.Errorf("%d bytes at %d are not within the disk's %d", len(p), off, b.size)
	}
	for n := 0; n < len(p); n += sector {
		b.sectors[(off+int64(n))/sector] = slices.Clone(p[n : n+sector])
	}
	return len(p), nil
}

// copyTo writes everything to a disk: the end first, the first sector last. The backup of a
// GPT is stable before the front is touched.
func (b *blank) copyTo(dev Writer) error {
	var order []int64
	for at := range b.sectors {
		order = append(order, at)
	}
	slices.Sort(order)
	slices.Reverse(order)
	for _, at := range order {
		if at == 0 || at == gptTables {
			if err := dev.Sync(); err != nil {
				return err
			}
		}
		if _, err := dev.WriteAt(b.sectors[at], at*sector); err != nil {
			return err
		}
	}
	return dev.Sync()
}
