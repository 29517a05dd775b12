package ext4

import (
	"context"
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Moved counts what a shrinking had to take out of the part that goes.
type Moved struct {
	Blocks uint64
	Inodes uint64
}

// TooSmallError says that a filesystem cannot become that small. errors.Is finds
// unix.ENOSPC in it.
type TooSmallError struct {
	Want, Least uint64 // blocks
	BlockSize   int
}

// Error names both sizes in bytes.
func (e *TooSmallError) Error() string {
	return fmt.Sprintf("ext4: %d bytes are too few: its files need %d", e.Want*uint64(e.BlockSize), e.Least*uint64(e.BlockSize))
}

// Is reports ENOSPC.
func (e *TooSmallError) Is(target error) bool { return target == unix.ENOSPC }

// Shrink makes the filesystem one of the given number of blocks, or as many fewer as a
// last group too small for its tables has. Nobody else may use it meanwhile.
//
// What lies in the part that goes is moved first, file by file, each in transactions that
// leave a whole filesystem of the old size; the last transaction drops the groups. After
// an error, or a crash anywhere, everything is there and Shrink can run again. It counts
// what it moved also when it fails.
func (fs *FS) Shrink(ctx context.Context, blocks uint64) (Moved, error) {
	s := &shrinking{fs: fs, ctx: ctx}
	if !fs.resizeMu.TryLock() {
		return s.moved, fmt.Errorf("ext4: a resize is under way: %w", unix.EBUSY)
	}
	defer fs.resizeMu.Unlock()
	if fs.closed.Load() || fs.readOnly.Load() {
		return s.moved, fs.refuse()
	}
	if blocks > fs.blocks.Load() {
		return s.moved, fmt.Errorf("ext4: shrink to %d blocks: %w: it has %d", blocks, unix.EINVAL, fs.blocks.Load())
	}
	fs.sbMu.Lock()
	sb := fs.sb
	fs.sbMu.Unlock()
	if sb.State&format.StateError != 0 {
		return s.moved, fmt.Errorf("ext4: shrink: %w: errors were found, e2fsck must run first", unix.EPERM)
	}
	if err := fs.checkResizeInode(&sb); err != nil {
		return s.moved, err
	}
	if err := fs.checkBadBlocks(); err != nil {
		return s.moved, err
	}
	least, err := fs.least()
	if err != nil {
		return s.moved, err
	}
	if blocks = fs.fit(&sb, blocks); blocks < least {
		return s.moved, &TooSmallError{blocks, least, fs.bs}
	}
	for fs.blocks.Load() > blocks {
		// Tables of groups that go can fill the part that stays: then it takes more
		// than one pass.
		step, err := fs.reach(blocks)
		if err != nil {
			return s.moved, err
		}
		if step >= fs.blocks.Load() {
			return s.moved, &TooSmallError{blocks, fs.blocks.Load(), fs.bs}
		}
		err = s.pass(step)
		if unixIs(err, unix.ENOSPC) && !fs.readOnly.Load() {
			// Pieces of free space made maps grow beyond the estimate.
			return s.moved, &TooSmallError{blocks, fs.blocks.Load(), fs.bs}
		}
		if err != nil {
			return s.moved, err
		}
	}
	return s.moved, fs.writeBackups()
}

// Least is the number of blocks of the smallest filesystem that Shrink can make of this
// one; a few blocks for maps that grow in moving are estimated.
func (fs *FS) Least() (uint64, error) {
	fs.resizeMu.Lock()
	defer fs.resizeMu.Unlock()
	return fs.least()
}

func (fs *FS) least() (uint64, error) {
	used := fs.blocks.Load() - fs.firstData - uint64(fs.freeBlocks.Load()) - fs.zoneBlocks()
	usedInodes := uint64(fs.inodes.Load()) - uint64(fs.freeInodes.Load())
	groups := *fs.groups.Load()
	// tail[g] is the data from group g on; end[g] where the tables of the groups before it end.
	tail, end := make([]uint64, len(groups)+1), make([]uint64, len(groups)+1)
	for g := len(groups) - 1; g >= 0; g-- {
		tail[g] = tail[g+1] + fs.groupBlocks(uint32(g)) - uint64(groups[g].desc.FreeBlocks) - fs.zoneBlocksIn(uint32(g))
	}
	for g, gr := range groups {
		end[g+1] = max(end[g], gr.desc.BlockBitmap+1, gr.desc.InodeBitmap+1, gr.desc.InodeTable+fs.tableBlocks())
	}
	// need is how many blocks a filesystem of n groups must have, 0 when n are too few.
	need := func(n uint64) uint64 {
		if n*fs.ipg < usedInodes {
			return 0
		}
		sb := fs.shrunk(min(fs.firstData+n*fs.bpg, fs.blocks.Load()))
		own := n * (2 + fs.tableBlocks())
		for g := range uint32(n) {
			own += fs.headBlocks(&sb, g)
		}
		blocks := max(fs.firstData+own+used+fs.mapSlack(tail[n-1]), end[n])
		start := fs.groupStart(uint32(n - 1))
		if blocks > start+fs.bpg {
			return 0
		}
		if n > 1 {
			blocks = max(blocks, start+fs.headBlocks(&sb, uint32(n-1))+2+fs.tableBlocks()+groupSpare)
		}
		return min(blocks, fs.blocks.Load())
	}
	lo, hi := uint64(1), uint64(len(groups))
	for lo < hi {
		if m := (lo + hi) / 2; need(m) != 0 {
			hi = m
		} else {
			lo = m + 1
		}
	}
	if n := need(lo); n != 0 {
		return n, nil
	}
	return fs.blocks.Load(), nil
}

// mapSlack is how many blocks maps may take more when so many blocks move in pieces.
func (fs *FS) mapSlack(moving uint64) uint64 {
	if moving == 0 {
		return 0
	}
	return 16 + moving/uint64(format.ExtentNodeMax(fs.bs)/2)
}

// zoneBlocks is the number of the filesystem's own blocks, the boot block left out.
func (fs *FS) zoneBlocks() uint64 {
	n := uint64(0)
	for _, r := range *fs.zone.Load() {
		n += r.count
	}
	return n - fs.firstData
}

func (fs *FS) zoneBlocksIn(g uint32) uint64 {
	n := uint64(0)
	fs.zoneIn(g, func(from, to uint32) { n += uint64(to - from) })
	return n
}

// reach is the smallest size, at least blocks, in whole groups but for blocks itself, for
// which what must move has room now.
func (fs *FS) reach(blocks uint64) (uint64, error) {
	g, bit := fs.locate(blocks - 1)
	b, err := fs.lockedBitmap(g)
	if err != nil {
		return 0, err
	}
	groups := *fs.groups.Load()
	data := func(g int) uint64 {
		return fs.groupBlocks(uint32(g)) - uint64(groups[g].desc.FreeBlocks) - fs.zoneBlocksIn(uint32(g))
	}
	free, moving := uint64(0), uint64(0)
	for i := range groups {
		if uint32(i) < g {
			free += uint64(groups[i].desc.FreeBlocks)
		} else if uint32(i) > g {
			moving += data(i)
		}
	}
	here := uint64(0)
	for i := uint32(0); i <= bit; i++ {
		here += uint64(^b[i/8] >> (i % 8) & 1)
	}
	free += here
	zone := uint64(0)
	fs.zoneIn(g, func(from, to uint32) {
		if to > bit+1 {
			zone += uint64(to - max(from, bit+1))
		}
	})
	moving += fs.groupBlocks(g) - uint64(bit+1) - (uint64(groups[g].desc.FreeBlocks) - here) - zone
	if moving <= free {
		return blocks, nil // it may just go
	}
	free += uint64(groups[g].desc.FreeBlocks) - here
	moving = 0
	for i := int(g) + 1; i < len(groups); i++ {
		moving += data(i)
	}
	for n := int(g) + 1; n < len(groups); n++ {
		if moving+fs.mapSlack(moving) <= free {
			return fs.groupStart(uint32(n)), nil
		}
		free += uint64(groups[n].desc.FreeBlocks)
		moving -= data(n)
	}
	return fs.blocks.Load(), nil
}

// lockedBitmap is a copy of a group's block bitmap.
func (fs *FS) lockedBitmap(g uint32) ([]byte, error) {
	gr := fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	b, err := fs.blockBitmap(g)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), b.data...), nil
}

