package ext4fs

import (
	"io"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/fsutil"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"github.com/umlkit/umlkit/ext4"
)

// content is the data of a regular file: its pages in guest memory, and who maps
// them. Most files have none of either; their data is in the host's page cache.
type content struct {
	// size is the file's length. It changes with inode.mu and dataMu held.
	size atomic.Int64

	// dataMu protects what follows. Whoever changes where the file's data lies,
	// or the data of cached pages, holds it for writing.
	dataMu sync.RWMutex

	// cache is the pages that are in guest memory, dirty those of them that are
	// newer than the disk. A page is cached when it was written through a mapping
	// or cannot be mapped from the host.
	cache fsutil.FileRangeSet
	dirty fsutil.DirtySet

	// dirtyPages is set while dirty is not empty.
	dirtyPages atomic.Bool

	// frozen counts the operations under way that free or move blocks. While it
	// is not zero no page is mapped from the host.
	frozen int

	// shared is the ranges with several mappings of which one may write. Their
	// pages are always cached: a page could not move from the host to guest memory
	// when it is first written, since the other mappings would not see it.
	shared []memmap.MappableRange

	// hostRuns counts the runs of the host that were mapped since the file was
	// last unmapped.
	hostRuns atomic.Int64

	// mapsMu protects mappings and writers, the number of writable ones.
	mapsMu   sync.Mutex
	mappings memmap.MappingSet
	writers  int
}

// maxOffset is past every offset of a file, and a multiple of the page size.
const maxOffset = 1 << 62

// pageRange is the smallest range of whole pages around [start, end).
func pageRange(start, end int64) memmap.MappableRange {
	return memmap.MappableRange{
		Start: uint64(start) &^ (hostarch.PageSize - 1),
		End:   (uint64(end) + hostarch.PageSize - 1) &^ (hostarch.PageSize - 1),
	}
}

// reader copies the file from off onwards to guest memory. It implements
// safemem.Reader. Its caller may hold a memory manager's activeMu.
type reader struct {
	i   *inode
	off int64
}

// ReadToBlocks implements safemem.Reader.
func (r *reader) ReadToBlocks(dsts safemem.BlockSeq) (uint64, error) {
	c := r.i.content
	c.dataMu.RLock()
	defer c.dataMu.RUnlock()
	left := c.size.Load() - r.off
	if left <= 0 {
		return 0, io.EOF
	}
	dsts = dsts.TakeFirst64(uint64(left))
	var done uint64
	for !dsts.IsEmpty() {
		var (
			n    uint64
			err  error
			want = dsts.NumBytes()
		)
		seg, gap := c.cache.Find(uint64(r.off))
		if seg.Ok() {
			mr := seg.Range().Intersect(memmap.MappableRange{Start: uint64(r.off), End: uint64(r.off) + want})
			var ims safemem.BlockSeq
			ims, err = r.i.fs.mf.MapInternal(seg.FileRangeOf(mr), hostarch.Read)
			if err == nil {
				n, err = safemem.CopySeq(dsts.TakeFirst64(mr.Length()), ims)
			}
			want = mr.Length()
		} else {
			want = min(want, gap.End()-uint64(r.off))
			n, err = r.i.readDisk(dsts.TakeFirst64(want), r.off)
		}
		done += n
		r.off += int64(n)
		dsts = dsts.DropFirst64(n)
		if err != nil {
			return done, err
		}
		if n < want {
			return done, nil
		}
	}
	return done, nil
}

// readDisk reads from the disk into dsts, without regard to cached pages. What lies
// past the end of the file reads as zeros. dataMu is held.
func (i *inode) readDisk(dsts safemem.BlockSeq, off int64) (uint64, error) {
	var done uint64
	for !dsts.IsEmpty() {
		b := dsts.Head()
		n, err := readBlock(b, func(p []byte) (int, error) { return i.node.ReadAt(p, off) })
		if err == io.EOF {
			m, zerr := safemem.Zero(b.DropFirst(n))
			n, err = n+m, zerr
		}
		done += uint64(n)
		off += int64(n)
		if err != nil {
			i.fs.errno(err)
			return done, linuxerr.EIO // whatever it is, as from Linux
		}
		dsts = dsts.Tail()
	}
	return done, nil
}

// readBlock reads into b. Memory that may fault under us is filled by way of a
// buffer.
func readBlock(b safemem.Block, read func([]byte) (int, error)) (int, error) {
	if !b.NeedSafecopy() {
		return read(b.ToSlice())
	}
	buf := make([]byte, b.Len())
	n, err := read(buf)
	m, cerr := safemem.Copy(b, safemem.BlockFromSafeSlice(buf[:n]))
	if cerr != nil {
		return m, cerr
	}
	return n, err
}

