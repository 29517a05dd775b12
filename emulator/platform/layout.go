//go:build amd64

package platform

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// Where the stub lies in every stub process; stub_amd64.s has the same numbers.
const (
	codeAddress     = 0x7fff80000000
	requestsAddress = codeAddress + 0x1000
	resultsAddress  = codeAddress + 0x2000
	slotsAddress    = codeAddress + 0x10000
	// stubEnd is the end of user memory with four levels of page tables.
	stubEnd = 0x7ffffffff000

	// slotSize is a stub thread's memory: its alternate stack, with room for three
	// nested signal frames of hosts with AVX-512, and two words above it.
	slotSize = 16 << 10
	// slotTop is what lies above the alternate stack: FS base and GS base, and room
	// that keeps the stack's top aligned for XSAVE.
	slotTop = 64
	// maxSlots is how many threads a stub process can have.
	maxSlots = (stubEnd - slotsAddress) / slotSize

	pageSize = 4096
)

// System calls of the stub's own. The filters notify of them as of any other.
const (
	notifyFrame  = 0x3ff1
	notifyPark   = 0x3ff2
	notifyMapper = 0x3ff3
)

// What the first thread of a stub process is asked for.
const (
	// kindCall is a system call.
	kindCall = iota
	// kindProcess is a clone whose child becomes a stub process; only the zygote gets it.
	kindProcess
	// kindGuest is a clone whose child becomes a stub thread.
	kindGuest
	// kindMapper is a clone whose child becomes the mapper.
	kindMapper
)

// requests is a page that the stub process can only read.
type requests struct {
	// seq counts requests to the first thread: it is a futex.
	seq  uint32
	kind uint32
	// nr and args are the system call.
	nr   uint64
	args [6]uint64
	// memfd and offset say where a new process finds its pages, parent who must have
	// forked it.
	memfd, offset, parent uint64
	// flags and program are a new thread's filter.
	flags   uint64
	program program
	// stack is a new thread's alternate stack, mask its signal mask: nothing is blocked.
	stack alternateStack
	mask  uint64

	_ [368]byte
	// filter is what program points to.
	filter [32]unix.SockFilter

	_ [256]byte
	// count and changes are the mapper's next system calls.
	count   uint64
	changes [maxChanges]change
}

// change is a system call of the mapper's.
type change struct {
	nr   uint64
	args [6]uint64
}

// maxChanges is how many the mapper makes at once.
const maxChanges = 16

// program is struct sock_fprog.
type program struct {
	length uint16
	_      [6]byte
	filter uint64
}

// alternateStack is stack_t.
type alternateStack struct {
	sp    uint64
	flags int32
	_     int32
	size  uint64
}

// filterOffset is where requests.filter lies in the page.
const filterOffset = 512

// results is a page that guest code can write: nothing in it is trusted, but in the
// zygote and until a process runs guest code.
type results struct {
	// seq is that of the request which is done; it is a futex.
	seq uint32
	_   uint32
	// value is what the system call returned.
	value int64
	// listener is a new thread's descriptor and one, or minus an error.
	listener int64
}

// canonical is whether a base register takes the address.
func canonical(address uint64) bool {
	return bits.LeadingZeros64(address^uint64(int64(address)<<16>>16)) == 64
}
