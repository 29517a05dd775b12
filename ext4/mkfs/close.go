package mkfs

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
)

// Close writes everything but the data of files, the primary superblock last. It does not sync
// the device. After an error the device holds no filesystem. A regular file with a size that
// was never placed is an error. A *SpaceError means that the tree does not fit.
func (b *Builder) Close() error {
	if b.dev == nil {
		return errPlan
	}
	if b.closed {
		return errClosed
	}
	b.closed = true
	if b.treeInodes() > b.g.inodes() {
		return b.noSpace()
	}
	b.out.init(b)
	b.table.init(b)
	tally := newTally(b.g)
	var inodes inodeWriter
	inodes.init(b)

	if err := b.placeQuotas(); err != nil {
		return err
	}
	if err := b.finishNode(b.root, &inodes, tally); err != nil {
		return err
	}
	for i := range b.own {
		if f := &b.own[i]; f.ino < firstIno {
			if err := b.writeOwnInode(f, &inodes); err != nil {
				return err
			}
		}
	}
	if err := b.writeResizeInode(&inodes); err != nil {
		return err
	}
	if err := b.writeJournal(&inodes); err != nil {
		return err
	}
	for i := range b.count {
		n := b.node(i)
		if f := b.ownFile(n.ino); f != nil {
			if err := b.writeOwnInode(f, &inodes); err != nil {
				return err
			}
			continue
		}
		if n.links == 0 {
			tally.absent = append(tally.absent, n.ino)
			continue
		}
		if err := b.finishNode(n, &inodes, tally); err != nil {
			return err
		}
	}
	tally.last = uint32(b.treeInodes())
	if err := b.writeOwn(); err != nil {
		return err
	}
	if err := b.table.flush(); err != nil {
		return err
	}
	if err := b.writeGroups(tally); err != nil {
		return err
	}
	return b.writeSuper(tally)
}

// tally is what the group descriptors and the superblock count.
type tally struct {
	dirs   []uint32 // by group
	absent []uint32 // numbers of inodes that were removed, ascending
	last   uint32   // the highest number in use
	large  bool     // there is a file of 2 GiB

	freeBlocks, freeInodes uint64
	descriptors            []byte
}

func newTally(g *geometry) *tally { return &tally{dirs: make([]uint32, g.groups)} }

// finishNode places and writes what an inode needs besides its data, and the inode.
func (b *Builder) finishNode(n *Node, inodes *inodeWriter, t *tally) error {
	in := format.Inode{
		Mode: n.mode, UID: n.uid, GID: n.gid, Size: uint64(n.size), Links: uint16(n.links),
		Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Crtime: n.btime,
		Flags: n.flags, ProjID: n.project,
	}
	mapped := false
	switch n.mode & format.ModeType {
	case format.ModeRegular:
		if n.size > 0 && !n.placed {
			return fmt.Errorf("inode %d: %w: a file of %d bytes was never placed", n.ino, unix.ENODATA, n.size)
		}
		mapped = true
		t.large = t.large || n.size >= 1<<31
	case format.ModeDir:
		indexed, err := b.finishDir(n)
		if err != nil {
			return err
		}
		if indexed {
			in.Flags |= format.FlagIndex
		}
		in.Size = 0
		for _, e := range n.ext {
			in.Size += uint64(e.Length)
		}
		if in.Links = 1; n.dir.subdirs+2 <= format.MaxLinks {
			in.Links = uint16(n.dir.subdirs + 2)
		}
		t.dirs[(n.ino-1)/b.g.inodesPerGroup]++
		mapped = true
	case format.ModeSymlink:
		if len(n.target) < format.InodeBlockSize {
			copy(in.Block[:], n.target)
			break
		}
		nr, block, err := b.newBlock()
		if err != nil {
			return err
		}
		copy(block, n.target)
		n.ext = []Extent{{Length: int64(b.o.blockSize), Disk: int64(nr << b.o.blockBits)}}
		mapped = true
	case format.ModeChar, format.ModeBlock:
		format.EncodeDevice(&in.Block, n.major, n.minor)
	}
	blocks := uint64(0)
	if mapped {
		m, err := b.mapBlocks(n.ino, n.ext)
		if err != nil {
			return err
		}
		in.Block, blocks = m.block, m.extra
		for _, e := range n.ext {
			blocks += ceil(uint64(e.Length), uint64(b.o.blockSize))
		}
		if b.o.f.extents() {
			in.Flags |= format.FlagExtents
		}
	}
	if n.xattrBlock != nil {
		if err := b.placeXattrs(n.xattrBlock); err != nil {
			return err
		}
		in.FileACL = n.xattrBlock.block
		blocks++
	}
	in.Blocks = blocks << (b.o.blockBits - 9)
	b.charge(n, in.Blocks)
	return inodes.put(n.ino, &in, n.xattrBody)
}

// finishDir lays a directory out and writes its blocks, and says whether it has an htree.
func (b *Builder) finishDir(n *Node) (bool, error) {
	p := b.planDir(n, b.leaves)
	b.leaves = p.leaves
	if uint64(p.blocks) > b.s.left {
		return false, b.noSpace()
	}
	b.scratch = b.s.take(uint64(p.blocks), b.scratch[:0])
	n.ext = b.toExtents(nil, b.scratch, 0)
	return p.levels > 0, b.writeDir(n, &p)
}

