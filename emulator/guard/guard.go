// Package guard gives terminals their modes back when the process dies in a way that
// leaves it no time to: a fault of the machine, SIGKILL.
//
// A Guard is a child that waits on a pipe whose other end only its parent holds, and
// does nothing else; it shares all its memory with the parent.
package guard

import (
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/reach"
)

// maxTerminals is how many terminals a guard can hold.
const maxTerminals = 8

// Guard holds the modes that terminals had when it started.
type Guard struct {
	pid   int
	write int // the pipe's end that dies with us
}

// watch is all that the child knows.
type watch struct {
	read      uintptr
	keep      [maxTerminals + 1]uintptr // descriptors, ascending
	kept      int
	terminals [maxTerminals]uintptr
	modes     [maxTerminals]unix.Termios
	count     int
	byte      [1]byte
	name      [16]byte // as ps shows it
}

// Start begins to guard the terminals among the descriptors. It returns nil if none
// is a terminal. The guard inherits what the calling thread holds: capabilities are
// given up before.
func Start(fds ...int) (*Guard, error) {
	w := new(watch)
	copy(w.name[:len(w.name)-1], "linux-terminal")
	for _, fd := range fds {
		if w.count == maxTerminals {
			break
		}
		modes, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			continue
		}
		w.terminals[w.count], w.modes[w.count] = uintptr(fd), *modes
		w.count++
	}
	if w.count == 0 {
		return nil, nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("guard the terminals: pipe: %w", err)
	}
	w.read = uintptr(pipe[0])
	keep := append([]uintptr{w.read}, w.terminals[:w.count]...)
	slices.Sort(keep)
	w.kept = copy(w.keep[:], slices.Compact(keep))
	pid, errno := fork(w)
	unix.Close(pipe[0])
	if errno != 0 {
		unix.Close(pipe[1])
		return nil, fmt.Errorf("guard the terminals: fork: %w", errno)
	}
	return &Guard{pid: int(pid), write: pipe[1]}, nil
}

// Dismiss ends the guard: the terminals are as they shall be. It may be called on nil.
func (g *Guard) Dismiss() {
	if g == nil {
		return
	}
	_, _ = unix.Write(g.write, []byte{0})
	unix.Close(g.write)
	for {
		if _, err := unix.Wait4(g.pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// fork makes the child. Between the two calls of reach, and in the child, nothing may
// allocate or grow the stack.
//
//go:norace
func fork(w *watch) (pid uintptr, errno syscall.Errno) {
	reach.BeforeFork()
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		reach.AfterFork()
		return pid, errno
	}
	reach.AfterForkInChild()
	w.run()
	return 0, 0
}

// run is the child's life. Out of the terminals' session it can set their modes from
// the background, and their signals do not reach it.
//
//go:nosplit
//go:norace
func (w *watch) run() {
	syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&w.name)), 0)
	var all uint64 = 1<<64 - 1
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 0 /* SIG_BLOCK */, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
	next := uintptr(0)
	for i := 0; i < w.kept; i++ {
		if w.keep[i] > next {
			syscall.RawSyscall(unix.SYS_CLOSE_RANGE, next, w.keep[i]-1, 0)
		}
		next = w.keep[i] + 1
	}
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, next, 1<<32-1, 0)
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, w.read, uintptr(unsafe.Pointer(&w.byte)), 1)
		if errno == syscall.EINTR {
			continue
		}
		if errno == 0 && n == 0 {
			for i := 0; i < w.count; i++ {
				syscall.RawSyscall(syscall.SYS_IOCTL, w.terminals[i], unix.TCSETS, uintptr(unsafe.Pointer(&w.modes[i])))
			}
		}
		break
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
