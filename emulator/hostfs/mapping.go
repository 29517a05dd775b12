package hostfs

import (
	"io"
	"math"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/fsutil"
	"gvisor.dev/gvisor/pkg/sentry/hostfd"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"github.com/umlkit/umlkit/emulator/hostfile"
)

// mapped is what an inode needs to be mapped: descriptors of the host, opened when it is
// first mapped, and who maps it.
//
// A page of a mapping is the host's page of the file. It is a copy in the machine's memory
// only where the host does not map the file so: it is to be executed and lies on a mount
// with noexec, or it cannot be mapped at all. A copy does not see later changes, until the
// file is mapped again.
type mapped struct {
	// mapsMu protects mappings.
	mapsMu   sync.Mutex
	mappings memmap.MappingSet

	// filesMu protects what follows. read is there as soon as the file is mapped; write
	// as soon as a mapping may store to it, and then serves for all.
	filesMu     sync.RWMutex
	read, write *hostFile
	copies      fsutil.FileRangeSet
	copied      unix.StatxTimestamp // the file's time of change when pages were copied
}

// openMapped readies i to be mapped. A duplicate of host, which the guest has open, serves.
// It fails with ENODEV where a shared mapping for writing is asked for and cannot be.
func (i *inode) openMapped(host int, writable, store bool) error {
	m := &i.mapped
	m.filesMu.Lock()
	have := m.read
	if writable {
		have = m.write
	}
	if have == nil {
		fds := i.fs.typ.fds
		err := fds.openFile()
		if err != nil {
			m.filesMu.Unlock()
			return err
		}
		fd, err := unix.FcntlInt(uintptr(host), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			fds.files.Add(-1)
			m.filesMu.Unlock()
			return errno(err)
		}
		have = newHostFile(fd, writable, fds)
		if writable {
			m.write = have
		} else {
			m.read = have
		}
	}
	m.filesMu.Unlock()
	if store && have.Unmappable {
		return linuxerr.ENODEV
	}
	return i.refreshCopies()
}

// refreshCopies drops copied pages if the file has changed since.
func (i *inode) refreshCopies() error {
	m := &i.mapped
	m.filesMu.RLock()
	empty := m.copies.IsEmpty()
	m.filesMu.RUnlock()
	if empty {
		return nil
	}
	var st unix.Statx_t
	if err := statx(i.fd, &st); err != nil {
		return errno(err)
	}
	m.mapsMu.Lock()
	defer m.mapsMu.Unlock()
	m.filesMu.RLock()
	same := m.copied == st.Ctime
	m.filesMu.RUnlock()
	if same {
		return nil
	}
	m.mappings.InvalidateAll(memmap.InvalidateOpts{})
	m.filesMu.Lock()
	m.copies.DropAll(i.fs.mf)
	m.filesMu.Unlock()
	return nil
}

// dropMapped ends what mapping took. Nothing maps i.
func (i *inode) dropMapped() {
	m := &i.mapped
	for _, f := range []*hostFile{m.read, m.write} {
		if f != nil {
			f.MappableRelease()
		}
	}
	if !m.copies.IsEmpty() {
		m.copies.DropAll(i.fs.mf)
	}
}

// unmapFrom takes the pages behind the end of a file that became shorter from those who
// map it.
func (i *inode) unmapFrom(size int64) { i.unmap(uint64(size), math.MaxUint64) }

// unmap takes the whole pages within [start, end), private copies too.
func (i *inode) unmap(start, end uint64) {
	const inPage = hostarch.PageSize - 1
	r := memmap.MappableRange{Start: (start + inPage) &^ inPage, End: end &^ inPage}
	if r.Start >= r.End {
		return
	}
	m := &i.mapped
	m.mapsMu.Lock()
	defer m.mapsMu.Unlock()
	m.mappings.Invalidate(r, memmap.InvalidateOpts{InvalidatePrivate: true})
	m.filesMu.Lock()
	defer m.filesMu.Unlock()
	if !m.copies.IsEmpty() {
		m.copies.Drop(r, i.fs.mf)
	}
}

// AddMapping implements memmap.Mappable.
func (i *inode) AddMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) error {
	i.mapped.mapsMu.Lock()
	defer i.mapped.mapsMu.Unlock()
	i.mapped.mappings.AddMapping(ms, ar, offset, writable)
	if writable {
		i.fs.stored.Store(true)
	}
	return nil
}

// RemoveMapping implements memmap.Mappable.
func (i *inode) RemoveMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) {
	m := &i.mapped
	m.mapsMu.Lock()
	defer m.mapsMu.Unlock()
	m.mappings.RemoveMapping(ms, ar, offset, writable)
	if m.mappings.IsEmpty() {
		m.filesMu.Lock()
		defer m.filesMu.Unlock()
		if !m.copies.IsEmpty() {
			m.copies.DropAll(i.fs.mf)
		}
	}
}

