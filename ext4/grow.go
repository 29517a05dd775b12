package ext4

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Zeroer is a Device that makes a range zeros by other means than writing them.
type Zeroer interface {
	Zero(off, n int64) error
}

// groupSpare is the number of blocks that a last group must have beside its own tables
// to be worth it, as resize2fs and mke2fs see it.
const groupSpare = 50

// Grow makes the filesystem one of the given number of blocks, or as many fewer as a
// last group too small for its tables has. It may be in use. Growth goes in steps of
// whole groups, each a transaction of its own whose superblock names the new blocks:
// a crash leaves a filesystem of a size between, with everything in it.
//
// EINVAL when it is larger already, EBUSY while another Grow runs, ENOSPC when the
// Device is too small.
func (fs *FS) Grow(blocks uint64) error {
	if !fs.resizeMu.TryLock() {
		return fmt.Errorf("ext4: a resize is under way: %w", unix.EBUSY)
	}
	defer fs.resizeMu.Unlock()
	if fs.closed.Load() || fs.readOnly.Load() {
		return fs.refuse()
	}
	have := fs.blocks.Load()
	if disk := uint64(fs.dev.Size()) >> fs.bsBits; blocks > disk {
		return fmt.Errorf("ext4: grow to %d blocks: %w: the disk has %d", blocks, unix.ENOSPC, disk)
	}
	if blocks < have {
		return fmt.Errorf("ext4: grow to %d blocks: %w: it has %d", blocks, unix.EINVAL, have)
	}
	fs.sbMu.Lock()
	sb := fs.sb
	fs.sbMu.Unlock()
	if sb.State&format.StateError != 0 {
		return fmt.Errorf("ext4: grow: %w: errors were found, e2fsck must run first", unix.EPERM)
	}
	if most := fs.mostBlocks(); blocks > most {
		return fmt.Errorf("ext4: grow to %d blocks: %w: at most %d with these features and inodes per group", blocks, unix.EFBIG, most)
	}
	if blocks = fs.fit(&sb, blocks); blocks <= have {
		return nil
	}
	if err := fs.checkResizeInode(&sb); err != nil {
		return err
	}
	share := float64(sb.RBlocksCount()) / float64(have)
	for fs.blocks.Load() < blocks {
		if err := fs.growStep(blocks, share); err != nil {
			return err
		}
	}
	return fs.writeBackups()
}

// mostBlocks is the largest filesystem that the width of block and inode numbers allows.
func (fs *FS) mostBlocks() uint64 {
	groups := min(uint64(1<<32-1)/fs.ipg, maxGroups)
	most := fs.firstData + groups*fs.bpg
	if fs.incompat&format.Incompat64Bit == 0 || fs.incompat&format.IncompatExtents == 0 {
		most = min(most, 1<<32-1)
	}
	return min(most, 1<<48-1)
}

// fit is the largest number of blocks up to n that makes a filesystem: every group has
// room for its own tables.
func (fs *FS) fit(sb *format.Superblock, n uint64) uint64 {
	next := *sb
	for {
		next.SetBlocksCount(n)
		groups := next.GroupCount()
		if groups <= 1 {
			return n
		}
		last := n - fs.groupStart(uint32(groups-1))
		if last == fs.bpg || last >= fs.headBlocks(&next, uint32(groups-1))+2+fs.tableBlocks()+groupSpare {
			return n
		}
		n -= last
	}
}

// descBlocks is the number of blocks of group descriptors.
func (fs *FS) descBlocks(groups uint64) uint64 {
	per := uint64(fs.bs / fs.descSize)
	return (groups + per - 1) / per
}

// stepDescs is how many blocks of group descriptors one step of a growth fills at most.
const stepDescs = 4

