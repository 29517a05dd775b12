// Package hostfile is a file of the host as memory of the guest: its pages are the host's
// page cache.
package hostfile

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

// File is a memmap.File over a descriptor of the host but for its references, which are
// whose it is to count.
type File struct {
	memmap.DefaultMemoryType
	memmap.NoBufferedIOFallback

	fd   int
	name string // for errors
	prot uintptr

	// NoExec is set where the host refuses to map the file with PROT_EXEC, Unmappable
	// where it refuses to map it at all. Writable is whether it may be written through.
	NoExec, Unmappable, Writable bool

	mu     sync.Mutex
	chunks map[uint64]uintptr // address of the chunk that starts at the key
}

// Init probes how the file behind fd, which stays the caller's, can be mapped.
func (f *File) Init(fd int, name string, writable bool) {
	f.fd, f.name, f.Writable = fd, name, writable
	f.chunks = make(map[uint64]uintptr)
	f.prot = unix.PROT_READ
	if writable {
		f.prot |= unix.PROT_WRITE
	}
	f.Unmappable = !f.maps(f.prot)
	f.NoExec = !f.maps(unix.PROT_READ | unix.PROT_EXEC)
}

// maps says whether the host maps the file so.
func (f *File) maps(prot uintptr) bool {
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, hostarch.PageSize, prot, unix.MAP_SHARED, uintptr(f.fd), 0)
	if errno != 0 {
		return false
	}
	unix.RawSyscall(unix.SYS_MUNMAP, addr, hostarch.PageSize, 0)
	return true
}

// Perms is what a translation to f may be mapped for.
func (f *File) Perms() hostarch.AccessType {
	return hostarch.AccessType{Read: true, Write: f.Writable, Execute: !f.NoExec}
}

// DataFD implements memmap.File.
func (f *File) DataFD(memmap.FileRange) (int, error) { return f.fd, nil }

// FD implements memmap.File.
func (f *File) FD() int { return f.fd }

// MapInternal implements memmap.File.
func (f *File) MapInternal(fr memmap.FileRange, at hostarch.AccessType) (safemem.BlockSeq, error) {
	if at.Write && !f.Writable {
		return safemem.BlockSeq{}, unix.EACCES
	}
	var blocks []safemem.Block
	for fr.Length() > 0 {
		start := fr.Start &^ (chunkSize - 1)
		addr, err := f.chunk(start)
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

func (f *File) chunk(start uint64) (uintptr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.chunks == nil {
		return 0, fmt.Errorf("map %s: %w", f.name, os.ErrClosed)
	}
	if addr, ok := f.chunks[start]; ok {
		return addr, nil
	}
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, chunkSize, f.prot, unix.MAP_SHARED, uintptr(f.fd), uintptr(start))
	if errno != 0 {
		return 0, fmt.Errorf("map %s at %d: %w", f.name, start, errno)
	}
	f.chunks[start] = addr
	return addr, nil
}

// Unmap takes back the Sentry's own mappings. No page of f is mapped any more.
func (f *File) Unmap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, addr := range f.chunks {
		unix.RawSyscall(unix.SYS_MUNMAP, addr, chunkSize, 0)
	}
	f.chunks = nil
}

// blockAt is the memory at addr. It counts as unsafe: someone may truncate the host
// file below the mapping, and touching it then raises SIGBUS.
func blockAt(addr uintptr, n int) safemem.Block {
	return safemem.BlockFromUnsafePointer(*(*unsafe.Pointer)(unsafe.Pointer(&addr)), n)
}
