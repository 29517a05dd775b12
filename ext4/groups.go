package ext4

import (
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
)

// setMetaBG takes from the superblock which group descriptors lie in their own groups.
func (fs *FS) setMetaBG(sb *format.Superblock) {
	if sb.FeatureIncompat&format.IncompatMetaBG == 0 {
		fs.metaBG.Store(1<<64 - 1)
		return
	}
	fs.metaBG.Store(uint64(sb.FirstMetaBg))
}

// descBlock is where block i of the group descriptors lies.
func (fs *FS) descBlock(i uint64) uint64 {
	if i < fs.metaBG.Load() {
		return uint64(format.SuperblockOffset>>fs.bsBits) + 1 + i
	}
	g := i * uint64(fs.bs/fs.descSize)
	nr := fs.firstData + g*fs.bpg
	if fs.sb.GroupHasSuper(uint32(g)) {
		nr++
	}
	if fs.bs == 1024 && fs.firstData == 0 && g == 0 {
		nr++ // bigalloc with 1 KiB blocks: the boot block shares the cluster
	}
	return nr
}

// replays says whether opening replays a log, whose blocks can be on their way home: then
// the group descriptors are read again after it.
func (fs *FS) replays() bool {
	if fs.sb.FeatureCompat&format.CompatHasJournal == 0 {
		return fs.opt.Log.Len > 0 && !fs.opt.ReadOnly
	}
	return fs.sb.FeatureIncompat&format.IncompatRecover != 0
}

// loadGroups reads the group descriptors and remembers where metadata lies. Before a
// replay (not strict) it takes them as they are, but for the one that leads to the log.
func (fs *FS) loadGroups(strict bool) error {
	count := fs.sb.GroupCount()
	per := uint64(fs.bs / fs.descSize)
	descBlocks := (count + per - 1) / per
	tableBlocks := fs.tableBlocks()
	if descBlocks > fs.blocks.Load() {
		return badSuper("number of groups", count)
	}
	all, list := make([]group, count), make([]*group, count)
	for g := range all {
		list[g] = &all[g]
	}
	fs.groups.Store(&list)
	var free, freeIno, dirs int64
	flex := fs.sb.FeatureIncompat&format.IncompatFlexBG != 0
	var raw []byte
	buf := make([]byte, fs.bs)
	for g := range count {
		if g%per == 0 {
			nr := fs.descBlock(g / per)
			if nr >= fs.blocks.Load() {
				return badSuper("first meta_bg", fs.sb.FirstMetaBg)
			}
			if o := fs.cache.overlay[nr]; o != nil {
				copy(buf, o)
			} else if _, err := fs.dev.ReadAt(buf, int64(nr)<<fs.bsBits); err != nil {
				return fmt.Errorf("ext4: read group descriptors: %w", ioError(err))
			}
			raw = buf
		}
		d := raw[:fs.descSize]
		raw = raw[fs.descSize:]
		gr := list[g]
		if err := gr.desc.Decode(d); err != nil {
			return err
		}
		what := func() string { return fmt.Sprintf("group descriptor %d", g) }
		if !strict {
			if d := &gr.desc; g == 0 && (d.InodeTable < fs.firstData || tableBlocks > fs.blocks.Load() || d.InodeTable > fs.blocks.Load()-tableBlocks) {
				return &CorruptError{what(), "inode table", d.InodeTable}
			}
			continue
		}
		if fs.groupCsum {
			if c := fs.descSum(uint32(g), d); c != gr.desc.Checksum {
				return &CorruptError{what(), "checksum", fmt.Sprintf("%#x, computed %#x", gr.desc.Checksum, c)}
			}
		} else {
			gr.desc.Flags = 0
			gr.desc.ItableUnused = 0
		}
		first, last := fs.firstData, fs.blocks.Load()
		if !flex {
			first = fs.firstData + g*fs.bpg
			last = min(fs.blocks.Load(), first+fs.bpg)
		}
		inside := func(start, n uint64) bool { return start >= first && n <= last && start <= last-n }
		if !inside(gr.desc.BlockBitmap, 1) {
			return &CorruptError{what(), "block bitmap", gr.desc.BlockBitmap}
		}
		if !inside(gr.desc.InodeBitmap, 1) {
			return &CorruptError{what(), "inode bitmap", gr.desc.InodeBitmap}
		}
		if !inside(gr.desc.InodeTable, tableBlocks) {
			return &CorruptError{what(), "inode table", gr.desc.InodeTable}
		}
		if uint64(gr.desc.ItableUnused) > fs.ipg {
			return &CorruptError{what(), "unused inodes", gr.desc.ItableUnused}
		}
		if uint64(gr.desc.FreeBlocks) > fs.groupBlocks(uint32(g)) || uint64(gr.desc.FreeInodes) > fs.ipg {
			return &CorruptError{what(), "free blocks or inodes", fmt.Sprintf("%d, %d", gr.desc.FreeBlocks, gr.desc.FreeInodes)}
		}
		free += int64(gr.desc.FreeBlocks)
		freeIno += int64(gr.desc.FreeInodes)
		dirs += int64(gr.desc.UsedDirs)
	}
	if !strict {
		fs.zone.Store(new([]run))
		return nil
	}
	fs.freeBlocks.Store(free)
	fs.freeInodes.Store(freeIno)
	fs.dirs.Store(dirs)
	return fs.makeZone()
}

