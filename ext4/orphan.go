package ext4

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// The orphan list holds inodes that a crash must not leak: those without links that are
// still open, and those whose truncation is under way. On disk it starts in the
// superblock and goes on in the inodes' deletion times. A kernel with the feature
// orphan_file uses a file instead, which is read here; the list serves such
// filesystems as well.
type orphanList struct {
	mu   sync.Mutex
	head *Inode
}

// orphanLink is an inode's place on the list; guarded by orphanList.mu, and on by amu
// as well.
type orphanLink struct {
	on         bool
	cut        bool // blocks behind its end are still to be freed
	prev, next *Inode
	slot       int // in the orphan file, from 1; 0: not there
}

// settleOrphan puts an inode that has no links on the list, and takes one that has some
// off, after a change of the count. Others may change the count at the same time: the
// last to come here sees what it came to.
func (fs *FS) settleOrphan(h *handle, n *Inode) error {
	fs.orphans.mu.Lock()
	defer fs.orphans.mu.Unlock()
	return fs.settle(h, n)
}

// setCut says whether a truncation of the inode is under way. mu of the inode is held for
// writing.
func (fs *FS) setCut(h *handle, n *Inode, cut bool) error {
	fs.orphans.mu.Lock()
	defer fs.orphans.mu.Unlock()
	n.orphan.cut = cut
	return fs.settle(h, n)
}

// settle puts an inode on the list or takes it off, as it should be. orphanList.mu is held.
func (fs *FS) settle(h *handle, n *Inode) error {
	if n.links() == 0 || n.orphan.cut {
		return fs.orphanAdd(h, n)
	}
	return fs.orphanRemove(h, n)
}

func (n *Inode) isCut() bool {
	n.fs.orphans.mu.Lock()
	defer n.fs.orphans.mu.Unlock()
	return n.orphan.cut
}

func (n *Inode) links() uint16 {
	n.amu.Lock()
	defer n.amu.Unlock()
	return n.d.Links
}

// orphanAdd puts an inode on the list, unless it is there. orphanList.mu is held.
func (fs *FS) orphanAdd(h *handle, n *Inode) error {
	l := &fs.orphans
	if n.orphan.on {
		return nil
	}
	next := uint32(0)
	if l.head != nil {
		next = l.head.ino
	}
	if err := n.update(h, true, func(d *format.Inode) {
		d.Dtime = next
		n.orphan.on = true
	}); err != nil {
		return err
	}
	n.orphan.next, n.orphan.prev = l.head, nil
	if l.head != nil {
		l.head.orphan.prev = n
	}
	l.head = n
	fs.setLastOrphan(n.ino)
	return nil
}

func (fs *FS) setLastOrphan(ino uint32) {
	fs.sbMu.Lock()
	fs.sb.LastOrphan = ino
	fs.sbMu.Unlock()
}

// orphanRemove takes an inode off the list, if it is there. orphanList.mu is held.
func (fs *FS) orphanRemove(h *handle, n *Inode) error {
	l := &fs.orphans
	if n.orphan.slot != 0 {
		if err := fs.clearOrphanSlot(h, n.orphan.slot-1); err != nil {
			return err
		}
		n.orphan.slot = 0
	}
	if !n.orphan.on {
		return nil
	}
	next := uint32(0)
	if n.orphan.next != nil {
		next = n.orphan.next.ino
	}
	if p := n.orphan.prev; p != nil {
		if err := p.update(h, true, func(d *format.Inode) { d.Dtime = next }); err != nil {
			return err
		}
		p.orphan.next = n.orphan.next
	} else {
		l.head = n.orphan.next
		fs.setLastOrphan(next)
	}
	if n.orphan.next != nil {
		n.orphan.next.orphan.prev = n.orphan.prev
	}
	n.orphan.prev, n.orphan.next = nil, nil
	return n.update(h, true, func(d *format.Inode) {
		d.Dtime = 0
		n.orphan.on = false
	})
}

