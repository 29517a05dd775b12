package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
)

// closing is a transaction that is being committed.
type closing struct {
	seq     uint32
	bufs    []*buffer // in the order of their numbers
	freed   []freedRun
	revokes []uint64
	tables  map[*buffer]bool // of bufs those that hold inodes; without a journal only
	sb      format.Superblock
	grows   bool // the superblock goes home last: it names groups that the rest describes
}

// commit closes the running transaction and makes it stable. commitMu is held.
//
// With a journal: copies of the blocks go to the log, the disk is synced, the commit
// block goes to the log, the disk is synced again. Only then the blocks are written
// home. File data was written before the handles that refer to it, so the first sync
// makes it stable before the commit does (DataOrdered); or it is among the blocks
// (DataJournal); or the log is written and synced alone (DataWriteback).
func (fs *FS) commit() error {
	t := &fs.txn
	if err := fs.markInUse(); err != nil {
		return fs.fail(err)
	}
	t.gate.Lock()
	c, copies, err := fs.takeOver()
	t.gate.Unlock()
	if err != nil {
		return fs.fail(err)
	}
	if len(c.bufs) == 0 {
		err = fs.devSync()
	} else if fs.jnl != nil {
		err = fs.jnl.commit(c, copies)
	} else {
		err = fs.writeOrdered(c, copies)
	}
	if err != nil {
		return fs.fail(err)
	}
	for _, b := range c.bufs {
		b.flying.Store(false)
	}
	fs.logged.settle(t, c.bufs)
	fs.release(c.freed)
	if cap(t.arena) > keepBuffer {
		t.arena = nil
	}
	if len(c.bufs) > 0 {
		fs.sbMu.Lock()
		fs.stableSB = c.sb
		fs.sbMu.Unlock()
	}
	t.mu.Lock()
	t.stable = c.seq
	t.mu.Unlock()
	return nil
}

// markInUse says in the superblock that the filesystem is not clean: with a journal
// that it needs recovery. It is done once, before the first commit.
func (fs *FS) markInUse() error {
	t := &fs.txn
	t.mu.Lock()
	done := t.marked || len(t.bufs) == 0
	t.marked = t.marked || !done
	t.mu.Unlock()
	if done {
		return nil
	}
	now := fs.opt.Now().Unix()
	fs.sbMu.Lock()
	fs.inUse = fs.jnl != nil && !fs.jnl.lent
	fs.sbMu.Unlock()
	err := fs.writeSuper(func(sb *format.Superblock) {
		if fs.jnl == nil || fs.jnl.lent {
			sb.State &^= format.StateValid
		}
		sb.Mtime, sb.MtimeHi = uint32(now), uint8(now>>32)
		sb.MntCount++
		if fs.jnl != nil && fs.jnl.lent { // the log is good until the next mount
			fs.jnl.super.Padding[0], fs.jnl.super.Padding[1] = uint32(sb.MntCount), sb.Mtime
		}
	})
	if err != nil {
		return err
	}
	return fs.devSync()
}