// growStep makes one transaction of a growth to target; share of the blocks are reserved.
func (fs *FS) growStep(target uint64, share float64) error {
	fs.sbMu.Lock()
	next := fs.sb
	fs.sbMu.Unlock()
	per := uint64(fs.bs / fs.descSize)
	groups := uint64(fs.groupCount())
	descs := fs.descBlocks(groups)
	metaBG := next.FeatureIncompat&format.IncompatMetaBG != 0
	resizeInode := next.FeatureCompat&format.CompatResizeInode != 0

	next.SetBlocksCount(target)
	end := min(next.GroupCount(), (groups/per+stepDescs)*per)
	if !metaBG {
		room := descs
		if resizeInode {
			room += uint64(next.ReservedGDTBlocks)
		}
		if end > room*per {
			end = room * per
			if end == groups && fs.blocks.Load() == fs.groupStart(uint32(groups)-1)+fs.bpg {
				return fs.useMetaBG()
			}
		}
	}
	next.SetBlocksCount(min(target, fs.firstData+end*fs.bpg))
	next.InodesCount = uint32(end * fs.ipg)
	if more := fs.descBlocks(end) - descs; more > 0 && !metaBG {
		next.ReservedGDTBlocks -= uint16(more)
	}
	next.SetRBlocksCount(uint64(share * float64(next.BlocksCount())))

	p, err := fs.planGroups(&next, uint32(groups), uint32(end), next.BlocksCount() == target)
	if err != nil {
		return err
	}
	if err := fs.writePlan(p); err != nil {
		return err
	}
	cost := int(fs.descBlocks(end)-descs) + 8
	if resizeInode {
		cost += int(next.ReservedGDTBlocks)
	}
	if err := fs.fitsJournal(cost); err != nil {
		return err
	}
	fs.txn.gate.Lock()
	err = fs.enter(p, &next, descs)
	fs.txn.gate.Unlock()
	if err != nil {
		return fs.fail(err)
	}
	return fs.commitNow()
}

// fitsJournal refuses a transaction that the log cannot hold whole.
func (fs *FS) fitsJournal(blocks int) error {
	t := &fs.txn
	t.mu.Lock()
	have := len(t.bufs)
	t.mu.Unlock()
	if fs.jnl == nil || uint32(fs.jnl.cost(have+blocks, 0)) <= fs.jnl.capacity() {
		return nil
	}
	if have > 0 {
		if err := fs.commitNow(); err != nil {
			return err
		}
		if uint32(fs.jnl.cost(blocks+64, 0)) <= fs.jnl.capacity() {
			return nil
		}
	}
	return fmt.Errorf("ext4: resize: %w: the journal has %d blocks, a step takes %d", unix.EFBIG, fs.jnl.capacity(), blocks)
}

// groupPlan is new groups: their descriptors and where their tables lie.
type groupPlan struct {
	from uint32
	desc []format.GroupDesc
	used []run // sorted: heads and tables of all of them
}

// planGroups lays out the groups [from, to) of the filesystem that sb describes. With
// flex_bg the tables of a flex group's new members lie together in the first of them;
// where that does not go every group holds its own.
func (fs *FS) planGroups(sb *format.Superblock, from, to uint32, isLast bool) (*groupPlan, error) {
	p := &groupPlan{from: from, desc: make([]format.GroupDesc, to-from)}
	flex := uint32(1)
	if sb.FeatureIncompat&format.IncompatFlexBG != 0 && sb.LogGroupsPerFlex < 16 {
		flex = 1 << sb.LogGroupsPerFlex
	}
	groupEnd := func(g uint32) uint64 { return min(fs.groupStart(g)+fs.bpg, sb.BlocksCount()) }
	for first := from; first < to; {
		last := min(first/flex*flex+flex, to)
		var heads []run
		for g := first; g < last; g++ {
			if n := fs.headBlocks(sb, g); n > 0 {
				heads = append(heads, run{fs.groupStart(g), n})
			}
		}
		if !p.place(fs, heads, first, last, groupEnd(last-1)) {
			for g := first; g < last; g++ {
				if !p.place(fs, heads, g, g+1, groupEnd(g)) {
					return nil, fmt.Errorf("ext4: group %d has no room for its tables: %w", g, unix.ENOSPC)
				}
			}
		}
		p.used = append(p.used, heads...)
		for g := first; g < last; g++ {
			d := &p.desc[g-from]
			p.used = append(p.used, run{d.BlockBitmap, 1}, run{d.InodeBitmap, 1}, run{d.InodeTable, fs.tableBlocks()})
		}
		first = last
	}
	p.used = joinRuns(p.used)
	at := 0
	for g := from; g < to; g++ {
		d := &p.desc[g-from]
		start, end := fs.groupStart(g), groupEnd(g)
		meta := uint64(0)
		for ; at < len(p.used) && p.used[at].start < end; at++ {
			meta += min(p.used[at].end(), end) - max(p.used[at].start, start)
			if p.used[at].end() > end {
				break
			}
		}
		own := fs.headBlocks(sb, g)
		for _, r := range []run{{d.BlockBitmap, 1}, {d.InodeBitmap, 1}, {d.InodeTable, fs.tableBlocks()}} {
			if lo, hi := max(r.start, start), min(r.end(), end); lo < hi {
				own += hi - lo
			}
		}
		d.FreeBlocks, d.FreeInodes = uint32(end-start-meta), uint32(fs.ipg)
		if !fs.groupCsum {
			continue
		}
		d.Flags, d.ItableUnused = format.GroupInodeUninit, uint32(fs.ipg)
		if meta == own && !(isLast && g == to-1) {
			d.Flags |= format.GroupBlockUninit // a kernel can make the bitmap up
		}
	}
	return p, nil
}

