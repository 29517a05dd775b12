package ext4

import (
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
	if err := fs.lockWithRoom(cost); err != nil {
		return err
	}
	err = fs.enter(p, &next, descs)
	fs.txn.gate.Unlock()
	if err != nil {
		return fs.fail(err)
	}
	return fs.commitNow()
}

// lockWithRoom takes gate alone when the log has room for so many blocks beside those that
// others have put on the transaction meanwhile.
func (fs *FS) lockWithRoom(blocks int) error {
	for {
		if err := fs.fitsJournal(blocks); err != nil {
			return err
		}
		fs.txn.gate.Lock()
		if fs.hasRoom(blocks) {
			return nil
		}
		fs.txn.gate.Unlock()
	}
}

// hasRoom says whether the log can hold the running transaction with so many blocks more.
func (fs *FS) hasRoom(blocks int) bool {
	t := &fs.txn
	t.mu.Lock()
	defer t.mu.Unlock()
	return fs.jnl == nil || uint32(fs.jnl.cost(len(t.bufs)+blocks, 0)) <= fs.jnl.capacity()
}

// fitsJournal refuses a transaction that the log cannot hold whole.
func (fs *FS) fitsJournal(blocks int) error {
	if fs.hasRoom(blocks) {
		return nil
	}
	if err := fs.commitIfDirty(); err != nil {
		return err
	}
	if uint32(fs.jnl.cost(blocks+64, 0)) <= fs.jnl.capacity() {
		return nil
	}
	return fmt.Errorf("ext4: resize: %w: the journal has %d blocks, a step takes %d", unix.EFBIG, fs.jnl.capacity(), blocks)
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
