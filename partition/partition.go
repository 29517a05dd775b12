// Package partition knows the partition tables of disks: GPT, and MBR with the logical
// partitions of an extended one.
//
// Tables are read here: every byte of them was written by others, and each number is
// held against the disk before it is used. A table that contradicts itself is refused by
// field and value. New tables are encoded by go-diskfs, but for what it lacks: the
// protective MBR of a disk of more than 2 TiB, disk signatures and logical partitions.
// A sector is 512 bytes.
package partition

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/umlkit/umlkit/ubdfmt"
)

// sector is the unit of every table, in bytes.
const sector = ubdfmt.SectorSize

// Kind is the format of a table.
type Kind string

// The formats.
const (
	GPT Kind = "gpt"
	MBR Kind = "mbr"
)

// Table is a partition table.
type Table struct {
	Kind Kind
	// UUID is the disk's: of a GPT a GUID in capitals, of an MBR "0x" and the eight
	// digits of the disk signature.
	UUID string
	// First and Last are the first and the last sector that a partition may take.
	First, Last int64
	// Partitions are in the order of their numbers.
	Partitions []Partition
	// Backup says that the GPT at the front is damaged, and this is the one at the end.
	Backup bool
}

// Partition is an entry of a table.
type Partition struct {
	// Number counts from 1; logical partitions from 5.
	Number int
	// Type is of a GPT a GUID in capitals, of an MBR two hexadecimal digits.
	Type string
	// Name is a GPT's; an MBR has none.
	Name string
	// UUID is of a GPT the partition's GUID in capitals, of an MBR what Linux calls
	// PARTUUID: the disk signature, a dash, and the number in hexadecimal digits.
	UUID string
	// Start and Size are in bytes.
	Start, Size int64
	// Bootable is an MBR's active flag.
	Bootable bool
	// Attributes are a GPT's.
	Attributes uint64
	// Extended says that the partition holds logical ones, and no data.
	Extended bool

	// ebr is the sector of a logical partition's own table.
	ebr int64
}

// Logical says that a partition lies in an extended one.
func (p Partition) Logical() bool { return p.ebr != 0 }

// Reader is what is needed of a disk to read its table. Every ubdfmt.Device is one.
type Reader interface {
	io.ReaderAt
	Size() int64
}

// Writer is what is needed of a disk to write its table.
type Writer interface {
	Reader
	io.WriterAt
	Sync() error
}

// ErrNone says that a disk has no partition table.
var ErrNone = errors.New("no partition table")

// An Error says what in a table makes no sense.
type Error struct {
	// Where is the structure: "GPT header at sector 1", "MBR partition 2".
	Where string
	// Field and Value are its field and what it holds.
	Field string
	Value uint64
	// Reason says why that is wrong.
	Reason string
}

// Error names the field and the value.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s %d %s", e.Where, e.Field, e.Value, e.Reason)
}

// Read reads the table of a disk. Without one the error is ErrNone; an *Error says that
// there is one that makes no sense.
func Read(dev Reader) (Table, error) {
	sectors := dev.Size() / sector
	if sectors < 1 {
		return Table{}, ErrNone
	}
	b, err := readSectors(dev, 0, 1)
	if err != nil {
		return Table{}, err
	}
	if !isMBR(b) {
		return Table{}, ErrNone
	}
	if isProtective(b) {
		return readGPT(dev, sectors)
	}
	return readMBR(dev, b, sectors)
}

// Find is the partition with a number.
func (t Table) Find(number int) (Partition, error) {
	for _, p := range t.Partitions {
		if p.Number == number {
			return p, nil
		}
	}
	switch len(t.Partitions) {
	case 0:
		return Partition{}, fmt.Errorf("no partition %d: the table is empty", number)
	case 1:
		return Partition{}, fmt.Errorf("no partition %d: there is only %d", number, t.Partitions[0].Number)
	}
	return Partition{}, fmt.Errorf("no partition %d: there are %s", number, t.numbers())
}

// numbers names the partitions there are: "1, 2, 5".
func (t Table) numbers() string {
	text := ""
	for i, p := range t.Partitions {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprint(p.Number)
	}
	return text
}

// Most is how many bytes the partition with a number can have where it begins, on a disk of
// size bytes.
func (t Table) Most(number int, size int64) (int64, error) {
	p, err := t.Find(number)
	if err != nil {
		return 0, err
	}
	end := (t.Last + 1) * sector
	if t.Kind == GPT { // Write puts the backup to the disk's end, wherever it was
		end = (size/sector - gptTables) * sector
	}
	for _, q := range t.Partitions {
		begin := q.Start
		if q.Logical() {
			begin = q.ebr * sector
		}
		switch {
		case p.Logical() && q.Extended:
			end = min(end, q.Start+q.Size)
		case q.Number != number && q.Logical() == p.Logical() && begin > p.Start:
			end = min(end, begin)
		}
	}
	return end - p.Start, nil
}

// span is a run of sectors that belongs to one owner.
type span struct {
	first, last int64
	owner       string
}

// checkOverlaps refuses spans of which two share a sector.
func checkOverlaps(spans []span) error {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(spans); i++ {
		if a, b := spans[i-1], spans[i]; b.first <= a.last {
			return &Error{b.owner, "first sector", uint64(b.first),
				fmt.Sprintf("lies in %s, which ends with sector %d", a.owner, a.last)}
		}
	}
	return nil
}

// readSectors reads n sectors that lie on the disk.
func readSectors(dev Reader, first, n int64) ([]byte, error) {
	b := make([]byte, n*sector)
	if m, err := dev.ReadAt(b, first*sector); err != nil && !(m == len(b) && errors.Is(err, io.EOF)) {
		return nil, fmt.Errorf("sector %d: %w", first, err)
	}
	return b, nil
}
