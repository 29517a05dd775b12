package ext4fs

import (
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/fsutil"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4/format"
)

// Modes of fallocate(2).
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocCollapse  = 0x08
	fallocZeroRange = 0x10
	fallocInsert    = 0x20
	fallocUnshare   = 0x40
)

// truncate sets the length of a regular file. inode.mu is held.
func (i *inode) truncate(ctx context.Context, size int64) error {
	c := i.content
	old := c.size.Load()
	if size >= old {
		return i.extend(size)
	}

	// From here on nothing past the new end is read or mapped, ...
	c.dataMu.Lock()
	c.size.Store(size)
	c.frozen++
	c.dataMu.Unlock()
	// ... so after this no page past it is mapped any more, private copies
	// included, nor is the page it ends in mapped from the host, ...
	end := pageRange(0, size).End
	i.invalidate(memmap.MappableRange{Start: end, End: maxOffset}, true)
	i.invalidate(pageRange(size, size), false)
	// ... and the blocks can be used for something else.
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	c.frozen--
	c.dirty.KeepClean(memmap.MappableRange{Start: end, End: maxOffset})
	c.dirtyPages.Store(!c.dirty.IsEmpty())
	c.cache.Truncate(uint64(size), i.fs.mf)
	if err := i.node.Truncate(size); err != nil {
		c.size.Store(i.node.Attr().Size)
		return i.fs.errno(err)
	}
	return nil
}

// extend makes a regular file longer, or leaves it as long as it is. inode.mu is held.
func (i *inode) extend(size int64) error {
	c := i.content
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	if err := i.zeroCachedTail(); err != nil {
		return err
	}
	if err := i.node.Truncate(size); err != nil {
		return i.fs.errno(err)
	}
	c.size.Store(size)
	return nil
}

// invalidate takes the pages of mr from every mapping of the file; with private also
// the copies that private mappings have made of them. No dataMu is held.
func (i *inode) invalidate(mr memmap.MappableRange, private bool) {
	if mr.Length() == 0 {
		return
	}
	c := i.content
	c.mapsMu.Lock()
	c.mappings.Invalidate(mr, memmap.InvalidateOpts{InvalidatePrivate: private})
	c.mapsMu.Unlock()
}

// moved takes the pages of what was just written from the mappings, where writing
// may have moved them to another host file, or into the log for now.
func (i *inode) moved(off, n int64) {
	c := i.content
	if n <= 0 || !i.fs.layered && !i.node.Journaled() {
		return
	}
	mr := pageRange(off, off+n)
	c.mapsMu.Lock()
	if !c.mappings.IsEmptyRange(mr) {
		c.mappings.Invalidate(mr, memmap.InvalidateOpts{})
	}
	c.mapsMu.Unlock()
}

// clear makes [off, off+n) read as zeros by way of the engine's method erase, which
// frees or moves its blocks. inode.mu is held.
func (i *inode) clear(ctx context.Context, off, n int64, erase func() error) error {
	c := i.content
	mr := pageRange(off, off+n)
	whole := memmap.MappableRange{
		Start: uint64(off+hostarch.PageSize-1) &^ (hostarch.PageSize - 1),
		End:   uint64(off+n) &^ (hostarch.PageSize - 1),
	}
	c.dataMu.Lock()
	c.frozen++
	c.dataMu.Unlock()
	i.invalidate(mr, false)

	// Whole pages leave the cache; a fault makes new ones. Old ones are freed when
	// no mapping has them any more. The disk comes first: if it refuses, nothing has
	// changed.
	var freed []memmap.FileRange
	c.dataMu.Lock()
	err := i.fs.errno(erase())
	if err == nil && whole.Start < whole.End {
		c.cache.RemoveRangeWith(whole, func(seg fsutil.FileRangeIterator) {
			freed = append(freed, seg.FileRange())
		})
		c.dirty.KeepClean(whole)
		c.dirtyPages.Store(!c.dirty.IsEmpty())
	}
	if err == nil {
		err = i.zeroCached(uint64(off), uint64(off+n))
	}
	c.frozen--
	c.size.Store(i.node.Attr().Size)
	c.dataMu.Unlock()

	i.invalidate(mr, false)
	for _, fr := range freed {
		i.fs.mf.DecRef(fr)
	}
	return err
}

// keptDirty says whether a page of mr can be stored to without a fault. dataMu is held.
func (c *content) keptDirty(mr memmap.MappableRange) bool {
	for seg := c.dirty.LowerBoundSegment(mr.Start); seg.Ok() && seg.Start() < mr.End; seg = seg.NextSegment() {
		if seg.Value().Keep {
			return true
		}
	}
	return false
}