// CopyMapping implements memmap.Mappable.
func (i *inode) CopyMapping(ctx context.Context, ms memmap.MappingSpace, srcAR, dstAR hostarch.AddrRange, offset uint64, writable bool) error {
	return i.AddMapping(ctx, ms, dstAR, offset, writable)
}

// InvalidateUnsavable implements memmap.Mappable.
func (i *inode) InvalidateUnsavable(ctx context.Context) error {
	i.mapped.mapsMu.Lock()
	defer i.mapped.mapsMu.Unlock()
	i.mapped.mappings.InvalidateAll(memmap.InvalidateOpts{})
	return nil
}

// window bounds how far before and behind a fault is mapped with it, in bytes. Pages
// behind the end that the file has now must not be mapped in advance: the file may become
// longer, but then they fault, and are asked for again.
const window = 64 << 20

// Translate implements memmap.Mappable. The file's end is where the host says.
func (i *inode) Translate(ctx context.Context, required, optional memmap.MappableRange, at hostarch.AccessType) ([]memmap.Translation, error) {
	m := &i.mapped
	m.filesMu.RLock()
	f := m.write
	if f == nil {
		f = m.read
	}
	m.filesMu.RUnlock()
	if f == nil || at.Write && !f.Writable {
		return nil, &memmap.BusError{Err: linuxerr.EACCES}
	}
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(f.FD(), &st) }); err != nil {
		return nil, &memmap.BusError{Err: errno(err)}
	}
	end := (uint64(st.Size) + hostarch.PageSize - 1) &^ (hostarch.PageSize - 1)
	if required.Start >= end {
		return nil, &memmap.BusError{Err: io.EOF}
	}
	var eof error
	if required.End > end {
		required.End, eof = end, &memmap.BusError{Err: io.EOF}
	}
	optional = optional.Intersect(memmap.MappableRange{
		Start: required.Start - min(required.Start, window),
		End:   min(end, required.End+window),
	})
	if f.Unmappable || at.Execute && f.NoExec {
		ts, err := i.copy(ctx, f, required, optional, uint64(st.Size), at)
		if err == nil {
			err = eof
		}
		return ts, err
	}
	return []memmap.Translation{{Source: optional, File: f, Offset: optional.Start, Perms: f.Perms()}}, eof
}

// copyBytes is how much is copied around a page that must be.
const copyBytes = 256 << 10

// copy translates to copies in the machine's memory.
func (i *inode) copy(ctx context.Context, f *hostFile, required, optional memmap.MappableRange, size uint64, at hostarch.AccessType) ([]memmap.Translation, error) {
	if at.Write {
		return nil, &memmap.BusError{Err: linuxerr.EACCES}
	}
	m := &i.mapped
	m.filesMu.Lock()
	defer m.filesMu.Unlock()
	if m.copies.IsEmpty() {
		var st unix.Statx_t
		if err := statx(i.fd, &st); err != nil {
			return nil, &memmap.BusError{Err: errno(err)}
		}
		m.copied = st.Ctime
	}
	wide := memmap.MappableRange{Start: required.Start &^ (copyBytes - 1), End: (required.End + copyBytes - 1) &^ (copyBytes - 1)}.Intersect(optional)
	_, err := m.copies.Fill(ctx, required, wide, size, i.fs.mf, pgalloc.AllocOpts{
		Kind:    usage.PageCache,
		MemCgID: pgalloc.MemoryCgroupIDFromContext(ctx),
		Mode:    pgalloc.AllocateAndWritePopulate,
	}, func(ctx context.Context, dsts safemem.BlockSeq, off uint64) (uint64, error) {
		return hostfd.Preadv2(int32(f.FD()), dsts, int64(off), 0)
	})
	var ts []memmap.Translation
	for pos := required.Start; pos < required.End; {
		seg := m.copies.FindSegment(pos)
		if !seg.Ok() {
			if err == nil {
				err = io.EOF
			}
			return ts, &memmap.BusError{Err: err}
		}
		mr := seg.Range().Intersect(optional)
		ts = append(ts, memmap.Translation{Source: mr, File: i.fs.mf, Offset: seg.FileRangeOf(mr).Start, Perms: hostarch.ReadExecute})
		pos = mr.End
	}
	return ts, nil
}

// hostFile is a file of the host that an inode has open to be mapped. It lives until the
// inode and every mapping are gone.
type hostFile struct {
	hostfile.File
	fsutil.MmapFileRefs
	fds *descriptors
}

// newHostFile takes fd over.
func newHostFile(fd int, writable bool, fds *descriptors) *hostFile {
	h := &hostFile{fds: fds}
	h.Init(fd, "a file of the host", writable)
	h.Closer = h
	return h
}

// Close implements io.Closer for MmapFileRefs: no page of h is mapped any more.
func (h *hostFile) Close() error {
	h.Unmap()
	h.fds.closeFile(h.FD())
	return nil
}