// descSum is the checksum of an encoded group descriptor.
func (fs *FS) descSum(g uint32, d []byte) uint16 {
	if fs.csum {
		return format.GroupDescChecksum(fs.seed, g, d)
	}
	return format.GroupDescCRC16(fs.sb.UUID, g, d)
}

// groupBlocks is the number of blocks of group g: the last can be short.
func (fs *FS) groupBlocks(g uint32) uint64 {
	return min(fs.bpg, fs.blocks.Load()-fs.groupStart(g))
}

func (fs *FS) groupStart(g uint32) uint64 { return fs.firstData + uint64(g)*fs.bpg }

// group is a block group that there is.
func (fs *FS) group(g uint32) *group { return (*fs.groups.Load())[g] }

func (fs *FS) groupCount() uint32 { return uint32(len(*fs.groups.Load())) }

// tableBlocks is the length of an inode table.
func (fs *FS) tableBlocks() uint64 {
	return (fs.ipg*uint64(fs.inodeSize) + uint64(fs.bs) - 1) >> fs.bsBits
}

// headBlocks is the number of blocks at the start of a group, under a superblock, that
// hold a copy of that, group descriptors, and blocks reserved for more of them.
func (fs *FS) headBlocks(sb *format.Superblock, g uint32) uint64 {
	per := uint64(fs.bs / fs.descSize)
	old := (sb.GroupCount() + per - 1) / per // blocks of descriptors before those of meta_bg
	metaBG := sb.FeatureIncompat&format.IncompatMetaBG != 0
	if metaBG {
		old = min(old, uint64(sb.FirstMetaBg))
	}
	meta := metaBG && uint64(g)/per >= uint64(sb.FirstMetaBg)
	n := uint64(0)
	if sb.GroupHasSuper(g) {
		if n = 1; !meta {
			n += old + uint64(sb.ReservedGDTBlocks)
		}
		if fs.bs == 1024 && fs.firstData == 0 && g == 0 {
			n++
		}
	}
	if i := uint64(g) % per; meta && (i == 0 || i == 1 || i == per-1) {
		n++
	}
	return n
}

// makeZone collects the blocks of superblocks, descriptors, bitmaps and inode tables.
// Two structures in one block are damage: writing one would destroy the other.
func (fs *FS) makeZone() error {
	var zone []run
	add := func(r run) {
		if r.count == 0 {
			return
		}
		if n := len(zone); n > 0 && zone[n-1].end() == r.start {
			zone[n-1].count += r.count
			return
		}
		zone = append(zone, r)
	}
	if fs.firstData == 1 {
		add(run{0, 1})
	}
	groups := *fs.groups.Load()
	for g := range uint32(len(groups)) {
		add(run{fs.groupStart(g), min(fs.headBlocks(&fs.sb, g), fs.groupBlocks(g))})
	}
	for _, gr := range groups {
		add(run{gr.desc.BlockBitmap, 1})
	}
	for _, gr := range groups {
		add(run{gr.desc.InodeBitmap, 1})
	}
	for _, gr := range groups {
		add(run{gr.desc.InodeTable, fs.tableBlocks()})
	}
	slices.SortFunc(zone, func(a, b run) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	out := zone[:0]
	for _, r := range zone {
		if n := len(out); n > 0 {
			if r.start < out[n-1].end() {
				return &CorruptError{"group descriptors", "two structures in block", r.start}
			}
			if r.start == out[n-1].end() {
				out[n-1].count += r.count
				continue
			}
		}
		out = append(out, r)
	}
	out = slices.Clip(out)
	fs.zone.Store(&out)
	return nil
}

// mayHold says whether count blocks from start on can belong to a file: inside the
// filesystem and clear of its own structures.
func (fs *FS) mayHold(start, count uint64) bool {
	blocks := fs.blocks.Load()
	if start < fs.firstData || start >= blocks || count > blocks-start {
		return false
	}
	zone := *fs.zone.Load()
	i, _ := slices.BinarySearchFunc(zone, start, func(r run, s uint64) int {
		if r.end() <= s {
			return -1
		}
		return 1
	})
	return i == len(zone) || zone[i].start >= start+count
}
