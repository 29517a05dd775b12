package mkfs

import (
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
)

// writeGroups writes the bitmaps and makes the group descriptors. A bitmap that a kernel can make
// up itself stays unwritten (the group is UNINIT), where a checksum feature allows it.
func (b *Builder) writeGroups(t *tally) error {
	g, size := b.g, b.o.blockSize
	free := slices.Concat(b.s.free, b.s.freed)
	slices.SortFunc(free, func(x, y run) int {
		if x.start < y.start {
			return -1
		}
		return 1
	})
	t.descriptors = make([]byte, g.descBlocks*uint64(size))
	absent := t.absent
	for group := range g.groups {
		d := format.GroupDesc{
			BlockBitmap: b.l.blockBitmap[group], InodeBitmap: b.l.inodeBitmap[group], InodeTable: b.l.table[group],
			UsedDirs: t.dirs[group],
		}
		if b.o.f.lazy() && !b.o.lazyTables {
			d.Flags = format.GroupItableZero
		}
		here := run{g.groupStart(group), g.groupEnd(group)}
		for len(free) > 0 && free[0].end <= here.start {
			free = free[1:]
		}
		mine := free
		for i, r := range free {
			if r.start >= here.end {
				mine = free[:i]
				break
			}
			d.FreeBlocks += uint32(min(r.end, here.end) - max(r.start, here.start))
		}
		t.freeBlocks += uint64(d.FreeBlocks)
		used := here.len() - uint64(d.FreeBlocks)
		if b.o.f.lazy() && group != g.groups-1 && used == b.l.meta[group] && used == b.l.own[group] {
			d.Flags |= format.GroupBlockUninit
		} else if err := b.blockBitmap(&d, here, mine); err != nil {
			return err
		}

		first := uint32(uint64(group) * uint64(g.inodesPerGroup)) // the number of the group's first inode, less one
		inUse := min(max(t.last, first)-first, g.inodesPerGroup)
		gone := absent
		for i, ino := range absent {
			if ino > first+inUse {
				gone = absent[:i]
				break
			}
		}
		absent = absent[len(gone):]
		for len(gone) > 0 && gone[len(gone)-1] == first+inUse {
			gone = gone[:len(gone)-1]
			inUse--
		}
		d.FreeInodes = g.inodesPerGroup - inUse + uint32(len(gone))
		t.freeInodes += uint64(d.FreeInodes)
		if b.o.f.lazy() {
			d.ItableUnused = g.inodesPerGroup - inUse
		}
		if b.o.f.lazy() && inUse == 0 {
			d.Flags |= format.GroupInodeUninit
		} else if err := b.inodeBitmap(&d, first, inUse, gone); err != nil {
			return err
		}

		raw := t.descriptors[int(group)*g.descSize:][:g.descSize]
		if err := d.Encode(raw); err != nil {
			return err
		}
		switch {
		case b.o.f.checksums():
			d.Checksum = format.GroupDescChecksum(b.checksumSeed, group, raw)
		case b.o.f.lazy():
			d.Checksum = format.GroupDescCRC16(b.o.uuid, group, raw)
		}
		if err := d.Encode(raw); err != nil {
			return err
		}
	}
	return nil
}

// blockBitmap writes the bitmap of the group that spans here; free are the runs in it, which may
// reach beyond it.
func (b *Builder) blockBitmap(d *format.GroupDesc, here run, free []run) error {
	bitmap, err := b.block(d.BlockBitmap)
	if err != nil {
		return err
	}
	fillBits(bitmap)
	for _, r := range free {
		clearBits(bitmap, max(r.start, here.start)-here.start, min(r.end, here.end)-here.start)
	}
	if b.o.f.checksums() {
		d.BlockBitmapCsum = format.BitmapChecksum(b.checksumSeed, bitmap[:b.g.perGroup/8])
	}
	return nil
}

// inodeBitmap writes the bitmap of the group whose first inode is first+1: inUse inodes but those
// that are gone.
func (b *Builder) inodeBitmap(d *format.GroupDesc, first, inUse uint32, gone []uint32) error {
	bitmap, err := b.block(d.InodeBitmap)
	if err != nil {
		return err
	}
	fillBits(bitmap)
	clearBits(bitmap, uint64(inUse), uint64(b.g.inodesPerGroup))
	for _, ino := range gone {
		at := uint64(ino - first - 1)
		clearBits(bitmap, at, at+1)
	}
	if b.o.f.checksums() {
		d.InodeBitmapCsum = format.BitmapChecksum(b.checksumSeed, bitmap[:b.g.inodesPerGroup/8])
	}
	return nil
}

func fillBits(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 { // a bitmap is a block
		le.PutUint64(b[i:], ^uint64(0))
	}
}

// clearBits clears the bits [from, to).
func clearBits(b []byte, from, to uint64) {
	for ; from < to && from%8 != 0; from++ {
		b[from/8] &^= 1 << (from % 8)
	}
	for ; to > from && to%8 != 0; to-- {
		b[(to-1)/8] &^= 1 << ((to - 1) % 8)
	}
	if from < to {
		clear(b[from/8 : to/8])
	}
}