// shift moves what lies from off on by way of the engine's method move. inode.mu is
// held.
func (i *inode) shift(ctx context.Context, off int64, move func() error) error {
	c := i.content
	mr := memmap.MappableRange{Start: pageRange(off, off).Start, End: maxOffset}
	c.dataMu.Lock()
	c.frozen++
	c.dataMu.Unlock()
	i.invalidate(mr, true)

	// What was stored moves with the rest: it has to be on the disk, and from then on
	// no page may be stored to without a fault. A store that comes between the two
	// makes its page dirty anew.
	for tries := 0; ; tries++ {
		i.unkeep(mr)
		c.dataMu.Lock()
		if !c.keptDirty(mr) {
			break
		}
		if tries == 1000 {
			c.frozen--
			c.dataMu.Unlock()
			return linuxerr.EAGAIN
		}
		c.dataMu.Unlock()
	}
	err := i.flushLocked(ctx, mr, false)
	var freed []memmap.FileRange
	if err == nil {
		err = i.fs.errno(move())
	}
	if err == nil {
		c.cache.RemoveRangeWith(mr, func(seg fsutil.FileRangeIterator) {
			freed = append(freed, seg.FileRange())
		})
		c.dirty.KeepClean(mr)
		c.dirtyPages.Store(!c.dirty.IsEmpty())
	}
	c.frozen--
	c.size.Store(i.node.Attr().Size)
	c.dataMu.Unlock()

	i.invalidate(mr, true)
	for _, fr := range freed {
		i.fs.mf.DecRef(fr)
	}
	return err
}

// checkShift refuses to collapse or insert what the engine would refuse, before any
// mapping loses its pages. inode.mu is held.
func (i *inode) checkShift(mode uint32, off, n int64) error {
	size := i.content.size.Load()
	switch {
	case mode&(fallocCollapse|fallocInsert) == 0:
	case (off|n)&int64(i.fs.blockSize-1) != 0,
		mode == fallocCollapse && off+n >= size,
		mode == fallocInsert && off >= size:
		return linuxerr.EINVAL
	case mode == fallocInsert && size+n > i.fs.maxFileSize:
		return linuxerr.EFBIG
	}
	return nil
}

// fallocate implements fallocate(2) on a regular file. Unsharing ranges is not
// supported.
func (i *inode) fallocate(ctx context.Context, mode uint32, off, n int64) error {
	if off < 0 || n <= 0 {
		return linuxerr.EINVAL
	}
	keep, shifts := mode&fallocKeepSize != 0, mode&(fallocCollapse|fallocInsert) != 0
	if shifts && i.node.Attr().Flags&format.FlagExtents == 0 && i.node.Attr().Flags&format.FlagInlineData == 0 {
		return linuxerr.EOPNOTSUPP
	}
	if off+n < 0 || off+n > i.fs.maxFileSize {
		return linuxerr.EFBIG
	}
	switch mode &^ fallocKeepSize {
	case 0, fallocZeroRange:
	case fallocPunchHole:
		if !keep {
			return linuxerr.EOPNOTSUPP
		}
	case fallocCollapse, fallocInsert:
		if keep {
			return linuxerr.EOPNOTSUPP
		}
	default: // fallocUnshare among them
		return linuxerr.EOPNOTSUPP
	}
	if err := i.fs.writable(); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	size := i.content.size.Load()
	if err := i.checkShift(mode, off, n); err != nil {
		return err
	}
	if !keep && !shifts && off+n > size {
		if limit, err := vfs.CheckLimit(ctx, 0, off+n); err != nil || limit < off+n {
			return linuxerr.ErrExceedsFileSizeLimit
		}
	}
	if err := i.dropPrivileges(ctx); err != nil {
		return err
	}
	var err error
	if mode&fallocPunchHole == 0 && !shifts {
		switch most, err := i.affordable(ctx, off, n); {
		case err != nil:
			return err
		case most < n:
			return linuxerr.ENOSPC
		}
	}
	switch mode &^ fallocKeepSize {
	case 0:
		err = i.preallocate(off, n, keep)
	case fallocZeroRange:
		if !keep && off+n > size {
			if err := i.extendTail(); err != nil {
				return err
			}
		}
		err = i.clear(ctx, off, n, func() error { return i.node.Zero(off, n, keep) })
	case fallocPunchHole:
		if off >= size {
			return nil
		}
		// Blocks after the page that the file ends in stay, as Linux has it.
		n = min(n, int64(pageRange(0, size).End)-off)
		err = i.clear(ctx, off, n, func() error { return i.node.Punch(off, n) })
	case fallocCollapse:
		err = i.shift(ctx, off, func() error { return i.node.Collapse(off, n) })
	case fallocInsert:
		err = i.shift(ctx, off, func() error { return i.node.Insert(off, n) })
	}
	if err != nil {
		return err
	}
	return i.touchCMtime()
}

// preallocate gives [off, off+n) blocks. inode.mu is held.
func (i *inode) preallocate(off, n int64, keep bool) error {
	c := i.content
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	if !keep && off+n > c.size.Load() {
		if err := i.zeroCachedTail(); err != nil {
			return err
		}
	}
	err := i.fs.errno(i.node.Fallocate(off, n, keep))
	c.size.Store(i.node.Attr().Size)
	return err
}

func (i *inode) extendTail() error {
	i.content.dataMu.Lock()
	defer i.content.dataMu.Unlock()
	return i.zeroCachedTail()
}
