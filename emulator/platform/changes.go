//go:build amd64

package platform

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
)

// changes are those of an address space that have yet to be made. While no thread of the process
// runs guest code nobody can tell, so munmaps wait: for each other, for the mapping that
// takes their place, and at the latest for a thread to run.
type changes struct {
	// mapping is held while they are looked at or the mapper works.
	mapping sync.Mutex
	mapper  listener
	waiting []change
	// wait is whether there are any, running how many threads run guest code. A thread
	// counts itself before it looks at wait, and who waits looks at running afterwards:
	// one of them sees the other.
	wait    atomic.Bool
	running atomic.Int64
	// called are the threads whose tasks are about what they were called for, and soon have
	// them run again, or sleep. Without any nothing waits: a mapping holds the host's
	// file.
	called atomic.Int64
}

// enter counts a thread that is to run guest code, in an address space that is as it should be.
func (p *process) enter() error {
	p.running.Add(1)
	if !p.wait.Load() {
		return nil
	}
	p.mapping.Lock()
	defer p.mapping.Unlock()
	return p.flush()
}

// settle makes the changes that wait.
func (p *process) settle() {
	if p.wait.Load() {
		p.mapping.Lock()
		defer p.mapping.Unlock()
		// What fails has destroyed the process.
		_ = p.flush()
	}
}

// left takes a thread away that runs guest code no more.
func (p *process) left() { p.running.Add(-1) }

// system makes a system call in the mapper, behind all that wait.
func (p *process) system(nr uint64, args [6]uint64) (uint64, error) {
	p.mapping.Lock()
	defer p.mapping.Unlock()
	return p.change(change{nr, args})
}

// change is system for who holds mapping.
func (p *process) change(last change) (uint64, error) {
	if nothing := p.takesPlace(last); nothing {
		p.waiting = p.waiting[:0]
	}
	all := append(p.waiting, last)
	value, left, err := p.make(all)
	p.waiting = p.waiting[:0]
	p.wait.Store(false)
	if left > 1 {
		// The guest must not keep what is not its own any more.
		p.destroy()
	}
	return value, err
}

// takesPlace is whether a mapping covers all that waits to be unmapped.
func (p *process) takesPlace(c change) bool {
	if c.nr != unix.SYS_MMAP {
		return false
	}
	for _, w := range p.waiting {
		if w.args[0] < c.args[0] || w.args[0]+w.args[1] > c.args[0]+c.args[1] {
			return false
		}
	}
	return true
}

// flush makes the changes that wait. Its caller holds mapping.
func (p *process) flush() error {
	if len(p.waiting) == 0 {
		return nil
	}
	_, _, err := p.make(p.waiting)
	p.waiting = p.waiting[:0]
	p.wait.Store(false)
	if err != nil {
		p.destroy()
	}
	return err
}

// make has the mapper make system calls, and returns what the last one did. Of those from one that
// failed on, which is an error, it says how many there are.
func (p *process) make(all []change) (value uint64, left int, err error) {
	p.requests.count = uint64(len(all))
	copy(p.requests.changes[:], all)
	if err := p.mapper.send(0); err != nil {
		return 0, 0, err
	}
	if err := p.mapper.receive(); err != nil {
		return 0, 0, err
	}
	// The mapper's filter lets nothing else be said, and it is in registers.
	value = p.mapper.last.args[0]
	if v := int64(value); v < 0 && v > -4096 {
		return 0, int(p.mapper.last.args[1]), unix.Errno(-v)
	}
	return value, 0, nil
}

// below is whether a range is the guest's: nothing of the stub lies there.
func below(addr hostarch.Addr, length uint64) bool {
	end := uint64(addr) + length
	return end >= uint64(addr) && end <= codeAddress
}

// MapFile implements platform.AddressSpace.MapFile.
func (p *process) MapFile(addr hostarch.Addr, f memmap.File, fr memmap.FileRange, at hostarch.AccessType, precommit bool) error {
	if !below(addr, fr.Length()) {
		return fmt.Errorf("map %#x bytes at %#x: not the guest's", fr.Length(), addr)
	}
	fd, err := f.DataFD(fr)
	if err != nil {
		return err
	}
	flags := uint64(unix.MAP_SHARED | unix.MAP_FIXED)
	if precommit {
		flags |= unix.MAP_POPULATE
	}
	_, err = p.system(unix.SYS_MMAP, [6]uint64{uint64(addr), fr.Length(), uint64(at.Prot()), flags, uint64(fd), fr.Start})
	return err
}

// Unmap implements platform.AddressSpace.Unmap.
func (p *process) Unmap(addr hostarch.Addr, length uint64) {
	if !below(addr, length) {
		panic(fmt.Sprintf("unmap %#x bytes at %#x: not the guest's", length, addr))
	}
	p.mapping.Lock()
	defer p.mapping.Unlock()
	p.waiting = append(p.waiting, change{unix.SYS_MUNMAP, [6]uint64{uint64(addr), length}})
	p.wait.Store(true)
	// One place is the mapping's that may follow.
	if p.running.Load() != 0 || p.called.Load() == 0 || len(p.waiting) == maxChanges-1 {
		// What fails has destroyed the process.
		_ = p.flush()
	}
}

// empty unmaps all of the guest's.
func (p *process) empty() {
	p.mapping.Lock()
	defer p.mapping.Unlock()
	p.waiting = append(p.waiting[:0], change{unix.SYS_MUNMAP, [6]uint64{0, codeAddress}})
	_ = p.flush()
}
