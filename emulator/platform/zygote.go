//go:build amd64

package platform

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/reach"
)

// zygote forks the stub processes. There is one in the kernel's process; it dies with it.
type zygote struct {
	first
	code   *code
	shared *shared
	// codeFD is the memfd of the code page.
	codeFD int

	// forking is held until a new process has pages of its own, as it reads the zygote's
	// till then.
	forking sync.Mutex
	// threads is held while a thread is made, in whatever process: listeners that nobody
	// knows are its own, then.
	threads   sync.Mutex
	listeners map[int]bool

	// frame is how far below a slot's end the kernel puts a signal frame, and xsave the
	// XSAVE state of that frame.
	frame, xsave uint64

	// limits are the host's. Of what counts there: contexts are the guest's threads,
	// stubThreads and processes those of the host for them, used or idle; ending are
	// contexts that are about to go.
	limits                                   limits
	contexts, stubThreads, processes, ending atomic.Int64

	// idle are processes without an address space.
	mu   sync.Mutex
	idle []*process
}

// maxIdle is how many processes are kept for the next address spaces, maxIdleThreads how many
// threads one of them may have.
const (
	maxIdle        = 64
	maxIdleThreads = 16
)

// newZygote starts the zygote and finds out where signal frames lie.
func newZygote() (_ *zygote, err error) {
	s, err := newShared()
	if err != nil {
		return nil, err
	}
	z := &zygote{shared: s, listeners: map[int]bool{}, limits: hostLimits()}
	z.limits.raise()
	defer func() {
		if err != nil {
			z.stop()
		}
	}()
	if z.codeFD, err = unix.MemfdCreate("umlkit-stub", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		return nil, fmt.Errorf("code of the stub: memfd_create: %w", err)
	}
	if err := unix.Ftruncate(z.codeFD, pageSize); err != nil {
		return nil, fmt.Errorf("code of the stub: ftruncate: %w", err)
	}
	page, err := unix.Mmap(z.codeFD, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("code of the stub: mmap: %w", err)
	}
	defer unix.Munmap(page)
	// Until it is known where frames lie, handlers work further down.
	if z.code, err = newCode(page, slotSize/2); err != nil {
		return nil, err
	}
	slot, err := s.take()
	if err != nil {
		return nil, err
	}
	z.first.attach(s.slot(slot))
	if err := z.start(slot); err != nil {
		return nil, err
	}
	if err := z.measure(); err != nil {
		return nil, err
	}
	if z.code, err = newCode(page, z.frame); err != nil {
		return nil, err
	}
	return z, nil
}

// stop ends a zygote that does not serve.
func (z *zygote) stop() {
	z.kill()
	if z.pidfd != 0 {
		unix.Close(z.pidfd)
	}
	if z.codeFD != 0 {
		unix.Close(z.codeFD)
	}
	unix.Munmap(z.shared.all)
	unix.Close(z.shared.fd)
}

// seal makes the memory of the code unchangeable but for mappings that are there: ours
// is gone, and those of stubs are not writable.
func (z *zygote) seal() error {
	_, err := unix.FcntlInt(uintptr(z.codeFD), unix.F_ADD_SEALS,
		unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_FUTURE_WRITE)
	if err != nil {
		return fmt.Errorf("seal the stub's code: fcntl: %w", err)
	}
	return nil
}