// place puts the tables of groups [first, last) one after the other from the start of the
// first on, around heads, and says whether they end before end.
func (p *groupPlan) place(fs *FS, heads []run, first, last uint32, end uint64) bool {
	at := fs.groupStart(first)
	next := func(n uint64) uint64 {
		for _, h := range heads {
			if at < h.end() && at+n > h.start {
				at = h.end()
			}
		}
		at += n
		return at - n
	}
	desc := p.desc[first-p.from : last-p.from]
	for i := range desc {
		desc[i].BlockBitmap = next(1)
	}
	for i := range desc {
		desc[i].InodeBitmap = next(1)
	}
	for i := range desc {
		desc[i].InodeTable = next(fs.tableBlocks())
	}
	return at <= end
}

// joinRuns sorts runs and joins those that touch.
func joinRuns(list []run) []run {
	slices.SortFunc(list, func(a, b run) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && out[n-1].end() == r.start {
			out[n-1].count += r.count
			continue
		}
		out = append(out, r)
	}
	return out
}

// writePlan writes the tables of groups that the superblock does not name yet: no crash
// can show them.
func (fs *FS) writePlan(p *groupPlan) error {
	zeroer, fast := fs.dev.(Zeroer)
	var tables []run
	bitmap := make([]byte, fs.bs)
	write := func(nr uint64) error {
		if _, err := fs.dev.WriteAt(bitmap, int64(nr)<<fs.bsBits); err != nil {
			return fmt.Errorf("ext4: write bitmap %d: %w", nr, ioError(err))
		}
		return nil
	}
	for i := range p.desc {
		d, g := &p.desc[i], p.from+uint32(i)
		if d.Flags&format.GroupBlockUninit == 0 {
			clear(bitmap)
			start := fs.groupStart(g)
			at, _ := slices.BinarySearchFunc(p.used, start, func(r run, s uint64) int {
				if r.end() <= s {
					return -1
				}
				return 1
			})
			used := uint32(0)
			for ; at < len(p.used) && p.used[at].start < start+fs.bpg; at++ {
				lo, hi := max(p.used[at].start, start)-start, min(p.used[at].end(), start+fs.bpg)-start
				setBits(bitmap, uint32(lo), uint32(hi))
				used += uint32(hi - lo)
			}
			setBits(bitmap, used+d.FreeBlocks, uint32(fs.bs)*8)
			if fs.csum {
				d.BlockBitmapCsum = fs.trimSum(format.BitmapChecksum(fs.seed, bitmap[:fs.bpg/8]))
			}
			if err := write(d.BlockBitmap); err != nil {
				return err
			}
		}
		if d.Flags&format.GroupInodeUninit == 0 {
			clear(bitmap)
			setBits(bitmap, uint32(fs.ipg), uint32(fs.bs)*8)
			if err := write(d.InodeBitmap); err != nil {
				return err
			}
		}
		if fs.groupCsum && !fast {
			continue // a kernel zeroes the table in its own time
		}
		if fs.groupCsum {
			d.Flags |= format.GroupItableZero
		}
		tables = append(tables, run{d.InodeTable, fs.tableBlocks()})
	}
	for _, r := range joinRuns(tables) {
		if fast {
			if err := zeroer.Zero(int64(r.start)<<fs.bsBits, int64(r.count)<<fs.bsBits); err != nil {
				return fmt.Errorf("ext4: zero inode tables: %w", ioError(err))
			}
		} else if err := fs.writeZeros(r); err != nil {
			return err
		}
	}
	return fs.devSync()
}

