//go:build amd64

package platform

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvisor "gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/platform/interrupt"
)

// taskContext is a guest thread: it has a stub thread of its address space.
type taskContext struct {
	gvisor.NoCPUNumbers
	zygote *zygote
	// mu is held while the thread runs guest code or is brought to its frame.
	mu sync.Mutex
	// released is whether it no longer counts as a context.
	released bool
	// ending is whether its task is.
	ending    bool
	thread    *thread
	forwarder interrupt.Forwarder
	// sent is whether this Switch has been interrupted.
	sent atomic.Bool

	// seen are the registers as the last Switch gave them to the Sentry.
	seen linux.PtraceRegs
	// partial is whether of these only what a system call needs is known, the rest
	// being in the thread; floats whether the floating point state is.
	partial, floats bool
	// busy is whether the context counts as called.
	busy bool
	// changed is whether the Sentry's floating point state is to go to the thread.
	changed bool
}

// Switch implements platform.Context.Switch.
func (c *taskContext) Switch(ctx gcontext.Context, mm gvisor.MemoryManager, ac *arch.Context64, _ int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := mm.AddressSpace().(*process)
	if c.thread == nil || c.thread.p != p {
		c.leave()
		t, err := p.thread()
		if err != nil {
			return nil, hostarch.NoAccess, failed(err)
		}
		// What the Sentry knows is all there is.
		c.thread, c.changed, c.partial, c.floats = t, true, false, false
		c.seen = linux.PtraceRegs{}
	}
	for {
		info, at, again, err := c.run(ctx, mm, ac)
		switch {
		case err != nil && err != gvisor.ErrContextSignal && err != gvisor.ErrContextInterrupt:
			p.destroy()
			return nil, hostarch.NoAccess, failed(err)
		case !again:
			return info, at, err
		}
	}
}

// failed is what the Sentry takes for the end of a guest process.
func failed(err error) error {
	return &gvisor.ContextError{Err: fmt.Errorf("platform own: %w", err), Errno: unix.ECHILD}
}

// run lets the thread run guest code until it does something. With again, that was of
// no concern to the Sentry.
func (c *taskContext) run(ctx gcontext.Context, mm gvisor.MemoryManager, ac *arch.Context64) (info *linux.SignalInfo, at hostarch.AccessType, again bool, err error) {
	t := c.thread
	regs := &ac.StateData().Regs.PtraceRegs
	if !canonical(regs.Rip) || int64(regs.Rip) < 0 && !vsyscall(regs.Rip) {
		// The processor would not leave the stub for there.
		return &linux.SignalInfo{Signo: int32(linux.SIGSEGV), Code: linux.SI_KERNEL}, hostarch.NoAccess, false, gvisor.ErrContextSignal
	}
	value := regs.Rax
	if t.framed || c.changed || !c.onlyReturns(regs) {
		if err := c.pull(ac); err != nil {
			return nil, hostarch.NoAccess, false, err
		}
		t.write(regs)
		if c.changed {
			t.pushFloats(ac)
		}
		value = 0
	}

	// From here on an interrupt sends a signal; none before could be mistaken for it.
	if !c.forwarder.Enable(c) {
		return nil, hostarch.NoAccess, false, gvisor.ErrContextInterrupt
	}
	c.changed, t.framed = false, false
	c.called(false)
	err = t.p.enter()
	if err == nil {
		err = t.send(value)
	}
	if err == nil {
		err = t.receive()
	}
	t.p.left()
	c.called(true)
	c.forwarder.Disable()
	c.sent.Store(false)
	if err != nil {
		return nil, hostarch.NoAccess, false, err
	}
	switch {
	case t.atFrame():
		return c.handled(ctx, mm, ac)
	case t.last.nr == notifyFrame && t.last.ip == t.p.z.code.notified:
		return nil, hostarch.NoAccess, false, fmt.Errorf("the guest moved its signal frame to %#x", t.last.args[1])
	case t.last.arch != auditX86_64:
		// int 0x80 and its like, in 64-bit programs.
		c.heard(regs)
		regs.Rax = ^uint64(unix.ENOSYS) + 1
		return nil, hostarch.NoAccess, true, nil
	}
	c.heard(regs)
	switch t.last.nr {
	case unix.SYS_RT_SIGRETURN, unix.SYS_ARCH_PRCTL:
		// These look at the stack pointer and at FS base without pulling them.
		if err := c.pull(ac); err != nil {
			return nil, hostarch.NoAccess, false, err
		}
	}
	return nil, hostarch.NoAccess, false, nil
}

// onlyReturns is whether the Sentry changed nothing but the result of a system call, and
// that to something the kernel does not take for its own.
func (c *taskContext) onlyReturns(regs *linux.PtraceRegs) bool {
	now := *regs
	now.Rax = c.seen.Rax
	const restart, restartEnd = -516, -512 // ERESTARTSYS and its like
	return now == c.seen && (int64(regs.Rax) < restart || int64(regs.Rax) > restartEnd)
}

// heard takes a system call out of the last notification.
func (c *taskContext) heard(regs *linux.PtraceRegs) {
	n := &c.thread.last
	regs.Rax = uint64(uint32(n.nr))
	regs.Orig_rax = regs.Rax
	regs.Rip = n.ip
	regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9 = n.args[0], n.args[1], n.args[2], n.args[3], n.args[4], n.args[5]
	c.seen = *regs
	c.partial, c.floats = true, true
}

// pull brings the thread to its frame, and registers that are not known from there.
func (c *taskContext) pull(ac *arch.Context64) error {
	t := c.thread
	if err := t.toFrame(); err != nil {
		return err
	}
	if !c.partial {
		return nil
	}
	c.partial = false
	return c.complete(ac)
}

