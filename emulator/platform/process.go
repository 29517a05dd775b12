//go:build amd64

package platform

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	gvisor "gvisor.dev/gvisor/pkg/sentry/platform"
)

// process is a stub process, and an address space.
type process struct {
	gvisor.NoAddressSpaceIO
	first
	z *zygote
	// slot holds the two pages of the first thread.
	slot int

	changes

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

// PreFork and PostFork implement platform.AddressSpace: what is not made yet is not seen.
func (p *process) PreFork()  {}
func (p *process) PostFork() {}

// Release implements platform.AddressSpace.Release.
func (p *process) Release() {
	p.empty()
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