// placeXattrs writes a block of attributes the first time that an inode needs it.
func (b *Builder) placeXattrs(x *xattrBlock) error {
	if x.block != 0 {
		return nil
	}
	nr, block, err := b.newBlock()
	if err != nil {
		return err
	}
	x.block = nr
	copy(block, x.content)
	le.PutUint32(block[4:], x.refs)
	if b.o.f.checksums() {
		le.PutUint32(block[16:], format.XattrBlockChecksum(b.checksumSeed, nr, block))
	}
	return nil
}

// writeJournal writes the journal's superblock and inode. The journal's blocks stay unwritten: an
// empty log is never read.
func (b *Builder) writeJournal(inodes *inodeWriter) error {
	if b.g.journal == 0 {
		return nil
	}
	m, err := b.mapBlocks(format.JournalIno, b.journal)
	if err != nil {
		return err
	}
	super := format.JournalSuperblock{
		Header:    format.JournalHeader{Magic: format.JournalMagic, Type: format.JournalSuperblockV2},
		BlockSize: uint32(b.o.blockSize),
		MaxLen:    uint32(b.g.journal),
		First:     1, Sequence: 1, NrUsers: 1,
		NumFCBlocks: uint32(b.g.fast),
		UUID:        b.o.uuid,
	}
	block, err := b.block(uint64(b.journal[0].Disk) >> b.o.blockBits)
	if err != nil {
		return err
	}
	if err := super.Encode(block); err != nil {
		return err
	}
	in := b.systemInode()
	in.Size = b.g.journal << b.o.blockBits
	in.Block = m.block
	in.Blocks = (b.g.journal + m.extra) << (b.o.blockBits - 9)
	if b.o.f.extents() {
		in.Flags = format.FlagExtents
	}
	b.journalInode = in
	return inodes.put(format.JournalIno, &in, nil)
}

// systemInode begins an inode that no directory names.
func (b *Builder) systemInode() format.Inode {
	return format.Inode{
		Mode: format.ModeRegular | 0o600, Links: 1,
		Atime: b.o.now, Mtime: b.o.now, Ctime: b.o.now, Crtime: b.o.now,
	}
}

// writeResizeInode makes the inode that holds the blocks reserved for group descriptors. Its map is
// a double indirect block whose entries are the reserved blocks of group 0, and each of those
// lists its counterparts in the backup groups.
func (b *Builder) writeResizeInode(inodes *inodeWriter) error {
	g := b.g
	if !g.f.resize() { // with nothing reserved, too, as mke2fs makes it
		return nil
	}
	per := uint64(g.blockSize / 4)
	backups := g.backups()
	if uint64(len(backups)) > per {
		return fmt.Errorf("feature resize_inode: %d copies of the superblock are too many", len(backups))
	}
	first := g.firstBlock + 1 + g.descBlocks
	for i := range g.reservedGDT {
		if len(backups) == 0 {
			break
		}
		block, err := b.block(first + i)
		if err != nil {
			return err
		}
		for j, group := range backups {
			le.PutUint32(block[4*j:], uint32(first+i+uint64(group)*g.perGroup))
		}
	}
	nr, block, err := b.newBlock()
	if err != nil {
		return err
	}
	for i := range g.reservedGDT {
		le.PutUint32(block[4*((g.descBlocks+i)%per):], uint32(first+i))
	}
	in := b.systemInode()
	in.Size = (per*per + per + format.DirectBlocks) << b.o.blockBits
	in.Blocks = (1 + g.reservedGDT*uint64(1+len(backups))) << (b.o.blockBits - 9)
	le.PutUint32(in.Block[4*format.DoubleBlock:], uint32(nr))
	b.resizeLarge = in.Size >= 1<<31
	return inodes.put(format.ResizeIno, &in, nil)
}

// inodeWriter puts inodes into the inode tables, in the order of their numbers.
type inodeWriter struct {
	b     *Builder
	block []byte // the table block that is being filled
	nr    uint64
}

func (w *inodeWriter) init(b *Builder) { w.b = b }

func (w *inodeWriter) put(ino uint32, in *format.Inode, xattrs []byte) error {
	b := w.b
	group, index := (ino-1)/b.g.inodesPerGroup, (ino-1)%b.g.inodesPerGroup
	at := uint64(index) * uint64(b.o.inodeSize)
	nr := b.l.table[group] + at>>b.o.blockBits
	if w.block == nil || nr != w.nr {
		block, err := b.table.block(nr)
		if err != nil {
			return err
		}
		w.block, w.nr = block, nr
	}
	raw := w.block[at&uint64(b.o.blockSize-1):][:b.o.inodeSize]
	if b.o.inodeSize > format.InodeBaseSize {
		in.ExtraIsize = format.InodeExtraSize
	}
	if err := in.Encode(raw); err != nil {
		return err
	}
	copy(raw[min(len(raw), format.InodeBaseSize+format.InodeExtraSize):], xattrs)
	if b.o.f.checksums() {
		format.SetInodeChecksum(format.InodeSeed(b.checksumSeed, ino, 0), raw)
	}
	return nil
}
