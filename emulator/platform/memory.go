//go:build amd64

package platform

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// shared is the memory that stub processes share with us: a slot for each stub thread and
// one for the two pages of each stub process. Each has only its own mapped.
type shared struct {
	fd  int
	all []byte

	mu sync.Mutex
	// next is the first slot that was never in use, free those that were.
	next int
	free []int
}

// sharedSlots bounds the stub threads and processes of all guests together.
const sharedSlots = 1 << 16

func newShared() (*shared, error) {
	fd, err := unix.MemfdCreate("umlkit-stubs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory of the stubs: memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, sharedSlots*slotSize); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("memory of the stubs: ftruncate: %w", err)
	}
	all, err := unix.Mmap(fd, 0, sharedSlots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("memory of the stubs: mmap: %w", err)
	}
	return &shared{fd: fd, all: all}, nil
}

// take gives a slot out, which is zero.
func (s *shared) take() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot, nil
	}
	if s.next == sharedSlots {
		return 0, fmt.Errorf("more than %d stub threads and processes", sharedSlots)
	}
	s.next++
	return s.next - 1, nil
}

// give takes a slot back, which no process has mapped any more, and its memory.
func (s *shared) give(slot int) {
	_ = unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(slot)*slotSize, slotSize)
	s.mu.Lock()
	s.free = append(s.free, slot)
	s.mu.Unlock()
}

// slot is a slot's memory.
func (s *shared) slot(n int) []byte {
	return s.all[n*slotSize:][:slotSize:slotSize]
}