// writeSuper writes the group descriptors and superblocks, those of group 0 last.
func (b *Builder) writeSuper(t *tally) error {
	g := b.g
	super := b.superblock(t)
	for _, group := range append(g.backups(), 0) {
		start := g.groupStart(group)
		for i := uint64(0); !g.f.metaBG() && i < g.descBlocks; i++ {
			if err := b.descriptors(t, i, start+1+i); err != nil {
				return err
			}
		}
		if group == 0 {
			break
		}
		block, err := b.block(start)
		if err != nil {
			return err
		}
		super.BlockGroupNr = uint16(group)
		if err := super.Encode(block); err != nil {
			return err
		}
	}
	for group := uint32(0); g.f.metaBG() && group < g.groups; group++ {
		if !g.hasDesc(group) {
			continue
		}
		if err := b.descriptors(t, uint64(group)/uint64(g.blockSize/g.descSize), g.groupStart(group)+g.headBlocks(group)-1); err != nil {
			return err
		}
	}
	if err := b.out.flush(); err != nil {
		return err
	}
	block, err := b.block(g.firstBlock)
	if err != nil {
		return err
	}
	super.BlockGroupNr = 0
	at := 0
	if g.firstBlock == 0 {
		at = format.SuperblockOffset
	}
	if err := super.Encode(block[at:]); err != nil {
		return err
	}
	return b.out.flush()
}

// descriptors writes block i of the group descriptors to block nr.
func (b *Builder) descriptors(t *tally, i, nr uint64) error {
	block, err := b.block(nr)
	if err != nil {
		return err
	}
	copy(block, t.descriptors[i*uint64(b.g.blockSize):])
	return nil
}

// superblock fills in the superblock.
func (b *Builder) superblock(t *tally) *format.Superblock {
	g, o := b.g, b.o
	now, nowHi := uint32(o.now.Sec), uint8(o.now.Sec>>32)
	f := g.f
	if t.large || b.resizeLarge {
		f.ro |= format.RoLargeFile
	}
	s := &format.Superblock{
		InodesCount: uint32(g.inodes()), FreeInodesCount: uint32(t.freeInodes),
		FirstDataBlock: uint32(g.firstBlock),
		LogBlockSize:   uint32(o.blockBits - 10), LogClusterSize: uint32(o.blockBits - 10),
		BlocksPerGroup: uint32(g.perGroup), ClustersPerGroup: uint32(g.perGroup),
		InodesPerGroup: g.inodesPerGroup,
		MaxMntCount:    0xFFFF,
		Magic:          format.SuperMagic,
		State:          format.StateValid,
		Errors:         o.errors,
		RevLevel:       format.RevDynamic,
		FirstIno:       firstIno,
		InodeSize:      uint16(o.inodeSize),
		FeatureCompat:  f.compat, FeatureIncompat: f.incompat, FeatureRoCompat: f.ro,
		UUID:              o.uuid,
		ReservedGDTBlocks: uint16(g.reservedGDT),
		HashSeed:          b.hashSeed(),
		DefHashVersion:    format.HashHalfMD4,
		DefaultMountOpts:  o.mountOpts,
		Flags:             format.FlagSignedHash,
		Wtime:             now, WtimeHi: nowHi,
		MkfsTime: now, MkfsTimeHi: nowHi,
		LastCheck: now, LastCheckHi: nowHi,
		OverheadClusters: uint32(g.blocks - g.free() + g.journal),
		KBytesWritten:    uint64(b.written)>>10 + b.dataBytes()>>10,
	}
	s.SetBlocksCount(g.blocks)
	s.SetFreeBlocksCount(t.freeBlocks)
	s.SetRBlocksCount(g.reserved)
	s.RaidStride, s.RaidStripeWidth = uint16(o.stride), uint32(o.stripeWidth)
	copy(s.VolumeName[:], o.label)
	copy(s.LastMounted[:], o.lastMounted)
	if f.wide() {
		s.DescSize = uint16(g.descSize)
	}
	if f.compat&format.CompatSparseSuper2 != 0 {
		for i, group := range g.backups() { // two at most
			s.BackupBgs[i] = group
		}
	}
	if f.flexBG() {
		s.LogGroupsPerFlex = flexBits
	}
	if o.inodeSize > format.InodeBaseSize {
		s.MinExtraIsize, s.WantExtraIsize = format.InodeExtraSize, format.InodeExtraSize
	}
	if f.checksums() {
		s.ChecksumType = format.ChecksumCRC32C
		if f.incompat&format.IncompatCsumSeed != 0 {
			s.ChecksumSeed = b.checksumSeed
		}
	}
	for _, own := range b.own {
		switch {
		case own.quota == nil:
			s.OrphanFileInum = own.ino
		case own.quota.kind == 0:
			s.UsrQuotaInum = own.ino
		case own.quota.kind == 1:
			s.GrpQuotaInum = own.ino
		default:
			s.PrjQuotaInum = own.ino
		}
	}
	if g.journal > 0 {
		s.JournalInum = format.JournalIno
		s.JnlBackupType = 1
		for i := range 15 {
			s.JnlBlocks[i] = le.Uint32(b.journalInode.Block[4*i:])
		}
		s.JnlBlocks[15] = uint32(b.journalInode.Size >> 32)
		s.JnlBlocks[16] = uint32(b.journalInode.Size)
	}
	return s
}

// dataBytes is how much data of files was placed.
func (b *Builder) dataBytes() uint64 {
	n := uint64(0)
	for i := range b.count {
		if node := b.node(i); node.placed {
			for _, e := range node.ext {
				n += uint64(e.Length)
			}
		}
	}
	return n
}
