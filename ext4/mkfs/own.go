package mkfs

import (
	"maps"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
)

// ownFile is a file that belongs to the filesystem itself and has no name: the orphan file or a
// quota file.
type ownFile struct {
	ino   uint32
	quota *quota // nil: it is the orphan file
	size  uint64 // bytes
	ext   []Extent
}

// quota is what the inodes of each user, group or project take.
type quota struct {
	kind int // in the order of format.QuotaMagic
	used map[uint32]usage
	ids  []uint32 // the owners, ascending
}

// usage is what the inodes of one owner take: 512-byte sectors, and their number.
type usage struct{ sectors, inodes uint64 }

func (q *quota) owner(n *Node) uint32 { return [3]uint32{n.uid, n.gid, n.project}[q.kind] }

// addOwn numbers the filesystem's own files as mke2fs does: those of users and groups have fixed
// numbers, the others follow lost+found. The orphan file's place follows the journal's.
func (b *Builder) addOwn() {
	f := b.o.f
	if b.g != nil {
		f = b.g.f
	}
	if f.quota() {
		b.own = append(b.own, ownFile{ino: format.UserQuotaIno, quota: &quota{kind: 0}},
			ownFile{ino: format.GroupQuotaIno, quota: &quota{kind: 1}})
		if f.ro&format.RoProject != 0 {
			b.own = append(b.own, ownFile{ino: b.newNode().ino, quota: &quota{kind: 2}})
		}
	}
	if !f.orphanFile() {
		return
	}
	file := ownFile{ino: b.newNode().ino}
	if b.g != nil {
		file.size = b.g.orphans << b.o.blockBits
		b.scratch = b.s.take(b.g.orphans, b.scratch[:0])
		file.ext = b.toExtents(nil, b.scratch, 0)
	}
	b.own = append(b.own, file)
}

// orphanBlocks is the length that mke2fs gives to the orphan file of a filesystem.
func orphanBlocks(blocks uint64) uint64 { return min(max(blocks/4096, 32), 512) }

// count finds out who owns inodes.
func (q *quota) count(b *Builder) {
	q.used = map[uint32]usage{q.owner(b.root): {}}
	for i := range b.count {
		if n := b.node(i); n.links > 0 {
			q.used[q.owner(n)] = usage{}
		}
	}
	q.ids = slices.Sorted(maps.Keys(q.used))
}

// branches says whether an owner needs a block of the tree that the owner before has not: the one
// that leads to all ids that are equal without their last bits.
func (q *quota) branches(i int, bits int) bool {
	return i == 0 || uint64(q.ids[i])>>bits != uint64(q.ids[i-1])>>bits
}

// size is the length of the file in bytes: a header, the tree, and the entries.
func (q *quota) size() uint64 {
	blocks := 1 + ceil(uint64(len(q.ids)), format.QuotaEntries)
	for level := range format.QuotaDepth {
		for i := range q.ids {
			if q.branches(i, 8*(level+1)) {
				blocks++
			}
		}
	}
	return blocks << format.QuotaBlockBits
}

// ownBlocks is the number of blocks of the quota files, with their maps.
func (b *Builder) ownBlocks() uint64 {
	total := uint64(0)
	for i := range b.own {
		if q := b.own[i].quota; q != nil {
			q.count(b)
			total += b.withMap(ceil(q.size(), uint64(b.o.blockSize)))
		}
	}
	return total
}

// placeQuotas puts the quota files somewhere. Their content is known when all else is written.
func (b *Builder) placeQuotas() error {
	for i := range b.own {
		f := &b.own[i]
		if f.quota == nil {
			continue
		}
		f.quota.count(b)
		f.size = f.quota.size()
		blocks := ceil(f.size, uint64(b.o.blockSize))
		if blocks > b.s.left {
			return b.noSpace()
		}
		b.scratch = b.s.take(blocks, b.scratch[:0])
		f.ext = b.toExtents(nil, b.scratch, 0)
	}
	return nil
}

// charge counts an inode and its sectors for its owners.
func (b *Builder) charge(n *Node, sectors uint64) {
	for i := range b.own {
		if q := b.own[i].quota; q != nil {
			u := q.used[q.owner(n)]
			q.used[q.owner(n)] = usage{u.sectors + sectors, u.inodes + 1}
		}
	}
}

// ownFile is the filesystem's own file of that number, nil when there is none.
func (b *Builder) ownFile(ino uint32) *ownFile {
	for i := range b.own {
		if b.own[i].ino == ino {
			return &b.own[i]
		}
	}
	return nil
}

