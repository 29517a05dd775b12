package ext4fs

import (
	"errors"
	"io"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ubdfmt"
)

const (
	// fillBytes is how much is cached around a page that must be.
	fillBytes = 64 << 10

	// fillMany is the same for files that have used up their host mappings, to
	// save mappings of guest memory as well.
	fillMany = 1 << 20

	// runWindow and backWindow bound how far after and before a fault the engine is
	// asked for a run.
	runWindow  = 64 << 20
	backWindow = 1 << 20
)

// AddMapping implements memmap.Mappable.
func (i *inode) AddMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) error {
	c := i.content
	c.mapsMu.Lock()
	defer c.mapsMu.Unlock()
	for _, r := range c.mappings.AddMapping(ms, ar, offset, writable) {
		i.fs.mf.MarkUnevictable(i, pgalloc.EvictableRange{Start: r.Start, End: r.End})
	}
	if writable {
		c.writers++
	}
	if c.writers != 0 {
		// What was mapped from the host must not stay so where it is shared now.
		for _, r := range i.reshare() {
			c.mappings.Invalidate(r, memmap.InvalidateOpts{})
		}
	}
	return nil
}

// RemoveMapping implements memmap.Mappable.
func (i *inode) RemoveMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) {
	c := i.content
	c.mapsMu.Lock()
	defer c.mapsMu.Unlock()
	unmapped := c.mappings.RemoveMapping(ms, ar, offset, writable)
	shrunk := c.writers != 0
	if writable && !c.mapsWritably() {
		c.writers = 0
	}
	if shrunk {
		i.reshare()
	}
	if len(unmapped) == 0 {
		return
	}
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	for _, r := range unmapped {
		c.dirty.AllowClean(r)
		if !c.cache.IsEmptyRange(r) {
			i.fs.mf.MarkEvictable(i, pgalloc.EvictableRange{Start: r.Start, End: r.End})
		}
	}
	if c.mappings.IsEmpty() {
		c.hostRuns.Store(0)
	}
}

// mapsWritably says whether a mapping may write. mapsMu is held.
func (c *content) mapsWritably() bool {
	for seg := c.mappings.FirstSegment(); seg.Ok(); seg = seg.NextSegment() {
		for m := range seg.Value() {
			if m.Writable {
				return true
			}
		}
	}
	return false
}

// reshare brings c.shared up to date with the mappings. It returns the ranges that
// were not in it before. mapsMu is held.
func (i *inode) reshare() (added []memmap.MappableRange) {
	c := i.content
	var shared []memmap.MappableRange
	for seg := c.mappings.FirstSegment(); seg.Ok(); seg = seg.NextSegment() {
		if len(seg.Value()) < 2 {
			continue
		}
		for m := range seg.Value() {
			if m.Writable {
				r := seg.Range()
				if n := len(shared); n > 0 && shared[n-1].End == r.Start {
					shared[n-1].End = r.End
				} else {
					shared = append(shared, r)
				}
				break
			}
		}
	}
	c.dataMu.Lock()
	old := c.shared
	c.shared = shared
	c.dataMu.Unlock()
	for _, r := range shared {
		if !covered(old, r) {
			added = append(added, r)
		}
	}
	return added
}

// covered says whether r lies within one of the ranges.
func covered(ranges []memmap.MappableRange, r memmap.MappableRange) bool {
	for _, o := range ranges {
		if o.IsSupersetOf(r) {
			return true
		}
	}
	return false
}

// CopyMapping implements memmap.Mappable.
func (i *inode) CopyMapping(ctx context.Context, ms memmap.MappingSpace, srcAR, dstAR hostarch.AddrRange, offset uint64, writable bool) error {
	return i.AddMapping(ctx, ms, dstAR, offset, writable)
}

