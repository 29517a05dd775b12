package ext4

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
)

// With the feature ea_inode a value that is too large for its inode and for a block of
// attributes lies in an inode of its own. Entries with the same value share one. Such
// an inode has no name and one link; its access time holds the checksum of the value,
// its change time and version the number of entries that refer to it. Whoever has the
// entry is charged for it as for a file: the value's blocks count among the inode's.

// valueInodes finds the inode that holds a value already. It is a hint: what it says is
// compared before it is shared.
type valueInodes struct {
	mu sync.Mutex
	m  map[uint32]uint32 // checksum of the value: inode number
}

// maxValueInodes bounds the hints in memory.
const maxValueInodes = 1 << 14

func (v *valueInodes) remember(sum, ino uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m == nil || len(v.m) >= maxValueInodes {
		v.m = make(map[uint32]uint32)
	}
	v.m[sum] = ino
}

func (v *valueInodes) find(sum uint32) uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.m[sum]
}

func (n *Inode) isValue() bool { return n.value }

// metadata says whether what the inode's blocks hold goes through the cache and the log.
func (n *Inode) metadata() bool { return !n.isRegular() || n.isValue() }

// valueSum is the checksum of a value.
func (fs *FS) valueSum(v []byte) uint32 { return format.CRC32C(fs.seed, v) }

// valueEntryHash is the hash of an entry whose value has the checksum sum.
func valueEntryHash(name string, sum uint32) uint32 {
	return format.XattrHash(name, le.AppendUint32(nil, sum))
}

// valueBlocks is what an entry adds to its inode's blocks.
func (fs *FS) valueBlocks(x xattr) int64 {
	return int64((uint64(x.size) + uint64(fs.bs) - 1) >> fs.bsBits)
}

