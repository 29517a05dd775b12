package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// putEntry writes an entry with its name at off.
func (fs *FS) putEntry(data []byte, off, rec int, ino uint32, name string, typ uint8) {
	if !fs.hasFtype {
		typ = 0
	}
	e := format.DirEntry{Inode: ino, RecLen: uint32(rec), NameLen: uint8(len(name)), Type: typ}
	_ = e.Encode(data[off:]) // checked blocks have room for a head
	copy(data[off+format.DirEntryHeader:], name)
}

// dirtyDir puts a directory block on the transaction.
func (n *Inode) dirtyDir(h *handle, b *buffer, kind bufKind) error {
	h.dirty(b, kind, n.iseed)
	return n.touch(h, true)
}

// appendDirBlock gives the directory a further block, of zeros.
func (n *Inode) appendDirBlock(h *handle, kind bufKind) (*buffer, uint64, error) {
	block := n.dirBlocks()
	if block >= 1<<28 {
		return nil, 0, fmt.Errorf("ext4: directory %d is full: %w", n.ino, unix.ENOSPC)
	}
	if max := n.fs.maxDir.Load(); max > 0 && int64(n.d.Size) >= max {
		return nil, 0, fmt.Errorf("ext4: directory %d has %d bytes already: %w", n.ino, n.d.Size, unix.ENOSPC)
	}
	goal, err := n.goal(block)
	if err != nil {
		return nil, 0, err
	}
	r, err := n.fs.setAside(goal, 1)
	if err != nil {
		return nil, 0, err
	}
	if err := n.insert(h, block, r, false); err != nil {
		return nil, 0, err
	}
	b := n.fs.cache.fresh(r.start)
	b.seen.Store(uint64(kind)<<32 | uint64(n.ino))
	err = n.update(h, true, func(d *format.Inode) { d.Size += uint64(n.fs.bs) })
	if err != nil {
		return nil, 0, err
	}
	return b, block, n.dirtyDir(h, b, kind)
}

// initLeaf makes a block one unused entry.
func (n *Inode) initLeaf(data []byte) {
	end := n.leafEnd(data)
	n.fs.putEntry(data, 0, end, 0, "", 0)
	if n.fs.csum {
		format.InitDirTail(data)
	}
}

// insertInLeaf puts an entry where a leaf has room for it.
func (n *Inode) insertInLeaf(data []byte, ino uint32, name string, typ uint8) bool {
	need := format.DirEntryLen(len(name))
	for off, end := 0, n.leafEnd(data); off < end; {
		e := direntAt(data, off)
		used := 0
		if e.ino != 0 {
			used = format.DirEntryLen(len(e.name))
		}
		if e.rec-used >= need {
			if used > 0 {
				le.PutUint16(data[off+4:], format.EncodeRecLen(uint32(used)))
			}
			n.fs.putEntry(data, off+used, e.rec-used, ino, name, typ)
			return true
		}
		off += e.rec
	}
	return false
}

// addEntry puts a name into the directory; the caller knows that it is not there. mu
// is held for writing.
func (n *Inode) addEntry(h *handle, name string, ino uint32, typ uint8) error {
	now := n.fs.now()
	if err := n.update(h, true, func(d *format.Inode) {
		d.Mtime, d.Ctime = now, now
		d.Version++
	}); err != nil {
		return err
	}
	if n.indexed() {
		return n.dxAdd(h, name, ino, typ)
	}
	blocks := n.dirBlocks()
	for i := range blocks {
		b, err := n.dirBuffer(i, kindDirLeaf)
		if err != nil {
			return err
		}
		if n.insertInLeaf(b.data, ino, name, typ) {
			return n.dirtyDir(h, b, kindDirLeaf)
		}
	}
	if blocks == 1 && n.fs.dirIndex && n.fs.hashVersion(n.fs.sb.DefHashVersion) <= format.HashTEAUnsigned {
		if err := n.makeIndex(h); err != nil {
			return err
		}
		return n.dxAdd(h, name, ino, typ)
	}
	b, _, err := n.appendDirBlock(h, kindDirLeaf)
	if err != nil {
		return err
	}
	n.initLeaf(b.data)
	n.insertInLeaf(b.data, ino, name, typ)
	return nil
}

