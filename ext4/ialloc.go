package ext4

import (
	"fmt"
	"math/bits"
	"math/rand/v2"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// inodeBitmap gives the inode bitmap of a group, made when it was never written. mu of
// the group is held.
func (fs *FS) inodeBitmap(g uint32) (*buffer, error) {
	gr := fs.group(g)
	if gr.desc.Flags&format.GroupInodeUninit != 0 {
		b := fs.cache.peek(gr.desc.InodeBitmap)
		if b == nil || b.seen.Load() != uint64(kindBitmap)<<32 {
			b = fs.cache.fresh(gr.desc.InodeBitmap)
			setBits(b.data, uint32(fs.ipg), uint32(len(b.data))*8)
			b.seen.Store(uint64(kindBitmap) << 32)
		}
		return b, nil
	}
	b, err := fs.cache.get(gr.desc.InodeBitmap)
	if err != nil || gr.icheck {
		return b, err
	}
	if fs.csum && fs.trimSum(format.BitmapChecksum(fs.seed, b.data[:(fs.ipg+7)/8])) != gr.desc.InodeBitmapCsum {
		gr.bad = true
		return nil, fs.badGroup(g, "inode bitmap checksum", fmt.Sprintf("%#x", gr.desc.InodeBitmapCsum))
	}
	used := uint32(0)
	for i := uint32(0); i < uint32(fs.ipg); i++ {
		used += uint32(b.data[i/8] >> (i % 8) & 1)
	}
	if uint32(fs.ipg)-used != gr.desc.FreeInodes {
		gr.bad = true
		return nil, fs.badGroup(g, "free inodes", fmt.Sprintf("%d, %d by the bitmap", gr.desc.FreeInodes, uint32(fs.ipg)-used))
	}
	gr.icheck = true
	return b, nil
}

// dirGroup chooses a group for a directory. Those of the root spread over the disk, so
// that what is below each can stay near it; others stay with their parent while it has
// room.
func (fs *FS) dirGroup(parent *Inode) uint32 {
	n := fs.groupCount()
	pg := (parent.ino - 1) / uint32(fs.ipg)
	if n == 1 {
		return 0
	}
	avgInodes := uint32(max(fs.freeInodes.Load(), 0) / int64(n))
	avgBlocks := uint32(max(fs.freeBlocks.Load(), 0) / int64(n))
	if parent.ino == format.RootIno || parent.d.Flags&format.FlagTopDir != 0 {
		best, found := pg, false
		fewest := ^uint32(0)
		for i := range n {
			g := (pg + i) % n
			gr := fs.group(g)
			gr.mu.Lock()
			ok := !gr.bad && gr.desc.FreeInodes > 0 && gr.desc.FreeInodes >= avgInodes && gr.desc.FreeBlocks >= avgBlocks
			dirs := gr.desc.UsedDirs
			gr.mu.Unlock()
			if ok && dirs < fewest {
				best, fewest, found = g, dirs, true
				if dirs == 0 {
					break
				}
			}
		}
		if found {
			return best
		}
	}
	for i := range n {
		g := (pg + i) % n
		gr := fs.group(g)
		gr.mu.Lock()
		ok := !gr.bad && gr.desc.FreeInodes > 0 && gr.desc.FreeInodes >= avgInodes/4 && gr.desc.FreeBlocks >= avgBlocks/4
		gr.mu.Unlock()
		if ok {
			return g
		}
	}
	return pg
}

// allocInode takes an inode near its parent.
func (h *handle) allocInode(parent *Inode, dir bool) (uint32, error) {
	fs := h.fs
	n := fs.groupCount()
	start := (parent.ino - 1) / uint32(fs.ipg)
	if dir {
		start = fs.dirGroup(parent)
	}
	// The parent's group, then further and further away, then every one.
	for step := uint32(1); step < n; step <<= 1 {
		if ino, err := h.allocInodeIn(start, dir, true); ino != 0 || err != nil {
			return ino, err
		}
		start = (start + step) % n
	}
	for i := range n {
		if ino, err := h.allocInodeIn((start+i)%n, dir, false); ino != 0 || err != nil {
			return ino, err
		}
	}
	return 0, fmt.Errorf("ext4: no free inode: %w", unix.ENOSPC)
}

// allocInodeIn takes the first free inode of a group; 0 when there is none, or, with
// roomy, when the group has no block left for it.
func (h *handle) allocInodeIn(g uint32, dir, roomy bool) (uint32, error) {
	fs, gr := h.fs, h.fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.bad || gr.desc.FreeInodes == 0 || roomy && gr.desc.FreeBlocks == 0 || gr.cut && gr.limit == 0 {
		return 0, nil
	}
	b, err := fs.inodeBitmap(g)
	if err != nil {
		if unixIs(err, unix.EUCLEAN) && !fs.readOnly.Load() {
			return 0, nil
		}
		return 0, err
	}
	first := gr.inoNext
	if g == 0 {
		first = max(first, fs.firstIno-1)
	}
	bit := firstZero(b.data, first, uint32(fs.ipg))
	if bit == uint32(fs.ipg) {
		return 0, nil
	}
	if err := h.change(g); err != nil {
		return 0, err
	}
	if err := h.openTable(g, bit); err != nil {
		return 0, err
	}
	if gr.desc.Flags&format.GroupBlockUninit != 0 {
		bb, err := fs.blockBitmap(g)
		if err != nil {
			return 0, err
		}
		h.dirty(bb, kindBitmap, 0)
		gr.desc.Flags &^= format.GroupBlockUninit
	}
	h.dirty(b, kindBitmap, 0)
	b.data[bit/8] |= 1 << (bit % 8)
	gr.inoNext = bit + 1
	gr.icheck = true
	gr.desc.Flags &^= format.GroupInodeUninit
	gr.desc.FreeInodes--
	fs.freeInodes.Add(-1)
	if dir {
		gr.desc.UsedDirs++
		fs.dirs.Add(1)
	}
	return g*uint32(fs.ipg) + bit + 1, nil
}

// openTable makes the inode table of a group usable up to bit. The part that was never
// used can hold anything: a block of it that comes into use starts as zeros.
func (h *handle) openTable(g, bit uint32) error {
	fs, gr := h.fs, h.fs.group(g)
	if !fs.groupCsum {
		return nil
	}
	used := uint32(fs.ipg) - gr.desc.ItableUnused
	if gr.desc.Flags&format.GroupInodeUninit != 0 {
		used = 0
	}
	if bit < used {
		return nil
	}
	per := uint32(fs.bs / fs.inodeSize)
	for block := (used + per - 1) / per; block <= bit/per; block++ {
		b := fs.cache.fresh(gr.desc.InodeTable + uint64(block))
		h.dirty(b, kindInodes, 0)
	}
	gr.desc.ItableUnused = uint32(fs.ipg) - bit - 1
	return nil
}

// firstZero gives the first clear bit in [from, to), or to.
func firstZero(b []byte, from, to uint32) uint32 {
	for i := from; i < to; {
		if i%64 == 0 && i+64 <= uint32(len(b))*8 {
			w := ^le.Uint64(b[i/8:])
			if w == 0 {
				i += 64
				continue
			}
			return min(i+uint32(bits.TrailingZeros64(w)), to)
		}
		if b[i/8]>>(i%8)&1 == 0 {
			return i
		}
		i++
	}
	return to
}

// freeInode gives an inode's number back.
func (h *handle) freeInode(n *Inode) error {
	fs := h.fs
	g, bit := (n.ino-1)/uint32(fs.ipg), (n.ino-1)%uint32(fs.ipg)
	gr := fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	b, err := fs.inodeBitmap(g)
	if err != nil {
		return err
	}
	if b.data[bit/8]>>(bit%8)&1 == 0 || n.ino < fs.firstIno {
		return fs.badGroup(g, "freeing a free inode", n.ino)
	}
	if err := h.change(g); err != nil {
		return err
	}
	h.dirty(b, kindBitmap, 0)
	b.data[bit/8] &^= 1 << (bit % 8)
	gr.inoNext = min(gr.inoNext, bit)
	gr.desc.FreeInodes++
	fs.freeInodes.Add(1)
	if n.isDir() && gr.desc.UsedDirs > 0 {
		gr.desc.UsedDirs--
		fs.dirs.Add(-1)
	}
	return nil
}

// Flags that a new inode takes from its directory, by what it is.
const (
	inheritDir = format.FlagSecureRm | format.FlagUnrm | format.FlagCompr | format.FlagSync |
		format.FlagNoDump | format.FlagNoAtime | format.FlagJournalData | format.FlagNoTail |
		format.FlagDirSync | format.FlagProjInherit | format.FlagDAX
	inheritFile  = inheritDir &^ (format.FlagDirSync | format.FlagProjInherit)
	inheritOther = format.FlagNoDump | format.FlagNoAtime
)

// newInode allocates an inode and fills it in, with a reference and the link count
// given. Its number can come from an inode that was freed before, in memory still:
// then that one waits for nothing any more.
func (h *handle) newInode(parent *Inode, m NewInode, links uint16) (*Inode, error) {
	fs := h.fs
	parent.amu.Lock()
	inherit, project := parent.d.Flags, uint32(0)
	if inherit&format.FlagProjInherit != 0 && fs.projects {
		project = parent.d.ProjID
	}
	parent.amu.Unlock()
	if !m.value {
		if err := h.know(owner{m.UID, m.GID, project}); err != nil {
			return nil, err
		}
	}
	ino, err := h.allocInode(parent, m.Mode&format.ModeType == format.ModeDir)
	if err != nil {
		return nil, err
	}
	now := fs.now()
	n := &Inode{fs: fs, ino: ino, refs: 1, typ: m.Mode & format.ModeType, value: m.value, body: make([]byte, fs.inodeSize)}
	d := &n.d
	*d = format.Inode{
		Mode: m.Mode, UID: m.UID, GID: m.GID, Links: links,
		Atime: now, Mtime: now, Ctime: now, Crtime: now, Generation: rand.Uint32(),
	}
	if fs.inodeSize > format.InodeBaseSize {
		fs.sbMu.Lock()
		want := max(fs.sb.WantExtraIsize, fs.sb.MinExtraIsize, format.InodeExtraSize)
		fs.sbMu.Unlock()
		d.ExtraIsize = min(want, uint16(fs.inodeSize-format.InodeBaseSize)) &^ 3
	}
	d.ProjID = project
	switch n.typ {
	case format.ModeDir:
		inherit &= inheritDir
	case format.ModeRegular:
		inherit &= inheritFile
	default:
		inherit &= inheritOther
	}
	if m.value {
		inherit, d.ProjID = format.FlagEAInode, 0
	}
	d.Flags = inherit
	n.iseed = format.InodeSeed(fs.seed, ino, d.Generation)
	switch n.typ {
	case format.ModeRegular, format.ModeDir:
		n.initMap()
	case format.ModeChar, format.ModeBlock:
		format.EncodeDevice(&d.Block, m.Major, m.Minor)
	}
	c := &fs.icache
	c.mu.Lock()
	c.m[ino] = n
	c.mu.Unlock()
	if err := n.touch(h, true); err != nil {
		return n, err
	}
	n.amu.Lock()
	defer n.amu.Unlock()
	return n, n.charge(h, 0, 1)
}

// initMap gives the inode an empty map of blocks.
func (n *Inode) initMap() {
	clear(n.d.Block[:])
	if n.fs.incompat&format.IncompatExtents == 0 {
		return
	}
	n.d.Flags |= format.FlagExtents
	h := format.ExtentHeader{Magic: format.ExtentMagic, Max: format.ExtentRootMax}
	_ = h.Encode(n.d.Block[:])
}
