package partition

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The first sector of a disk, offsets in bytes. An extended partition holds a chain of
// sectors of the same form, each for one logical partition.
const (
	mbrDiskSignature = 440
	mbrEntries       = 446
	mbrEntryLen      = 16
	mbrMagic         = 510

	typeProtective = 0xee
	// logicalsMost bounds a hostile chain. Linux stops at 100 sectors without a partition.
	logicalsMost = 128
)

// entry is one of the four of an MBR.
type entry struct {
	status, typ byte
	first, n    uint32
}

func (e entry) used() bool { return e.typ != 0 && e.n != 0 }

func (e entry) extended() bool { return isExtended(e.typ) }

// isExtended says that a type is one of those of an extended partition: DOS, Windows, Linux.
func isExtended(typ byte) bool { return typ == 0x05 || typ == 0x0f || typ == 0x85 }

func entries(b []byte) (list [4]entry) {
	for i := range list {
		e := b[mbrEntries+i*mbrEntryLen:][:mbrEntryLen]
		list[i] = entry{e[0], e[4], binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])}
	}
	return list
}

func hasMagic(b []byte) bool { return b[mbrMagic] == 0x55 && b[mbrMagic+1] == 0xaa }

// isMBR says that a first sector holds a table. The boot sector of a filesystem ends with
// the same two bytes, and has other things where a table's entries are.
func isMBR(b []byte) bool {
	if !hasMagic(b) {
		return false
	}
	if (b[0] == 0xeb || b[0] == 0xe9) &&
		(bytes.HasPrefix(b[54:], []byte("FAT")) || bytes.HasPrefix(b[82:], []byte("FAT")) ||
			bytes.HasPrefix(b[3:], []byte("NTFS")) || bytes.HasPrefix(b[3:], []byte("EXFAT"))) {
		return false
	}
	for _, e := range entries(b) {
		if e.status&0x7f != 0 {
			return false
		}
	}
	return true
}

// isProtective says that an MBR only guards a GPT.
func isProtective(b []byte) bool {
	for _, e := range entries(b) {
		if e.typ == typeProtective {
			return true
		}
	}
	return false
}

func readMBR(dev Reader, b []byte, sectors int64) (Table, error) {
	signature := binary.LittleEndian.Uint32(b[mbrDiskSignature:])
	t := Table{Kind: MBR, UUID: fmt.Sprintf("0x%08x", signature), First: 1, Last: min(sectors, 1<<32) - 1}
	add := func(number int, e entry, first, ebr int64) {
		t.Partitions = append(t.Partitions, Partition{
			Number:   number,
			Type:     fmt.Sprintf("%x", e.typ),
			UUID:     partUUID(signature, number),
			Start:    first * sector,
			Size:     int64(e.n) * sector,
			Bootable: e.status == 0x80,
			Extended: e.extended() && ebr == 0,
			ebr:      ebr,
		})
	}
	var extended *span
	var spans []span
	for i, e := range entries(b) {
		if !e.used() {
			continue
		}
		where := fmt.Sprintf("MBR partition %d", i+1)
		first := int64(e.first)
		switch {
		case first == 0:
			return Table{}, &Error{where, "first sector", 0, "is that of the table"}
		case first >= sectors:
			return Table{}, &Error{where, "first sector", uint64(first), fmt.Sprintf("is not on the disk of %d sectors", sectors)}
		case int64(e.n) > sectors-first:
			return Table{}, &Error{where, "number of sectors", uint64(e.n), fmt.Sprintf("from %d on are not on the disk of %d", first, sectors)}
		case e.extended() && extended != nil:
			return Table{}, &Error{where, "type", uint64(e.typ), "is of a second extended partition"}
		}
		s := span{first, first + int64(e.n) - 1, where}
		if e.extended() {
			extended = &s
		}
		spans = append(spans, s)
		add(i+1, e, first, 0)
	}
	if err := checkOverlaps(spans); err != nil || extended == nil {
		return t, err
	}
	return t, eachLogical(dev, *extended, add)
}

// eachLogical visits the chain of an extended partition. The place of a logical partition
// counts from the sector that names it, that of the next such sector from the extended
// partition's first.
func eachLogical(dev Reader, ext span, visit func(number int, e entry, first, ebr int64)) error {
	seen := map[int64]bool{}
	var spans []span
	number := 5
	for at := ext.first; ; {
		where := fmt.Sprintf("extended partition's table at sector %d", at)
		b, err := readSectors(dev, at, 1)
		if err != nil {
			return err
		}
		if !hasMagic(b) {
			if at == ext.first {
				break // nothing was ever made in it
			}
			return &Error{where, "signature", uint64(binary.LittleEndian.Uint16(b[mbrMagic:])), fmt.Sprintf("is not %d", 0xaa55)}
		}
		seen[at] = true
		spans = append(spans, span{at, at, where})
		next := int64(-1)
		found := false
		list := entries(b)
		for _, e := range list[:2] {
			switch {
			case !e.used():
			case e.extended():
				if next >= 0 {
					return &Error{where, "next table's sector", uint64(e.first), "is a second one"}
				}
				if next = ext.first + int64(e.first); next > ext.last {
					return &Error{where, "next table's sector", uint64(next), fmt.Sprintf("lies behind the partition's last, %d", ext.last)}
				}
			case found:
				return &Error{where, "first sector", uint64(e.first), "is of a second logical partition"}
			default:
				found = true
				first, last := at+int64(e.first), at+int64(e.first)+int64(e.n)-1
				who := fmt.Sprintf("MBR partition %d", number)
				if last > ext.last {
					return &Error{who, "last sector", uint64(last), fmt.Sprintf("lies behind that of the extended partition, %d", ext.last)}
				}
				spans = append(spans, span{first, last, who})
				visit(number, e, first, at)
				number++
			}
		}
		if next < 0 {
			break
		}
		if seen[next] {
			return &Error{where, "next table's sector", uint64(next), "was there before: the chain is a loop"}
		}
		if len(seen) >= logicalsMost {
			return &Error{where, "logical partitions", uint64(len(seen)), fmt.Sprintf("and more are too many: %d are read", logicalsMost)}
		}
		at = next
	}
	return checkOverlaps(spans)
}

// partUUID is what Linux calls PARTUUID of an MBR's partition.
func partUUID(signature uint32, number int) string {
	return fmt.Sprintf("%08x-%02x", signature, number)
}