// writeZeros writes zeros over a run.
func (fs *FS) writeZeros(r run) error {
	zeros := make([]byte, min(r.count<<fs.bsBits, 1<<20))
	for off, end := int64(r.start)<<fs.bsBits, int64(r.end())<<fs.bsBits; off < end; {
		n := min(int64(len(zeros)), end-off)
		if _, err := fs.dev.WriteAt(zeros[:n], off); err != nil {
			return fmt.Errorf("ext4: write zeros: %w", ioError(err))
		}
		off += n
	}
	return nil
}

// enter makes planned groups part of the filesystem, which becomes the one that next
// describes; it had descs blocks of descriptors. gate is held alone.
func (fs *FS) enter(p *groupPlan, next *format.Superblock, descs uint64) error {
	h := &handle{fs: fs}
	fs.txn.mu.Lock()
	fs.txn.grows = true
	fs.txn.mu.Unlock()
	if err := fs.extendLast(h, p.from-1, next.BlocksCount()); err != nil {
		return err
	}
	groups := slices.Clone(*fs.groups.Load())
	free := int64(0)
	for i := range p.desc {
		groups = append(groups, &group{desc: p.desc[i]})
		free += int64(p.desc[i].FreeBlocks)
	}
	fs.groups.Store(&groups)
	zone := joinRuns(slices.Concat(*fs.zone.Load(), p.used))
	fs.zone.Store(&zone)
	fs.freeBlocks.Add(free)
	fs.freeInodes.Add(int64(len(p.desc)) * int64(fs.ipg))
	fs.sbMu.Lock()
	fs.sb.SetBlocksCount(next.BlocksCount())
	fs.sb.SetRBlocksCount(next.RBlocksCount())
	fs.sb.InodesCount, fs.sb.ReservedGDTBlocks = next.InodesCount, next.ReservedGDTBlocks
	fs.sbMu.Unlock()
	fs.blocks.Store(next.BlocksCount())
	fs.inodes.Store(next.InodesCount)

	for i := descs; i < fs.descBlocks(uint64(len(groups))); i++ {
		h.dirty(fs.cache.fresh(fs.descBlock(i)), kindGroupDesc, 0)
	}
	per := uint32(fs.bs / fs.descSize)
	for i := range p.desc {
		g := p.from + uint32(i)
		b, err := fs.cache.get(fs.descBlock(uint64(g / per)))
		if err != nil {
			return err
		}
		clear(b.data[int(g%per)*fs.descSize:][:fs.descSize]) // what an earlier shrinking left
		if err := h.change(g); err != nil {
			return err
		}
	}
	fs.countOverhead()
	return fs.remakeResizeInode(h, next)
}

// extendLast gives the last group the blocks it lacks, up to its full length or to end.
func (fs *FS) extendLast(h *handle, g uint32, end uint64) error {
	gr := fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	have := uint32(fs.groupBlocks(g))
	want := uint32(min(fs.bpg, end-fs.groupStart(g)))
	if want == have {
		return nil
	}
	b, err := fs.blockBitmap(g) // checked against what it was
	if err != nil {
		return err
	}
	clearBits(b.data, have, want)
	if gr.desc.Flags&format.GroupBlockUninit == 0 {
		h.dirty(b, kindBitmap, 0)
	}
	gr.desc.FreeBlocks += want - have
	gr.longest = 0
	fs.freeBlocks.Add(int64(want - have))
	fs.blocks.Store(fs.groupStart(g) + uint64(want))
	return h.change(g)
}

// countOverhead tells the superblock how many blocks the filesystem has for itself.
func (fs *FS) countOverhead() {
	n := fs.overhead()
	fs.sbMu.Lock()
	fs.sb.OverheadClusters = uint32(n)
	fs.sbMu.Unlock()
}