// writer copies guest memory to the file from off onwards. It implements
// safemem.Writer. inode.mu is held; the caller may hold a memory manager's activeMu.
type writer struct {
	i   *inode
	off int64
}

// WriteFromBlocks implements safemem.Writer.
func (w *writer) WriteFromBlocks(srcs safemem.BlockSeq) (uint64, error) {
	c := w.i.content
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	if w.off > c.size.Load() {
		if err := w.i.zeroCachedTail(); err != nil {
			return 0, err
		}
	}
	var done uint64
	for !srcs.IsEmpty() {
		var (
			n    uint64
			err  error
			want = srcs.NumBytes()
		)
		seg, gap := c.cache.Find(uint64(w.off))
		if seg.Ok() {
			// The page is changed first and the disk then gets what is in it, so
			// that both agree even if the guest changes its buffer meanwhile.
			mr := seg.Range().Intersect(memmap.MappableRange{Start: uint64(w.off), End: uint64(w.off) + want})
			want = mr.Length()
			var ims safemem.BlockSeq
			ims, err = w.i.fs.mf.MapInternal(seg.FileRangeOf(mr), hostarch.ReadWrite)
			if err == nil {
				var copied uint64
				copied, err = safemem.CopySeq(ims, srcs.TakeFirst64(want))
				var werr error
				if n, werr = w.i.writeDisk(ims.TakeFirst64(copied), w.off); werr != nil {
					err = werr
				}
			}
		} else {
			want = min(want, gap.End()-uint64(w.off))
			n, err = w.i.writeDisk(srcs.TakeFirst64(want), w.off)
		}
		done += n
		w.off += int64(n)
		srcs = srcs.DropFirst64(n)
		if n > 0 && w.off > c.size.Load() {
			c.size.Store(w.off)
		}
		if err != nil {
			return done, err
		}
		if n < want {
			return done, nil
		}
	}
	return done, nil
}

// bounceSize bounds the buffer for guest memory that is not contiguous in ours.
const bounceSize = 1 << 20

// writeDisk writes srcs to the disk, which allocates blocks and moves the size as
// needed. Runs of small pieces are gathered, so that no block is written twice.
// dataMu is held for writing.
func (i *inode) writeDisk(srcs safemem.BlockSeq, off int64) (uint64, error) {
	bs := int64(i.fs.blockSize)
	var done uint64
	for !srcs.IsEmpty() {
		var p []byte
		b := srcs.Head()
		if last := int64(b.Len()) == int64(srcs.NumBytes()); !b.NeedSafecopy() && (last || (off+int64(b.Len()))%bs == 0) {
			p = b.ToSlice()
		} else if whole := (off+int64(b.Len()))/bs*bs - off; !b.NeedSafecopy() && whole >= bs {
			p = b.ToSlice()[:whole]
		} else {
			n := min(srcs.NumBytes(), bounceSize-uint64(off%bs))
			p = make([]byte, n)
			copied, err := safemem.CopySeq(safemem.BlockSeqOf(safemem.BlockFromSafeSlice(p)), srcs)
			if p = p[:copied]; copied == 0 {
				return done, err
			}
		}
		n, err := i.node.WriteAt(p, off)
		done += uint64(n)
		off += int64(n)
		if err != nil {
			return done, i.fs.errno(err)
		}
		srcs = srcs.DropFirst64(uint64(n))
	}
	return done, nil
}

// zeroCachedTail clears what a mapping left in the last page past the end of the
// file, before the file grows over it. inode.mu and dataMu are held.
func (i *inode) zeroCachedTail() error {
	c := i.content
	size := uint64(c.size.Load())
	if size%hostarch.PageSize == 0 {
		return nil
	}
	return i.zeroCached(size, (size+hostarch.PageSize-1)&^(hostarch.PageSize-1))
}

// zeroCached clears [start, end) of the cached pages. dataMu is held for writing.
func (i *inode) zeroCached(start, end uint64) error {
	mr := memmap.MappableRange{Start: start, End: end}
	for seg := i.content.cache.LowerBoundSegment(start); seg.Ok() && seg.Start() < end; seg = seg.NextSegment() {
		ims, err := i.fs.mf.MapInternal(seg.FileRangeOf(seg.Range().Intersect(mr)), hostarch.ReadWrite)
		if err != nil {
			return err
		}
		if _, err := safemem.ZeroSeq(ims); err != nil {
			return err
		}
	}
	return nil
}

