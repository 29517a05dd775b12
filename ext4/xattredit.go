package ext4

import (
	"errors"
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// SetXattr sets an extended attribute; ENOSPC when it does not fit, EOPNOTSUPP when the
// name's prefix is unknown.
func (n *Inode) SetXattr(name string, value []byte, f XattrFlags) error {
	index, rest, err := splitXattr(name)
	if err != nil {
		return err
	}
	if f.Create && f.Replace {
		return fmt.Errorf("ext4: set attribute %q: %w", name, unix.EINVAL)
	}
	if len(value) > maxXattr {
		return fmt.Errorf("ext4: attribute %q of %d bytes: %w", name, len(value), unix.E2BIG)
	}
	if index == format.XattrACLAccess || index == format.XattrACLDefault {
		if value, err = encodeACL(value); err != nil {
			return err
		}
	}
	x := xattr{index: index, name: rest, value: value}
	return n.fs.retry(func() error { return n.changeXattr(name, x, f, false) })
}

// RemoveXattr removes an extended attribute; ENODATA when there is none.
func (n *Inode) RemoveXattr(name string) error {
	index, rest, err := splitXattr(name)
	if err != nil {
		return err
	}
	x := xattr{index: index, name: rest}
	return n.fs.retry(func() error { return n.changeXattr(name, x, XattrFlags{Replace: true}, true) })
}

// changeXattr sets or removes one attribute.
func (n *Inode) changeXattr(name string, x xattr, f XattrFlags, remove bool) (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fs.readOnly.Load() {
		return n.fs.refuse()
	}
	body, err := n.bodyXattrs()
	if err != nil {
		return err
	}
	block, err := n.blockXattrs()
	if err != nil {
		return err
	}
	same := func(y xattr) bool { return y.index == x.index && y.name == x.name }
	inBody, inBlock := slices.IndexFunc(body, same), slices.IndexFunc(block, same)
	switch exists := inBody >= 0 || inBlock >= 0; {
	case exists && f.Create:
		return fmt.Errorf("ext4: set attribute %q of inode %d: %w", name, n.ino, unix.EEXIST)
	case !exists && f.Replace:
		return fmt.Errorf("ext4: attribute %q of inode %d: %w", name, n.ino, unix.ENODATA)
	}
	newBody, newBlock := slices.DeleteFunc(slices.Clone(body), same), slices.DeleteFunc(slices.Clone(block), same)
	var share *Inode // holds the value already
	toBody := false
	if !remove {
		if x.outside = n.maySpread() && n.fs.large(len(x.value)); !n.fits(newBody, newBlock, x, &toBody) {
			x.outside = n.maySpread() && len(x.value) > 0
			if !x.outside || !n.fits(newBody, newBlock, x, &toBody) {
				return fmt.Errorf("ext4: attribute %q of %d bytes on inode %d: %w", name, len(x.value), n.ino, unix.ENOSPC)
			}
		}
		if x.outside {
			share = n.shareable(x.value, n.fs.valueSum(x.value))
		}
	}
	values, err := n.values(body, block)
	if err != nil {
		return err
	}
	put := []*Inode{share}
	defer func() { // after the handle: this can free them
		for _, v := range put {
			if v != nil {
				err = errors.Join(err, v.Put())
			}
		}
		err = errors.Join(err, values.put())
	}()
	room := handleBlocks + len(values) // any of them can gain or lose a reference
	if x.outside {
		room += 2 * int(n.fs.valueBlocks(xattr{size: uint32(len(x.value))})) // each with a bitmap
	}
	h, err := n.fs.beginFor(room)
	if err != nil {
		return err
	}
	defer h.end()
	holder := share
	if x.outside {
		v, err := n.storeValue(h, &x, share)
		if v != nil {
			holder = v
			put = append(put, v)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case remove:
	case toBody:
		newBody = append(newBody, x)
	default:
		newBlock = append(newBlock, x)
	}
	if inBlock >= 0 || len(newBlock) != len(block) { // first: it can find no room
		if err := n.writeXattrBlock(h, newBlock, values); err != nil {
			if x.outside {
				err = errors.Join(err, h.dropValueRef(n, x, valueSet{x.inode: holder}))
			}
			return err
		}
	}
	// The block has dealt with its own; what it says of the inode's blocks is the same
	// for both.
	if err := n.chargeValues(h, append(at(body, inBody), at(block, inBlock)...), -1); err != nil {
		return err
	}
	if err := n.chargeValues(h, []xattr{x}, 1); err != nil {
		return err
	}
	for _, old := range at(body, inBody) {
		if old.outside {
			if err := h.dropValueRef(n, old, values); err != nil {
				return err
			}
		}
	}
	n.fs.sbMu.Lock()
	n.fs.sb.FeatureCompat |= format.CompatExtAttr
	n.fs.sbMu.Unlock()
	now := n.fs.now()
	return n.update(h, true, func(d *format.Inode) {
		d.Ctime = now
		if inBody >= 0 || len(newBody) != len(body) {
			n.putBodyXattrs(newBody)
		}
	})
}

// at is the element of a list with an index, or nothing when that is -1.
func at(list []xattr, i int) []xattr {
	if i < 0 {
		return nil
	}
	return slices.Clone(list[i : i+1])
}

// fits says whether x has room beside the other attributes of the inode or, with toBody
// false, of the block.
func (n *Inode) fits(body, block []xattr, x xattr, toBody *bool) bool {
	if *toBody = xattrSpace(append(slices.Clip(body), x)) <= n.bodyRoom(); *toBody {
		return true
	}
	all := append(slices.Clip(block), x)
	if n.maySpread() && !x.outside && len(x.value) > 0 {
		// What could lie elsewhere leaves room for entries, as the kernel has it.
		values := 0
		for _, y := range all {
			if !y.outside {
				values += format.XattrValueLen(len(y.value))
			}
		}
		if values > n.fs.bs-min(n.fs.bs/8, 1024) {
			return false
		}
	}
	return xattrSpace(all) <= n.fs.bs-format.XattrHeaderSize
}

// xattrSpace is what a list of attributes takes, the end mark included.
func xattrSpace(list []xattr) int {
	n := 4
	for _, x := range list {
		n += format.XattrEntryLen(len(x.name))
		if !x.outside {
			n += format.XattrValueLen(len(x.value))
		}
	}
	return n
}

// bodyRoom is the space for attributes in the inode; 0 when there is none.
func (n *Inode) bodyRoom() int {
	if n.d.ExtraIsize == 0 {
		return 0
	}
	return max(len(n.body)-format.InodeBaseSize-int(n.d.ExtraIsize)-format.XattrInodeHeaderSize, 0)
}

// encodeXattrs writes entries from first on, and values from the end of data; value
// offsets count from base.
func encodeXattrs(data []byte, first, base int, list []xattr) (hashes []uint32) {
	off, end := first, len(data)
	for _, x := range list {
		e := format.XattrEntry{
			NameLen: uint8(len(x.name)), NameIndex: x.index, ValueSize: uint32(len(x.value)),
			Hash: format.XattrHash(x.name, x.value),
		}
		if x.outside {
			e.ValueInode, e.ValueSize, e.Hash = x.inode, x.size, x.hash
		} else if len(x.value) > 0 {
			end -= format.XattrValueLen(len(x.value))
			copy(data[end:], x.value)
			e.ValueOffset = uint16(end - base)
		}
		_ = e.Encode(data[off:]) // the caller has counted
		copy(data[off+format.XattrEntrySize:], x.name)
		off += format.XattrEntryLen(len(x.name))
		hashes = append(hashes, e.Hash)
	}
	return hashes
}

// putBodyXattrs writes the attributes in the inode. amu is held.
func (n *Inode) putBodyXattrs(list []xattr) {
	at := format.InodeBaseSize + int(n.d.ExtraIsize)
	clear(n.body[at:])
	if len(list) == 0 {
		return
	}
	slices.SortFunc(list, xattr.compare)
	le.PutUint32(n.body[at:], format.XattrMagic)
	encodeXattrs(n.body[at+format.XattrInodeHeaderSize:], 0, 0, list)
}

// writeXattrBlock writes the attributes in the block: in place when it is the inode's
// alone, else to a new one. An empty list gives the block up. Values of entries that go
// lose a reference, those of entries that are copied gain one.
func (n *Inode) writeXattrBlock(h *handle, list []xattr, values valueSet) error {
	fs := n.fs
	fs.xattrMu.Lock()
	defer fs.xattrMu.Unlock()
	b, err := n.xattrBlock()
	if err != nil {
		return err
	}
	var old []xattr
	if b != nil {
		if old, err = n.parseXattrs(b.data, format.XattrHeaderSize, 0); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return n.dropXattrBlock(h, b, old, values)
	}
	if b != nil && le.Uint32(b.data[4:]) > 1 {
		nr, err := h.allocBlock(b.nr)
		if err != nil {
			return err
		}
		for _, x := range old {
			if x.outside && slices.ContainsFunc(list, x.same) {
				if ok, err := h.addValueRef(values[x.inode]); err != nil {
					return err
				} else if !ok {
					return n.bad("removed attribute in inode", x.inode)
				}
			}
		}
		le.PutUint32(b.data[4:], le.Uint32(b.data[4:])-1)
		h.dirty(b, kindXattr, 0)
		b = fs.cache.fresh(nr)
		if err := n.update(h, true, func(d *format.Inode) { d.FileACL = nr }); err != nil {
			return err
		}
	} else if b == nil {
		nr, err := h.allocBlock(fs.fileGoal(n))
		if err != nil {
			return err
		}
		if err := n.addBlocks(h, 1); err != nil {
			return err
		}
		b = fs.cache.fresh(nr)
		if err := n.update(h, true, func(d *format.Inode) { d.FileACL = nr }); err != nil {
			return err
		}
	} else {
		for _, x := range old {
			if x.outside && !slices.ContainsFunc(list, x.same) {
				if err := h.dropValueRef(n, x, values); err != nil {
					return err
				}
			}
		}
	}
	b.seen.Store(uint64(kindXattr) << 32)
	slices.SortFunc(list, xattr.compare)
	clear(b.data)
	head := format.XattrHeader{Magic: format.XattrMagic, Refcount: 1, Blocks: 1}
	head.Hash = format.XattrBlockHash(encodeXattrs(b.data, format.XattrHeaderSize, 0, list))
	_ = head.Encode(b.data)
	h.dirty(b, kindXattr, 0)
	return n.touch(h, true)
}

// same says whether y is the entry x as it was, with its value in the same inode.
func (x xattr) same(y xattr) bool {
	return x.compare(y) == 0 && y.outside && y.inode == x.inode && !y.counted
}

// dropXattrBlock gives up the inode's share of its block of attributes. xattrMu is held.
func (n *Inode) dropXattrBlock(h *handle, b *buffer, old []xattr, values valueSet) error {
	if b == nil {
		return nil
	}
	if refs := le.Uint32(b.data[4:]); refs > 1 {
		le.PutUint32(b.data[4:], refs-1)
		h.dirty(b, kindXattr, 0)
	} else {
		for _, x := range old {
			if x.outside {
				if err := h.dropValueRef(n, x, values); err != nil {
					return err
				}
			}
		}
		if err := h.free(b.nr, 1, true); err != nil {
			return err
		}
	}
	if err := n.update(h, true, func(d *format.Inode) { d.FileACL = 0 }); err != nil {
		return err
	}
	return n.addBlocks(h, -1)
}

// dropXattrs gives up everything that the attributes of an inode that is being freed
// hold.
func (n *Inode) dropXattrs(h *handle, body, block []xattr, values valueSet) error {
	for _, x := range body {
		if x.outside {
			if err := h.dropValueRef(n, x, values); err != nil {
				return err
			}
		}
	}
	if err := n.writeXattrBlock(h, nil, values); err != nil {
		return err
	}
	return n.chargeValues(h, append(body, block...), -1)
}
