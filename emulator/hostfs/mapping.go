package hostfs

import (
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"unsafe"

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
	if store && have.unmappable {
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
	if f == nil || at.Write && !f.writable {
		return nil, &memmap.BusError{Err: linuxerr.EACCES}
	}
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(f.fd, &st) }); err != nil {
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
	if f.unmappable || at.Execute && f.noexec {
		ts, err := i.copy(ctx, f, required, optional, uint64(st.Size), at)
		if err == nil {
			err = eof
		}
		return ts, err
	}
	return []memmap.Translation{{Source: optional, File: f, Offset: optional.Start, Perms: f.perms()}}, eof
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
		return hostfd.Preadv2(int32(f.fd), dsts, int64(off), 0)
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

// chunkSize is the unit in which the Sentry itself maps a host file. A chunk costs
// address space and one host mapping until its pages are touched.
const chunkSize = 64 << 20

// hostFile is a memmap.File over a file of the host. Its pages are the host's page cache.
// It lives until the inode and every mapping are gone.
type hostFile struct {
	memmap.DefaultMemoryType
	memmap.NoBufferedIOFallback
	fsutil.MmapFileRefs

	fd       int
	fds      *descriptors
	writable bool

	// noexec is set where the host refuses to map the file with PROT_EXEC, unmappable
	// where it refuses to map it at all.
	noexec, unmappable bool

	mu     sync.Mutex
	chunks map[uint64]uintptr // address of the chunk that starts at the key
}

// newHostFile probes how the file behind fd, which it takes over, can be mapped.
func newHostFile(fd int, writable bool, fds *descriptors) *hostFile {
	h := &hostFile{fd: fd, fds: fds, writable: writable, chunks: make(map[uint64]uintptr)}
	h.Closer = h
	prot := uintptr(unix.PROT_READ)
	if writable {
		prot |= unix.PROT_WRITE
	}
	h.unmappable = !h.maps(prot)
	h.noexec = !h.maps(unix.PROT_READ | unix.PROT_EXEC)
	return h
}

// maps says whether the host maps the file so.
func (h *hostFile) maps(prot uintptr) bool {
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, hostarch.PageSize, prot, unix.MAP_SHARED, uintptr(h.fd), 0)
	if errno != 0 {
		return false
	}
	unix.RawSyscall(unix.SYS_MUNMAP, addr, hostarch.PageSize, 0)
	return true
}

// perms is what a translation to h may be mapped for.
func (h *hostFile) perms() hostarch.AccessType {
	return hostarch.AccessType{Read: true, Write: h.writable, Execute: !h.noexec}
}

// DataFD implements memmap.File.
func (h *hostFile) DataFD(fr memmap.FileRange) (int, error) { return h.fd, nil }

// FD implements memmap.File.
func (h *hostFile) FD() int { return h.fd }

// MapInternal implements memmap.File.
func (h *hostFile) MapInternal(fr memmap.FileRange, at hostarch.AccessType) (safemem.BlockSeq, error) {
	if at.Write && !h.writable {
		return safemem.BlockSeq{}, unix.EACCES
	}
	var blocks []safemem.Block
	for fr.Length() > 0 {
		start := fr.Start &^ (chunkSize - 1)
		addr, err := h.chunk(start)
		if err != nil {
			return safemem.BlockSeq{}, err
		}
		end := min(fr.End, start+chunkSize)
		b := blockAt(addr+uintptr(fr.Start-start), int(end-fr.Start))
		if end == fr.End && blocks == nil {
			return safemem.BlockSeqOf(b), nil
		}
		blocks = append(blocks, b)
		fr.Start = end
	}
	return safemem.BlockSeqFromSlice(blocks), nil
}

func (h *hostFile) chunk(start uint64) (uintptr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.chunks == nil {
		return 0, fmt.Errorf("map a file of the host: %w", os.ErrClosed)
	}
	if addr, ok := h.chunks[start]; ok {
		return addr, nil
	}
	prot := uintptr(unix.PROT_READ)
	if h.writable {
		prot |= unix.PROT_WRITE
	}
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, chunkSize, prot, unix.MAP_SHARED, uintptr(h.fd), uintptr(start))
	if errno != 0 {
		return 0, fmt.Errorf("map a file of the host at %d: %w", start, errno)
	}
	h.chunks[start] = addr
	return addr, nil
}

// Close implements io.Closer for MmapFileRefs: no page of h is mapped any more.
func (h *hostFile) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, addr := range h.chunks {
		unix.RawSyscall(unix.SYS_MUNMAP, addr, chunkSize, 0)
	}
	h.chunks = nil
	h.fds.closeFile(h.fd)
	return nil
}

// blockAt is the memory at addr. It counts as unsafe: someone may truncate the host
// file below the mapping, and touching it then raises SIGBUS.
func blockAt(addr uintptr, n int) safemem.Block {
	return safemem.BlockFromUnsafePointer(*(*unsafe.Pointer)(unsafe.Pointer(&addr)), n)
}
