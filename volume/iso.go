package volume

import (
	"encoding/binary"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/umlkit/umlkit/ext4/format"
)

// iso is an ISO 9660 filesystem (ECMA-119) with the names and attributes of Rock Ridge
// (IEEE P1282) or the names of Joliet, where it has them. go-diskfs is not used for it: it
// takes the dot off names that begin with one.
type iso struct {
	d     disk
	block int64 // bytes
	label string
	size  int64
	skip  int // bytes before the fields of Rock Ridge
	rock  bool
	joli  bool
	top   isoRecord
}

// isoRecord is a directory record.
type isoRecord struct {
	at       int64 // where it lies on the disk
	extents  []isoExtent
	size     int64
	dir      bool
	more     bool // the next record goes on with the file
	name     string
	time     format.Time
	rr       rockRidge
	reserved bool
}

type isoExtent struct{ disk, n int64 }

const (
	isoSector      = 2048
	isoDescriptors = 64       // at most so many are looked at
	isoDirMax      = 64 << 20 // bytes of a directory
)

func openISO(d disk) (filesystem, error) {
	f := &iso{d: d}
	var primary, joliet []byte
	for i := range isoDescriptors {
		b := make([]byte, isoSector)
		if err := readDisk(d, b, int64(16+i)*isoSector); err != nil {
			return nil, corrupt("iso9660", "descriptors without end")
		}
		if string(b[1:6]) != "CD001" || b[0] == 255 {
			break
		}
		switch esc := string(b[88:91]); {
		case b[0] == 1 && primary == nil:
			primary = b
		case b[0] == 2 && (esc == "%/@" || esc == "%/C" || esc == "%/E"):
			joliet = b
		}
	}
	if primary == nil {
		return nil, corrupt("iso9660", "no primary volume descriptor")
	}
	f.block = int64(le.Uint16(primary[128:]))
	if f.block != 512 && f.block != 1024 && f.block != 2048 {
		return nil, corrupt("iso9660", "blocks of %d bytes", f.block)
	}
	f.size = int64(le.Uint32(primary[80:])) * f.block
	f.label = strings.TrimRight(string(primary[40:72]), " \x00")
	var err error
	if f.top, err = f.record(primary[156:190], 0); err != nil {
		return nil, err
	}
	if err := f.findRockRidge(); err != nil {
		return nil, err
	}
	if joliet != nil && !f.rock {
		f.joli = true
		if f.top, err = f.record(joliet[156:190], 0); err != nil {
			return nil, err
		}
	}
	if !f.top.dir {
		return nil, corrupt("iso9660", "the root is no directory")
	}
	return f, nil
}

func (f *iso) close() error { return nil }

func (f *iso) usage() (Usage, error) {
	return Usage{Type: "iso9660", Label: f.label, BlockSize: f.block, Blocks: uint64(f.size / f.block)}, nil
}

func (f *iso) root() (Node, error) {
	r := f.top
	if self, err := f.self(r.extents[0].disk); err == nil {
		r.rr, r.time = self.rr, self.time
	}
	n := f.node(r)
	n.number = 1<<48 | uint64(f.top.extents[0].disk)
	return n, nil
}

// findRockRidge looks at the root's own record for the mark of the extensions.
func (f *iso) findRockRidge() error {
	b := make([]byte, f.block)
	if err := readDisk(f.d, b, f.top.extents[0].disk); err != nil {
		return err
	}
	n := int(b[0])
	if n < 34+7 || n > len(b) {
		return nil
	}
	if sp := b[34:n]; string(sp[:2]) == "SP" && sp[4] == 0xBE && sp[5] == 0xEF {
		f.skip, f.rock = int(sp[6]), true
		r, err := f.record(b[:n], f.top.extents[0].disk)
		if err != nil {
			return err
		}
		f.rock = r.rr.any
	}
	return nil
}

// self is the record "." at the beginning of a directory.
func (f *iso) self(at int64) (isoRecord, error) {
	b := make([]byte, f.block)
	if err := readDisk(f.d, b, at); err != nil {
		return isoRecord{}, err
	}
	n := int(b[0])
	if n < 34 || n > len(b) {
		return isoRecord{}, corrupt("iso9660", "a record of %d bytes at %d", n, at)
	}
	return f.record(b[:n], at)
}

// record reads a directory record that lies at a place of the disk.
func (f *iso) record(b []byte, at int64) (r isoRecord, err error) {
	name := int(b[32])
	if len(b) < 34 || 33+name > len(b) {
		return r, corrupt("iso9660", "a name of %d bytes in a record of %d at %d", name, len(b), at)
	}
	disk := (int64(le.Uint32(b[2:])) + int64(b[1])) * f.block
	r = isoRecord{at: at, size: int64(le.Uint32(b[10:])), dir: b[25]&2 != 0, more: b[25]&0x80 != 0, time: isoTime(b[18:25])}
	r.extents = []isoExtent{{disk, r.size}}
	if b[26] != 0 || b[27] != 0 {
		return r, corrupt("iso9660", "an interleaved file at %d", at)
	}
	raw := string(b[33 : 33+name])
	switch {
	case raw == "\x00" || raw == "\x01":
		r.name, r.reserved = raw, true
	case f.joli:
		u := make([]uint16, len(raw)/2)
		for i := range u {
			u[i] = binary.BigEndian.Uint16([]byte(raw[2*i:]))
		}
		r.name = plainName(string(utf16.Decode(u)))
	default:
		r.name = strings.ToLower(plainName(raw))
	}
	if f.rock {
		use := 33 + name
		use += 1 - name%2 // to an even place
		if !r.reserved || raw == "\x01" || at != f.top.extents[0].disk {
			use += f.skip
		}
		if use < len(b) {
			if err := f.rockRidge(b[use:], &r.rr); err != nil {
				return r, err
			}
		}
		if r.rr.name != "" && !r.reserved {
			r.name = r.rr.name
		}
	}
	return r, nil
}