// current is an entry's place in the cache as it is within a handle: what was found
// before the handle began can have been evicted, and a change to it would be lost to
// those who read the block again.
func (n *Inode) current(p place) (place, error) {
	if p.b == nil || n.fs.cache.peek(p.b.nr) == p.b {
		return p, nil
	}
	q, ok, err := n.find(string(p.name))
	if err == nil && !ok {
		err = n.badDir(p.block, "lost entry", fmt.Sprintf("%q", p.name))
	}
	return q, err
}

// removeEntry takes an entry out of its block.
func (n *Inode) removeEntry(h *handle, p place) error {
	p, err := n.current(p)
	if err != nil {
		return err
	}
	kind := kindDirLeaf
	if p.block == 0 && n.indexed() {
		kind = kindDxRoot
	}
	if p.prev >= 0 {
		prev := direntAt(p.b.data, p.prev)
		le.PutUint16(p.b.data[p.prev+4:], format.EncodeRecLen(uint32(prev.rec+p.rec)))
		clear(p.b.data[p.off : p.off+format.DirEntryLen(len(p.name))])
	} else {
		le.PutUint32(p.b.data[p.off:], 0)
	}
	now := n.fs.now()
	if err := n.update(h, true, func(d *format.Inode) {
		d.Mtime, d.Ctime = now, now
		d.Version++
	}); err != nil {
		return err
	}
	return n.dirtyDir(h, p.b, kind)
}

// setEntry makes an entry mean another inode.
func (n *Inode) setEntry(h *handle, p place, ino uint32, typ uint8) error {
	p, err := n.current(p)
	if err != nil {
		return err
	}
	kind := kindDirLeaf
	if p.block == 0 && n.indexed() {
		kind = kindDxRoot
	}
	le.PutUint32(p.b.data[p.off:], ino)
	if n.fs.hasFtype {
		p.b.data[p.off+7] = typ
	}
	now := n.fs.now()
	if err := n.update(h, true, func(d *format.Inode) {
		d.Mtime, d.Ctime = now, now
		d.Version++
	}); err != nil {
		return err
	}
	return n.dirtyDir(h, p.b, kind)
}

// makeIndex turns a directory of one block into an htree with one leaf.
func (n *Inode) makeIndex(h *handle) error {
	root, err := n.dirBuffer(0, kindDirLeaf)
	if err != nil {
		return err
	}
	dot := direntAt(root.data, 0)
	if string(dot.name) != "." || dot.rec >= n.leafEnd(root.data) {
		return n.badDir(0, "first entry", fmt.Sprintf("%q", dot.name))
	}
	dotdot := direntAt(root.data, dot.rec)
	if string(dotdot.name) != ".." {
		return n.badDir(0, "second entry", fmt.Sprintf("%q", dotdot.name))
	}
	parent, typ := dotdot.ino, dotdot.typ
	leaf, block, err := n.appendDirBlock(h, kindDirLeaf)
	if err != nil {
		return err
	}
	var rest []dirent
	for off, end := dot.rec+dotdot.rec, n.leafEnd(root.data); off < end; {
		e := direntAt(root.data, off)
		off += e.rec
		if e.ino != 0 {
			rest = append(rest, e)
		}
	}
	n.pack(leaf.data, rest)

	clear(root.data)
	n.fs.putEntry(root.data, 0, 12, n.ino, ".", format.TypeDir)
	n.fs.putEntry(root.data, 12, n.fs.bs-12, parent, "..", typ)
	info := format.DxRootInfo{HashVersion: n.fs.sb.DefHashVersion, InfoLength: format.DxRootInfoSize}
	if info.HashVersion > format.HashTEA {
		info.HashVersion -= n.fs.hashBase // the stored version does not tell the sign
	}
	_ = info.Encode(root.data[format.DxRootInfoOffset:])
	c := format.DxCount{Limit: uint16(format.DxLimit(n.fs.bs, format.DxRootEntries, n.fs.csum)), Count: 1}
	format.DxEntry{Block: uint32(block)}.Encode(root.data[format.DxRootEntries:])
	c.Encode(root.data[format.DxRootEntries:])
	root.seen.Store(uint64(kindDxRoot)<<32 | uint64(n.ino))
	if err := n.dirtyDir(h, root, kindDxRoot); err != nil {
		return err
	}
	return n.update(h, true, func(d *format.Inode) { d.Flags |= format.FlagIndex })
}

