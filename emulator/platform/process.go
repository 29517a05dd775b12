//go:build amd64

package platform

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	gvisor "gvisor.dev/gvisor/pkg/sentry/platform"
)

// process is a stub process, and an address space.
type process struct {
	gvisor.NoAddressSpaceIO
	first
	z *zygote
	// slot holds the two pages of the first thread.
	slot int

	// mapping is held while the mapper works.
	mapping sync.Mutex
	mapper  listener

	// users are the address space, while it is not released, and the contexts whose
	// threads are here. Without users the process is idle.
	users atomic.Int64
	// broken is whether the process is not to be used again.
	broken atomic.Bool

	mu   sync.Mutex
	all  map[*thread]bool
	idle []*thread
	// places are how many slots there have been, free those that threads have left.
	places int
	free   []int
}

// newProcess is an idle process, or a new one, with one user.
func (z *zygote) newProcess() (*process, error) {
	for {
		p := z.takeIdle()
		if p == nil {
			break
		}
		if p.dead() {
			p.end()
			continue
		}
		p.users.Store(1)
		return p, nil
	}
	p, err := z.fork()
	if err != nil {
		return nil, err
	}
	p.users.Store(1)
	return p, nil
}

func (z *zygote) takeIdle() *process {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := len(z.idle)
	if n == 0 {
		return nil
	}
	p := z.idle[n-1]
	z.idle = z.idle[:n-1]
	return p
}

// newMapper makes the mapper.
func (p *process) newMapper() error {
	z := p.z
	z.threads.Lock()
	defer z.threads.Unlock()
	l, err := z.thread(&p.first, kindMapper, 0, filterNewListener, mapperFilter(z.code))
	if err != nil {
		return err
	}
	p.mapper = l
	return p.mapper.begin(notifyMapper, z.code.asked)
}

// system makes one system call in the mapper.
func (p *process) system(nr uint64, args [6]uint64) (uint64, error) {
	p.mapping.Lock()
	defer p.mapping.Unlock()
	p.requests.mapNR, p.requests.mapArgs = nr, args
	if err := p.mapper.send(0); err != nil {
		return 0, err
	}
	if err := p.mapper.receive(); err != nil {
		return 0, err
	}
	// The mapper's filter lets nothing else be said, and it is in a register.
	if v := int64(p.mapper.last.args[0]); v < 0 && v > -4096 {
		return 0, unix.Errno(-v)
	}
	return p.mapper.last.args[0], nil
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
	if _, err := p.system(unix.SYS_MUNMAP, [6]uint64{uint64(addr), length}); err != nil {
		// The guest must not keep what is not its own any more.
		p.destroy()
	}
}

// PreFork and PostFork implement platform.AddressSpace: every change is whole.
func (p *process) PreFork()  {}
func (p *process) PostFork() {}

// Release implements platform.AddressSpace.Release.
func (p *process) Release() {
	p.Unmap(0, codeAddress)
	p.leave()
}

// leave takes one user away. The last makes the process idle, or ends it.
func (p *process) leave() {
	if p.users.Add(-1) > 0 {
		return
	}
	z := p.z
	if !p.broken.Load() && len(p.all) <= maxIdleThreads {
		z.mu.Lock()
		if len(z.idle) < maxIdle {
			z.idle = append(z.idle, p)
			z.mu.Unlock()
			return
		}
		z.mu.Unlock()
	}
	p.end()
}

// destroy kills the process; who uses it will find it gone.
func (p *process) destroy() {
	p.broken.Store(true)
	p.kill()
}

// end kills the process and gives back what it had. Nobody uses it any more.
func (p *process) end() {
	p.destroy()
	z := p.z
	if p.pidfd != 0 {
		for !p.dead() {
			poll := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
			_, _ = unix.Poll(poll, 100)
		}
		unix.Close(p.pidfd)
	}
	for t := range p.all {
		z.forget(t.fd)
		z.shared.give(t.slot)
	}
	if p.mapper.tid != 0 {
		z.forget(p.mapper.fd)
	}
	z.shared.give(p.slot)
	z.processes.Add(-1)
	z.stubThreads.Add(-int64(len(p.all)))
}