// shrunk is the superblock of the filesystem at a smaller size: room for descriptors that
// it no longer needs becomes reserved, as far as the resize inode can hold it.
func (fs *FS) shrunk(blocks uint64) format.Superblock {
	fs.sbMu.Lock()
	sb := fs.sb
	fs.sbMu.Unlock()
	old := fs.descBlocks(sb.GroupCount())
	share := float64(sb.RBlocksCount()) / float64(sb.BlocksCount())
	sb.SetBlocksCount(blocks)
	sb.SetRBlocksCount(uint64(share * float64(blocks)))
	groups := sb.GroupCount()
	sb.InodesCount = uint32(groups * fs.ipg)
	descs := fs.descBlocks(groups)
	switch {
	case sb.FeatureIncompat&format.IncompatMetaBG != 0:
		sb.FirstMetaBg = min(sb.FirstMetaBg, uint32(descs))
	case sb.FeatureCompat&format.CompatResizeInode != 0:
		sb.ReservedGDTBlocks = uint16(min(uint64(sb.ReservedGDTBlocks)+old-descs, uint64(fs.bs/4)))
	}
	if sb.FeatureCompat&format.CompatSparseSuper2 != 0 {
		for i, g := range sb.BackupBgs {
			if uint64(g) >= groups {
				sb.BackupBgs[i] = 0
			}
		}
	}
	return sb
}

