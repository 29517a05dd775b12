package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// SetExtents makes a file or directory be mapped by extents, or by block numbers. Its
// blocks stay where they are. EOPNOTSUPP where a kernel refuses it too, and for files in
// more pieces than a transaction takes.
func (n *Inode) SetExtents(on bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	refuse := func(why string) error {
		return fmt.Errorf("ext4: change the mapping of inode %d, %s: %w", n.ino, why, unix.EOPNOTSUPP)
	}
	switch {
	case n.fs.readOnly.Load():
		return n.fs.refuse()
	case !n.isRegular() && !n.isDir():
		return refuse("which has no blocks")
	case n.inline():
		return refuse("which is inline")
	case n.fs.incompat&format.IncompatExtents == 0:
		return refuse("without the feature extent")
	case n.extents() == on:
		return nil
	}
	n.dropWindow()
	if !on {
		return n.toNumbers(refuse)
	}
	return n.toExtents(refuse)
}

// toNumbers maps by block numbers what is one extent at most, within the inode's own
// numbers.
func (n *Inode) toNumbers(refuse func(string) error) error {
	root, err := n.extentRoot()
	if err != nil {
		return err
	}
	if root.depth() != 0 || root.entries() > 1 {
		return refuse("which has several extents")
	}
	var x format.Extent
	if root.entries() == 1 {
		x = root.extent(0)
	}
	if uint64(x.Block)+uint64(x.Len) > format.DirectBlocks || x.Unwritten || x.Start+uint64(x.Len) > 1<<32 {
		return refuse("whose extent block numbers cannot tell")
	}
	h, err := n.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	return n.update(h, true, func(d *format.Inode) {
		clear(d.Block[:])
		for i := range uint32(x.Len) {
			le.PutUint32(d.Block[4*(x.Block+i):], uint32(x.Start)+i)
		}
		d.Flags &^= format.FlagExtents
	})
}

// maxNumbers bounds the blocks of numbers of a file that is given extents: those of
// 256 GiB in blocks of 4 KiB.
const maxNumbers = 1 << 16

// toExtents maps by extents, and frees the blocks of block numbers.
func (n *Inode) toExtents(refuse func(string) error) error {
	// All of it goes into one transaction.
	room := n.fs.txn.limit / 4
	pieces, err := n.pieces(room * format.ExtentNodeMax(n.fs.bs) / 2)
	if err != nil {
		return err
	}
	numbers, err := n.indirectBlocks(nil, n.d.Block[4*format.IndirectBlock:], 0)
	if err != nil {
		return err
	}
	if pieces == nil || len(numbers) > maxNumbers || min(len(numbers), len(*n.fs.groups.Load())) > room/2 {
		return refuse("which lies in too many pieces")
	}
	h, err := n.fs.beginFor(max(2*room, handleBlocks))
	if err != nil {
		return err
	}
	defer h.end()
	old := n.d.Block
	err = n.update(h, true, func(d *format.Inode) {
		clear(d.Block[:])
		head := format.ExtentHeader{Magic: format.ExtentMagic, Max: format.ExtentRootMax}
		_ = head.Encode(d.Block[:])
		d.Flags |= format.FlagExtents
	})
	for _, x := range pieces {
		if err == nil {
			err = n.insertExtent(h, x)
		}
	}
	if err != nil { // the blocks of numbers are still there
		if root, e := n.extentRoot(); e == nil {
			n.freeNodes(h, root)
		}
		_ = n.update(h, true, func(d *format.Inode) {
			d.Block = old
			d.Flags &^= format.FlagExtents
		})
		return err
	}
	for _, nr := range numbers {
		if err := h.free(nr, 1, true); err != nil {
			return err
		}
	}
	return n.addBlocks(h, -int64(len(numbers)))
}

// pieces are the runs of blocks of a file without extents, as extents; nil when there
// are more than most.
func (n *Inode) pieces(most int) ([]format.Extent, error) {
	list := []format.Extent{}
	for at, end := uint64(0), n.fs.mapLimit(); at < end; {
		m, err := n.mapIndirect(at)
		if err != nil {
			return nil, err
		}
		at += m.count
		if m.state == Hole {
			continue
		}
		for m.count > 0 {
			x := format.Extent{Block: uint32(m.block), Len: uint16(min(m.count, format.ExtentMaxLen)), Start: m.disk}
			if k := len(list) - 1; k >= 0 && follows(list[k], x) {
				list[k].Len += x.Len
			} else if list = append(list, x); len(list) > most {
				return nil, nil
			}
			m.block, m.disk, m.count = m.block+uint64(x.Len), m.disk+uint64(x.Len), m.count-uint64(x.Len)
		}
	}
	return list, nil
}

// indirectBlocks lists the blocks of numbers that slots point to: to ones of level 0 in
// the first, of level 1 in the second; below the inode all are of the same.
func (n *Inode) indirectBlocks(list []uint64, slots []byte, level int) ([]uint64, error) {
	inode := len(slots) == 4*3
	for i := 0; i < len(slots); i += 4 {
		nr := uint64(le.Uint32(slots[i:]))
		if nr == 0 {
			continue
		}
		below := level - 1
		if inode {
			below = i / 4
		}
		b, err := n.indirectBlock(nr)
		if err != nil {
			return nil, err
		}
		if list = append(list, nr); len(list) > maxNumbers {
			return list, nil
		}
		if below > 0 {
			if list, err = n.indirectBlocks(list, b.data, below); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// freeNodes frees the blocks of a tree that was just made, below e.
func (n *Inode) freeNodes(h *handle, e enode) {
	for i := 0; e.depth() > 0 && i < e.entries(); i++ {
		if c, err := n.extentChild(e, i); err == nil {
			n.freeNodes(h, c)
			_ = h.free(c.b.nr, 1, true)
			_ = n.addBlocks(h, -1)
		}
	}
}