// chargeValues counts the values of entries among the inode's blocks, sign times.
func (n *Inode) chargeValues(h *handle, list []xattr, sign int64) error {
	for _, x := range list {
		if !x.outside {
			continue
		}
		if err := n.addBlocks(h, sign*n.fs.valueBlocks(x)); err != nil {
			return err
		}
		n.amu.Lock()
		err := n.charge(h, 0, sign)
		n.amu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// maySpread says whether a value of the inode may lie in an inode of its own. Those of a
// symlink with its target in the inode may not: e2fsck takes the blocks that it is
// charged for as its own, and the target as their numbers.
func (n *Inode) maySpread() bool {
	if n.typ != format.ModeSymlink {
		return n.fs.hasEAInode
	}
	n.amu.Lock()
	defer n.amu.Unlock()
	return n.fs.hasEAInode && !n.fastSymlink()
}

// large says whether a value of size bytes goes to an inode of its own though a block
// might hold it, as the kernel decides.
func (fs *FS) large(size int) bool {
	return format.XattrValueLen(size) > fs.bs-format.XattrEntryLen(3)-format.XattrHeaderSize-4
}

// valueInode takes a reference to the inode that holds the value of entry x.
func (n *Inode) valueInode(x xattr) (*Inode, error) {
	fs := n.fs
	if !fs.hasEAInode || x.inode < fs.firstIno || x.inode > fs.inodes.Load() || x.inode == n.ino || x.size == 0 || x.size > maxXattr {
		return nil, n.bad("attribute in inode", x.inode)
	}
	v, err := fs.igetSpecial(x.inode)
	if err != nil {
		return nil, err
	}
	// A value with attributes of its own would have no end.
	v.amu.Lock()
	ok := v.isRegular() && v.isValue() && !v.inline() && v.d.FileACL == 0 && v.d.Size == uint64(x.size)
	v.amu.Unlock()
	if !ok {
		v.unref()
		return nil, n.bad("attribute in inode", x.inode)
	}
	if own, err := v.bodyXattrs(); err != nil || len(own) > 0 {
		v.unref()
		return nil, n.bad("attribute in an inode with attributes:", x.inode)
	}
	return v, nil
}

// isLustre says whether v is of the form that came before references were counted: it
// belongs to n alone, and says so.
func (n *Inode) isLustre(v *Inode, x xattr) bool {
	return valueEntryHash(x.name, uint32(v.d.Atime.Sec)) != x.hash &&
		v.d.Mtime.Sec == int64(n.ino) && v.d.Generation == n.d.Generation
}

// readValue reads the value of entry x, which v holds.
func (n *Inode) readValue(v *Inode, x xattr) ([]byte, error) {
	fs := n.fs
	v.mu.RLock()
	defer v.mu.RUnlock()
	p := make([]byte, x.size)
	for at := 0; at < len(p); {
		m, err := v.mapBlock(uint64(at) >> fs.bsBits)
		if err != nil {
			return nil, err
		}
		if m.state != Written {
			return nil, v.bad("value is a", m.state)
		}
		b, err := fs.cache.get(m.disk) // metadata: it may not be home yet
		if err != nil {
			return nil, err
		}
		at += copy(p[at:], b.data)
	}
	if n.isLustre(v, x) {
		return p, nil
	}
	if sum := fs.valueSum(p); uint32(v.d.Atime.Sec) != sum || valueEntryHash(x.name, sum) != x.hash {
		return nil, v.bad("checksum of an attribute's value", fmt.Sprintf("%#x, computed %#x", uint32(v.d.Atime.Sec), sum))
	}
	fs.values.remember(uint32(v.d.Atime.Sec), v.ino)
	return p, nil
}

// valueSet is the inodes of values that an operation needs, with a reference each: taken
// before its handle begins, given back after it has ended, for that can free them.
type valueSet map[uint32]*Inode

// values takes references to the inodes of all values among lists.
func (n *Inode) values(lists ...[]xattr) (valueSet, error) {
	if !n.fs.hasEAInode || n.isValue() {
		return nil, nil
	}
	s := make(valueSet)
	for _, list := range lists {
		for _, x := range list {
			if !x.outside || s[x.inode] != nil {
				continue
			}
			v, err := n.valueInode(x)
			if err != nil {
				s.put()
				return nil, err
			}
			s[x.inode] = v
		}
	}
	return s, nil
}

func (s valueSet) put() error {
	var first error
	for _, v := range s {
		if err := v.Put(); first == nil {
			first = err
		}
	}
	return first
}

// valueRefs is the number of entries that refer to v. amu is held.
func (v *Inode) valueRefs() uint64 { return uint64(v.d.Ctime.Sec)<<32 | v.d.Version&0xFFFFFFFF }

func setValueRefs(d *format.Inode, refs uint64) {
	d.Ctime = Time{Sec: int64(refs >> 32)}
	d.Version = d.Version&^0xFFFFFFFF | refs&0xFFFFFFFF
}

// addValueRef counts a further entry; false when the value is on its way out.
func (h *handle) addValueRef(v *Inode) (ok bool, err error) {
	err = v.update(h, true, func(d *format.Inode) {
		if ok = d.Links > 0; ok {
			setValueRefs(d, v.valueRefs()+1)
		}
	})
	return ok, err
}

// dropValueRef counts an entry of n less. The last makes the value's inode an orphan.
func (h *handle) dropValueRef(n *Inode, x xattr, s valueSet) error {
	v := s[x.inode]
	if v == nil {
		return n.bad("lost attribute in inode", x.inode)
	}
	last := false
	if err := v.update(h, true, func(d *format.Inode) {
		refs := v.valueRefs()
		if n.isLustre(v, x) {
			refs = 1
		}
		if refs > 1 {
			setValueRefs(d, refs-1)
		} else if last = d.Links > 0; last {
			setValueRefs(d, 0)
			d.Links = 0
		}
	}); err != nil || !last {
		return err
	}
	return h.fs.settleOrphan(h, v)
}

// shareable takes a reference to the inode that holds value already; nil when none is
// known.
func (n *Inode) shareable(value []byte, sum uint32) *Inode {
	ino := n.fs.values.find(sum)
	if ino == 0 {
		return nil
	}
	x := xattr{inode: ino, size: uint32(len(value)), outside: true, hash: valueEntryHash("", sum)}
	v, err := n.fs.igetSpecial(ino)
	if err != nil {
		return nil // it is gone, and its number unused
	}
	v.amu.Lock() // the number can be a new file's meanwhile
	ok := v.isRegular() && v.isValue() && v.d.FileACL == 0 && v.d.Size == uint64(len(value)) && uint32(v.d.Atime.Sec) == sum
	v.amu.Unlock()
	if ok {
		if have, err := n.readValue(v, x); err == nil && bytes.Equal(have, value) {
			return v
		}
	}
	v.unref()
	return nil
}

// storeValue puts the value of x into an inode: that of share when it still can be
// shared, or a new one. It returns the new one with a reference; on an error too, when
// there is one to give back.
func (n *Inode) storeValue(h *handle, x *xattr, share *Inode) (*Inode, error) {
	fs := n.fs
	sum := fs.valueSum(x.value)
	x.counted, x.size, x.hash = true, uint32(len(x.value)), valueEntryHash(x.name, sum)
	if share != nil {
		if ok, err := h.addValueRef(share); err != nil {
			return nil, err
		} else if ok {
			x.inode = share.ino
			return nil, nil
		}
	}
	m := NewInode{Mode: format.ModeRegular | 0o600, UID: n.d.UID, GID: n.d.GID, value: true}
	v, err := h.newInode(n, m, 1)
	if err != nil {
		return nil, err
	}
	if err := v.fillValue(h, x.value, sum); err != nil {
		if e := v.abandon(h); e != nil {
			return v, e
		}
		return v, err
	}
	x.inode = v.ino
	fs.values.remember(sum, v.ino)
	return v, nil
}

// fillValue writes a value into an inode that nobody else knows yet.
func (v *Inode) fillValue(h *handle, value []byte, sum uint32) error {
	fs := v.fs
	blocks := (uint64(len(value)) + uint64(fs.bs) - 1) >> fs.bsBits
	goal := fs.fileGoal(v)
	for at := uint64(0); at < blocks; {
		r, err := fs.setAside(goal, blocks-at)
		if err != nil {
			return err
		}
		if err := v.insert(h, at, r, false); err != nil {
			return err
		}
		for i := range r.count {
			b := fs.cache.fresh(r.start + i)
			copy(b.data, value[(at+i)<<fs.bsBits:])
			h.dirty(b, kindPlain, 0)
		}
		at += r.count
		goal = r.end()
	}
	return v.update(h, true, func(d *format.Inode) {
		d.Size = uint64(len(value))
		d.Atime = Time{Sec: int64(sum)}
		if fs.inodeSize == format.GoodOldInode { // its 32 bits are taken as signed
			d.Atime.Sec = int64(int32(sum))
		}
		setValueRefs(d, 1)
	})
}