// complete adds the registers in the thread's frame to those that a notification told.
func (c *taskContext) complete(ac *arch.Context64) error {
	t := c.thread
	if err := t.toFrame(); err != nil {
		return err
	}
	f := t.frame().regs
	from := registersOf(&f, *t.bases())
	known := &ac.StateData().Regs.PtraceRegs
	// What the notification said stays, as it may have been changed since.
	from.Rax, from.Orig_rax, from.Rip = known.Rax, known.Orig_rax, known.Rip
	from.Rdi, from.Rsi, from.Rdx, from.R10, from.R8, from.R9 = known.Rdi, known.Rsi, known.Rdx, known.R10, known.R8, known.R9
	*known = from
	return nil
}

// handled is what to do about a frame.
func (c *taskContext) handled(ctx gcontext.Context, mm gvisor.MemoryManager, ac *arch.Context64) (info *linux.SignalInfo, at hostarch.AccessType, again bool, err error) {
	t := c.thread
	t.framed = true
	shared := t.frame()
	f, si := shared.regs, shared.info
	// Should the handler begin again before guest code has run, there is no signal.
	shared.info.Signo = 0
	regs := &ac.StateData().Regs.PtraceRegs
	*regs = registersOf(&f, *t.bases())
	c.seen, c.partial, c.floats = *regs, false, true

	switch signal := unix.Signal(si.Signo); {
	case si.Signo == 0:
		if signal := unix.Signal(t.last.args[0]); signal != interruptSignal {
			return nil, hostarch.NoAccess, false, fmt.Errorf("signal %d in the stub, before %#x", signal, f.rip)
		}
	case si.Code <= 0:
		// Somebody's kill(2): no word of the processor.
	case signal == unix.SIGSEGV:
		switch f.trap {
		case trapPageFault:
			switch {
			case f.err&faultWrite != 0:
				at = hostarch.Write
			case f.err&faultInstruction != 0:
				at = hostarch.Execute
			case f.err&faultUser != 0:
				at = hostarch.Read
			}
		case trapGeneralProtection:
			if gvisor.TryCPUIDEmulate(ctx, mm, ac) {
				return nil, hostarch.NoAccess, true, nil
			}
		}
		return &si, at, false, gvisor.ErrContextSignal
	case signal == unix.SIGBUS, signal == unix.SIGFPE, signal == unix.SIGILL, signal == unix.SIGTRAP:
		return &si, hostarch.NoAccess, false, gvisor.ErrContextSignal
	}
	return nil, hostarch.NoAccess, false, gvisor.ErrContextInterrupt
}

// vsyscall is whether the address is in the page that the host's kernel emulates.
func vsyscall(address uint64) bool {
	return address >= linux.VSyscallStartAddr && address < linux.VSyscallEndAddr
}

// NotifyInterrupt implements interrupt.Receiver.
func (c *taskContext) NotifyInterrupt() {
	if c.sent.CompareAndSwap(false, true) {
		// A thread that is gone is noticed by whoever waits for it.
		_ = c.thread.interrupt()
	}
}

// PullFullState implements platform.Context.PullFullState. It does not fail: the Sentry
// holds locks that it takes again when it does. A thread that is gone fails the next
// Switch.
func (c *taskContext) PullFullState(as gvisor.AddressSpace, ac *arch.Context64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.floats {
		return nil
	}
	if err := c.pull(ac); err != nil {
		c.thread.p.destroy()
		return nil
	}
	c.thread.pullFloats(ac)
	c.floats = false
	return nil
}

// Look completes a copy of the registers of a guest thread that runs no guest code, for somebody
// else than its task: what only the thread knows is added to what the Sentry does.
func (c *taskContext) Look(ac *arch.Context64) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.thread == nil || !c.partial {
		return
	}
	if err := c.complete(ac); err != nil {
		c.thread.p.destroy()
	}
}

// FullStateChanged implements platform.Context.FullStateChanged.
func (c *taskContext) FullStateChanged() {
	c.changed, c.partial, c.floats = true, false, false
}

// Interrupt implements platform.Context.Interrupt.
func (c *taskContext) Interrupt() {
	c.forwarder.NotifyInterrupt()
}

// Release implements platform.Context.Release.
func (c *taskContext) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
	if !c.released {
		c.released = true
		if c.ending {
			c.zygote.ending.Add(-1)
		}
		c.zygote.contexts.Add(-1)
	}
}

// leave gives the thread back.
func (c *taskContext) leave() {
	if c.thread != nil {
		c.called(false)
		c.thread.release()
		c.thread = nil
	}
}

// Preempt implements platform.Context.Preempt: the host's scheduler does it.
func (c *taskContext) Preempt() {}

// called counts the context as one of its process's that were called, or no more.
func (c *taskContext) called(busy bool) {
	if c.busy == busy {
		return
	}
	c.busy = busy
	if busy {
		c.thread.p.called.Add(1)
	} else {
		c.thread.p.called.Add(-1)
	}
}

// sleep leaves no change waiting for a guest that sleeps.
func (c *taskContext) sleep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy {
		c.called(false)
		c.thread.p.settle()
	}
}

// What follows implements the rest of platform.Context.
func (c *taskContext) PrepareSleep()                { c.sleep() }
func (c *taskContext) PrepareUninterruptibleSleep() { c.sleep() }
func (c *taskContext) PrepareStop()                 { c.sleep() }
func (c *taskContext) PrepareExecve()               {}

// PrepareExit implements platform.Context.PrepareExit.
func (c *taskContext) PrepareExit() {
	c.sleep()
	if !c.ending {
		c.ending = true
		c.zygote.ending.Add(1)
	}
}

// concurrency is how many contexts run in parallel: a goroutine that waits in the host
// has a thread.
const concurrency = math.MaxInt
