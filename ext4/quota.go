package ext4

import (
	"fmt"
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// quotas keeps the usage of users, groups and projects right, with the feature quota:
// every change of an inode's blocks or owner changes the entry in the quota file within
// the same handle. Limits are neither set nor enforced here; the kernel does not enforce
// them either, unless a mount option asks for it.
type quotas struct {
	// mu guards the content of the files. It is taken with amu of an inode held, and
	// the locks of groups are taken with mu held.
	mu    sync.Mutex
	files []*quotaFile
}

// quotaNames are the kinds of quota in the order of the superblock's fields.
var quotaNames = [3]string{"user", "group", "project"}

// quotaBlocks is how many blocks an operation changes at most in the files when it adds to
// one owner, who may be new, and takes from another: of each file a header, the way to an
// entry, the block of the other's, a neighbour on a list, and what makes the file longer.
const quotaBlocks = 3 * (1 + format.QuotaDepth + 1 + 1 + 1 + 4)

// quotaFile is one of the files.
type quotaFile struct {
	kind  int
	n     *Inode
	where map[uint32]quotaPlace // entries that were looked up
}

// quotaPlace is where an entry lies: the filesystem's block and the offset in it.
type quotaPlace struct {
	nr  uint64
	off int
}

// forget drops what is known of where entries lie: blocks of the files have moved.
func (q *quotas) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.files {
		clear(f.where)
	}
}

// owner is whom an inode's blocks are charged to: user, group and project.
type owner [3]uint32

func ownerOf(d *format.Inode) owner { return owner{d.UID, d.GID, d.ProjID} }

// own says whether an inode is the filesystem's own: no directory has a name for it and
// nobody is charged for it.
func (fs *FS) own(ino uint32) bool {
	if ino != format.RootIno && ino < fs.firstIno {
		return true
	}
	for _, q := range fs.quotaInodes {
		if ino == q {
			return true
		}
	}
	return ino == fs.orphanInode
}

// openQuotas opens the quota files for writing.
func (fs *FS) openQuotas() error {
	fs.closeQuotas()
	for kind, ino := range fs.quotaInodes {
		if ino == 0 {
			continue
		}
		n, err := fs.igetSpecial(ino)
		if err != nil {
			return fmt.Errorf("ext4: %s quota: %w", quotaNames[kind], err)
		}
		q := &quotaFile{kind: kind, n: n, where: make(map[uint32]quotaPlace)}
		fs.quotas.files = append(fs.quotas.files, q)
		if err := q.check(); err != nil {
			return err
		}
	}
	return nil
}

func (fs *FS) closeQuotas() {
	for _, q := range fs.quotas.files {
		q.n.unref()
	}
	fs.quotas.files = nil
}

func (q *quotaFile) bad(field string, v any) error {
	return q.n.fs.corrupt(&CorruptError{quotaNames[q.kind] + " quota", field, v})
}

// check looks at the header of the file.
func (q *quotaFile) check() error {
	if !q.n.isRegular() || q.n.inline() || q.n.isValue() {
		return q.bad("inode mode", fmt.Sprintf("%#o", q.n.d.Mode))
	}
	b, head, err := q.block(0)
	if err != nil {
		return err
	}
	if m := le.Uint32(head); m != format.QuotaMagic[q.kind] {
		return q.bad("magic", fmt.Sprintf("%#x in block %d", m, b.nr))
	}
	if v := le.Uint32(head[format.QuotaVersionOffset:]); v != format.QuotaVersion {
		return &UnsupportedError{Features: []string{fmt.Sprintf("quota (%s file of version %d)", quotaNames[q.kind], v)}, Write: true}
	}
	blocks := le.Uint32(head[format.QuotaBlocksOffset:])
	if blocks <= format.QuotaRoot || uint64(blocks) > q.n.d.Size>>format.QuotaBlockBits {
		return q.bad("number of blocks", blocks)
	}
	return nil
}

