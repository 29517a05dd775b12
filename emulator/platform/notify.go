//go:build amd64

package platform

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seccomp(2), and the ioctls of its listeners.
const (
	filterNewListener  = 1 << 3
	filterWaitKillable = 1 << 5

	notifReceive  = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifSend     = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	notifSetFlags = 0x40082104 // SECCOMP_IOCTL_NOTIF_SET_FLAGS
	notifSync     = 1          // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
)

// notification is struct seccomp_notif, reply struct seccomp_notif_resp.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type reply struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// listener hears one thread.
type listener struct {
	fd int
	// tid is the thread.
	tid int
	// last is what it said last, and waits for a reply to.
	last  notification
	reply reply
}

// errGone says that a stub process has died.
var errGone = errors.New("the stub process is gone")

// receive waits for the thread to say something.
func (l *listener) receive() error {
	for {
		l.last = notification{}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), notifReceive, uintptr(unsafe.Pointer(&l.last)))
		switch errno {
		case 0:
			if int(l.last.pid) != l.tid {
				return fmt.Errorf("listener %d hears thread %d instead of %d", l.fd, l.last.pid, l.tid)
			}
			return nil
		case unix.EINTR:
		case unix.ENOENT:
			// Withdrawn for a signal, or nobody is left.
			if l.gone() {
				return errGone
			}
		default:
			return fmt.Errorf("receive a notification: ioctl: %w", errno)
		}
	}
}

// gone is whether the thread has died.
func (l *listener) gone() bool {
	poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 1 && poll[0].Revents&unix.POLLHUP != 0
}

// send lets the thread go on, behind its system call, which has returned value. It
// does not sleep.
func (l *listener) send(value uint64) error {
	l.reply = reply{id: l.last.id, value: int64(value)}
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(l.fd), notifSend, uintptr(unsafe.Pointer(&l.reply)))
	switch errno {
	case 0:
		return nil
	case unix.ENOENT:
		return errGone
	}
	return fmt.Errorf("answer a notification: ioctl: %w", errno)
}

// begin makes the listener wake and be woken on the processor of the other side, and
// hears the thread's first word. Only that proves the descriptor, which the thread wrote
// where guest code can write.
func (l *listener) begin(nr int32, ip uint64) error {
	if _, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(l.fd), notifSetFlags, notifSync); errno != 0 {
		return fmt.Errorf("listener %d of thread %d: set flags: ioctl: %w", l.fd, l.tid, errno)
	}
	if err := l.receive(); err != nil {
		return err
	}
	if l.last.nr != nr || l.last.ip != ip {
		return fmt.Errorf("thread %d begins with system call %d at %#x instead of %d at %#x",
			l.tid, l.last.nr, l.last.ip, nr, ip)
	}
	return nil
}