// fill caches the pages of required, and of optional around them where that is
// cheap. dataMu is held for writing.
func (i *inode) fill(ctx context.Context, required, optional memmap.MappableRange) error {
	c := i.content
	_, err := c.cache.Fill(ctx, required, optional, uint64(c.size.Load()), i.fs.mf, pgalloc.AllocOpts{
		Kind:    usage.PageCache,
		MemCgID: pgalloc.MemoryCgroupIDFromContext(ctx),
		Mode:    pgalloc.AllocateAndWritePopulate,
	}, func(ctx context.Context, dsts safemem.BlockSeq, off uint64) (uint64, error) {
		return i.readDisk(dsts, int64(off))
	})
	return err
}

// flush writes the dirty pages to the disk. With unmapped, nothing maps the file;
// else its mappings lose the pages they may write and fault again when they do, so
// that a page that is not written any more stays clean.
func (i *inode) flush(ctx context.Context, unmapped bool) error {
	c := i.content
	if c == nil || !c.dirtyPages.Load() {
		return nil
	}
	if i.fs.cut.Load() {
		i.discardDirty()
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !unmapped {
		i.unkeep(memmap.MappableRange{End: maxOffset})
	}
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	return i.flushLocked(ctx, memmap.MappableRange{End: maxOffset}, unmapped)
}

// unkeep takes the pages of mr from the mappings that may write them. A store before
// it is in the page for a writeback after it; a store after it makes the page dirty
// anew. inode.mu is held.
func (i *inode) unkeep(mr memmap.MappableRange) {
	c := i.content
	c.mapsMu.Lock()
	defer c.mapsMu.Unlock()
	if c.writers == 0 {
		return
	}
	var kept []memmap.MappableRange
	c.dataMu.Lock()
	for seg := c.dirty.LowerBoundSegment(mr.Start); seg.Ok() && seg.Start() < mr.End; seg = seg.NextSegment() {
		if seg.Value().Keep {
			kept = append(kept, seg.Range().Intersect(mr))
		}
	}
	for _, r := range kept {
		c.dirty.AllowClean(r)
	}
	c.dataMu.Unlock()
	for _, r := range kept {
		c.mappings.Invalidate(r, memmap.InvalidateOpts{})
	}
}

// flushLocked is flush of a range, with inode.mu and dataMu held.
func (i *inode) flushLocked(ctx context.Context, mr memmap.MappableRange, unmapped bool) error {
	c := i.content
	if unmapped {
		c.dirty.AllowClean(mr)
	}
	a := i.node.Attr()
	err := fsutil.SyncDirty(ctx, mr, &c.cache, &c.dirty, uint64(c.size.Load()), i.fs.mf, func(ctx context.Context, srcs safemem.BlockSeq, off uint64) (uint64, error) {
		return i.writeDisk(srcs, int64(off))
	})
	c.dirtyPages.Store(!c.dirty.IsEmpty())
	// The file's times are those of the guest's stores, not of the writeback.
	if terr := i.setAttr(ext4.AttrMtime|ext4.AttrCtime, a); err == nil {
		err = terr
	}
	return err
}

// discardDirty forgets that pages are dirty.
func (i *inode) discardDirty() {
	c := i.content
	c.dataMu.Lock()
	c.dirty.RemoveAllAndAccount()
	c.dirtyPages.Store(false)
	c.dataMu.Unlock()
}

// dropPages frees the cached pages of a file that nobody refers to any more.
func (i *inode) dropPages() {
	c := i.content
	i.fs.mf.MarkAllUnevictable(i)
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	c.dirty.RemoveAllAndAccount()
	c.dirtyPages.Store(false)
	c.cache.DropAll(i.fs.mf)
}

// Evict implements pgalloc.EvictableMemoryUser.
func (i *inode) Evict(ctx context.Context, er pgalloc.EvictableRange) {
	c := i.content
	mr := memmap.MappableRange{Start: er.Start, End: er.End}
	if !i.mu.TryLock() {
		// A write or a truncation is under way, and may wait for memory.
		return
	}
	defer i.mu.Unlock()
	c.mapsMu.Lock()
	defer c.mapsMu.Unlock()
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	for gap := c.mappings.LowerBoundGap(mr.Start); gap.Ok() && gap.Start() < mr.End; gap = gap.NextGap() {
		free := gap.Range().Intersect(mr)
		if free.Length() == 0 {
			continue
		}
		if !c.dirty.IsEmptyRange(free) {
			if err := i.flushLocked(ctx, free, true); err != nil {
				i.fs.log("warning: inode %d: writeback of %v: %v", i.Ino(), free, err)
				continue
			}
		}
		c.cache.Drop(free, i.fs.mf)
		c.dirty.KeepClean(free)
	}
	c.dirtyPages.Store(!c.dirty.IsEmpty())
}
