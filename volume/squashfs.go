package volume

import (
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// squash is a squashfs 4.0 filesystem (Documentation/filesystems/squashfs.rst of Linux).
// go-diskfs is not used for it: it unpacks blocks of any size into memory, and knows no
// device numbers, set-user-ID bits nor the kinds of extended attributes.
type squash struct {
	d           disk
	unpack      unpacker
	blockSize   int64
	used        int64
	inodes      uint32
	fragments   uint32
	inodeTable  int64
	dirTable    int64
	fragTable   int64
	xattrTable  int64 // of ids, -1: none
	xattrStart  int64 // of names and values
	xattrIDs    uint32
	ids         []uint32
	rootRef     uint64
	meta, block cache
}

const (
	squashMeta   = 8192
	squashNone   = 1<<64 - 1
	squashUnused = 1<<32 - 1 // no fragment, no attributes
	squashBlocks = 1 << 24   // of one file
	squashDirMax = 256 << 20 // bytes of a directory
)

func openSquash(d disk) (filesystem, error) {
	b := make([]byte, 96)
	if err := readDisk(d, b, 0); err != nil {
		return nil, corrupt("squashfs", "a disk of %d bytes", d.Size())
	}
	if string(b[:4]) != "hsqs" {
		return nil, corrupt("squashfs", "big-endian, of a version before 4.0")
	}
	if major, minor := le.Uint16(b[28:]), le.Uint16(b[30:]); major != 4 || minor != 0 {
		return nil, corrupt("squashfs", "version %d.%d, 4.0 is read", major, minor)
	}
	f := &squash{
		d: d, inodes: le.Uint32(b[4:]), blockSize: int64(le.Uint32(b[12:])), fragments: le.Uint32(b[16:]), rootRef: le.Uint64(b[32:]),
		used: int64(le.Uint64(b[40:])), inodeTable: int64(le.Uint64(b[64:])), dirTable: int64(le.Uint64(b[72:])),
		fragTable: int64(le.Uint64(b[80:])), xattrTable: -1,
	}
	if s := f.blockSize; s < 4096 || s > 1<<20 || s&(s-1) != 0 {
		return nil, corrupt("squashfs", "blocks of %d bytes", s)
	}
	if f.used < 96 || f.used > d.Size() {
		return nil, corrupt("squashfs", "%d bytes in use of a disk of %d", f.used, d.Size())
	}
	var err error
	if f.unpack, err = newUnpacker(le.Uint16(b[20:])); err != nil {
		return nil, err
	}
	f.meta.most, f.block.most = 2<<20/squashMeta, 4
	if f.ids, err = f.readIDs(int64(le.Uint64(b[48:])), int(le.Uint16(b[26:]))); err != nil {
		return nil, err
	}
	if at := le.Uint64(b[56:]); at != squashNone {
		head := make([]byte, 16)
		if err := readDisk(d, head, int64(at)); err != nil {
			return nil, err
		}
		f.xattrTable, f.xattrStart, f.xattrIDs = int64(at)+16, int64(le.Uint64(head)), le.Uint32(head[8:])
	}
	root, err := f.node(f.rootRef)
	if err != nil {
		return nil, err
	}
	if root.list == nil {
		return nil, corrupt("squashfs", "the root is no directory")
	}
	return f, nil
}

func (f *squash) close() error { return nil }

func (f *squash) usage() (Usage, error) {
	return Usage{Type: "squashfs", BlockSize: f.blockSize, Blocks: uint64((f.used + f.blockSize - 1) / f.blockSize), Files: uint64(f.inodes)}, nil
}

func (f *squash) root() (Node, error) {
	n, err := f.node(f.rootRef)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// cache holds unpacked blocks by where they lie.
type cache struct {
	mu   sync.Mutex
	most int
	m    map[int64]cached
}

type cached struct {
	data []byte
	next int64 // where the next block lies
}

func (c *cache) get(at int64, read func() (cached, error)) (cached, error) {
	c.mu.Lock()
	b, ok := c.m[at]
	c.mu.Unlock()
	if ok {
		return b, nil
	}
	b, err := read()
	if err != nil {
		return b, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= c.most {
		c.m = make(map[int64]cached, c.most)
	}
	c.m[at] = b
	return b, nil
}

// metaBlock reads a block of metadata.
func (f *squash) metaBlock(at int64) (cached, error) {
	return f.meta.get(at, func() (cached, error) {
		var head [2]byte
		if err := readDisk(f.d, head[:], at); err != nil {
			return cached{}, err
		}
		n := int(le.Uint16(head[:]) & 0x7FFF)
		if n == 0 || n > squashMeta {
			return cached{}, corrupt("squashfs", "a block of metadata of %d bytes at %d", n, at)
		}
		data := make([]byte, n)
		if err := readDisk(f.d, data, at+2); err != nil {
			return cached{}, err
		}
		if le.Uint16(head[:])&0x8000 == 0 {
			var err error
			if data, err = f.unpack(data, squashMeta); err != nil {
				return cached{}, corrupt("squashfs", "metadata at %d: %v", at, err)
			}
		}
		return cached{data, at + 2 + int64(n)}, nil
	})
}

// metaReader reads metadata, which goes on from block to block.
type metaReader struct {
	f   *squash
	at  int64 // of the block
	off int
}

// metaAt is where a reference, a block's place and an offset in it, leads in a table.
func (f *squash) metaAt(table int64, block uint64, off uint64) *metaReader {
	return &metaReader{f, table + int64(block), int(off)}
}

func (r *metaReader) read(n int) ([]byte, error) {
	p := make([]byte, 0, min(n, squashMeta))
	for len(p) < n {
		b, err := r.f.metaBlock(r.at)
		if err != nil {
			return nil, err
		}
		if r.off > len(b.data) || r.off == len(b.data) && len(b.data) < squashMeta {
			return nil, corrupt("squashfs", "byte %d of %d of metadata at %d", r.off, len(b.data), r.at)
		}
		take := min(n-len(p), len(b.data)-r.off)
		p = append(p, b.data[r.off:r.off+take]...)
		if r.off += take; r.off == len(b.data) {
			r.at, r.off = b.next, 0
		}
	}
	return p, nil
}

// indexed finds an entry of a table that a list of the places of its blocks leads to.
func (f *squash) indexed(list int64, entry, size uint64) ([]byte, error) {
	perBlock := squashMeta / size
	var at [8]byte
	if err := readDisk(f.d, at[:], list+int64(entry/perBlock*8)); err != nil {
		return nil, err
	}
	return f.metaAt(0, le.Uint64(at[:]), entry%perBlock*size).read(int(size))
}

func (f *squash) readIDs(list int64, count int) ([]uint32, error) {
	ids := make([]uint32, 0, count)
	for i := range count {
		b, err := f.indexed(list, uint64(i), 4)
		if err != nil {
			return nil, err
		}
		ids = append(ids, le.Uint32(b))
	}
	return ids, nil
}

// node reads an inode.
func (f *squash) node(ref uint64) (*mediaNode, error) {
	r := f.metaAt(f.inodeTable, ref>>16, ref&0xFFFF)
	h, err := r.read(16)
	if err != nil {
		return nil, err
	}
	kind := le.Uint16(h)
	n := &mediaNode{number: uint64(le.Uint32(h[12:])), attr: Attr{Mode: le.Uint16(h[2:]) & format.ModePerm, Links: 1}}
	uid, gid := int(le.Uint16(h[4:])), int(le.Uint16(h[6:]))
	if uid >= len(f.ids) || gid >= len(f.ids) {
		return nil, corrupt("squashfs", "owners %d and %d of %d in inode %d", uid, gid, len(f.ids), n.number)
	}
	n.attr.UID, n.attr.GID = f.ids[uid], f.ids[gid]
	t := format.Time{Sec: int64(le.Uint32(h[8:]))}
	n.attr.Mtime, n.attr.Atime, n.attr.Ctime = t, t, t
	sizes := [15]int{0, 16, 16, 8, 8, 8, 4, 4, 24, 40, 8, 12, 12, 8, 8}
	if kind < 1 || int(kind) >= len(sizes) {
		return nil, corrupt("squashfs", "type %d of inode %d", kind, n.number)
	}
	b, err := r.read(sizes[kind])
	if err != nil {
		return nil, err
	}
	xattr := uint32(squashUnused)
	switch kind {
	case 1:
		f.dir(n, uint64(le.Uint32(b)), uint64(le.Uint16(b[10:])), int64(le.Uint16(b[8:])), le.Uint32(b[4:]))
	case 8:
		f.dir(n, uint64(le.Uint32(b[8:])), uint64(le.Uint16(b[18:])), int64(le.Uint32(b[4:])), le.Uint32(b))
		xattr = le.Uint32(b[20:])
	case 2:
		f.file(n, r, squashFile{start: int64(le.Uint32(b)), size: int64(le.Uint32(b[12:])), fragment: le.Uint32(b[4:]), offset: int64(le.Uint32(b[8:]))})
	case 9:
		n.attr.Links = le.Uint32(b[24:])
		f.file(n, r, squashFile{start: int64(le.Uint64(b)), size: int64(le.Uint64(b[8:])), fragment: le.Uint32(b[28:]), offset: int64(le.Uint32(b[32:]))})
		xattr = le.Uint32(b[36:])
	case 3, 10:
		n.attr.Links, n.attr.Mode = le.Uint32(b), n.attr.Mode|format.ModeSymlink
		size := le.Uint32(b[4:])
		if size == 0 || size > tree.PathMax {
			return nil, corrupt("squashfs", "a symbolic link of %d bytes in inode %d", size, n.number)
		}
		target, err := r.read(int(size))
		if err != nil {
			return nil, err
		}
		n.target, n.attr.Size = string(target), int64(size)
		if kind == 10 {
			if b, err = r.read(4); err != nil {
				return nil, err
			}
			xattr = le.Uint32(b)
		}
	case 4, 5, 11, 12:
		dev := le.Uint32(b[4:])
		n.attr.Links, n.attr.Major, n.attr.Minor = le.Uint32(b), dev>>8&0xFFF, dev&0xFF|dev>>12&0xFFF00
		n.attr.Mode |= format.ModeBlock
		if kind == 5 || kind == 12 {
			n.attr.Mode ^= format.ModeBlock ^ format.ModeChar
		}
		if kind > 10 {
			xattr = le.Uint32(b[8:])
		}
	case 6, 7, 13, 14:
		n.attr.Links = le.Uint32(b)
		n.attr.Mode |= format.ModeFIFO
		if kind == 7 || kind == 14 {
			n.attr.Mode ^= format.ModeFIFO ^ format.ModeSocket
		}
		if kind > 10 {
			xattr = le.Uint32(b[4:])
		}
	}
	if xattr != squashUnused && f.xattrTable >= 0 {
		n.xattrs = func() (map[string][]byte, error) { return f.xattrs(xattr) }
	}
	if n.attr.Size < 0 {
		return nil, corrupt("squashfs", "the size of inode %d", n.number)
	}
	return n, nil
}

// dir makes a directory of an inode; size counts three bytes for "." and "..".
func (f *squash) dir(n *mediaNode, block, off uint64, size int64, links uint32) {
	n.attr.Mode |= format.ModeDir
	n.attr.Links, n.attr.Size = links, size
	n.list = func() (map[string]*mediaNode, error) {
		list := make(map[string]*mediaNode)
		if size > squashDirMax {
			return nil, corrupt("squashfs", "directory %d of %d bytes", n.number, size)
		}
		r := f.metaAt(f.dirTable, block, off)
		for left := size - 3; left > 0; {
			h, err := r.read(12)
			if err != nil {
				return nil, err
			}
			count := int64(le.Uint32(h)) + 1
			if left -= 12; count > 256 {
				return nil, corrupt("squashfs", "%d names in one run of directory %d", count, n.number)
			}
			for range count {
				e, err := r.read(8)
				if err != nil {
					return nil, err
				}
				length := int(le.Uint16(e[6:])) + 1
				name, err := r.read(min(length, tree.NameMax+1))
				if err != nil {
					return nil, err
				}
				left -= 8 + int64(length)
				c, err := f.node(uint64(le.Uint32(h[4:]))<<16 | uint64(le.Uint16(e)))
				if err != nil {
					return nil, err
				}
				if err := addEntry(list, "squashfs", string(name), c); err != nil {
					return nil, err
				}
			}
		}
		return list, nil
	}
}

// squashFile is where a regular file lies.
type squashFile struct {
	start, size, offset int64
	fragment            uint32
	blocks              []uint32
	at                  []int64
}

// file makes a regular file of an inode; r stands before the sizes of its blocks.
func (f *squash) file(n *mediaNode, r *metaReader, x squashFile) {
	n.attr.Mode |= format.ModeRegular
	n.attr.Size = x.size
	n.attr.Blocks512 = (x.size + 511) / 512
	blocks := sync.OnceValue(func() error { return f.blocks(&x, r, n.number) })
	n.read = func(p []byte, off int64) error {
		if err := blocks(); err != nil {
			return err
		}
		return f.readFile(&x, p, off)
	}
	n.runs = func() ([]tree.Region, error) {
		if err := blocks(); err != nil {
			return nil, err
		}
		return f.runs(&x), nil
	}
}

// blocks reads the sizes of a file's blocks.
func (f *squash) blocks(x *squashFile, r *metaReader, number uint64) error {
	count := x.size / f.blockSize
	if x.fragment == squashUnused && x.size%f.blockSize != 0 {
		count++
	}
	if count > squashBlocks {
		return corrupt("squashfs", "%d blocks in inode %d, %d can be read", count, number, squashBlocks)
	}
	at := x.start
	for left := int(count); left > 0; {
		n := min(left, squashMeta/4)
		b, err := r.read(4 * n)
		if err != nil {
			return err
		}
		for i := range n {
			size := le.Uint32(b[4*i:])
			if int64(size&0xFFFFFF) > f.blockSize {
				return corrupt("squashfs", "a block of %d bytes in inode %d", size&0xFFFFFF, number)
			}
			x.blocks, x.at = append(x.blocks, size), append(x.at, at)
			at += int64(size & 0xFFFFFF)
		}
		left -= n
	}
	return nil
}

// runs are the parts of a file that are no holes.
func (f *squash) runs(x *squashFile) []tree.Region {
	runs := []tree.Region{}
	add := func(off, end int64) {
		if end = min(end, x.size); off >= end {
			return
		}
		if last := len(runs) - 1; last >= 0 && runs[last].Off+runs[last].Len == off {
			runs[last].Len += end - off
			return
		}
		runs = append(runs, tree.Region{Off: off, Len: end - off})
	}
	for i, size := range x.blocks {
		if size&0xFFFFFF != 0 {
			add(int64(i)*f.blockSize, int64(i+1)*f.blockSize)
		}
	}
	add(int64(len(x.blocks))*f.blockSize, x.size)
	return runs
}

func (f *squash) readFile(x *squashFile, p []byte, off int64) error {
	for len(p) > 0 {
		i, in := off/f.blockSize, off%f.blockSize
		n := min(int64(len(p)), f.blockSize-in)
		want := min(f.blockSize, x.size-i*f.blockSize)
		var data []byte
		switch {
		case i < int64(len(x.blocks)) && x.blocks[i]&0xFFFFFF == 0:
			clear(p[:n])
			p, off = p[n:], off+n
			continue
		case i < int64(len(x.blocks)):
			b, err := f.dataBlock(x.at[i], x.blocks[i])
			if err != nil {
				return err
			}
			data = b
		default:
			e, err := f.fragment(x.fragment)
			if err != nil {
				return err
			}
			b, err := f.dataBlock(int64(le.Uint64(e)), le.Uint32(e[8:]))
			if err != nil {
				return err
			}
			if x.offset > int64(len(b)) {
				return corrupt("squashfs", "a fragment at %d of %d bytes", x.offset, len(b))
			}
			data = b[x.offset:]
		}
		if int64(len(data)) < want {
			return corrupt("squashfs", "a block of %d bytes where %d are wanted", len(data), want)
		}
		copy(p[:n], data[in:])
		p, off = p[n:], off+n
	}
	return nil
}

func (f *squash) fragment(i uint32) ([]byte, error) {
	if i >= f.fragments {
		return nil, corrupt("squashfs", "fragment %d of %d", i, f.fragments)
	}
	return f.indexed(f.fragTable, uint64(i), 16)
}

// dataBlock reads a block of data; bit 24 of its size says that it is not packed.
func (f *squash) dataBlock(at int64, size uint32) ([]byte, error) {
	b, err := f.block.get(at, func() (cached, error) {
		n := int64(size & 0xFFFFFF)
		if n == 0 || n > f.blockSize {
			return cached{}, corrupt("squashfs", "a block of %d bytes at %d", n, at)
		}
		data := make([]byte, n)
		if err := readDisk(f.d, data, at); err != nil {
			return cached{}, err
		}
		if size&(1<<24) == 0 {
			var err error
			if data, err = f.unpack(data, int(f.blockSize)); err != nil {
				return cached{}, corrupt("squashfs", "the block at %d: %v", at, err)
			}
		}
		return cached{data: data}, nil
	})
	return b.data, err
}