// measure makes a process and a thread, interrupts it, and sees where the frame is.
func (z *zygote) measure() error {
	p, err := z.fork()
	if err != nil {
		return err
	}
	defer p.end()
	t, err := p.newThread()
	if err != nil {
		return err
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
	end := t.address + slotSize
	z.frame = end - t.last.args[1]
	if t.last.nr != notifyFrame || z.frame > slotSize/2-256 || z.frame < frameSize+slotTop {
		return fmt.Errorf("the host puts a signal frame %#x below the end of a stack of %#x bytes", z.frame, slotSize)
	}
	z.xsave = end - t.frame().regs.fpstate
	if z.xsave > z.frame-frameSize || z.xsave < slotTop+512 {
		return fmt.Errorf("the host puts XSAVE state %#x below a stack's end, and the frame %#x", z.xsave, z.frame)
	}
	return nil
}

// child is all that the forked child knows before it is the zygote.
type child struct {
	copy, code, shared, offset uintptr
	header                     unix.CapUserHeader
	none                       [2]unix.CapUserData
	action, ignore             sigaction
	blocked                    uint64
	parent                     uintptr
}

// sigaction is the kernel's struct sigaction.
type sigaction struct {
	handler, flags, restorer, mask uint64
}

// Flags of sigaction. The kernel insists on a restorer; the handler never returns.
const (
	saSiginfo  = 0x4
	saRestorer = 0x04000000
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
	saNoDefer  = 0x40000000
)

// stubSignals are those that the handler takes: what the processor reports, and the
// interrupt.
var stubSignals = [...]uintptr{uintptr(unix.SIGSEGV), uintptr(unix.SIGBUS), uintptr(unix.SIGFPE),
	uintptr(unix.SIGILL), uintptr(unix.SIGTRAP), uintptr(interruptSignal)}

// interruptSignal makes a stub thread come to its handler. Nobody sends it else, and
// a process that has no handler for it ignores it.
const interruptSignal = unix.SIGURG

// start forks the zygote, from a thread that never ends: with it the zygote would die.
func (z *zygote) start(slot int) error {
	copied, err := unix.Mmap(z.codeFD, 0, pageSize, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("code of the stub: mmap: %w", err)
	}
	defer unix.Munmap(copied)
	at := uintptr(unsafe.Pointer(&copied[0]))
	if at+pageSize > codeAddress {
		return fmt.Errorf("code of the stub: the host maps it at %#x, where stubs have it", at)
	}
	c := &child{
		copy: at, code: uintptr(z.codeFD), shared: uintptr(z.shared.fd), offset: uintptr(slot) * slotSize,
		header:  unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
		action:  sigaction{handler: z.code.handler, flags: saSiginfo | saRestorer | saOnStack | saRestart | saNoDefer, restorer: z.code.handler},
		ignore:  sigaction{handler: 1},
		blocked: 1<<64 - 1,
		parent:  uintptr(unix.Getpid()),
	}
	type forked struct {
		pid   uintptr
		errno syscall.Errno
	}
	done := make(chan forked)
	go func() {
		runtime.LockOSThread()
		pid, errno := forkChild(c)
		done <- forked{pid, errno}
		if errno == 0 {
			select {}
		}
		runtime.UnlockOSThread()
	}()
	f := <-done
	if f.errno != 0 {
		return fmt.Errorf("fork the zygote: clone: %w", f.errno)
	}
	z.pid = int(f.pid)
	if z.pidfd, err = unix.PidfdOpen(z.pid, 0); err != nil {
		return fmt.Errorf("the zygote: pidfd_open: %w", err)
	}
	if pid, err := z.call(unix.SYS_GETPID); err != nil || int(pid) != z.pid {
		return fmt.Errorf("the zygote does not answer: %d, %w", pid, err)
	}
	return nil
}

// forkChild makes the child. Between the two calls of reach, and in the child, nothing
// may allocate or grow the stack.
//
//go:norace
func forkChild(c *child) (pid uintptr, errno syscall.Errno) {
	reach.BeforeFork()
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		reach.AfterFork()
		return pid, errno
	}
	reach.AfterForkInChild()
	c.run()
	return 0, 0
}

// run becomes the zygote: out of the session, so that terminals send it nothing; deaf to
// all signals, as every process and thread it makes begins; without rights; and dead when
// the thread that forked it ends.
//
//go:nosplit
//go:norace
func (c *child) run() {
	syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&c.blocked)), 0, 8, 0, 0)
	for i := 0; i < len(stubSignals); i++ {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, stubSignals[i], uintptr(unsafe.Pointer(&c.action)), 0, 8, 0, 0)
		if errno != 0 {
			exit()
		}
	}
	// Nobody waits for the zygote's children.
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&c.ignore)), 0, 8, 0, 0)
	syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&c.header)), uintptr(unsafe.Pointer(&c.none)), 0)
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		exit()
	}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0); errno != 0 {
		exit()
	}
	if ppid, _, _ := syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0); ppid != c.parent {
		exit()
	}
	// Where the processor can trap cpuid, the guest sees the Sentry's answers.
	syscall.RawSyscall(syscall.SYS_ARCH_PRCTL, 0x1012 /* ARCH_SET_CPUID */, 0, 0)
	enter(c.copy, c.code, c.shared, c.offset)
}

//go:nosplit
//go:norace
func exit() {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 1, 0, 0)
	}
}

// fork makes a stub process: its first thread and its mapper.
func (z *zygote) fork() (*process, error) {
	slot, err := z.shared.take()
	if err != nil {
		return nil, err
	}
	z.processes.Add(1)
	p := &process{z: z, slot: slot, all: map[*thread]bool{}}
	p.first.attach(z.shared.slot(slot))
	z.forking.Lock()
	err = z.forkLocked(p)
	z.forking.Unlock()
	if err != nil {
		p.end()
		return nil, err
	}
	if err := p.newMapper(); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

func (z *zygote) forkLocked(p *process) error {
	pid, err := z.ask(kindProcess, func(r *requests) {
		r.nr, r.args = unix.SYS_CLONE, [6]uint64{unix.CLONE_FILES | uint64(unix.SIGCHLD)}
		r.memfd, r.offset, r.parent = uint64(z.shared.fd), uint64(p.slot)*slotSize, uint64(z.pid)
	})
	if err != nil {
		return fmt.Errorf("fork a stub process: clone: %w", err)
	}
	p.pid = int(pid)
	if p.pidfd, err = unix.PidfdOpen(p.pid, 0); err != nil {
		p.pidfd = 0
		return fmt.Errorf("a stub process: pidfd_open: %w", err)
	}
	if pid, err := p.call(unix.SYS_GETPID); err != nil || int(pid) != p.pid {
		return fmt.Errorf("stub process %d does not answer: %d, %w", p.pid, pid, err)
	}
	return nil
}