// writeOwnInode writes the inode of a file of the filesystem's own.
func (b *Builder) writeOwnInode(f *ownFile, inodes *inodeWriter) error {
	m, err := b.mapBlocks(f.ino, f.ext)
	if err != nil {
		return err
	}
	in := b.systemInode()
	in.Size, in.Block = f.size, m.block
	in.Blocks = (ceil(f.size, uint64(b.o.blockSize)) + m.extra) << (b.o.blockBits - 9)
	if b.o.f.extents() {
		in.Flags = format.FlagExtents
	}
	if f.quota != nil {
		in.Flags |= format.FlagImmutable // as mke2fs makes it: the kernel alone writes there
	}
	return inodes.put(f.ino, &in, nil)
}

// writeOwn writes the content of the filesystem's own files.
func (b *Builder) writeOwn() error {
	for i := range b.own {
		f := &b.own[i]
		write := b.writeOrphans
		if f.quota != nil {
			write = b.writeQuota
		}
		if err := write(f); err != nil {
			return err
		}
	}
	return nil
}

// writeOrphans writes an orphan file without orphans: blocks of zeros that end with a magic number
// and a checksum.
func (b *Builder) writeOrphans(f *ownFile) error {
	seed := format.InodeSeed(b.checksumSeed, f.ino, 0)
	for _, e := range f.ext {
		first := uint64(e.Disk) >> b.o.blockBits
		for nr := range uint64(e.Length) >> b.o.blockBits {
			block, err := b.block(first + nr)
			if err != nil {
				return err
			}
			tail := block[b.o.blockSize-format.OrphanTailSize:]
			le.PutUint32(tail, format.OrphanFileMagic)
			if b.o.f.checksums() {
				le.PutUint32(tail[4:], format.OrphanBlockChecksum(seed, first+nr, block))
			}
		}
	}
	return nil
}

// quotaWriter hands out the blocks of a quota file, one after the other.
type quotaWriter struct {
	b    *Builder
	ext  []Extent
	rest []byte // of the filesystem's block
}

// next is the next block, all zeros, valid until the one after it is asked for.
func (w *quotaWriter) next() ([]byte, error) {
	if len(w.rest) == 0 {
		block, err := w.b.block(uint64(w.ext[0].Disk) >> w.b.o.blockBits)
		if err != nil {
			return nil, err
		}
		w.rest = block
		size := int64(w.b.o.blockSize)
		if w.ext[0].Disk, w.ext[0].Length = w.ext[0].Disk+size, w.ext[0].Length-size; w.ext[0].Length == 0 {
			w.ext = w.ext[1:]
		}
	}
	block := w.rest[:1<<format.QuotaBlockBits]
	w.rest = w.rest[len(block):]
	return block, nil
}

// writeQuota writes a quota file: the header, the tree level by level, the entries.
func (b *Builder) writeQuota(f *ownFile) error {
	q := f.quota
	w := quotaWriter{b: b, ext: f.ext}
	head, err := w.next()
	if err != nil {
		return err
	}
	blocks := uint32(f.size >> format.QuotaBlockBits)
	le.PutUint32(head, format.QuotaMagic[q.kind])
	le.PutUint32(head[format.QuotaVersionOffset:], format.QuotaVersion)
	le.PutUint32(head[format.QuotaSpaceGraceOffset:], format.QuotaGrace)
	le.PutUint32(head[format.QuotaInodeGraceOffset:], format.QuotaGrace)
	le.PutUint32(head[format.QuotaBlocksOffset:], blocks)
	if len(q.ids)%format.QuotaEntries != 0 { // the last block has room
		le.PutUint32(head[format.QuotaFreeEntryOffset:], blocks-1)
	}

	below := uint32(format.QuotaRoot) // the block that was referred to last
	for level := range format.QuotaDepth {
		bits := 8 * (format.QuotaDepth - 1 - level)
		var block []byte
		for i, id := range q.ids {
			if q.branches(i, bits+8) {
				if block, err = w.next(); err != nil {
					return err
				}
			}
			if bits > 0 && q.branches(i, bits) || bits == 0 && i%format.QuotaEntries == 0 {
				below++
			}
			le.PutUint32(block[4*(id>>bits&0xFF):], below)
		}
	}
	for ids := range slices.Chunk(q.ids, format.QuotaEntries) {
		block, err := w.next()
		if err != nil {
			return err
		}
		le.PutUint16(block[format.QuotaCountOffset:], uint16(len(ids)))
		for i, id := range ids {
			e := block[format.QuotaEntriesOffset+i*format.QuotaEntrySize:]
			le.PutUint32(e, id)
			le.PutUint64(e[format.QuotaInodesOffset:], q.used[id].inodes)
			le.PutUint64(e[format.QuotaSpaceOffset:], q.used[id].sectors<<9)
		}
	}
	return nil
}
