package volume

import (
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// rockRidge is what the system use fields of a record say (SUSP 1.12, RRIP 1.12).
type rockRidge struct {
	any             bool // there are fields of Rock Ridge
	name            string
	posix           bool
	mode            uint32
	links, uid, gid uint32
	major, minor    uint32
	target          string
	times           [3]format.Time // modified, read, changed
	hasTime         [3]bool
	child           uint32 // block of a directory that was moved
	relocated       bool   // it was moved here
	packed          bool

	linkOpen bool // the last part of target goes on in the next field
}

const (
	rockAreas = 64       // continuations of one record
	rockMax   = 64 << 10 // bytes of all its fields
)

// rockRidge reads the fields in b and those that continue them.
func (f *iso) rockRidge(b []byte, rr *rockRidge) error {
	total := 0
	for range rockAreas {
		var next []byte
		for len(b) >= 4 {
			n := int(b[2])
			if n < 4 || n > len(b) {
				break // what pads an area
			}
			e := b[:n]
			b = b[n:]
			if string(e[:2]) == "ST" {
				break
			}
			if string(e[:2]) == "CE" && n >= 28 {
				size := int64(le.Uint32(e[20:]))
				if total += int(min(size, rockMax)); total > rockMax || size > rockMax {
					return corrupt("iso9660", "more than %d bytes of attributes", rockMax)
				}
				next = make([]byte, size)
				if err := readDisk(f.d, next, int64(le.Uint32(e[4:]))*f.block+int64(le.Uint32(e[12:]))); err != nil {
					return err
				}
				continue
			}
			rr.field(string(e[:2]), e)
		}
		if next == nil {
			return nil
		}
		b = next
	}
	return corrupt("iso9660", "more than %d areas of attributes of one file", rockAreas)
}

// field takes one field. One that is too short says nothing.
func (rr *rockRidge) field(kind string, e []byte) {
	n := len(e)
	switch {
	case kind == "RR" || kind == "ER":
		rr.any = true
	case kind == "NM" && n >= 5:
		rr.any = true
		if e[4]&6 == 0 && len(rr.name)+n-5 <= tree.NameMax+1 {
			rr.name += string(e[5:])
		}
	case kind == "PX" && n >= 36:
		rr.any, rr.posix = true, true
		rr.mode, rr.links, rr.uid, rr.gid = le.Uint32(e[4:]), le.Uint32(e[12:]), le.Uint32(e[20:]), le.Uint32(e[28:])
	case kind == "PN" && n >= 20:
		high, low := le.Uint32(e[4:]), le.Uint32(e[12:])
		rr.major, rr.minor = high, low
		if high == 0 { // one number, as Linux made it
			rr.major, rr.minor = low>>8&0xFFF, low&0xFF|low>>12&0xFFF00
		}
	case kind == "SL" && n >= 5:
		rr.link(e[5:], e[4]&1 != 0)
	case kind == "TF" && n >= 5:
		rr.stamps(e[4], e[5:])
	case kind == "CL" && n >= 12:
		rr.child = le.Uint32(e[4:])
	case kind == "RE":
		rr.relocated = true
	case kind == "ZF":
		rr.packed = true
	}
}

// link adds the components of a symbolic link's target.
func (rr *rockRidge) link(b []byte, _ bool) {
	for len(b) >= 2 && int(b[1])+2 <= len(b) && len(rr.target) <= tree.PathMax {
		flags, text := b[0], string(b[2:2+int(b[1])])
		b = b[2+int(b[1]):]
		if !rr.linkOpen && rr.target != "" && !strings.HasSuffix(rr.target, "/") {
			rr.target += "/"
		}
		switch {
		case flags&8 != 0:
			rr.target = "/"
		case flags&4 != 0:
			rr.target += ".."
		case flags&2 != 0:
			rr.target += "."
		default:
			rr.target += text
		}
		rr.linkOpen = flags&1 != 0
	}
}

// stamps reads the times of a TF field: creation, modification, access, change and others,
// as far as flags name them.
func (rr *rockRidge) stamps(flags byte, b []byte) {
	size := 7
	if flags&0x80 != 0 {
		size = 17
	}
	for bit := range 7 {
		if flags&(1<<bit) == 0 {
			continue
		}
		if len(b) < size {
			return
		}
		if bit >= 1 && bit <= 3 {
			t, ok := isoTime(b[:7]), true
			if size == 17 {
				t, ok = longTime(b[:17])
			}
			rr.times[bit-1], rr.hasTime[bit-1] = t, ok
		}
		b = b[size:]
	}
}

// longTime reads a date of 16 digits and a time zone.
func longTime(b []byte) (format.Time, bool) {
	var v [7]int
	for i, w := range []struct{ at, n int }{{0, 4}, {4, 2}, {6, 2}, {8, 2}, {10, 2}, {12, 2}, {14, 2}} {
		n, err := strconv.Atoi(string(b[w.at : w.at+w.n]))
		if err != nil || n < 0 {
			return format.Time{}, false
		}
		v[i] = n
	}
	zone := time.FixedZone("", int(int8(b[16]))*15*60)
	return diskTime(time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], v[6]*10_000_000, zone)), true
}
