package partition

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// Align is where partitions of a new table begin: at multiples of it, in bytes.
const Align = 1 << 20

// Spec is a partition that is to be made.
type Spec struct {
	// Size is in bytes, 0 for what is left.
	Size int64
	// Type is as ParseType gives it; empty is a Linux filesystem.
	Type string
	// Name is a GPT's.
	Name string
	// Bootable is an MBR's active flag.
	Bootable bool
}

// The tables of a GPT: a header and 128 entries at either end.
const (
	gptEntries = 128
	gptTables  = 1 + gptEntries*gptEntryLen/sector
)

// New lays partitions out on a disk of size bytes, one behind the other. Those that follow
// an extended one lie in it. The id is a GPT's GUID; of an MBR its first four bytes are
// the disk signature. What else is to be unique is derived from it.
func New(kind Kind, size int64, id [16]byte, specs []Spec) (Table, error) {
	sectors := size / sector
	l := layout{next: Align / sector, end: sectors}
	t := Table{Kind: kind, First: 1, Last: min(sectors, 1<<32) - 1}
	switch kind {
	case GPT:
		t.First, t.Last = 1+gptTables, sectors-1-gptTables
		t.UUID = bigEndianGUID(id)
	case MBR:
		l.signature = binary.BigEndian.Uint32(id[:])
		t.UUID = fmt.Sprintf("0x%08x", l.signature)
	default:
		return Table{}, fmt.Errorf("%q is no kind of a table: gpt or mbr", kind)
	}
	l.end = min(l.end, t.Last+1)
	for i, s := range specs {
		p, err := l.place(kind, s, i == len(specs)-1)
		if err != nil {
			return Table{}, fmt.Errorf("partition %d: %w", l.number+1, err)
		}
		if kind == GPT {
			p.UUID = bigEndianGUID(derive(id, p.Number))
		} else {
			p.UUID = partUUID(l.signature, p.Number)
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t, nil
}

// layout is how far the disk is given out, in sectors.
type layout struct {
	next, end int64
	number    int
	// extended says that what follows is logical.
	extended  bool
	signature uint32
}

func (l *layout) place(kind Kind, s Spec, last bool) (Partition, error) {
	if s.Type == "" {
		s.Type, _ = ParseType(kind, "linux")
	}
	p := Partition{Type: s.Type, Name: s.Name, Bootable: s.Bootable}
	if kind == MBR {
		p.Extended = s.Type == "5" || s.Type == "f" || s.Type == "85"
	}
	if err := l.check(kind, s, p.Extended); err != nil {
		return p, err
	}
	first := l.next
	if l.extended {
		// Its own table goes before it, in the gap that keeps it aligned.
		p.ebr = l.next
		first += Align / sector
	}
	n := s.Size / sector
	room := max(l.end-first, 0)
	if s.Size == 0 {
		if !last && !p.Extended {
			return p, fmt.Errorf("only the last partition takes the rest")
		}
		n = room &^ (Align/sector - 1)
	}
	if n == 0 || n > room {
		return p, fmt.Errorf("%d bytes from %d on do not fit: %d are left", max(s.Size, sector), first*sector, room*sector)
	}
	if l.extended = l.extended || p.Extended; p.Extended {
		l.next, l.end = first, first+n
		p.Number, l.number = l.number+1, 4
	} else {
		l.number++
		p.Number = l.number
		l.next = (first + n + Align/sector - 1) &^ (Align/sector - 1)
	}
	p.Start, p.Size = first*sector, n*sector
	return p, nil
}

// check refuses what a table of this kind cannot hold.
func (l *layout) check(kind Kind, s Spec, extended bool) error {
	switch {
	case s.Size < 0 || s.Size%sector != 0:
		return fmt.Errorf("a size of %d bytes: a partition has whole sectors of %d", s.Size, sector)
	case kind == GPT && s.Bootable:
		return fmt.Errorf("a GPT has no bootable flag: a type says what a partition is for")
	case kind == GPT && l.number == gptEntries:
		return fmt.Errorf("a GPT has no more than %d", gptEntries)
	case kind == MBR && s.Name != "":
		return fmt.Errorf("an MBR holds no names: %q", s.Name)
	case kind == MBR && !l.extended && l.number == 4:
		return fmt.Errorf("an MBR has no more than 4, or more in one of type extended")
	case l.extended && extended:
		return fmt.Errorf("an extended partition holds no other")
	case l.number-4 >= logicalsMost:
		return fmt.Errorf("more than %d logical partitions", logicalsMost)
	case !utf8.ValidString(s.Name):
		return fmt.Errorf("the name %q is no UTF-8", s.Name)
	}
	if n := len(utf16.Encode([]rune(s.Name))); n > 36 {
		return fmt.Errorf("the name %q has %d characters, the limit is 36", s.Name, n)
	}
	for _, r := range s.Name {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("the name %q holds a control character", s.Name)
		}
	}
	return nil
}

// derive is a GUID of version 4 that follows from another and a number.
func derive(id [16]byte, number int) (out [16]byte) {
	sum := sha256.Sum256(fmt.Appendf(nil, "umlkit partition %d of %x", number, id))
	copy(out[:], sum[:])
	out[6] = out[6]&0x0f | 0x40
	out[8] = out[8]&0x3f | 0x80
	return out
}

func bigEndianGUID(id [16]byte) string {
	return fmt.Sprintf("%X-%X-%X-%X-%X", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