// InvalidateUnsavable implements memmap.Mappable. After a restore the disk is another
// host file, so no page may be mapped from the one before.
func (i *inode) InvalidateUnsavable(ctx context.Context) error {
	c := i.content
	c.mapsMu.Lock()
	c.mappings.InvalidateAll(memmap.InvalidateOpts{})
	c.mapsMu.Unlock()
	return i.flush(ctx, true)
}

// Translate implements memmap.Mappable. It is called with a memory manager's
// activeMu, and never invalidates.
func (i *inode) Translate(ctx context.Context, required, optional memmap.MappableRange, at hostarch.AccessType) ([]memmap.Translation, error) {
	c := i.content
	if !at.Write {
		c.dataMu.RLock()
		ts, done := i.translateClean(required, optional, at)
		c.dataMu.RUnlock()
		if done {
			return ts, nil
		}
	}

	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	end := pageRange(0, c.size.Load()).End
	var eof error
	if required.End > end {
		if required.Start >= end {
			return nil, &memmap.BusError{Err: io.EOF}
		}
		eof = &memmap.BusError{Err: io.EOF}
		required.End = end
	}
	optional.End = min(optional.End, end)
	if at.Write {
		// A store must not fail for want of space once it is made.
		optional = i.storeWindow(required, optional)
		if err := i.prepareStore(optional); err != nil {
			return nil, &memmap.BusError{Err: err}
		}
	}

	var ts []memmap.Translation
	for pos := required.Start; pos < required.End; {
		t, err := i.translatePage(ctx, pos, required, optional, at)
		if err != nil {
			return ts, &memmap.BusError{Err: err}
		}
		if len(ts) > 0 && t.Source.Start < pos {
			t.Offset += pos - t.Source.Start
			t.Source.Start = pos
		}
		ts = append(ts, t)
		pos = t.Source.End
	}
	return ts, eof
}

// translateClean translates where every page is mapped from the host, or cached
// already. It fails otherwise. dataMu is held for reading.
func (i *inode) translateClean(required, optional memmap.MappableRange, at hostarch.AccessType) ([]memmap.Translation, bool) {
	c := i.content
	end := pageRange(0, c.size.Load()).End
	if required.End > end {
		return nil, false
	}
	optional.End = min(optional.End, end)
	var ts []memmap.Translation
	for pos := required.Start; pos < required.End; {
		t, ok := i.cachedPage(pos, optional, at)
		if !ok {
			t, ok = i.hostPage(pos, optional, at)
		}
		if !ok {
			return nil, false
		}
		if len(ts) > 0 && t.Source.Start < pos {
			t.Offset += pos - t.Source.Start
			t.Source.Start = pos
		}
		ts = append(ts, t)
		pos = t.Source.End
	}
	return ts, true
}

// translatePage translates a range that contains the page at pos. dataMu is held for
// writing.
func (i *inode) translatePage(ctx context.Context, pos uint64, required, optional memmap.MappableRange, at hostarch.AccessType) (memmap.Translation, error) {
	c := i.content
	if !at.Write {
		if t, ok := i.cachedPage(pos, optional, at); ok {
			return t, nil
		}
		if t, ok := i.hostPage(pos, optional, at); ok {
			return t, nil
		}
	}
	need := memmap.MappableRange{Start: pos, End: required.End}
	size := uint64(fillBytes)
	if c.hostRuns.Load() >= i.fs.maxHostRuns {
		size = fillMany
	}
	fillErr := i.fill(ctx, need, around(need, optional, size))
	t, ok := i.cachedPage(pos, optional, at)
	if !ok {
		if fillErr == nil {
			fillErr = errors.New("page was not cached")
		}
		return t, errno(fillErr)
	}
	if at.Write {
		c.dirty.KeepDirty(t.Source)
		c.dirtyPages.Store(true)
		i.fs.flushLater()
		t.Perms.Write = true
	}
	return t, nil
}

