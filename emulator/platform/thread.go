//go:build amd64

package platform

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
)

// thread is a stub thread. While it runs no guest code it waits for a reply to its
// listener's last notification.
type thread struct {
	listener
	p *process
	// slot is its memory, address where that lies in its process, and place the number of
	// slots before it there.
	slot    int
	place   int
	memory  []byte
	address uint64
	// framed is whether it waits in its handler, with a whole frame.
	framed bool
}

// thread gives out a stub thread of the process.
func (p *process) thread() (*thread, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		t := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		p.users.Add(1)
		return t, nil
	}
	p.mu.Unlock()
	t, err := p.newThread()
	if err != nil {
		return nil, err
	}
	p.users.Add(1)
	return t, nil
}

// release gives the thread back to its process.
func (t *thread) release() {
	p := t.p
	p.mu.Lock()
	many := len(p.idle) >= maxIdleThreads
	if !many {
		p.idle = append(p.idle, t)
	}
	p.mu.Unlock()
	if many {
		t.end()
	}
	p.leave()
}

// end has the thread end itself. One that does not has its process end.
func (t *thread) end() {
	p, z := t.p, t.p.z
	gone := t.toFrame()
	if gone == nil {
		t.write(&linux.PtraceRegs{Rip: z.code.leave})
		gone = t.send(0)
	}
	if gone == nil {
		poll := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 1000)
		for err == unix.EINTR {
			n, err = unix.Poll(poll, 1000)
		}
		if n != 1 || poll[0].Revents&unix.POLLHUP == 0 {
			gone = errGone
		}
	}
	if gone != nil {
		p.destroy()
		return // what it has is given back with the process
	}
	// Nobody must write the slot that is given away, nor the next thread read this one's.
	if _, err := p.system(unix.SYS_MUNMAP, [6]uint64{t.address, slotSize}); err != nil {
		p.destroy()
		return
	}
	p.mu.Lock()
	delete(p.all, t)
	p.free = append(p.free, t.place)
	p.mu.Unlock()
	z.stubThreads.Add(-1)
	z.forget(t.fd)
	z.shared.give(t.slot)
}

// newThread makes a stub thread, which parks.
func (p *process) newThread() (*thread, error) {
	z := p.z
	z.threads.Lock()
	defer z.threads.Unlock()
	p.mu.Lock()
	if len(p.free) == 0 {
		p.free = append(p.free, p.places)
		p.places++
	}
	place := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.mu.Unlock()
	if place >= maxSlots {
		return nil, fmt.Errorf("more than %d threads in an address space", maxSlots)
	}
	slot, err := z.shared.take()
	if err != nil {
		return nil, err
	}
	t := &thread{p: p, slot: slot, place: place, memory: z.shared.slot(slot), address: slotsAddress + uint64(place)*slotSize}
	_, err = p.system(unix.SYS_MMAP, [6]uint64{t.address, slotSize, unix.PROT_READ | unix.PROT_WRITE,
		unix.MAP_SHARED | unix.MAP_FIXED, uint64(z.shared.fd), uint64(slot) * slotSize})
	if err == nil {
		t.listener, err = z.thread(&p.first, kindGuest, t.address, filterNewListener|filterWaitKillable, guestFilter(z.code))
	}
	if err != nil {
		// A process that is there but for a thread goes on; the slot's mapping is
		// replaced by the next thread's.
		z.shared.give(slot)
		p.mu.Lock()
		p.free = append(p.free, place)
		p.mu.Unlock()
		return nil, err
	}
	p.mu.Lock()
	p.all[t] = true
	z.stubThreads.Add(1)
	p.mu.Unlock()
	if err := t.begin(notifyPark, z.code.parked); err != nil {
		p.destroy()
		return nil, err
	}
	return t, nil
}

// interrupt makes the thread come to its handler as soon as it is in user mode.
func (t *thread) interrupt() error {
	_, _, errno := syscall.RawSyscall(unix.SYS_TGKILL, uintptr(t.p.pid), uintptr(t.tid), uintptr(interruptSignal))
	switch errno {
	case 0:
		return nil
	case unix.ESRCH:
		return errGone
	}
	return fmt.Errorf("interrupt a stub thread: tgkill: %w", errno)
}

// frame is the thread's signal frame, in memory that guest code can write.
func (t *thread) frame() *frame {
	return (*frame)(unsafe.Pointer(&t.memory[slotSize-t.p.z.frame]))
}

// leaving is what IRETQ takes, below the frame.
func (t *thread) leaving() *leaving {
	return (*leaving)(unsafe.Pointer(&t.memory[slotSize-t.p.z.frame-leavingDistance]))
}

// bases are what lies at the slot's end.
func (t *thread) bases() *bases {
	return (*bases)(unsafe.Pointer(&t.memory[slotSize-16]))
}

// toFrame brings a thread that waits into its handler.
func (t *thread) toFrame() error {
	if t.framed {
		return nil
	}
	if err := t.interrupt(); err != nil {
		return err
	}
	if err := t.send(0); err != nil {
		return err
	}
	if err := t.receive(); err != nil {
		return err
	}
	if !t.atFrame() {
		return fmt.Errorf("stub thread %d is at %#x instead of its handler", t.tid, t.last.ip)
	}
	t.framed = true
	return nil
}

// atFrame is whether the last notification comes from the handler, with the frame where
// the kernel puts it. Guest code may have made it: it is that guest's frame, then.
func (t *thread) atFrame() bool {
	at := t.last.args[1] // 0 when the handler began again
	return t.last.nr == notifyFrame && t.last.ip == t.p.z.code.notified && (at == 0 || at == t.address+slotSize-t.p.z.frame)
}