// shrinking is one run of Shrink.
type shrinking struct {
	fs    *FS
	ctx   context.Context
	moved Moved

	cut    uint64 // the first block that goes
	groups uint32 // that stay
	goal   uint64 // where the last block went to

	names   map[uint32][]dirName // of inodes that have to move
	numbers map[uint32]uint32    // new ones, by the old
	xattrs  map[uint64]uint64    // copies of shared blocks of attributes
}

// pass makes the filesystem one of blocks blocks.
func (s *shrinking) pass(blocks uint64) error {
	fs := s.fs
	sb := fs.shrunk(blocks)
	s.cut, s.groups, s.goal = blocks, uint32(sb.GroupCount()), fs.firstData
	s.names, s.numbers, s.xattrs = map[uint32][]dirName{}, map[uint32]uint32{}, map[uint64]uint64{}
	for g := range s.groups {
		d := &fs.group(g).desc
		if last := max(d.BlockBitmap, d.InodeBitmap, d.InodeTable+fs.tableBlocks()-1); last >= blocks {
			return fmt.Errorf("ext4: shrink: %w: tables of group %d lie in the part that is to go, at block %d", unix.EOPNOTSUPP, g, last)
		}
	}
	fs.dropWindows()
	s.close(true)
	defer s.close(false)
	if err := s.moveJournal(); err != nil {
		return err
	}
	if err := s.moveInodes(); err != nil {
		return err
	}
	if err := s.moveBlocks(); err != nil {
		return err
	}
	return s.drop(&sb)
}

// close keeps the part that goes from being given out, or gives it out again.
func (s *shrinking) close(on bool) {
	fs := s.fs
	for g := s.groups - 1; g < fs.groupCount(); g++ {
		gr := fs.group(g)
		gr.mu.Lock()
		gr.cut, gr.limit, gr.longest = on, 0, 0
		if start := fs.groupStart(g); start < s.cut {
			gr.limit = uint32(min(s.cut-start, fs.bpg))
		}
		gr.mu.Unlock()
	}
}

// step is an error when the caller has had enough.
func (s *shrinking) step() error { return s.ctx.Err() }

