//go:build amd64

package platform

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// first is the first thread of a stub process, or the zygote: it makes system calls and
// threads for us.
type first struct {
	pid, pidfd int

	mu       sync.Mutex
	requests *requests
	results  *results
}

// attach gives it its two pages.
func (f *first) attach(slot []byte) {
	f.requests = (*requests)(unsafe.Pointer(&slot[0]))
	f.results = (*results)(unsafe.Pointer(&slot[pageSize]))
}

// call makes a system call in the process.
func (f *first) call(nr uint64, args ...uint64) (int64, error) {
	return f.ask(kindCall, func(r *requests) {
		r.nr, r.args = nr, [6]uint64{}
		copy(r.args[:], args)
	})
}

// Futex operations, on memory of two processes.
const (
	futexWait = 0
	futexWake = 1
)

// ask makes the request that fill describes. What it returns is not to be trusted once
// the process has run guest code.
func (f *first) ask(kind uint32, fill func(*requests)) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.requests
	r.kind = kind
	fill(r)
	atomic.StoreInt64(&f.results.listener, 0)
	seq := atomic.AddUint32(&r.seq, 1)
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&r.seq)), futexWake, 1, 0, 0, 0)
	// The process may be dead, or what guest code wrote may have kept it from waking us.
	patience := unix.NsecToTimespec(int64(200 * time.Millisecond))
	for tries := 0; ; tries++ {
		now := atomic.LoadUint32(&f.results.seq)
		if now == seq {
			break
		}
		_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&f.results.seq)), futexWait, uintptr(now),
			uintptr(unsafe.Pointer(&patience)), 0, 0)
		if errno == unix.ETIMEDOUT && (f.dead() || tries == 100) {
			return 0, errGone
		}
	}
	if v := atomic.LoadInt64(&f.results.value); v < 0 && v > -4096 {
		return 0, unix.Errno(-v)
	} else {
		return v, nil
	}
}

// thread clones a thread, with the filter and flags of seccomp(2), and returns its id and
// its listener. The caller holds zygote.threads.
func (z *zygote) thread(f *first, kind uint32, stack uint64, flags uint64, filter []unix.SockFilter) (listener, error) {
	tid, err := f.ask(kind, func(r *requests) {
		const clone = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
		r.nr, r.args = unix.SYS_CLONE, [6]uint64{clone}
		r.flags = flags
		r.program = program{length: uint16(len(filter)), filter: requestsAddress + filterOffset}
		copy(r.filter[:], filter)
		r.stack = alternateStack{sp: stack, size: slotSize - slotTop}
		if stack == 0 {
			r.stack = alternateStack{flags: 2} // SS_DISABLE
		}
	})
	fd := atomic.LoadInt64(&f.results.listener)
	// A thread that nobody can hear ends its process.
	if err != nil && fd >= 0 {
		return listener{}, fmt.Errorf("make a stub thread: clone: %w", err)
	}
	if fd <= 0 {
		return listener{}, fmt.Errorf("make a stub thread: seccomp: %w", unix.Errno(-fd))
	}
	if err := z.vouch(int(fd - 1)); err != nil {
		return listener{}, err
	}
	return listener{fd: int(fd - 1), tid: int(tid)}, nil
}

// dead is whether the process has ended.
func (f *first) dead() bool {
	poll := []unix.PollFd{{Fd: int32(f.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err != nil && err != unix.EINTR || n == 1
}

// kill ends the process.
func (f *first) kill() {
	if f.pidfd != 0 {
		_ = unix.PidfdSendSignal(f.pidfd, unix.SIGKILL, nil, 0)
	}
}
