package ext4

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

func (n *Inode) badDir(block uint64, field string, v any) error {
	return n.fs.corrupt(&CorruptError{fmt.Sprintf("directory %d block %d", n.ino, block), field, v})
}

// dirBlocks is the number of blocks of a directory.
func (n *Inode) dirBlocks() uint64 { return n.d.Size >> n.fs.bsBits }

// dirBuffer reads a block of the directory as the kind it must be, and checks it when
// it is seen so for the first time. mu is held.
func (n *Inode) dirBuffer(block uint64, kind bufKind) (*buffer, error) {
	if block >= n.dirBlocks() {
		return nil, n.badDir(block, "beyond the directory's end", n.d.Size)
	}
	m, err := n.mapBlock(block)
	if err != nil {
		return nil, err
	}
	if m.state != Written {
		return nil, n.badDir(block, "is a", m.state)
	}
	b, err := n.fs.cache.get(m.disk)
	if err != nil {
		return nil, err
	}
	fresh, ok := b.claim(kind, n.ino)
	if !ok {
		return nil, n.badDir(block, "is also something else, block", m.disk)
	}
	if !fresh {
		return b, nil
	}
	switch kind {
	case kindDirLeaf:
		if n.fs.csum && !format.DirChecksumOK(n.iseed, b.data) {
			return nil, n.badDir(block, "checksum", "mismatch")
		}
		err = n.checkLeaf(block, b.data)
	case kindDxRoot:
		err = n.checkDxRoot(b.data)
	case kindDxNode:
		err = n.checkDxNode(block, b.data)
	}
	if err != nil {
		return nil, err
	}
	if !b.settle(kind, n.ino) {
		return nil, n.badDir(block, "is also something else, block", m.disk)
	}
	return b, nil
}

// dirent is an entry in a block, decoded in place.
type dirent struct {
	ino  uint32
	off  int
	rec  int
	name []byte
	typ  uint8
}

// direntAt decodes the entry at off of a checked block.
func direntAt(data []byte, off int) dirent {
	e := data[off:]
	rec := int(format.DecodeRecLen(le.Uint16(e[4:])))
	return dirent{le.Uint32(e), off, rec, e[8 : 8+int(e[6])], e[7]}
}

// checkEntry checks the entry at off: it ends where another starts or the block ends,
// and its name fits.
func (n *Inode) checkEntry(block uint64, data []byte, off int) error {
	if off+format.DirEntryHeader > len(data) {
		return n.badDir(block, "entry at offset", off)
	}
	e := data[off:]
	rec, nameLen, ino := int(format.DecodeRecLen(le.Uint16(e[4:]))), int(e[6]), le.Uint32(e)
	switch {
	case rec%4 != 0 || rec < format.DirEntryLen(1) || rec > len(e) ||
		len(e)-rec != 0 && len(e)-rec < format.DirEntryLen(1):
		return n.badDir(block, "record length", fmt.Sprintf("%d at offset %d", rec, off))
	case rec < format.DirEntryLen(nameLen):
		return n.badDir(block, "name length", fmt.Sprintf("%d at offset %d", nameLen, off))
	case ino > n.fs.inodes.Load():
		return n.badDir(block, "inode number", fmt.Sprintf("%d at offset %d", ino, off))
	case !n.fs.hasFtype && e[7] != 0 && ino != 0:
		return n.badDir(block, "name length", fmt.Sprintf("%d at offset %d", nameLen+int(e[7])<<8, off))
	case ino == 0:
		return nil
	case nameLen == 0 || bytes.IndexByte(e[8:8+nameLen], 0) >= 0 || bytes.IndexByte(e[8:8+nameLen], '/') >= 0:
		return n.badDir(block, "name", fmt.Sprintf("%q at offset %d", e[8:8+nameLen], off))
	}
	return nil
}

// checkLeaf checks all entries of a block.
func (n *Inode) checkLeaf(block uint64, data []byte) error {
	for off := 0; off < len(data); {
		if err := n.checkEntry(block, data, off); err != nil {
			return err
		}
		off += int(format.DecodeRecLen(le.Uint16(data[off+4:])))
	}
	return nil
}

// leafEnd is where the entries of a leaf end.
func (n *Inode) leafEnd(data []byte) int {
	if n.fs.csum {
		return len(data) - format.DirTailSize
	}
	return len(data)
}