// drop is the transaction that makes the filesystem smaller: nothing but its own tables
// lies in the part that goes.
func (s *shrinking) drop(next *format.Superblock) error {
	fs := s.fs
	if err := fs.commitIfDirty(); err != nil {
		return err
	}
	// The log must not name blocks that are gone.
	if fs.jnl != nil {
		fs.txn.commitMu.Lock()
		err := fs.jnl.finish()
		fs.txn.commitMu.Unlock()
		if err != nil {
			return fs.fail(err)
		}
	}
	cost := 8 + int(fs.descBlocks(next.GroupCount())) + int(next.ReservedGDTBlocks) + 2*16
	if err := fs.fitsJournal(cost); err != nil {
		return err
	}
	fs.txn.gate.Lock()
	err := s.leave(next)
	fs.txn.gate.Unlock()
	if err != nil {
		return fs.fail(err)
	}
	return fs.commitNow()
}

// leave makes the filesystem the one that next describes. gate is held alone.
func (s *shrinking) leave(next *format.Superblock) error {
	fs := s.fs
	h := &handle{fs: fs}
	old := *fs.groups.Load()
	var freed []run // tables of groups that go, copies of what became shorter
	for g := range uint32(len(old)) {
		if g < s.groups {
			if was, is := fs.headBlocks(&fs.sb, g), fs.headBlocks(next, g); is < was {
				freed = append(freed, run{fs.groupStart(g) + is, was - is})
			}
			continue
		}
		d := &old[g].desc
		freed = append(freed, run{d.BlockBitmap, 1}, run{d.InodeBitmap, 1}, run{d.InodeTable, fs.tableBlocks()})
	}
	touched := map[uint32]*buffer{}
	bitmap := func(g uint32) (*buffer, error) {
		if b := touched[g]; b != nil {
			return b, nil
		}
		gr := fs.group(g)
		gr.mu.Lock()
		defer gr.mu.Unlock()
		b, err := fs.blockBitmap(g)
		if err != nil {
			return nil, err
		}
		touched[g] = b
		gr.desc.Flags &^= format.GroupBlockUninit
		h.dirty(b, kindBitmap, 0)
		return b, h.change(g)
	}
	for _, r := range joinRuns(freed) {
		for at := r.start; at < min(r.end(), s.cut); {
			g, bit := fs.locate(at)
			n := uint32(min(fs.bpg-uint64(bit), min(r.end(), s.cut)-at))
			b, err := bitmap(g)
			if err != nil {
				return err
			}
			clearBits(b.data, bit, bit+n)
			at += uint64(n)
		}
	}
	last := s.groups - 1
	b, err := bitmap(last)
	if err != nil {
		return err
	}
	end := uint32(s.cut - fs.groupStart(last))
	setBits(b.data, end, uint32(fs.bs)*8)

	fs.sbMu.Lock()
	fs.sb.SetBlocksCount(next.BlocksCount())
	fs.sb.SetRBlocksCount(next.RBlocksCount())
	fs.sb.InodesCount, fs.sb.ReservedGDTBlocks = next.InodesCount, next.ReservedGDTBlocks
	fs.sb.FirstMetaBg, fs.sb.BackupBgs = next.FirstMetaBg, next.BackupBgs
	fs.setMetaBG(&fs.sb)
	fs.sbMu.Unlock()
	kept := old[:s.groups:s.groups]
	fs.blocks.Store(next.BlocksCount())
	fs.inodes.Store(next.InodesCount)
	fs.groups.Store(&kept)
	if err := fs.makeZone(); err != nil {
		return err
	}
	for g, b := range touched {
		fs.group(g).desc.FreeBlocks = fs.countFree(g, b.data)
		fs.group(g).longest = 0
	}
	var free, freeIno, dirs int64
	for _, gr := range kept {
		free += int64(gr.desc.FreeBlocks)
		freeIno += int64(gr.desc.FreeInodes)
		dirs += int64(gr.desc.UsedDirs)
	}
	fs.freeBlocks.Store(free)
	fs.freeInodes.Store(freeIno)
	fs.dirs.Store(dirs)
	fs.countOverhead()
	return fs.remakeResizeInode(h, next)
}
