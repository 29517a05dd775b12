package ext4

import (
	"bytes"
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

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

// resizeInode takes a reference to the resize inode and gives the number of its doubly
// indirect block.
func (fs *FS) resizeInode() (*Inode, uint64, error) {
	n, err := fs.igetSpecial(format.ResizeIno)
	if err != nil {
		return nil, 0, &CorruptError{"resize inode", "content", err}
	}
	nr := uint64(le.Uint32(n.d.Block[4*format.DoubleBlock:]))
	if n.extents() || !fs.mayHold(nr, 1) {
		n.unref()
		return nil, 0, n.bad("doubly indirect block", nr)
	}
	return n, nr, nil
}

// checkResizeInode refuses to change a filesystem whose resize inode is not what
// remakeResizeInode will make of it: the block that it names may be another file's.
func (fs *FS) checkResizeInode(sb *format.Superblock) error {
	if sb.FeatureCompat&format.CompatResizeInode == 0 {
		return nil
	}
	n, nr, err := fs.resizeInode()
	if err != nil {
		return err
	}
	defer n.unref()
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
	n, nr, err := fs.resizeInode()
	if err != nil {
		return err
	}
	defer n.unref()
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
