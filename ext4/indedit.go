package ext4

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// indirectSlot gives the slice that holds the number of a block of the file, and the
// buffer it lies in (nil: the inode). With grow missing indirect blocks are made.
// nil data means that an indirect block is missing. mu is held for writing.
func (n *Inode) indirectSlot(h *handle, block, near uint64, grow bool) (slot []byte, b *buffer, err error) {
	path, depth, ok := n.fs.indirectPath(block)
	if !ok {
		return nil, nil, fmt.Errorf("ext4: block %d of inode %d: %w", block, n.ino, unix.EFBIG)
	}
	data := n.d.Block[:]
	for level := 0; ; level++ {
		slot = data[4*path[level]:][:4]
		if level == depth {
			return slot, b, nil
		}
		nr := uint64(le.Uint32(slot))
		if nr == 0 {
			if !grow {
				return nil, nil, nil
			}
			child, err := n.allocIndirect(h, near)
			if err != nil {
				return nil, nil, err
			}
			le.PutUint32(slot, uint32(child.nr))
			if err := n.dirtySlot(h, b); err != nil {
				return nil, nil, err
			}
			b, data = child, child.data
			continue
		}
		if b, err = n.indirectBlock(nr); err != nil {
			return nil, nil, err
		}
		data = b.data
	}
}

func (n *Inode) dirtySlot(h *handle, b *buffer) error {
	if b != nil {
		h.dirty(b, kindIndirect, 0)
	}
	return n.touch(h, true)
}

func (n *Inode) allocIndirect(h *handle, near uint64) (*buffer, error) {
	nr, err := h.allocBlock(near)
	if err != nil {
		return nil, err
	}
	if nr > 1<<32-1 {
		return nil, fmt.Errorf("ext4: block %d for a file without extents: %w", nr, unix.ENOSPC)
	}
	b := h.fs.cache.fresh(nr)
	b.settle(kindIndirect, n.ino)
	h.dirty(b, kindIndirect, 0)
	return b, n.addBlocks(h, 1)
}

// insertIndirect maps a run of blocks over a hole.
func (n *Inode) insertIndirect(h *handle, block uint64, r run) error {
	if r.end() > 1<<32 {
		return fmt.Errorf("ext4: block %d for a file without extents: %w", r.end()-1, unix.ENOSPC)
	}
	for i := range r.count {
		slot, b, err := n.indirectSlot(h, block+i, r.start, true)
		if err != nil {
			for k := range i { // take back what was mapped
				if slot, b, e := n.indirectSlot(h, block+k, 0, false); e == nil && slot != nil {
					le.PutUint32(slot, 0)
					_ = n.dirtySlot(h, b)
				}
			}
			return err
		}
		if le.Uint32(slot) != 0 {
			return n.bad("insertion over mapped block", block+i)
		}
		le.PutUint32(slot, uint32(r.start+i))
		if err := n.dirtySlot(h, b); err != nil {
			return err
		}
	}
	return nil
}

// removeIndirect frees the first run of blocks mapped in [*from, to), moves *from after
// it, and frees the indirect blocks that become empty; done is true when there is none.
func (n *Inode) removeIndirect(h *handle, from *uint64, to uint64) (done bool, err error) {
	to = min(to, n.fs.mapLimit())
	for *from < to {
		m, err := n.mapIndirect(*from)
		if err != nil {
			return true, err
		}
		m.count = min(m.count, to-*from)
		if m.state == Hole {
			*from += m.count
			continue
		}
		for i := range m.count {
			slot, b, err := n.indirectSlot(h, m.block+i, 0, false)
			if err != nil {
				return true, err
			}
			le.PutUint32(slot, 0)
			if err := n.dirtySlot(h, b); err != nil {
				return true, err
			}
		}
		if err := h.free(m.disk, m.count, n.metadata()); err != nil {
			return true, err
		}
		if err := n.addBlocks(h, -int64(m.count)); err != nil {
			return true, err
		}
		*from += m.count
		return false, n.pruneIndirect(h, m.block)
	}
	return true, nil
}

// pruneIndirect frees the indirect blocks above a block of the file that hold nothing
// any more.
func (n *Inode) pruneIndirect(h *handle, block uint64) error {
	path, depth, ok := n.fs.indirectPath(block)
	if !ok {
		return nil
	}
	var bufs [4]*buffer // bufs[i] is the block below the slot at level i
	data := n.d.Block[:]
	for level := range depth {
		nr := uint64(le.Uint32(data[4*path[level]:]))
		if nr == 0 {
			return nil
		}
		b, err := n.indirectBlock(nr)
		if err != nil {
			return err
		}
		bufs[level], data = b, b.data
	}
	for level := depth - 1; level >= 0; level-- {
		for _, c := range bufs[level].data {
			if c != 0 {
				return nil
			}
		}
		var holder *buffer // nil: the inode
		data := n.d.Block[:]
		if level > 0 {
			holder = bufs[level-1]
			data = holder.data
		}
		slot := data[4*path[level]:][:4]
		le.PutUint32(slot, 0)
		if err := n.dirtySlot(h, holder); err != nil {
			return err
		}
		if err := h.free(bufs[level].nr, 1, true); err != nil {
			return err
		}
		if err := n.addBlocks(h, -1); err != nil {
			return err
		}
	}
	return nil
}