// place is where an entry lies.
type place struct {
	b     *buffer
	block uint64
	prev  int // offset of the entry before it in the block, or -1
	dirent
}

// searchLeaf finds a name in a checked block.
func searchLeaf(data []byte, name string) (at dirent, prev int, ok bool) {
	prev = -1
	for off := 0; off < len(data); {
		e := data[off:]
		rec := int(format.DecodeRecLen(le.Uint16(e[4:])))
		if int(e[6]) == len(name) && string(e[8:8+len(name)]) == name && le.Uint32(e) != 0 {
			return direntAt(data, off), prev, true
		}
		prev = off
		off += rec
	}
	return at, -1, false
}

// find looks a name up; ok is false when it is not there. mu is held.
func (n *Inode) find(name string) (p place, ok bool, err error) {
	if !n.isDir() {
		return p, false, fmt.Errorf("ext4: inode %d: %w", n.ino, unix.ENOTDIR)
	}
	if len(name) > format.MaxName {
		return p, false, fmt.Errorf("ext4: name of %d bytes: %w", len(name), unix.ENAMETOOLONG)
	}
	if n.inline() {
		return n.findInline(name)
	}
	if n.indexed() && name != "." && name != ".." {
		return n.dxFind(name)
	}
	blocks := n.dirBlocks()
	if n.indexed() {
		blocks = min(blocks, 1)
	}
	for i := range blocks {
		kind := kindDirLeaf
		if i == 0 && n.indexed() {
			kind = kindDxRoot
		}
		b, err := n.dirBuffer(i, kind)
		if err != nil {
			return p, false, err
		}
		if e, prev, ok := searchLeaf(b.data, name); ok {
			return place{b, i, prev, e}, true, nil
		}
	}
	return p, false, nil
}

// indexed says whether the directory has an htree.
func (n *Inode) indexed() bool { return n.d.Flags&format.FlagIndex != 0 && n.fs.dirIndex }

// Lookup finds a name in a directory and takes a reference to its inode.
func (n *Inode) Lookup(name string) (*Inode, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fs.closed.Load() {
		return nil, errClosed
	}
	p, ok, err := n.find(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &absentError{name}
	}
	return n.child(p.ino)
}

// child takes a reference to the inode of an entry.
func (n *Inode) child(ino uint32) (*Inode, error) {
	if ino > n.fs.inodes.Load() || n.fs.own(ino) {
		return nil, n.bad("entry for inode", ino)
	}
	c, err := n.fs.iget(ino)
	if err != nil && unixIs(err, unix.ESTALE) {
		return nil, n.bad("entry for unused inode", ino)
	}
	if err == nil && c.isValue() {
		c.unref()
		return nil, n.bad("entry for an attribute's value, inode", ino)
	}
	return c, err
}

// Cookies: 1 and 2 follow "." and "..". Where a directory is read in the order of its
// hashes the rest is 31 bits of hash and 32 of minor hash, else the offset of the next
// entry.
const (
	cookieDot    = 1
	cookieDotDot = 2
	cookieFirst  = 3
	cookieEnd    = math.MaxInt64
)

// ReadDir visits the entries after cookie (0: all), "." and ".." included, until visit
// returns false. An entry that stays in the directory throughout is visited exactly
// once, also over several calls and with changes between them. No lock is held while
// visit runs.
func (n *Inode) ReadDir(cookie uint64, visit func(DirEntry) bool) error {
	if n.typ != format.ModeDir {
		return fmt.Errorf("ext4: readdir of inode %d: %w", n.ino, unix.ENOTDIR)
	}
	if n.fs.closed.Load() {
		return errClosed
	}
	var batch []DirEntry
	for cookie < cookieEnd {
		var err error
		var next uint64
		n.mu.RLock()
		switch {
		case n.inline():
			batch, next, err = n.readInline(cookie, batch[:0])
		case n.indexed() || n.fs.dirIndex && n.dirBlocks() == 1:
			batch, next, err = n.readHashed(cookie, batch[:0])
		default:
			batch, next, err = n.readLinear(cookie, batch[:0])
		}
		n.mu.RUnlock()
		if err != nil {
			return err
		}
		for _, e := range batch {
			if !visit(e) {
				return nil
			}
		}
		cookie = next
	}
	return nil
}

func (n *Inode) entryOf(e dirent, cookie uint64) DirEntry {
	return DirEntry{string(e.name), e.ino, format.ModeOfType(e.typ), cookie}
}

