package ubd

import (
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/fsutil"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// pages are the parts of a disk that programs have mapped: copies in guest memory that
// live as long as they are mapped. Reads and writes of the disk see and change them.
// Few programs map a disk, so while anyone does, all of its traffic takes one lock.
type pages struct {
	disk *disk

	// maps protects mappings. It is taken before io.
	maps     sync.Mutex
	mappings memmap.MappingSet

	// io is held for reading by traffic that passes the copies by, which it may
	// while mapped is false, and for writing by all else.
	io     sync.RWMutex
	mapped bool
	mem    *pgalloc.MemoryFile
	cache  fsutil.FileRangeSet
	dirty  fsutil.DirtySet
	// lost is an error of a write back that nobody was told of.
	lost error
}

// ConfigureMMap implements vfs.FileDescriptionImpl.ConfigureMMap.
func (fd *diskFD) ConfigureMMap(ctx context.Context, opts *memmap.MMapOpts) error {
	p := &fd.disk.pages
	p.io.Lock()
	if !p.mapped {
		// A kernel that was started anew has another memory.
		p.mem = pgalloc.MemoryFileFromContext(ctx)
	}
	none := p.mem == nil
	p.io.Unlock()
	if none {
		return linuxerr.ENODEV
	}
	return vfs.GenericConfigureMMap(&fd.vfsfd, p, opts)
}

// AddMapping implements memmap.Mappable.AddMapping.
func (p *pages) AddMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) error {
	p.maps.Lock()
	defer p.maps.Unlock()
	p.mappings.AddMapping(ms, ar, offset, writable)
	p.io.Lock()
	p.mapped = true
	p.io.Unlock()
	return nil
}

// RemoveMapping implements memmap.Mappable.RemoveMapping. What nobody maps any more is
// written back and dropped.
func (p *pages) RemoveMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) {
	p.maps.Lock()
	defer p.maps.Unlock()
	unmapped := p.mappings.RemoveMapping(ms, ar, offset, writable)
	p.io.Lock()
	defer p.io.Unlock()
	for _, mr := range unmapped {
		p.dirty.AllowClean(mr)
		if err := p.syncLocked(mr); err != nil {
			p.lost = err
		}
		p.cache.Drop(mr, p.mem)
		p.dirty.KeepClean(mr)
	}
	p.mapped = !p.mappings.IsEmpty()
}

// CopyMapping implements memmap.Mappable.CopyMapping.
func (p *pages) CopyMapping(ctx context.Context, ms memmap.MappingSpace, srcAR, dstAR hostarch.AddrRange, offset uint64, writable bool) error {
	return p.AddMapping(ctx, ms, dstAR, offset, writable)
}

// Translate implements memmap.Mappable.Translate.
func (p *pages) Translate(ctx context.Context, required, optional memmap.MappableRange, at hostarch.AccessType) ([]memmap.Translation, error) {
	p.io.Lock()
	defer p.io.Unlock()
	end := uint64(p.disk.size()+hostarch.PageSize-1) &^ (hostarch.PageSize - 1)
	if required.Start >= end {
		return nil, &memmap.BusError{Err: io.EOF}
	}
	beyond := required.End > end
	if beyond {
		required.End = end
	}
	optional.End = min(optional.End, end)
	_, fillErr := p.cache.Fill(ctx, required, required, uint64(p.disk.size()), p.mem, pgalloc.AllocOpts{
		Kind:    usage.PageCache,
		MemCgID: pgalloc.MemoryCgroupIDFromContext(ctx),
		Mode:    pgalloc.AllocateAndWritePopulate,
	}, func(ctx context.Context, dsts safemem.BlockSeq, offset uint64) (uint64, error) {
		off := int64(offset)
		return p.disk.readDevice(dsts, &off)
	})
	var translations []memmap.Translation
	reached := required.Start
	for seg := p.cache.FindSegment(required.Start); seg.Ok() && seg.Start() < required.End; seg, _ = seg.NextNonEmpty() {
		mr := seg.Range().Intersect(optional)
		perms := hostarch.ReadExecute
		if at.Write {
			// From here on the page can be written at any time.
			p.dirty.KeepDirty(mr)
			perms.Write = true
		}
		translations = append(translations, memmap.Translation{
			Source: mr,
			File:   p.mem,
			Offset: seg.FileRangeOf(mr).Start,
			Perms:  perms,
		})
		reached = mr.End
	}
	if reached < required.End && fillErr != nil {
		return translations, &memmap.BusError{Err: fillErr}
	}
	if beyond {
		return translations, &memmap.BusError{Err: io.EOF}
	}
	return translations, nil
}

// InvalidateUnsavable implements memmap.Mappable.InvalidateUnsavable.
func (p *pages) InvalidateUnsavable(context.Context) error { return nil }

// flush writes back what was changed through mappings of [off, off+n), and gives the
// error of a write back that came before.
func (p *pages) flush(off, n int64) error {
	p.io.Lock()
	defer p.io.Unlock()
	err := p.flushLocked(off, n)
	if err == nil {
		err, p.lost = p.lost, nil
	}
	return err
}

// flushLocked is flush for a holder of p.io.
func (p *pages) flushLocked(off, n int64) error {
	if !p.mapped || n <= 0 {
		return nil
	}
	return p.syncLocked(pageRange(off, n))
}

// syncLocked writes back the changed pages of mr.
//
// Precondition: p.io is held for writing.
func (p *pages) syncLocked(mr memmap.MappableRange) error {
	if p.dirty.IsEmpty() {
		return nil
	}
	return fsutil.SyncDirty(context.Background(), mr, &p.cache, &p.dirty, uint64(p.disk.size()), p.mem, func(ctx context.Context, srcs safemem.BlockSeq, offset uint64) (uint64, error) {
		off := int64(offset)
		return p.disk.writeDevice(srcs, &off)
	})
}

// refreshLocked reads the copies of [off, off+n) again, after the disk changed.
//
// Precondition: p.io is held for writing.
func (p *pages) refreshLocked(off, n int64) error {
	if !p.mapped || n <= 0 {
		return nil
	}
	mr := pageRange(off, n)
	for seg := p.cache.LowerBoundSegment(mr.Start); seg.Ok() && seg.Start() < mr.End; seg = seg.NextSegment() {
		part := seg.Range().Intersect(mr)
		blocks, err := p.mem.MapInternal(seg.FileRangeOf(part), hostarch.ReadWrite)
		if err != nil {
			return err
		}
		start := int64(part.Start)
		if _, err := p.disk.readDevice(blocks.TakeFirst64(uint64(p.disk.size()-start)), &start); err != nil {
			return err
		}
	}
	return nil
}

// drop writes back and forgets all copies. Nothing is mapped any more, or the guest no
// longer runs.
func (p *pages) drop() error {
	p.io.Lock()
	defer p.io.Unlock()
	all := pageRange(0, p.disk.size())
	err := p.syncLocked(all)
	if err == nil {
		err, p.lost = p.lost, nil
	}
	if p.mem != nil {
		p.cache.Drop(all, p.mem)
		p.dirty.KeepClean(all)
	}
	p.mapped = false
	return err
}

// pageRange is the whole pages that hold [off, off+n).
func pageRange(off, n int64) memmap.MappableRange {
	return memmap.MappableRange{
		Start: uint64(off) &^ (hostarch.PageSize - 1),
		End:   uint64(off+n+hostarch.PageSize-1) &^ (hostarch.PageSize - 1),
	}
}
