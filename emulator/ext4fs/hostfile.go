package ext4fs

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
)

// chunkSize is the unit in which the Sentry itself maps a host file. A chunk costs
// address space and one host mapping until its pages are touched.
const chunkSize = 64 << 20

// hostFile is a memmap.File over a host file of a disk: an image, a COW file or its
// backing file. It is only ever mapped for reading. Its pages are the host's page
// cache, so they need no accounting of references; the file stays open as long as
// the filesystem, which outlives every mapping of its files.
type hostFile struct {
	memmap.DefaultMemoryType
	memmap.NoBufferedIOFallback

	file *os.File
	fd   int

	// noexec is set where the host refuses to map the file with PROT_EXEC.
	noexec bool

	mu     sync.Mutex
	chunks map[uint64]uintptr // address of the chunk that starts at the key
}

// newHostFile probes how f can be mapped.
func newHostFile(f *os.File) *hostFile {
	h := &hostFile{file: f, fd: int(f.Fd()), chunks: make(map[uint64]uintptr)}
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, hostarch.PageSize, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED, uintptr(h.fd), 0)
	if errno != 0 {
		h.noexec = true
	} else {
		unix.RawSyscall(unix.SYS_MUNMAP, addr, hostarch.PageSize, 0)
	}
	return h
}

// perms is what a translation to h may be mapped for.
func (h *hostFile) perms() hostarch.AccessType {
	if h.noexec {
		return hostarch.Read
	}
	return hostarch.ReadExecute
}

// IncRef implements memmap.File.
func (h *hostFile) IncRef(fr memmap.FileRange, memCgID uint32) {}

// DecRef implements memmap.File.
func (h *hostFile) DecRef(fr memmap.FileRange) {}

// DataFD implements memmap.File.
func (h *hostFile) DataFD(fr memmap.FileRange) (int, error) { return h.fd, nil }

// FD implements memmap.File.
func (h *hostFile) FD() int { return h.fd }

// MapInternal implements memmap.File. It fails for writing, which no translation
// to h allows.
func (h *hostFile) MapInternal(fr memmap.FileRange, at hostarch.AccessType) (safemem.BlockSeq, error) {
	if at.Write {
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
		return 0, fmt.Errorf("map %s: %w", h.file.Name(), os.ErrClosed)
	}
	if addr, ok := h.chunks[start]; ok {
		return addr, nil
	}
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, chunkSize, unix.PROT_READ, unix.MAP_SHARED, uintptr(h.fd), uintptr(start))
	if errno != 0 {
		return 0, fmt.Errorf("map %s at %d: %w", h.file.Name(), start, errno)
	}
	h.chunks[start] = addr
	return addr, nil
}

// close takes back the Sentry's own mappings. No page of h is mapped any more.
func (h *hostFile) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, addr := range h.chunks {
		unix.RawSyscall(unix.SYS_MUNMAP, addr, chunkSize, 0)
	}
	h.chunks = nil
}

// blockAt is the memory at addr. It counts as unsafe: someone may truncate the host
// file below the mapping, and touching it then raises SIGBUS.
func blockAt(addr uintptr, n int) safemem.Block {
	return safemem.BlockFromUnsafePointer(*(*unsafe.Pointer)(unsafe.Pointer(&addr)), n)
}