// backupGroups are the groups, but the first, that begin with a copy of the superblock.
func (fs *FS) backupGroups(sb *format.Superblock) []uint32 {
	var list []uint32
	for g := uint32(1); uint64(g) < sb.GroupCount(); g++ {
		if sb.GroupHasSuper(g) {
			list = append(list, g)
		}
	}
	return list
}

// checkResizeInode refuses to change a filesystem whose resize inode is not what
// remakeResizeInode will make of it: the block that it names may be another file's.
func (fs *FS) checkResizeInode(sb *format.Superblock) error {
	if sb.FeatureCompat&format.CompatResizeInode == 0 {
		return nil
	}
	n, err := fs.igetSpecial(format.ResizeIno)
	if err != nil {
		return &CorruptError{"resize inode", "content", err}
	}
	defer n.unref()
	nr := uint64(le.Uint32(n.d.Block[4*format.DoubleBlock:]))
	if n.extents() || !fs.mayHold(nr, 1) {
		return n.bad("doubly indirect block", nr)
	}
	b, err := fs.cache.get(nr)
	if err != nil {
		return err
	}
	per := uint64(fs.bs / 4)
	descs := fs.descBlocks(sb.GroupCount())
	if uint64(sb.ReservedGDTBlocks) > per || 1+descs+uint64(sb.ReservedGDTBlocks) > fs.groupBlocks(0) {
		return badSuper("blocks reserved for group descriptors", sb.ReservedGDTBlocks)
	}
	for i := range uint64(sb.ReservedGDTBlocks) {
		if got := uint64(le.Uint32(b.data[4*((descs+i)%per):])); got != fs.firstData+1+descs+i {
			return n.bad("reserved block", fmt.Sprintf("%d, not %d", got, fs.firstData+1+descs+i))
		}
	}
	return nil
}

// remakeResizeInode makes the resize inode list the blocks reserved for group descriptors
// in the filesystem that sb describes. Its map is a doubly indirect block that names the
// reserved blocks behind the first superblock; each of those names its counterparts.
// gate is held alone.
func (fs *FS) remakeResizeInode(h *handle, sb *format.Superblock) error {
	if sb.FeatureCompat&format.CompatResizeInode == 0 {
		return nil
	}
	n, err := fs.igetSpecial(format.ResizeIno)
	if err != nil {
		return &CorruptError{"resize inode", "content", err}
	}
	defer n.unref()
	nr := uint64(le.Uint32(n.d.Block[4*format.DoubleBlock:]))
	if n.extents() || !fs.mayHold(nr, 1) {
		return n.bad("doubly indirect block", nr)
	}
	per := fs.bs / 4
	backups := fs.backupGroups(sb)
	if len(backups) > per {
		return n.bad("copies of a reserved block", len(backups))
	}
	descs := fs.descBlocks(sb.GroupCount())
	first := fs.firstData + 1 + descs
	top := make([]byte, fs.bs)
	want := make([]byte, fs.bs)
	for i := range uint64(sb.ReservedGDTBlocks) {
		le.PutUint32(top[4*int((descs+i)%uint64(per)):], uint32(first+i))
		clear(want)
		for j, g := range backups {
			le.PutUint32(want[4*j:], uint32(first+i+uint64(g)*fs.bpg))
		}
		if err := fs.replaceBlock(h, first+i, want); err != nil {
			return err
		}
	}
	if err := fs.replaceBlock(h, nr, top); err != nil {
		return err
	}
	count := (1 + uint64(sb.ReservedGDTBlocks)*uint64(1+len(backups))) << (fs.bsBits - 9)
	if n.d.Blocks == count {
		return nil
	}
	return n.update(h, true, func(d *format.Inode) { d.Blocks = count })
}

// replaceBlock gives a block other content, unless it has that already.
func (fs *FS) replaceBlock(h *handle, nr uint64, want []byte) error {
	b, err := fs.cache.get(nr)
	if err != nil || bytes.Equal(b.data, want) {
		return err
	}
	copy(b.data, want)
	h.dirty(b, kindPlain, 0)
	return nil
}