// block gives a block of the file: the buffer it lies in, and its bytes there.
func (q *quotaFile) block(i uint32) (*buffer, []byte, error) {
	fs := q.n.fs
	off := uint64(i) << format.QuotaBlockBits
	m, err := q.n.mapBlock(off >> fs.bsBits)
	if err != nil {
		return nil, nil, err
	}
	if m.state != Written {
		return nil, nil, q.bad(m.state.String()+" at block", i)
	}
	b, err := fs.cache.get(m.disk)
	if err != nil {
		return nil, nil, err
	}
	if fresh, ok := b.claim(kindQuota, q.n.ino); !ok || fresh && !b.settle(kindQuota, q.n.ino) {
		return nil, nil, q.bad("block that is also something else:", m.disk)
	}
	at := int(off & uint64(fs.bs-1))
	return b, b.data[at : at+1<<format.QuotaBlockBits], nil
}

// inner is block for a number that was read from the file.
func (q *quotaFile) inner(i uint32) (*buffer, []byte, error) {
	_, head, err := q.block(0)
	if err != nil {
		return nil, nil, err
	}
	if i <= format.QuotaRoot || i >= le.Uint32(head[format.QuotaBlocksOffset:]) {
		return nil, nil, q.bad("block number", i)
	}
	return q.block(i)
}

// digit is where the tree's blocks of a level have the reference for an id.
func digit(id uint32, level int) int {
	return int(id>>(8*(format.QuotaDepth-1-level))&0xFF) * 4
}

