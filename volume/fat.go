package volume

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

var le = binary.LittleEndian

// errNotFAT says that a boot sector is not that of a FAT filesystem.
var errNotFAT = errors.New("no FAT filesystem")

// fat is a filesystem of FAT12, FAT16 or FAT32 (Microsoft's "FAT32 File System
// Specification" 1.03). go-diskfs is not used for it: it follows a chain of clusters that
// bites its tail without end.
type fat struct {
	d           disk
	bits        int   // of an entry of the table: 12, 16, 32
	table       int64 // where the first table lies, in bytes
	data        int64 // where cluster 2 lies
	clusterSize int64
	clusters    uint32 // clusters are numbered 2 to clusters+1
	rootDir     int64  // FAT12 and FAT16: where the root directory lies
	rootSize    int64
	rootCluster uint32
	label       string

	mu   sync.Mutex
	page []byte // of the table
	at   int64  // where page lies
}

// fatDirMax is the largest directory, in bytes.
const fatDirMax = 2 << 20

func openFAT(d disk) (filesystem, error) {
	boot := make([]byte, 512)
	if err := readDisk(d, boot, 0); err != nil {
		return nil, errNotFAT
	}
	sector, perCluster := int64(le.Uint16(boot[11:])), int64(boot[13])
	reserved, tables := int64(le.Uint16(boot[14:])), int64(boot[16])
	rootEntries, media := int64(le.Uint16(boot[17:])), boot[21]
	total, tableSectors := int64(le.Uint16(boot[19:])), int64(le.Uint16(boot[22:]))
	power := func(n, least, most int64) bool { return n >= least && n <= most && n&(n-1) == 0 }
	if boot[0] != 0xEB && boot[0] != 0xE9 || le.Uint16(boot[510:]) != 0xAA55 || media < 0xF0 ||
		!power(sector, 512, 4096) || !power(perCluster, 1, 128) || reserved == 0 || tables == 0 {
		return nil, errNotFAT
	}
	if total == 0 {
		total = int64(le.Uint32(boot[32:]))
	}
	f := &fat{d: d, clusterSize: perCluster * sector}
	labelAt := 43
	if tableSectors == 0 {
		tableSectors = int64(le.Uint32(boot[36:]))
		f.rootCluster = le.Uint32(boot[44:])
		labelAt = 71
	}
	f.label = strings.TrimRight(oem(boot[labelAt:labelAt+11]), " \x00")
	if f.label == "NO NAME" {
		f.label = ""
	}
	f.table = reserved * sector
	f.rootDir = f.table + tables*tableSectors*sector
	f.rootSize = rootEntries * 32
	f.data = f.rootDir + (f.rootSize+sector-1)/sector*sector
	if total*sector > d.Size() {
		return nil, corrupt("vfat", "%d sectors of %d bytes on a disk of %d bytes", total, sector, d.Size())
	}
	n := (total*sector - f.data) / f.clusterSize
	if tableSectors == 0 || n <= 0 || n > 1<<28 {
		return nil, corrupt("vfat", "%d sectors hold no data behind tables of %d sectors", total, tableSectors)
	}
	f.clusters = uint32(n)
	switch {
	case n < 4085:
		f.bits = 12
	case n < 65525:
		f.bits = 16
	default:
		f.bits = 32
	}
	if (f.bits == 32) != (rootEntries == 0) {
		return nil, corrupt("vfat", "%d clusters with %d entries of the root directory", n, rootEntries)
	}
	if need := (n + 2) * int64(f.bits) / 8; need > tableSectors*sector {
		return nil, corrupt("vfat", "tables of %d bytes for %d clusters", tableSectors*sector, n)
	}
	return f, nil
}

func (f *fat) close() error { return nil }

func (f *fat) usage() (Usage, error) {
	u := Usage{Type: "vfat", Label: f.label, BlockSize: f.clusterSize, Blocks: uint64(f.clusters)}
	for c := uint32(2); c < f.clusters+2; c++ {
		next, err := f.next(c)
		if err != nil {
			return u, err
		}
		if next == 0 {
			u.Free++
		}
	}
	u.Avail = u.Free
	return u, nil
}