// pack fills a leaf with entries, which may lie in the leaf itself.
func (n *Inode) pack(data []byte, list []dirent) {
	old := make([]byte, 0, len(data))
	type part struct {
		dirent
		from int
	}
	parts := make([]part, len(list))
	for i, e := range list {
		parts[i] = part{e, len(old)}
		old = append(old, e.name...)
	}
	clear(data)
	n.initLeaf(data)
	off, end := 0, n.leafEnd(data)
	for i, p := range parts {
		rec := format.DirEntryLen(len(p.name))
		if i == len(parts)-1 {
			rec = end - off
		}
		n.fs.putEntry(data, off, rec, p.ino, string(old[p.from:p.from+len(p.name)]), p.typ)
		off += rec
	}
}

// dxAdd puts a name into an htree, splitting leaves and index blocks as it must.
func (n *Inode) dxAdd(h *handle, name string, ino uint32, typ uint8) error {
	hash, err := n.dxHash(name)
	if err != nil {
		return err
	}
	for range 64 { // a split halves a leaf, so this ends long before
		frames, err := n.dxProbe(hash)
		if err != nil {
			return err
		}
		leaf, _, err := n.dxLeaf(frames)
		if err != nil {
			return err
		}
		if n.insertInLeaf(leaf.data, ino, name, typ) {
			return n.dirtyDir(h, leaf, kindDirLeaf)
		}
		if last := &frames[len(frames)-1]; last.count() < last.limit() {
			err = n.splitLeaf(h, last, leaf)
		} else {
			err = n.splitIndex(h, frames)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("ext4: directory %d: too many names of one hash: %w", n.ino, unix.ENOSPC)
}

// insertAfter puts an index entry behind the one the frame took.
func (f *dxFrame) insertAfter(hash uint32, block uint64) {
	n := f.count()
	from := f.entries + (f.at+1)*format.DxEntrySize
	end := f.entries + n*format.DxEntrySize
	copy(f.b.data[from+format.DxEntrySize:end+format.DxEntrySize], f.b.data[from:end])
	format.DxEntry{Hash: hash, Block: uint32(block)}.Encode(f.b.data[from:])
	le.PutUint16(f.b.data[f.entries+2:], uint16(n+1))
}

func (f *dxFrame) kind() bufKind {
	if f.entries == format.DxRootEntries {
		return kindDxRoot
	}
	return kindDxNode
}

// splitLeaf moves the upper half of a leaf, by hash, to a new one.
func (n *Inode) splitLeaf(h *handle, f *dxFrame, leaf *buffer) error {
	root, err := n.dirBuffer(0, kindDxRoot)
	if err != nil {
		return err
	}
	version := n.fs.hashVersion(root.data[format.DxRootInfoOffset+4])
	var all []hashed
	for off, end := 0, n.leafEnd(leaf.data); off < end; {
		e := direntAt(leaf.data, off)
		off += e.rec
		if e.ino == 0 {
			continue
		}
		x, err := n.hashEntry(e, version)
		if err != nil {
			return err
		}
		all = append(all, x)
	}
	if len(all) < 2 {
		return n.badDir(f.block, "htree leaf is full with entries", len(all))
	}
	slices.SortStableFunc(all, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
	size, split := 0, len(all)
	for split > 1 { // until half of the block is in the upper part
		size += format.DirEntryLen(len(all[split-1].name))
		split--
		if size > n.fs.bs/2 {
			break
		}
	}
	hash := all[split].hash
	if all[split-1].hash == hash {
		hash |= 1 // names of one hash on both sides
	}
	right, block, err := n.appendDirBlock(h, kindDirLeaf)
	if err != nil {
		return err
	}
	take := func(list []hashed) []dirent {
		out := make([]dirent, len(list))
		for i, x := range list {
			out[i] = x.dirent
		}
		return out
	}
	n.pack(right.data, take(all[split:]))
	n.pack(leaf.data, take(all[:split]))
	f.insertAfter(hash, block)
	if err := n.dirtyDir(h, leaf, kindDirLeaf); err != nil {
		return err
	}
	return n.dirtyDir(h, f.b, f.kind())
}

// splitIndex makes room in the index blocks of frames, the last of which is full: one
// step of splitting or growing, after which the way to the leaf is another.
func (n *Inode) splitIndex(h *handle, frames []dxFrame) error {
	level := len(frames) - 1
	for level >= 0 && frames[level].count() >= frames[level].limit() {
		level--
	}
	if level < 0 {
		return n.growIndex(h, &frames[0], len(frames))
	}
	parent, full := &frames[level], &frames[level+1]
	b, block, err := n.appendDirBlock(h, kindDxNode)
	if err != nil {
		return err
	}
	n.initDxNode(b.data)
	count := full.count()
	half := count / 2
	hash := full.entry(half).Hash
	from := full.entries + half*format.DxEntrySize
	end := full.entries + count*format.DxEntrySize
	copy(b.data[format.DxNodeEntries:], full.b.data[from:end])
	c := format.DxCount{Limit: uint16(format.DxLimit(n.fs.bs, format.DxNodeEntries, n.fs.csum)), Count: uint16(count - half)}
	c.Encode(b.data[format.DxNodeEntries:])
	clear(full.b.data[from:end])
	le.PutUint16(full.b.data[full.entries+2:], uint16(half))
	parent.insertAfter(hash, block)
	if err := n.dirtyDir(h, full.b, full.kind()); err != nil {
		return err
	}
	return n.dirtyDir(h, parent.b, parent.kind())
}

// initDxNode makes a block an index block, as one unused entry to those who know no
// htree.
func (n *Inode) initDxNode(data []byte) {
	n.fs.putEntry(data, 0, len(data), 0, "", 0)
}

// growIndex moves the root's entries to a new index block below it.
func (n *Inode) growIndex(h *handle, root *dxFrame, levels int) error {
	if levels > n.fs.maxLevels() {
		return fmt.Errorf("ext4: index of directory %d is full: %w", n.ino, unix.ENOSPC)
	}
	b, block, err := n.appendDirBlock(h, kindDxNode)
	if err != nil {
		return err
	}
	n.initDxNode(b.data)
	count := root.count()
	from, end := root.entries, root.entries+count*format.DxEntrySize
	copy(b.data[format.DxNodeEntries:], root.b.data[from:end])
	c := format.DxCount{Limit: uint16(format.DxLimit(n.fs.bs, format.DxNodeEntries, n.fs.csum)), Count: uint16(count)}
	c.Encode(b.data[format.DxNodeEntries:])
	limit := root.limit()
	clear(root.b.data[from:end])
	format.DxEntry{Block: uint32(block)}.Encode(root.b.data[from:])
	format.DxCount{Limit: uint16(limit), Count: 1}.Encode(root.b.data[from:])
	root.b.data[format.DxRootInfoOffset+6]++
	return n.dirtyDir(h, root.b, kindDxRoot)
}

// initDir makes a new directory's first block.
func (n *Inode) initDir(h *handle, parent uint32) error {
	b, _, err := n.appendDirBlock(h, kindDirLeaf)
	if err != nil {
		return err
	}
	n.initLeaf(b.data)
	n.fs.putEntry(b.data, 0, 12, n.ino, ".", format.TypeDir)
	n.fs.putEntry(b.data, 12, n.leafEnd(b.data)-12, parent, "..", format.TypeDir)
	return nil
}

// isEmpty says whether a directory holds nothing but its dots. mu is held.
func (n *Inode) isEmpty() (bool, error) {
	if n.inline() {
		_, all, err := n.inlineEntries()
		return len(all) == 0, err
	}
	for i := uint64(0); i < n.dirBlocks(); i++ {
		m, err := n.mapBlock(i)
		if err != nil {
			return false, err
		}
		if m.state != Written {
			i += m.count - 1
			continue
		}
		b, err := n.fs.cache.get(m.disk)
		if err != nil {
			return false, err
		}
		// Index blocks look like one unused entry: no matter which kind it is.
		switch b.seen.Load() {
		case uint64(kindDirLeaf)<<32 | uint64(n.ino), uint64(kindDxRoot)<<32 | uint64(n.ino), uint64(kindDxNode)<<32 | uint64(n.ino):
		case 0:
			if err := n.checkLeaf(i, b.data); err != nil {
				return false, err
			}
		default:
			return false, n.badDir(i, "is also something else, block", m.disk)
		}
		for off := 0; off < len(b.data); {
			e := direntAt(b.data, off)
			off += e.rec
			if e.ino != 0 && string(e.name) != "." && string(e.name) != ".." {
				return false, nil
			}
		}
	}
	return true, nil
}