// plainName is a name without its version, and without the dot of an empty extension.
func plainName(name string) string {
	if i := strings.LastIndexByte(name, ';'); i > 0 {
		name = name[:i]
	}
	return strings.TrimSuffix(name, ".")
}

// list reads a directory.
func (f *iso) list(x isoExtent) (map[string]*mediaNode, error) {
	if x.n > isoDirMax {
		return nil, corrupt("iso9660", "a directory of %d bytes", x.n)
	}
	b := make([]byte, min(x.n, max(f.d.Size()-x.disk, 0)))
	if int64(len(b)) < x.n {
		return nil, corrupt("iso9660", "a directory of %d bytes at %d, behind the end", x.n, x.disk)
	}
	if err := readDisk(f.d, b, x.disk); err != nil {
		return nil, err
	}
	list := make(map[string]*mediaNode)
	var whole *isoRecord // a file of several records
	for i := 0; i < len(b); {
		n := int(b[i])
		if n == 0 { // records do not cross sectors
			i = (i/isoSector + 1) * isoSector
			continue
		}
		if n < 34 || i+n > len(b) {
			return nil, corrupt("iso9660", "a record of %d bytes at %d", n, x.disk+int64(i))
		}
		r, err := f.record(b[i:i+n], x.disk+int64(i))
		if err != nil {
			return nil, err
		}
		i += n
		if r.reserved || r.rr.relocated {
			continue
		}
		if whole != nil {
			whole.extents = append(whole.extents, r.extents...)
			whole.size += r.size
			whole.more = r.more
			r = *whole
		}
		if r.more && !r.dir {
			whole = &r
			continue
		}
		whole = nil
		if r.rr.child != 0 {
			if r, err = f.moved(r); err != nil {
				return nil, err
			}
		}
		if _, twice := list[r.name]; twice && !f.rock {
			continue // an older version
		}
		if err := addEntry(list, "iso9660", r.name, f.node(r)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// moved is a directory that Rock Ridge took to another place, for it lay too deep.
func (f *iso) moved(r isoRecord) (isoRecord, error) {
	at := int64(r.rr.child) * f.block
	self, err := f.self(at)
	if err != nil {
		return r, err
	}
	r.dir, r.size = true, self.size
	r.extents = []isoExtent{{at, self.size}}
	return r, nil
}

// node makes a file of a record.
func (f *iso) node(r isoRecord) *mediaNode {
	a := Attr{Mode: format.ModeRegular | 0o444, Links: 1, Size: r.size, Blocks512: (r.size + 511) / 512, Mtime: r.time, Atime: r.time, Ctime: r.time}
	if r.dir {
		a.Mode, a.Links = format.ModeDir|0o555, 2
	}
	if r.rr.posix {
		a.Mode, a.Links, a.UID, a.GID = uint16(r.rr.mode), max(r.rr.links, 1), r.rr.uid, r.rr.gid
		a.Major, a.Minor = r.rr.major, r.rr.minor
		if isDirMode := a.Mode&format.ModeType == format.ModeDir; isDirMode != r.dir {
			// What it is, its own record says.
			a.Mode = a.Mode & format.ModePerm
			if a.Mode |= format.ModeRegular; r.dir {
				a.Mode = a.Mode&format.ModePerm | format.ModeDir
			}
		}
	}
	for i, t := range []*format.Time{&a.Mtime, &a.Atime, &a.Ctime} {
		if r.rr.hasTime[i] {
			*t = r.rr.times[i]
		}
	}
	n := &mediaNode{number: uint64(r.at), attr: a}
	switch a.Mode & format.ModeType {
	case format.ModeDir:
		n.number = 1<<48 | uint64(r.extents[0].disk)
		n.list = func() (map[string]*mediaNode, error) { return f.list(isoExtent{r.extents[0].disk, r.size}) }
	case format.ModeSymlink:
		n.target = r.rr.target
		n.attr.Size = int64(len(n.target))
	case format.ModeRegular:
		n.read = func(p []byte, off int64) error {
			if r.rr.packed {
				return corrupt("iso9660", "the file is packed by zisofs, which is not read")
			}
			start := int64(0)
			for _, x := range r.extents {
				from, to := max(off, start), min(off+int64(len(p)), start+x.n)
				if from < to {
					if err := readDisk(f.d, p[from-off:to-off], x.disk+from-start); err != nil {
						return err
					}
				}
				start += x.n
			}
			return nil
		}
	}
	return n
}

// isoTime reads the seven bytes of a record's date.
func isoTime(b []byte) format.Time {
	zone := time.FixedZone("", int(int8(b[6]))*15*60)
	return diskTime(time.Date(1900+int(b[0]), time.Month(b[1]), int(b[2]), int(b[3]), int(b[4]), int(b[5]), 0, zone))
}