// storeWindow is the pages that a store into required makes dirty: more of them where
// stores go on from page to page, so that few faults are needed, else no more. dataMu
// is held.
func (i *inode) storeWindow(required, optional memmap.MappableRange) memmap.MappableRange {
	if required.Start > 0 && i.content.dirty.FindSegment(required.Start-1).Ok() {
		required.End = max(required.End, min(optional.End, required.Start+fillBytes))
	}
	return required
}

// around is required, widened within optional to at most n bytes after its start,
// from a multiple of n on.
func around(required, optional memmap.MappableRange, n uint64) memmap.MappableRange {
	r := memmap.MappableRange{Start: required.Start &^ (n - 1), End: (required.End + n - 1) &^ (n - 1)}
	r.Start = min(max(r.Start, optional.Start), required.Start)
	r.End = max(min(r.End, optional.End), required.End)
	return r
}

// cachedPage translates the cached range around pos. dataMu is held.
func (i *inode) cachedPage(pos uint64, optional memmap.MappableRange, at hostarch.AccessType) (memmap.Translation, bool) {
	seg := i.content.cache.FindSegment(pos)
	if !seg.Ok() {
		return memmap.Translation{}, false
	}
	mr := seg.Range().Intersect(optional)
	return memmap.Translation{
		Source: mr,
		File:   i.fs.mf,
		Offset: seg.FileRangeOf(mr).Start,
		Perms:  hostarch.ReadExecute,
	}, true
}

// hostPage translates the run of the host around pos. It fails where the page cannot
// be mapped from the host. dataMu is held.
func (i *inode) hostPage(pos uint64, optional memmap.MappableRange, at hostarch.AccessType) (memmap.Translation, bool) {
	c := i.content
	if c.frozen != 0 || i.fs.blockSize < hostarch.PageSize {
		return memmap.Translation{}, false
	}
	for _, r := range c.shared {
		if r.Contains(pos) {
			return memmap.Translation{}, false
		}
		if r.End <= pos {
			optional.Start = max(optional.Start, r.End)
		} else {
			optional.End = min(optional.End, r.Start)
		}
	}
	_, gap := c.cache.Find(pos)
	if !gap.Ok() {
		return memmap.Translation{}, false
	}
	limit := optional.Intersect(gap.Range())
	limit.End = min(limit.End, pos+runWindow)

	// A page that the file ends in is mapped only if nothing lies after the end.
	if size := uint64(c.size.Load()); limit.End > size {
		last := size &^ (hostarch.PageSize - 1)
		if !i.zeroAfter(int64(size)) {
			if pos >= last {
				return memmap.Translation{}, false
			}
			limit.End = last
		}
	}

	h, mr, off, ok := i.hostRun(pos, limit)
	if !ok || at.Execute && h.NoExec {
		return memmap.Translation{}, false
	}
	if c.hostRuns.Add(1) > i.fs.maxHostRuns && mr.Length() < fillMany && mr.Length() < limit.Length() {
		// Too many small pieces: the host's limit of mappings is near.
		return memmap.Translation{}, false
	}
	return memmap.Translation{Source: mr, File: h, Offset: off, Perms: h.Perms()}, true
}

// zeroAfter says whether the disk holds zeros from the file's end to the end of its
// page. dataMu is held.
func (i *inode) zeroAfter(size int64) bool {
	tail := (hostarch.PageSize - size%hostarch.PageSize) % hostarch.PageSize
	if tail == 0 {
		return true
	}
	zero := false
	err := i.node.Map(size, 1, func(e ext4.Extent) bool {
		if e.State != ext4.Written {
			return false
		}
		b := make([]byte, tail)
		if _, err := i.fs.disk.Device.ReadAt(b, e.Disk+size-e.Offset); err != nil {
			return false
		}
		zero = true
		for _, x := range b {
			zero = zero && x == 0
		}
		return false
	})
	return err == nil && zero
}