// takeOver finishes what the transaction's handles left for later (inodes into their
// tables, group descriptors, the superblock, checksums) and copies every changed block.
// gate is held alone.
func (fs *FS) takeOver() (*closing, []byte, error) {
	t := &fs.txn
	// Descriptors first, for whoever looks for free blocks has a group's lock, and takes
	// mu below it when the group is damaged.
	t.mu.Lock()
	groups := t.groups
	t.mu.Unlock()
	for _, g := range groups {
		if err := fs.encodeGroup(g); err != nil {
			return nil, nil, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.groups = groups[:0]
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	c := &closing{seq: t.seq, freed: t.freed, revokes: t.revokes, tables: map[*buffer]bool{}, grows: t.grows}
	t.seq++
	t.freed, t.revokes, t.grows = nil, nil, false
	if len(t.bufs) == 0 {
		return c, nil, nil
	}
	fs.encodeInodes(t.inodes)
	t.inodes = t.inodes[:0]
	if err := fs.encodeSuper(); err != nil {
		return nil, nil, err
	}
	fs.sbMu.Lock()
	c.sb = fs.sb
	fs.sbMu.Unlock()
	c.bufs = t.bufs[:0:0]
	for _, b := range t.bufs {
		if b.dirty { // it is not when its block was freed meanwhile
			c.bufs = append(c.bufs, b)
		}
	}
	t.bufs = t.bufs[:0]
	slices.SortFunc(c.bufs, func(a, b *buffer) int { return cmp.Compare(a.nr, b.nr) })
	c.bufs = slices.Compact(c.bufs)
	size := len(c.bufs) * fs.bs
	if cap(t.arena) < size {
		t.arena = make([]byte, size+size/4)
	}
	copies := t.arena[:size]
	for i, b := range c.bufs {
		b.sum(fs)
		copy(copies[i*fs.bs:], b.data)
		if fs.jnl == nil && b.kind == kindInodes {
			c.tables[b] = true
		}
		b.dirty = false
		b.flying.Store(true)
	}
	return c, copies, nil
}

// sum stores the block's checksum in it.
func (b *buffer) sum(fs *FS) {
	if !fs.csum {
		return
	}
	switch b.kind {
	case kindExtent:
		format.SetExtentChecksum(b.seed, b.data)
	case kindDirLeaf:
		format.SetDirChecksum(b.seed, b.data)
	case kindDxRoot:
		format.SetDxChecksum(b.seed, b.data, format.DxRootEntries)
	case kindDxNode:
		format.SetDxChecksum(b.seed, b.data, format.DxNodeEntries)
	case kindXattr:
		le.PutUint32(b.data[0x10:], format.XattrBlockChecksum(fs.seed, b.nr, b.data))
	case kindOrphan:
		n := len(b.data)
		le.PutUint32(b.data[n-4:], format.OrphanBlockChecksum(b.seed, b.nr, b.data))
	}
}

// encodeInodes puts changed inodes into their tables.
func (fs *FS) encodeInodes(list []*Inode) {
	fs.txn.tableMu.Lock()
	defer fs.txn.tableMu.Unlock()
	c := &fs.icache
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range list {
		n.amu.Lock()
		_, off, _ := fs.inodePlace(n.ino)
		_ = n.d.Encode(n.body) // it has the right size
		if fs.csum {
			format.SetInodeChecksum(n.iseed, n.body)
		}
		copy(n.table.data[off:], n.body)
		n.dirty, n.table = false, nil
		if n.refs == 0 && c.m[n.ino] == n {
			delete(c.m, n.ino)
		}
		n.amu.Unlock()
	}
}

// encodeGroup makes the checksums of a group's bitmaps and puts its descriptor into
// its block.
func (fs *FS) encodeGroup(g uint32) error {
	gr := fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	gr.dirty = false
	d := &gr.desc
	if fs.csum {
		if b := fs.cache.peek(d.BlockBitmap); b != nil && b.dirty {
			d.BlockBitmapCsum = fs.trimSum(format.BitmapChecksum(fs.seed, b.data[:fs.bpg/8]))
		}
		if b := fs.cache.peek(d.InodeBitmap); b != nil && b.dirty {
			d.InodeBitmapCsum = fs.trimSum(format.BitmapChecksum(fs.seed, b.data[:(fs.ipg+7)/8]))
		}
	}
	per := uint32(fs.bs / fs.descSize)
	b, err := fs.cache.load(fs.descBlock(uint64(g / per)))
	if err != nil {
		return err
	}
	raw := b.data[int(g%per)*fs.descSize:][:fs.descSize]
	if !fs.groupCsum {
		d := gr.desc
		d.Flags = le.Uint16(raw[0x12:]) // not ours to change
		d.ItableUnused = uint32(le.Uint16(raw[0x1C:]))
		d.Checksum = le.Uint16(raw[0x1E:])
		return d.Encode(raw)
	}
	if err := d.Encode(raw); err != nil {
		return err
	}
	d.Checksum = fs.descSum(g, raw)
	return d.Encode(raw)
}

// trimSum cuts a bitmap's checksum to what a descriptor holds.
func (fs *FS) trimSum(c uint32) uint32 {
	if fs.descSize < format.GroupDescSize64 {
		return c & 0xFFFF
	}
	return c
}

// encodeSuper puts the superblock with its counts into its block and on the
// transaction. txn.mu is held.
func (fs *FS) encodeSuper() error {
	b, err := fs.cache.load(uint64(format.SuperblockOffset >> fs.bsBits))
	if err != nil {
		return err
	}
	fs.sbMu.Lock()
	defer fs.sbMu.Unlock()
	now := fs.opt.Now().Unix()
	fs.sb.Wtime, fs.sb.WtimeHi = uint32(now), uint8(now>>32)
	fs.sb.SetFreeBlocksCount(uint64(fs.freeBlocks.Load()))
	fs.sb.FreeInodesCount = uint32(fs.freeInodes.Load())
	// One that differs in nothing but the time of writing need not go with it: an fsync
	// that only brings times is cheaper by a block in the log and one at home.
	was := fs.stableSB
	was.Wtime, was.WtimeHi = fs.sb.Wtime, fs.sb.WtimeHi
	if was == fs.sb && !fs.superAside && !b.dirty {
		return nil
	}
	fs.superAside = false
	if !b.dirty {
		b.dirty, b.kind = true, kindPlain
		fs.txn.bufs = append(fs.txn.bufs, b)
	}
	return fs.encodeUse(fs.sb, b.data[format.SuperblockOffset&(fs.bs-1):])
}

// encodeUse encodes a superblock with what says that the log is in use. sbMu is held.
func (fs *FS) encodeUse(sb format.Superblock, b []byte) error {
	if fs.inUse {
		sb.FeatureIncompat |= format.IncompatRecover
	}
	return sb.Encode(b)
}

// writeHome writes blocks to their places, neighbours together. select chooses among
// them; nil means all.
func (fs *FS) writeHome(bufs []*buffer, copies []byte, choose func(*buffer) bool) error {
	for i := 0; i < len(bufs); {
		if choose != nil && !choose(bufs[i]) {
			i++
			continue
		}
		k := i + 1
		for k < len(bufs) && bufs[k].nr == bufs[k-1].nr+1 && (choose == nil || choose(bufs[k])) {
			k++
		}
		if _, err := fs.dev.WriteAt(copies[i*fs.bs:k*fs.bs], int64(bufs[i].nr)<<fs.bsBits); err != nil {
			return fmt.Errorf("ext4: write blocks %d to %d: %w", bufs[i].nr, bufs[k-1].nr, ioError(err))
		}
		i = k
	}
	return nil
}

// writeGrown writes the blocks of a transaction that makes the filesystem larger home, the
// superblock last: who reads it before a replay finds what it names.
func (fs *FS) writeGrown(bufs []*buffer, copies []byte) error {
	super := uint64(format.SuperblockOffset >> fs.bsBits)
	if err := fs.writeHome(bufs, copies, func(b *buffer) bool { return b.nr != super }); err != nil {
		return err
	}
	if err := fs.devSync(); err != nil {
		return err
	}
	return fs.writeHome(bufs, copies, func(b *buffer) bool { return b.nr == super })
}

// writeOrdered writes a transaction without a journal: first what nothing points to
// yet, then the inodes. A crash between leaves work for e2fsck, as on the kernel's.
func (fs *FS) writeOrdered(c *closing, copies []byte) error {
	if c.grows {
		if err := fs.writeGrown(c.bufs, copies); err != nil {
			return err
		}
		return fs.devSync()
	}
	if err := fs.writeHome(c.bufs, copies, func(b *buffer) bool { return !c.tables[b] }); err != nil {
		return err
	}
	if err := fs.devSync(); err != nil {
		return err
	}
	if err := fs.writeHome(c.bufs, copies, func(b *buffer) bool { return c.tables[b] }); err != nil {
		return err
	}
	return fs.devSync()
}