// hasBlocks says whether the inode's block array maps blocks.
func (n *Inode) hasBlocks() bool {
	switch n.typ {
	case format.ModeRegular, format.ModeDir:
		return !n.inline()
	case format.ModeSymlink:
		return !n.inline() && !n.fastSymlink()
	}
	return false
}

// evict frees an inode without links: its blocks, in as many handles as it takes, its
// attributes, its number.
func (fs *FS) evict(n *Inode) (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	body, block, values, err := n.xattrsToDrop()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, values.put()) }()
	mapped := n.hasBlocks()
	from := uint64(0)
	for {
		h, err := fs.beginFor(handleBlocks + 2*len(values)) // whose inodes go on the list
		if err != nil {
			return err
		}
		done := true
		if mapped {
			done, err = n.removeSome(h, &from, 1<<62)
		}
		if err == nil && done {
			if err = n.dropXattrs(h, body, block, values); err == nil {
				err = fs.finishEvict(h, n)
			}
		}
		h.end()
		if done || err != nil {
			return err
		}
	}
}

// xattrsToDrop reads the attributes of an inode that is to be freed, and takes references
// to the inodes of their values.
func (n *Inode) xattrsToDrop() (body, block []xattr, values valueSet, err error) {
	if !n.fs.hasEAInode || n.isValue() {
		return nil, nil, nil, nil
	}
	if body, err = n.bodyXattrs(); err != nil {
		return nil, nil, nil, err
	}
	if block, err = n.blockXattrs(); err != nil {
		return nil, nil, nil, err
	}
	values, err = n.values(body, block)
	return body, block, values, err
}

func (fs *FS) finishEvict(h *handle, n *Inode) error {
	fs.orphans.mu.Lock()
	err := fs.orphanRemove(h, n)
	fs.orphans.mu.Unlock()
	if err != nil {
		return err
	}
	now := fs.now()
	n.amu.Lock()
	err = n.charge(h, 0, -1)
	n.amu.Unlock()
	if err != nil {
		return err
	}
	if err := n.update(h, true, func(d *format.Inode) {
		d.Dtime = max(uint32(now.Sec), 1)
		d.Size = 0
		d.Links = 0
	}); err != nil {
		return err
	}
	return h.freeInode(n)
}

// takeOrphans reads the list and the orphan file, and takes a reference to each of their
// inodes.
func (fs *FS) takeOrphans() ([]*Inode, error) {
	list, err := fs.readOrphans()
	if err != nil {
		return nil, err
	}
	files, err := fs.readOrphanFile()
	if err != nil {
		for _, n := range list {
			n.unref()
		}
		return nil, err
	}
	fs.orphans.mu.Lock()
	defer fs.orphans.mu.Unlock()
	fs.orphans.head = nil
	for i, n := range list {
		n.amu.Lock()
		n.orphan = orphanLink{on: true, cut: n.orphan.cut || n.d.Links > 0, slot: n.orphan.slot}
		n.amu.Unlock()
		if i > 0 {
			n.orphan.prev = list[i-1]
			list[i-1].orphan.next = n
		} else {
			fs.orphans.head = n
		}
	}
	return append(list, files...), nil
}

// recoverOrphans finishes what a crash left on the list and in the orphan file.
func (fs *FS) recoverOrphans(list []*Inode) error {
	var errs error
	count := 0
	for _, n := range list {
		if n.links() == 0 && n.held() { // open since before a remount: the last Put frees it, or is about to
			if n.isCut() {
				errs = errors.Join(errs, fs.finishCut(n))
			}
			errs = errors.Join(errs, n.Put())
			continue
		}
		count++
		errs = errors.Join(errs, fs.recoverOrphan(n))
	}
	if errs == nil {
		errs = fs.clearOrphanFile()
	}
	if count > 0 {
		fs.logf("EXT4-fs: %d orphan inodes processed", count)
	}
	return errs
}