// hostRun finds the widest run of whole pages around pos, within limit, that lies
// together in one host file on page boundaries. dataMu is held.
func (i *inode) hostRun(pos uint64, limit memmap.MappableRange) (h *hostFile, mr memmap.MappableRange, off uint64, ok bool) {
	// The run on the disk around pos, made of extents that lie one after the other.
	from := max(limit.Start, pos-min(pos, backWindow))
	var e ext4.Extent
	err := i.node.Map(int64(from), int64(limit.End-from), func(x ext4.Extent) bool {
		switch {
		case x.State == e.State && e.Length != 0 && x.Disk-e.Disk == x.Offset-e.Offset:
			e.Length += x.Length
		case e.Length != 0 && int64(pos) < e.Offset+e.Length:
			return false
		default:
			e = x
		}
		return true
	})
	if err != nil {
		i.fs.errno(err)
		return nil, mr, 0, false
	}
	if e.State != ext4.Written {
		return nil, mr, 0, false
	}
	// The extent's whole pages, as far as limit lets them.
	from = max(limit.Start, uint64(e.Offset))
	to := min(limit.End, uint64(e.Offset+e.Length)&^(hostarch.PageSize-1))
	if from > pos || to < pos+hostarch.PageSize {
		return nil, mr, 0, false
	}
	// What waits in the log for its place is not on the disk.
	shift := e.Disk - e.Offset
	at := int64(pos) + shift
	first, end := i.fs.engine.InPlace(int64(from)+shift, int64(to)+shift, at)
	from = uint64(first-shift+hostarch.PageSize-1) &^ (hostarch.PageSize - 1)
	to = uint64(end-shift) &^ (hostarch.PageSize - 1)
	if from > pos || to < pos+hostarch.PageSize {
		return nil, mr, 0, false
	}
	var found ubdfmt.Extent
	err = i.fs.disk.Device.Extents(int64(from)+shift, int64(to-from), func(x ubdfmt.Extent) bool {
		switch {
		case x.File == found.File && x.File != nil && x.FileOffset-found.FileOffset == x.Offset-found.Offset:
			found.Length += x.Length
		case found.Length != 0 && at < found.Offset+found.Length:
			return false
		default:
			found = x
		}
		return true
	})
	if err != nil {
		i.fs.errno(err)
		return nil, mr, 0, false
	}
	if found.File == nil {
		return nil, mr, 0, false
	}
	lo, hi := max(int64(from), found.Offset-shift), min(int64(to), found.Offset+found.Length-shift)
	mr = memmap.MappableRange{
		Start: (uint64(lo) + hostarch.PageSize - 1) &^ (hostarch.PageSize - 1),
		End:   uint64(hi) &^ (hostarch.PageSize - 1),
	}
	if lo < 0 || mr.Start > pos || mr.End < pos+hostarch.PageSize {
		return nil, mr, 0, false
	}
	fileOff := found.FileOffset + int64(mr.Start) + shift - found.Offset
	if fileOff < 0 || fileOff%hostarch.PageSize != 0 {
		return nil, mr, 0, false
	}
	return i.fs.hostFile(found.File), mr, uint64(fileOff), true
}

// prepareStore gives the pages of mr blocks, and the file the time of the store.
// dataMu is held for writing.
func (i *inode) prepareStore(mr memmap.MappableRange) error {
	if err := i.fs.writable(); err != nil {
		return err
	}
	end := min(int64(mr.End), i.content.size.Load())
	if err := i.node.Allocate(int64(mr.Start), end-int64(mr.Start)); err != nil {
		return i.fs.errno(err)
	}
	now := i.fs.now()
	a := i.node.Attr()
	if a.Mtime.Sec == now.Sec && now.Nsec-a.Mtime.Nsec < 10_000_000 {
		return nil // as fine as the kernel's own clock for such times
	}
	a.Mtime, a.Ctime = now, now
	return i.setAttr(ext4.AttrMtime|ext4.AttrCtime, a)
}
