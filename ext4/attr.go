package ext4

import (
	"context"
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
)

// SetAttr changes the fields of a that mask names. It does not check permissions.
func (n *Inode) SetAttr(mask AttrMask, a Attr) error {
	return n.fs.retry(func() error { return n.setAttr(mask, a) })
}

func (n *Inode) setAttr(mask AttrMask, a Attr) error {
	chown := mask&(AttrUID|AttrGID|AttrProject) != 0 && n.charged()
	if mask&AttrFlags != 0 || chown { // flags say what the blocks mean, which mu guards
		n.mu.Lock()
		defer n.mu.Unlock()
	}
	if mask&AttrFlags != 0 && a.Flags&format.FlagJournalData == 0 && n.Attr().Flags&format.FlagJournalData != 0 && n.Journaled() {
		if err := n.fs.emptyLog(); err != nil {
			return err
		}
	}
	inodes := int64(1)
	if chown {
		outside, err := n.outsideValues()
		if err != nil {
			return err
		}
		inodes += outside
	}
	now := n.fs.now()
	h, err := n.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	if chown {
		n.amu.Lock()
		who := ownerOf(&n.d)
		n.amu.Unlock()
		if mask&AttrUID != 0 {
			who[0] = a.UID
		}
		if mask&AttrGID != 0 {
			who[1] = a.GID
		}
		if mask&AttrProject != 0 {
			who[2] = a.Project
		}
		if err := h.know(who); err != nil {
			return err
		}
	}
	var charged error
	err = n.update(h, false, func(d *format.Inode) {
		before := ownerOf(d)
		if mask&AttrMode != 0 {
			d.Mode = d.Mode&format.ModeType | a.Mode&format.ModePerm
		}
		if mask&AttrUID != 0 {
			d.UID = a.UID
		}
		if mask&AttrGID != 0 {
			d.GID = a.GID
		}
		if mask&AttrAtime != 0 {
			d.Atime = n.fs.fitTime(a.Atime)
		}
		if mask&AttrMtime != 0 {
			d.Mtime = n.fs.fitTime(a.Mtime)
		}
		d.Ctime = now
		if mask&AttrCtime != 0 {
			d.Ctime = n.fs.fitTime(a.Ctime)
		}
		if mask&AttrBtime != 0 {
			d.Crtime = n.fs.fitTime(a.Btime)
		}
		if mask&AttrFlags != 0 {
			d.Flags = d.Flags&^format.FlagsUserChange | a.Flags&format.FlagsUserChange
		}
		if mask&AttrProject != 0 && d.ExtraIsize >= format.InodeExtraSize {
			d.ProjID = a.Project
		}
		charged = n.transfer(h, before, ownerOf(d), inodes)
	})
	if err == nil {
		err = charged
	}
	return err
}

// outsideValues counts the values of attributes that lie in inodes of their own: their
// owner is charged for these. mu is held.
func (n *Inode) outsideValues() (int64, error) {
	if !n.fs.hasEAInode {
		return 0, nil
	}
	all, err := n.allXattrs()
	count := int64(0)
	for _, x := range all {
		if x.outside {
			count++
		}
	}
	return count, err
}

// Trim gives free ranges of at least minLen bytes within [start, start+length) of the
// disk back to the Device, and returns how many bytes those were. Blocks freed by a
// transaction that is not stable stay as they are.
func (fs *FS) Trim(ctx context.Context, start, length, minLen int64) (int64, error) {
	if start < 0 || length < 0 {
		return 0, fmt.Errorf("ext4: trim %d+%d: %w", start, length, errInvalid)
	}
	if fs.readOnly.Load() {
		return 0, fs.refuse()
	}
	if err := fs.commitIfDirty(); err != nil {
		return 0, err
	}
	from := max(uint64(start)>>fs.bsBits, fs.firstData)
	to := fs.blocks.Load()
	if end := uint64(start) + uint64(length); end>>fs.bsBits < to {
		to = end >> fs.bsBits
	}
	least := max((uint64(max(minLen, 0))+uint64(fs.bs)-1)>>fs.bsBits, 1)
	total := int64(0)
	for at := from; at < to; {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		r, next, err := fs.freeRun(at, to, least)
		if err != nil {
			return total, err
		}
		if r.count > 0 {
			err := fs.dev.Trim(int64(r.start<<fs.bsBits), int64(r.count<<fs.bsBits))
			fs.giveBack(r)
			if err != nil {
				return total, fmt.Errorf("ext4: trim: %w", ioError(err))
			}
			total += int64(r.count << fs.bsBits)
		}
		at = next
	}
	return total, nil
}

// freeRun finds the first free run of at least least blocks in [at, to), within one
// group, and holds it. next is where to go on.
func (fs *FS) freeRun(at, to, least uint64) (r run, next uint64, err error) {
	g, bit := fs.locate(at)
	gr := fs.group(g)
	start := fs.groupStart(g)
	end := start + fs.groupBlocks(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.bad || gr.desc.FreeBlocks == 0 {
		return run{}, end, nil
	}
	b, err := fs.blockBitmap(g)
	if err != nil {
		if unixIs(err, errClean) {
			return run{}, end, nil
		}
		return run{}, end, err
	}
	n := uint32(min(end, to) - start)
	for i := gr.nextFree(b.data, bit, n); i < n; {
		stop := gr.nextTaken(b.data, i, n)
		if uint64(stop-i) >= least {
			gr.hold(i, stop, int(fs.bpg+63)/64)
			return run{start + uint64(i), uint64(stop - i)}, start + uint64(stop), nil
		}
		i = gr.nextFree(b.data, stop, n)
	}
	return run{}, min(end, to), nil
}
