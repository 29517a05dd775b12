package partition

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// The header and the entries of a GPT, offsets in bytes (UEFI 2.10, 5.3).
const (
	gptSignature = "EFI PART"
	gptRevision  = 0x00010000
	gptHeaderLen = 92
	gptEntryLen  = 128
	// gptEntriesMost bounds what is read of a hostile table: 1 MiB.
	gptEntriesMost = 8192
)

// header is what the header of a GPT says, checked against the disk.
type header struct {
	at, alternate int64
	first, last   int64
	uuid          string
	entries       []byte
}

func readGPT(dev Reader, sectors int64) (Table, error) {
	h, err := readHeader(dev, 1, sectors)
	backup := false
	if err != nil {
		other, backupErr := readHeader(dev, sectors-1, sectors)
		if backupErr != nil {
			return Table{}, fmt.Errorf("%w; the backup is no better: %w", err, backupErr)
		}
		h, backup = other, true
	}
	t := Table{Kind: GPT, UUID: h.uuid, First: h.first, Last: h.last, Backup: backup}
	var spans []span
	for i := 0; i < len(h.entries)/gptEntryLen; i++ {
		e := h.entries[i*gptEntryLen:][:gptEntryLen]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		where := fmt.Sprintf("GPT partition %d", i+1)
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		switch {
		case first < uint64(h.first):
			return Table{}, &Error{where, "first sector", first, fmt.Sprintf("lies before the first usable one, %d", h.first)}
		case last > uint64(h.last):
			return Table{}, &Error{where, "last sector", last, fmt.Sprintf("lies behind the last usable one, %d", h.last)}
		case first > last:
			return Table{}, &Error{where, "first sector", first, fmt.Sprintf("lies behind its last, %d", last)}
		}
		spans = append(spans, span{int64(first), int64(last), where})
		t.Partitions = append(t.Partitions, Partition{
			Number:     i + 1,
			Type:       guidText(e[:16]),
			UUID:       guidText(e[16:32]),
			Name:       utf16Text(e[56:128]),
			Start:      int64(first) * sector,
			Size:       int64(last-first+1) * sector,
			Attributes: binary.LittleEndian.Uint64(e[48:]),
		})
	}
	return t, checkOverlaps(spans)
}

// readHeader reads and checks the header in a sector, and its entries.
func readHeader(dev Reader, at, sectors int64) (header, error) {
	where := fmt.Sprintf("GPT header at sector %d", at)
	if at < 1 || at >= sectors {
		return header{}, &Error{where, "the disk's sectors", uint64(sectors), "are too few"}
	}
	b, err := readSectors(dev, at, 1)
	if err != nil {
		return header{}, err
	}
	le := binary.LittleEndian
	u32 := func(off int) uint64 { return uint64(le.Uint32(b[off:])) }
	u64 := func(off int) uint64 { return le.Uint64(b[off:]) }
	bad := func(field string, value uint64, reason string, a ...any) (header, error) {
		return header{}, &Error{where, field, value, fmt.Sprintf(reason, a...)}
	}
	if string(b[:8]) != gptSignature {
		return bad("signature", u64(0), "is not %q", gptSignature)
	}
	if u32(8) != gptRevision {
		return bad("revision", u32(8), "is not %d", gptRevision)
	}
	length := u32(12)
	if length < gptHeaderLen || length > sector {
		return bad("header size", length, "is not from %d to %d", gptHeaderLen, sector)
	}
	sum := u32(16)
	clear(b[16:20])
	if have := uint64(crc32.ChecksumIEEE(b[:length])); sum != have {
		return bad("header checksum", sum, "should be %d", have)
	}
	first, last, array, count := u64(40), u64(48), u64(72), u32(80)
	bytes := count * gptEntryLen
	arrayLen := (bytes + sector - 1) / sector
	switch {
	case u64(24) != uint64(at):
		return bad("own sector", u64(24), "is not %d", at)
	case u64(32) == 0 || u64(32) >= uint64(sectors):
		return bad("backup's sector", u64(32), "is not on the disk of %d sectors", sectors)
	case last >= uint64(sectors):
		return bad("last usable sector", last, "is not on the disk of %d sectors", sectors)
	case first > last:
		return bad("first usable sector", first, "lies behind the last, %d", last)
	case u32(84) != gptEntryLen:
		return bad("size of an entry", u32(84), "is not %d", gptEntryLen)
	case count == 0 || count > gptEntriesMost:
		return bad("number of entries", count, "is not from 1 to %d", gptEntriesMost)
	case array < 2 || array >= uint64(sectors) || arrayLen > uint64(sectors)-array:
		return bad("first sector of the entries", array, "and %d more are not on the disk of %d sectors", arrayLen-1, sectors)
	case array <= last && array+arrayLen > first:
		return bad("first sector of the entries", array, "lies among the usable sectors, %d to %d", first, last)
	case uint64(at) >= first && uint64(at) <= last:
		return bad("own sector", uint64(at), "lies among the usable sectors, %d to %d", first, last)
	}
	entries, err := readSectors(dev, int64(array), int64(arrayLen))
	if err != nil {
		return header{}, err
	}
	entries = entries[:bytes]
	if have := uint64(crc32.ChecksumIEEE(entries)); u32(88) != have {
		return bad("checksum of the entries", u32(88), "should be %d", have)
	}
	return header{at, int64(u64(32)), int64(first), int64(last), guidText(b[56:72]), entries}, nil
}

// guidText is a GUID in capitals. Its first three fields are little-endian.
func guidText(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// utf16Text is a name: UTF-16, little-endian, to the first zero.
func utf16Text(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