// next is the table's entry of a cluster.
func (f *fat) next(c uint32) (uint32, error) {
	if c < 2 || c-2 >= f.clusters {
		return 0, corrupt("vfat", "cluster %d of %d", c, f.clusters)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	get := func(off int64, n int64) ([]byte, error) {
		off += f.table
		if f.page == nil || off < f.at || off+n > f.at+int64(len(f.page)) {
			size := min(64<<10, f.d.Size()-off)
			if int64(cap(f.page)) < size {
				f.page = make([]byte, size)
			}
			f.page, f.at = f.page[:max(size, 0)], off
			if err := readDisk(f.d, f.page, off); err != nil {
				f.page = nil
				return nil, err
			}
			if n > size {
				return nil, corrupt("vfat", "the table ends before cluster %d", c)
			}
		}
		return f.page[off-f.at:], nil
	}
	switch f.bits {
	case 12:
		b, err := get(int64(c)*3/2, 2)
		if err != nil {
			return 0, err
		}
		v := uint32(le.Uint16(b))
		if c%2 == 1 {
			v >>= 4
		}
		if v &= 0xFFF; v >= 0xFF7 {
			v |= 0x0FFFF000
		}
		return v, nil
	case 16:
		b, err := get(int64(c)*2, 2)
		if err != nil {
			return 0, err
		}
		v := uint32(le.Uint16(b))
		if v >= 0xFFF7 {
			v |= 0x0FFF0000
		}
		return v, nil
	}
	b, err := get(int64(c)*4, 4)
	if err != nil {
		return 0, err
	}
	return le.Uint32(b) & 0x0FFFFFFF, nil
}

// fatRun are clusters that lie together.
type fatRun struct{ off, disk, n int64 }

// chain finds where the first size bytes of a file lie. size < 0 means all there are, as
// of a directory.
func (f *fat) chain(first uint32, size int64) ([]fatRun, error) {
	var runs []fatRun
	most := size
	if size < 0 {
		most = fatDirMax
	}
	c := first
	for off := int64(0); ; off += f.clusterSize {
		if c >= 0x0FFFFFF8 || size >= 0 && off >= size {
			if off < size {
				return nil, corrupt("vfat", "a file of %d bytes has clusters for %d", size, off)
			}
			return runs, nil
		}
		if off >= most {
			return nil, corrupt("vfat", "a directory of more than %d bytes", most)
		}
		if c < 2 || c-2 >= f.clusters {
			return nil, corrupt("vfat", "cluster %d of %d", c, f.clusters)
		}
		disk := f.data + int64(c-2)*f.clusterSize
		if last := len(runs) - 1; last >= 0 && runs[last].disk+runs[last].n == disk {
			runs[last].n += f.clusterSize
		} else {
			runs = append(runs, fatRun{off, disk, f.clusterSize})
		}
		if size >= 0 && off+f.clusterSize >= size {
			return runs, nil
		}
		var err error
		if c, err = f.next(c); err != nil {
			return nil, err
		}
	}
}

func (f *fat) root() (Node, error) {
	return &mediaNode{
		number: 1, fold: true, attr: Attr{Mode: format.ModeDir | 0o755, Links: 2, Size: f.rootSize},
		list: func() (map[string]*mediaNode, error) {
			if f.bits == 32 {
				return f.readDir(f.rootCluster)
			}
			b := make([]byte, f.rootSize)
			if err := readDisk(f.d, b, f.rootDir); err != nil {
				return nil, err
			}
			return f.parseDir(b, func(i int) uint64 { return uint64(f.rootDir) + uint64(i) })
		},
	}, nil
}

func (f *fat) readDir(first uint32) (map[string]*mediaNode, error) {
	runs, err := f.chain(first, -1)
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, r := range runs {
		part := make([]byte, r.n)
		if err := readDisk(f.d, part, r.disk); err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	return f.parseDir(b, func(i int) uint64 {
		for _, r := range runs {
			if int64(i) < r.off+r.n {
				return uint64(r.disk + int64(i) - r.off)
			}
		}
		return 0
	})
}

const (
	fatReadOnly = 0x01
	fatLabel    = 0x08
	fatDir      = 0x10
	fatLong     = 0x0F
)

// parseDir reads the entries of a directory; place tells one from another.
func (f *fat) parseDir(b []byte, place func(i int) uint64) (map[string]*mediaNode, error) {
	list := make(map[string]*mediaNode)
	var long []uint16 // the long name that stands before its entry
	sum, want := byte(0), byte(0)
	for i := 0; i+32 <= len(b); i += 32 {
		e := b[i : i+32]
		if e[0] == 0 {
			break
		}
		if e[0] == 0xE5 {
			long = nil
			continue
		}
		attr := e[11]
		if attr&0x3F == fatLong {
			seq := e[0] & 0x1F
			if e[0]&0x40 != 0 {
				if seq == 0 || seq > 20 {
					long = nil
					continue
				}
				long, sum, want = make([]uint16, 13*int(seq)), e[13], seq
			}
			if long == nil || seq != want || e[13] != sum {
				long = nil
				continue
			}
			want--
			for j := range 13 {
				at := [13]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}[j]
				long[13*int(seq-1)+j] = le.Uint16(e[at:])
			}
			continue
		}
		name := shortName(e)
		if long != nil && want == 0 && sum == checksum(e[:11]) {
			for j, c := range long {
				if c == 0 {
					long = long[:j]
					break
				}
			}
			name = string(utf16.Decode(long))
		}
		long = nil
		if attr&fatLabel != 0 || name == "." || name == ".." {
			continue
		}
		n := f.node(e, place(i))
		if err := addEntry(list, "vfat", name, n); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// node makes a file of its directory entry.
func (f *fat) node(e []byte, place uint64) *mediaNode {
	first := uint32(le.Uint16(e[26:]))
	if f.bits == 32 {
		first |= uint32(le.Uint16(e[20:])) << 16
	}
	size := int64(le.Uint32(e[28:]))
	mode := uint16(0o644)
	if e[11]&fatReadOnly != 0 {
		mode = 0o444
	}
	n := &mediaNode{number: place, attr: Attr{
		Mode: format.ModeRegular | mode, Links: 1, Size: size, Blocks512: (size + f.clusterSize - 1) / f.clusterSize * f.clusterSize / 512,
		Mtime: fatTime(le.Uint16(e[24:]), le.Uint16(e[22:]), 0),
		Atime: fatTime(le.Uint16(e[18:]), 0, 0),
		Ctime: fatTime(le.Uint16(e[16:]), le.Uint16(e[14:]), e[13]),
	}}
	if e[11]&fatDir != 0 {
		n.attr.Mode, n.attr.Links, n.attr.Size = format.ModeDir|mode|0o111, 2, 0
		n.number = 1<<48 | uint64(first)
		n.list = func() (map[string]*mediaNode, error) { return f.readDir(first) }
		return n
	}
	runs := sync.OnceValues(func() ([]fatRun, error) { return f.chain(first, size) })
	n.read = func(p []byte, off int64) error {
		runs, err := runs()
		if err != nil {
			return err
		}
		return f.readRuns(runs, p, off)
	}
	n.runs = func() ([]tree.Region, error) {
		_, err := runs() // a file that cannot be read is known before it is written elsewhere
		return nil, err
	}
	return n
}

func (f *fat) readRuns(runs []fatRun, p []byte, off int64) error {
	for _, r := range runs {
		start, end := max(off, r.off), min(off+int64(len(p)), r.off+r.n)
		if start < end {
			if err := readDisk(f.d, p[start-off:end-off], r.disk+start-r.off); err != nil {
				return err
			}
		}
	}
	return nil
}

// shortName is the name in an entry itself.
func shortName(e []byte) string {
	base, ext := strings.TrimRight(oem(e[:8]), " "), strings.TrimRight(oem(e[8:11]), " ")
	if e[0] == 0x05 {
		base = oem([]byte{0xE5}) + strings.TrimPrefix(base, "\x05")
	}
	if e[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext == "" {
		return base
	}
	return base + "." + ext
}

func checksum(short []byte) byte {
	s := byte(0)
	for _, c := range short {
		s = s<<7 | s>>1
		s += c
	}
	return s
}

// cp437 are the letters above 127 of the code page that Linux assumes.
var cp437 = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0")

func oem(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		if r[i] = rune(c); c >= 0x80 {
			r[i] = cp437[c-0x80]
		}
	}
	return string(r)
}

// fatTime reads a date and a time; FAT knows no time zone, UTC is taken. fine are hundredths
// of a second.
func fatTime(date, clock uint16, fine byte) format.Time {
	if date == 0 {
		return format.Time{}
	}
	t := time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31), int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
	t = t.Add(time.Duration(min(fine, 199)) * 10 * time.Millisecond)
	return diskTime(t)
}