// held says whether somebody but the caller has a reference.
func (n *Inode) held() bool {
	n.fs.icache.mu.Lock()
	defer n.fs.icache.mu.Unlock()
	return n.refs > 1
}

func (fs *FS) recoverOrphan(n *Inode) error {
	if n.links() == 0 {
		fs.icache.mu.Lock()
		n.dead = true
		fs.icache.mu.Unlock()
		err := fs.evict(n)
		n.unref()
		return err
	}
	defer n.unref()
	return fs.finishCut(n)
}

// finishCut does the rest of a truncation, which a crash or a remount ended.
func (fs *FS) finishCut(n *Inode) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hasBlocks() && !n.isDir() { // the rest of a truncation; its times are set already
		if err := n.removeAll((n.d.Size+uint64(fs.bs)-1)>>fs.bsBits, 1<<62); err != nil {
			return err
		}
	}
	h, err := fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	return fs.setCut(h, n, false)
}

// readOrphans reads the list. One that is damaged is given up: its inodes leak until
// e2fsck runs.
func (fs *FS) readOrphans() ([]*Inode, error) {
	var list []*Inode
	seen := make(map[uint32]bool)
	for ino := fs.sb.LastOrphan; ino != 0; {
		if ino < fs.firstIno || ino > fs.inodes.Load() || fs.own(ino) || seen[ino] {
			fs.giveUpOrphans(list)
			return nil, fs.tolerate(&CorruptError{"orphan list", "inode number", ino})
		}
		seen[ino] = true
		n, err := fs.igetOrphan(ino)
		if err != nil {
			fs.giveUpOrphans(list)
			return nil, fs.tolerate(&CorruptError{"orphan list", fmt.Sprintf("inode %d", ino), err})
		}
		list = append(list, n)
		ino = n.d.Dtime
	}
	return list, nil
}

func (fs *FS) giveUpOrphans(list []*Inode) {
	for _, n := range list {
		n.unref()
	}
	fs.setLastOrphan(0)
}

// tolerate reports damage that does not keep the filesystem from being used, unless
// errors= says otherwise.
func (fs *FS) tolerate(e *CorruptError) error {
	if err := fs.corrupt(e); fs.policy() != ErrorsContinue {
		return err
	}
	return nil
}

// maxOrphanBlocks is how long an orphan file may be, as mke2fs has it.
const maxOrphanBlocks = 512

// orphanFile takes a reference to the orphan file; nil without the feature.
func (fs *FS) orphanFile() (*Inode, error) {
	if fs.sb.FeatureCompat&format.CompatOrphanFile == 0 || fs.sb.FeatureRoCompat&format.RoOrphanPresent == 0 {
		return nil, nil
	}
	n, err := fs.igetSpecial(fs.sb.OrphanFileInum)
	if err != nil {
		return nil, err
	}
	if !n.isRegular() || n.d.Size>>fs.bsBits > maxOrphanBlocks || n.inline() {
		n.unref()
		return nil, fs.corrupt(&CorruptError{"orphan file", "size", n.d.Size})
	}
	return n, nil
}

// orphanBlocks visits the blocks of the orphan file.
func (fs *FS) orphanBlocks(f func(n *Inode, b *buffer) error) error {
	n, err := fs.orphanFile()
	if n == nil || err != nil {
		return err
	}
	defer n.unref()
	for i := range n.d.Size >> fs.bsBits {
		m, err := n.mapBlock(i)
		if err != nil {
			return err
		}
		if m.state != Written {
			return fs.corrupt(&CorruptError{"orphan file", "hole at block", i})
		}
		b, err := fs.cache.get(m.disk)
		if err != nil {
			return err
		}
		end := fs.bs - format.OrphanTailSize
		if le.Uint32(b.data[end:]) != format.OrphanFileMagic {
			return fs.corrupt(&CorruptError{"orphan file", "magic of block", i})
		}
		fresh, ok := b.claim(kindOrphan, n.ino)
		if fresh {
			if fs.csum && le.Uint32(b.data[end+4:]) != format.OrphanBlockChecksum(n.iseed, b.nr, b.data) {
				return fs.corrupt(&CorruptError{"orphan file", "checksum of block", i})
			}
			ok = b.settle(kindOrphan, n.ino)
		}
		if !ok {
			return fs.corrupt(&CorruptError{"orphan file", "also something else, block", b.nr})
		}
		if err := f(n, b); err != nil {
			return err
		}
	}
	return nil
}