// useMetaBG lets further group descriptors lie in their own groups: there is no more room
// behind the superblocks. The resize inode, whose blocks are used up, goes.
func (fs *FS) useMetaBG() error {
	if fs.incompat&format.Incompat64Bit == 0 && fs.blocks.Load() >= 1<<32-fs.bpg {
		return fmt.Errorf("ext4: grow: %w: block numbers have 32 bits", unix.EFBIG)
	}
	t := &fs.txn
	t.gate.Lock()
	err := fs.switchToMetaBG()
	t.gate.Unlock()
	if err != nil {
		return fs.fail(err)
	}
	return fs.commitNow()
}

func (fs *FS) switchToMetaBG() error {
	h := &handle{fs: fs}
	if fs.sb.FeatureCompat&format.CompatResizeInode != 0 {
		n, err := fs.igetSpecial(format.ResizeIno)
		if err != nil {
			return &CorruptError{"resize inode", "content", err}
		}
		defer n.unref()
		nr := uint64(le.Uint32(n.d.Block[4*format.DoubleBlock:]))
		if err := n.update(h, true, func(d *format.Inode) {
			clear(d.Block[:])
			d.Mode, d.Links, d.Size, d.Blocks = 0, 0, 0, 0
		}); err != nil {
			return err
		}
		if err := h.free(nr, 1, true); err != nil {
			return err
		}
	}
	// Some change must be there for the superblock to be written.
	if err := h.change(0); err != nil {
		return err
	}
	fs.sbMu.Lock()
	defer fs.sbMu.Unlock()
	fs.sb.FeatureCompat &^= format.CompatResizeInode
	fs.sb.FeatureIncompat |= format.IncompatMetaBG
	fs.sb.FirstMetaBg = uint32(fs.descBlocks(fs.sb.GroupCount()))
	fs.sb.ReservedGDTBlocks = 0
	fs.setMetaBG(&fs.sb)
	return nil
}

// writeBackups writes the copies of the superblock and of the group descriptors, which
// nothing but e2fsck reads.
func (fs *FS) writeBackups() error {
	h, err := fs.begin() // no commit changes a descriptor meanwhile
	if err != nil {
		return err
	}
	fs.sbMu.Lock()
	sb := fs.stableSB
	fs.sbMu.Unlock()
	sb.FeatureIncompat &^= format.IncompatRecover
	sb.State |= format.StateValid
	descs := fs.descBlocks(sb.GroupCount())
	table := make([]byte, descs<<fs.bsBits)
	for i := range descs {
		b, err := fs.cache.get(fs.descBlock(i))
		if err != nil {
			h.end()
			return err
		}
		copy(table[i<<fs.bsBits:], b.data)
	}
	h.end()
	write := func(nr uint64, p []byte) error {
		if _, err := fs.dev.WriteAt(p, int64(nr)<<fs.bsBits); err != nil {
			return fmt.Errorf("ext4: write copies of group descriptors: %w", ioError(err))
		}
		return nil
	}
	per := uint64(fs.bs / fs.descSize)
	old := descs
	if sb.FeatureIncompat&format.IncompatMetaBG != 0 {
		old = min(old, uint64(sb.FirstMetaBg))
	}
	for _, g := range fs.backupGroups(&sb) {
		block := make([]byte, fs.bs)
		sb.BlockGroupNr = uint16(g)
		if err := sb.Encode(block); err != nil {
			return err
		}
		if uint64(g)/per < old || sb.FeatureIncompat&format.IncompatMetaBG == 0 {
			block = append(block, table[:old<<fs.bsBits]...)
		}
		if err := write(fs.groupStart(g), block); err != nil {
			return err
		}
	}
	for i := old; i < descs; i++ {
		for _, g := range []uint64{i*per + 1, i*per + per - 1} {
			if g >= sb.GroupCount() {
				continue
			}
			nr := fs.groupStart(uint32(g))
			if sb.GroupHasSuper(uint32(g)) {
				nr++
			}
			if err := write(nr, table[i<<fs.bsBits:(i+1)<<fs.bsBits]); err != nil {
				return err
			}
		}
	}
	return fs.devSync()
}