// find looks for the entry of an id. Without one, path has the blocks of the tree that
// lead there as far as they exist.
func (q *quotaFile) find(id uint32) (p quotaPlace, path []uint32, err error) {
	if p, ok := q.where[id]; ok {
		return p, nil, nil
	}
	_, data, err := q.block(format.QuotaRoot)
	if err != nil {
		return p, nil, err
	}
	path = append(path, format.QuotaRoot)
	var b *buffer
	for level := range format.QuotaDepth {
		ref := le.Uint32(data[digit(id, level):])
		if ref == 0 {
			return p, path, nil
		}
		if b, data, err = q.inner(ref); err != nil {
			return p, nil, err
		}
		path = append(path, ref)
	}
	for i := range format.QuotaEntries {
		e := data[format.QuotaEntriesOffset+i*format.QuotaEntrySize:][:format.QuotaEntrySize]
		if le.Uint32(e) == id && !allZero(e) {
			return q.remember(id, b, path[len(path)-1], i), path, nil
		}
	}
	return p, nil, q.bad("lost entry of id", id)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// remember notes where entry i of a block lies.
func (q *quotaFile) remember(id uint32, b *buffer, block uint32, i int) quotaPlace {
	off := uint64(block)<<format.QuotaBlockBits + format.QuotaEntriesOffset + uint64(i)*format.QuotaEntrySize
	p := quotaPlace{b.nr, int(off & uint64(len(b.data)-1))}
	q.where[id] = p
	return p
}

// entry finds the entry of an id, or makes it.
func (q *quotaFile) entry(h *handle, id uint32) (quotaPlace, error) {
	p, path, err := q.find(id)
	if err != nil || p.nr != 0 {
		return p, err
	}
	_, head, err := q.block(0)
	if err != nil {
		return p, err
	}
	leaf := le.Uint32(head[format.QuotaFreeEntryOffset:])
	need := format.QuotaDepth - len(path)
	if leaf == 0 {
		need++
	}
	var fresh []uint32 // first all blocks: afterwards nothing can fail for want of room
	for range need {
		i, err := q.take(h)
		if err != nil {
			for _, i := range fresh {
				if e := q.giveBack(h, i); e != nil {
					return p, e
				}
			}
			return p, err
		}
		fresh = append(fresh, i)
	}
	if leaf == 0 {
		leaf, fresh = fresh[0], fresh[1:]
		if err := q.setHead(h, format.QuotaFreeEntryOffset, leaf); err != nil {
			return p, err
		}
	}
	slot, err := q.use(h, leaf, id)
	if err != nil {
		return p, err
	}
	path = append(append(path, fresh...), leaf)
	for level, i := range path[:format.QuotaDepth] {
		b, data, err := q.block(i)
		if err != nil {
			return p, err
		}
		le.PutUint32(data[digit(id, level):], path[level+1])
		h.dirty(b, kindQuota, 0)
	}
	b, _, err := q.inner(leaf)
	if err != nil {
		return p, err
	}
	return q.remember(id, b, leaf, slot), nil
}

func (q *quotaFile) setHead(h *handle, off int, v uint32) error {
	b, head, err := q.block(0)
	if err != nil {
		return err
	}
	le.PutUint32(head[off:], v)
	h.dirty(b, kindQuota, 0)
	return nil
}

// take takes a free block, or makes the file longer, and clears it.
func (q *quotaFile) take(h *handle) (uint32, error) {
	_, head, err := q.block(0)
	if err != nil {
		return 0, err
	}
	if i := le.Uint32(head[format.QuotaFreeBlockOffset:]); i != 0 {
		b, data, err := q.inner(i)
		if err != nil {
			return 0, err
		}
		next := le.Uint32(data[format.QuotaNextOffset:])
		clear(data)
		h.dirty(b, kindQuota, 0)
		return i, q.setHead(h, format.QuotaFreeBlockOffset, next)
	}
	fs, i := q.n.fs, le.Uint32(head[format.QuotaBlocksOffset:])
	off := uint64(i) << format.QuotaBlockBits
	m, err := q.n.mapBlock(off >> fs.bsBits)
	if err != nil {
		return 0, err
	}
	if m.state == Hole {
		r, err := fs.setAside(fs.fileGoal(q.n), 1)
		if err != nil {
			return 0, err
		}
		if err := q.n.insert(h, off>>fs.bsBits, r, false); err != nil {
			return 0, err
		}
		b := fs.cache.fresh(r.start)
		b.seen.Store(uint64(kindQuota)<<32 | uint64(q.n.ino))
		h.dirty(b, kindQuota, 0)
	}
	b, data, err := q.block(i)
	if err != nil {
		return 0, err
	}
	clear(data)
	h.dirty(b, kindQuota, 0)
	if err := q.n.update(h, true, func(d *format.Inode) {
		d.Size = max(d.Size, off+1<<format.QuotaBlockBits)
	}); err != nil {
		return 0, err
	}
	return i, q.setHead(h, format.QuotaBlocksOffset, i+1)
}

// giveBack puts a block that was taken on the list of free ones.
func (q *quotaFile) giveBack(h *handle, i uint32) error {
	_, head, err := q.block(0)
	if err != nil {
		return err
	}
	b, data, err := q.inner(i)
	if err != nil {
		return err
	}
	le.PutUint32(data[format.QuotaNextOffset:], le.Uint32(head[format.QuotaFreeBlockOffset:]))
	h.dirty(b, kindQuota, 0)
	return q.setHead(h, format.QuotaFreeBlockOffset, i)
}

// use takes a free entry of a block that is first on the list of those with room.
func (q *quotaFile) use(h *handle, leaf, id uint32) (slot int, err error) {
	b, data, err := q.inner(leaf)
	if err != nil {
		return 0, err
	}
	for slot = 0; ; slot++ {
		if slot == format.QuotaEntries {
			return 0, q.bad("block without the room it should have:", leaf)
		}
		e := data[format.QuotaEntriesOffset+slot*format.QuotaEntrySize:][:format.QuotaEntrySize]
		if !allZero(e) {
			continue
		}
		le.PutUint32(e, id)
		le.PutUint64(e[format.QuotaInodeTimeOffset:], 1) // until there is usage
		break
	}
	count := le.Uint16(data[format.QuotaCountOffset:]) + 1
	le.PutUint16(data[format.QuotaCountOffset:], count)
	h.dirty(b, kindQuota, 0)
	if count < format.QuotaEntries {
		return slot, nil
	}
	// It is full: off the list.
	next := le.Uint32(data[format.QuotaNextOffset:])
	le.PutUint32(data[format.QuotaNextOffset:], 0)
	le.PutUint32(data[format.QuotaPrevOffset:], 0)
	if next != 0 {
		nb, nd, err := q.inner(next)
		if err != nil {
			return 0, err
		}
		le.PutUint32(nd[format.QuotaPrevOffset:], 0)
		h.dirty(nb, kindQuota, 0)
	}
	return slot, q.setHead(h, format.QuotaFreeEntryOffset, next)
}

// add changes the usage of an id.
func (q *quotaFile) add(h *handle, id uint32, space, inodes int64) error {
	p, _, err := q.find(id)
	if err == nil && p.nr == 0 {
		if space <= 0 && inodes <= 0 {
			return nil // it is wrong: there is nothing to take from
		}
		p, err = q.entry(h, id)
	}
	if err != nil {
		return err
	}
	b, err := q.n.fs.cache.get(p.nr)
	if err != nil {
		return err
	}
	e := b.data[p.off:][:format.QuotaEntrySize]
	change := func(off int, by int64) {
		v := int64(le.Uint64(e[off:])) + by
		le.PutUint64(e[off:], uint64(max(v, 0))) // below 0: it was wrong before
	}
	change(format.QuotaSpaceOffset, space)
	change(format.QuotaInodesOffset, inodes)
	if t := e[format.QuotaInodeTimeOffset:]; le.Uint64(t) == 1 {
		le.PutUint64(t, 0)
	}
	if allZero(e) {
		le.PutUint64(e[format.QuotaInodeTimeOffset:], 1)
	}
	h.dirty(b, kindQuota, 0)
	return nil
}

// know makes sure that an owner has its entries, before a change that cannot be taken
// back charges it: ENOSPC when there is no room for them.
func (h *handle) know(who owner) error {
	q := &h.fs.quotas
	if len(q.files) == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.files {
		if _, err := f.entry(h, who[f.kind]); err != nil {
			return fmt.Errorf("ext4: %s quota of id %d: %w", quotaNames[f.kind], who[f.kind], err)
		}
	}
	return nil
}

// charged says whether somebody is charged for the inode. It does not look at the open
// files, which a remount for writing opens anew: it is asked outside of handles, too.
func (n *Inode) charged() bool {
	return n.fs.quotaInodes != [3]uint32{} && !n.isValue() && !n.fs.own(n.ino)
}

// charge adds to what the inode's owner uses. amu is held.
func (n *Inode) charge(h *handle, blocks, inodes int64) error {
	if !n.charged() {
		return nil
	}
	return n.fs.quotas.add(h, ownerOf(&n.d), blocks<<n.fs.bsBits, inodes)
}

func (q *quotas) add(h *handle, who owner, space, inodes int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.files {
		if err := f.add(h, who[f.kind], space, inodes); err != nil {
			return fmt.Errorf("ext4: %s quota of id %d: %w", quotaNames[f.kind], who[f.kind], err)
		}
	}
	return nil
}

// transfer charges another for what the inode uses. amu is held.
func (n *Inode) transfer(h *handle, from, to owner, inodes int64) error {
	if !n.charged() || from == to {
		return nil
	}
	q := &n.fs.quotas
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.files {
		if from[f.kind] == to[f.kind] {
			continue
		}
		space := n.sectors() * 512
		if err := f.add(h, to[f.kind], space, inodes); err != nil {
			return err
		}
		if err := f.add(h, from[f.kind], -space, -inodes); err != nil {
			return err
		}
	}
	return nil
}

// crossesProject says whether a directory that hands its project down would get a file
// of another.
func (n *Inode) crossesProject(c *Inode) bool {
	if !n.fs.projects {
		return false
	}
	a, b := n.Attr(), c.Attr()
	return a.Flags&format.FlagProjInherit != 0 && a.Project != b.Project
}

// errOtherProject is what a move or a link into another project gets.
func errOtherProject(what, name string) error {
	return fmt.Errorf("ext4: %s %q into another project: %w", what, name, unix.EXDEV)
}