// readLinear collects the entries from offset cookie on to the end of their block.
func (n *Inode) readLinear(cookie uint64, batch []DirEntry) ([]DirEntry, uint64, error) {
	block := cookie >> n.fs.bsBits
	if cookie >= n.d.Size {
		return batch, cookieEnd, nil
	}
	m, err := n.mapBlock(block)
	if err != nil {
		return batch, 0, err
	}
	next := (block + 1) << n.fs.bsBits
	if m.state == Hole { // the kernel skips holes of linear directories, too
		return batch, min((block+m.count)<<n.fs.bsBits, cookieEnd), nil
	}
	b, err := n.dirBuffer(block, kindDirLeaf)
	if err != nil {
		return batch, 0, err
	}
	start := block << n.fs.bsBits
	for off := 0; off < len(b.data); {
		e := direntAt(b.data, off)
		off += e.rec
		if e.ino != 0 && start+uint64(e.off) >= cookie {
			batch = append(batch, n.entryOf(e, start+uint64(off)))
		}
	}
	if next >= n.d.Size {
		next = cookieEnd
	}
	return batch, next, nil
}

// hashed is an entry with its hashes.
type hashed struct {
	hash, minor uint32
	dirent
}

// readHashed collects the next entries in the order of their hashes.
func (n *Inode) readHashed(cookie uint64, batch []DirEntry) ([]DirEntry, uint64, error) {
	version := n.fs.hashVersion(n.fs.sb.DefHashVersion)
	var leaves []*buffer
	next := uint64(cookieEnd)
	if !n.indexed() {
		b, err := n.dirBuffer(0, kindDirLeaf)
		if err != nil {
			return batch, 0, err
		}
		leaves = append(leaves, b)
		for _, name := range []string{".", ".."} {
			c := uint64(len(name))
			if e, _, ok := searchLeaf(b.data, name); ok && cookie < c {
				batch = append(batch, n.entryOf(e, c))
			}
		}
	} else {
		root, err := n.dirBuffer(0, kindDxRoot)
		if err != nil {
			return batch, 0, err
		}
		version = n.fs.hashVersion(root.data[format.DxRootInfoOffset+4])
		dot := direntAt(root.data, 0)
		for _, e := range []dirent{dot, direntAt(root.data, dot.rec)} {
			if c := uint64(len(e.name)); cookie < c {
				batch = append(batch, n.entryOf(e, c))
			}
		}
		var hash uint32
		if leaves, hash, err = n.dxRange(uint32(cookie >> 32 << 1)); err != nil {
			return batch, 0, err
		}
		if hash != 0 {
			next = max(uint64(hash)>>1<<32, cookieFirst)
		}
	}
	var all []hashed
	for _, b := range leaves {
		for off := 0; off < len(b.data); {
			e := direntAt(b.data, off)
			off += e.rec
			if e.ino == 0 || string(e.name) == "." || string(e.name) == ".." {
				continue
			}
			h, err := n.hashEntry(e, version)
			if err != nil {
				return batch, 0, err
			}
			all = append(all, h)
		}
	}
	return n.inOrder(all, cookie, batch), max(next, cookie), nil
}

// hashEntry hashes an entry's name.
func (n *Inode) hashEntry(e dirent, version uint8) (hashed, error) {
	hash, minor, ok := format.HashName(e.name, version, n.fs.hashSeed)
	if !ok {
		return hashed{}, n.bad("hash version", version)
	}
	if version == format.HashLegacy || version == format.HashLegacyUnsigned {
		minor = format.CRC32C(0, e.name) // that hash has no minor one
	}
	return hashed{hash, minor, e}, nil
}

// inOrder appends to batch, in the order of their hashes, the entries after cookie.
func (n *Inode) inOrder(all []hashed, cookie uint64, batch []DirEntry) []DirEntry {
	slices.SortFunc(all, func(a, b hashed) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.minor, b.minor), bytes.Compare(a.name, b.name))
	})
	for _, e := range all {
		c := max(uint64(e.hash>>1)<<32|uint64(e.minor), cookieFirst)
		if c > cookie {
			batch = append(batch, n.entryOf(e.dirent, c))
		}
	}
	return batch
}

// hashVersion gives the version that a stored one means on this filesystem.
func (fs *FS) hashVersion(v uint8) uint8 {
	if v <= format.HashTEA {
		v += fs.hashBase
	}
	return v
}