func (fs *FS) readOrphanFile() ([]*Inode, error) {
	var list []*Inode
	seen := make(map[uint32]bool)
	at := 0
	err := fs.orphanBlocks(func(_ *Inode, b *buffer) error {
		for i := range format.OrphansPerBlock(fs.bs) {
			at++
			ino := le.Uint32(b.data[4*i:])
			if ino == 0 || seen[ino] {
				continue
			}
			seen[ino] = true
			if ino < fs.firstIno || ino > fs.inodes.Load() || fs.own(ino) {
				return fs.corrupt(&CorruptError{"orphan file", "inode number", ino})
			}
			n, err := fs.igetOrphan(ino)
			if unixIs(err, unix.ESTALE) { // freed already
				continue
			}
			if err != nil {
				return err
			}
			n.orphan.slot = at
			list = append(list, n)
		}
		return nil
	})
	return list, err
}

// clearOrphanSlot empties a slot of the orphan file, counted from 0.
func (fs *FS) clearOrphanSlot(h *handle, slot int) error {
	n, err := fs.orphanFile()
	if n == nil || err != nil {
		return err
	}
	defer n.unref()
	per := format.OrphansPerBlock(fs.bs)
	m, err := n.mapBlock(uint64(slot / per))
	if err != nil {
		return err
	}
	b, err := fs.cache.get(m.disk)
	if err != nil {
		return err
	}
	le.PutUint32(b.data[4*(slot%per):], 0)
	h.dirty(b, kindOrphan, n.iseed)
	return nil
}

// clearOrphanFile empties the orphan file, whose inodes are dealt with, and says so in
// the superblock.
func (fs *FS) clearOrphanFile() error {
	if fs.sb.FeatureRoCompat&format.RoOrphanPresent == 0 {
		return nil
	}
	h, err := fs.beginFor(handleBlocks + maxOrphanBlocks)
	if err != nil {
		return err
	}
	defer h.end()
	err = fs.orphanBlocks(func(n *Inode, b *buffer) error {
		slots := b.data[:fs.bs-format.OrphanTailSize]
		if slices.ContainsFunc(slots, func(c byte) bool { return c != 0 }) {
			clear(slots)
			h.dirty(b, kindOrphan, n.iseed)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b, err := fs.cache.get(uint64(format.SuperblockOffset >> fs.bsBits))
	if err != nil {
		return err
	}
	h.dirty(b, kindPlain, 0)
	fs.sbMu.Lock()
	fs.sb.FeatureRoCompat &^= format.RoOrphanPresent
	fs.sbMu.Unlock()
	return nil
}

// freeOrphans frees the files that are still open without a name, at Close.
func (fs *FS) freeOrphans() error {
	var errs error
	for {
		l := &fs.orphans
		l.mu.Lock()
		n := l.head
		l.mu.Unlock()
		if n == nil || errs != nil {
			return errs
		}
		fs.icache.mu.Lock()
		n.refs++
		gone := n.links() == 0
		n.dead = n.dead || gone
		fs.icache.mu.Unlock()
		n.dropWindow()
		if gone {
			errs = errors.Join(errs, fs.evict(n))
			n.unref()
		} else {
			errs = errors.Join(errs, fs.recoverOrphan(n))
		}
	}
}
