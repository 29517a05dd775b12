package transport

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// handle is a descriptor that never makes a thread wait: who waits for it sleeps in the
// runtime's poller, however many devices there are.
type handle struct {
	file *os.File
	raw  syscall.RawConn
	done atomic.Bool // it is closed
}

// newHandle takes a descriptor over.
func newHandle(fd int, name string) (*handle, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	// A descriptor that cannot be polled, as that of a regular file, refuses deadlines.
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: neither a socket nor a tap", name)
	}
	return &handle{file: file, raw: raw}, nil
}

func (h *handle) close() error {
	h.done.Store(true)
	return h.file.Close()
}

// try does a system call that does not wait. Nothing to read, and no room to write, is no
// error and 0.
func (h *handle) try(call func(fd int) (int, unix.Errno)) (n int, err error) {
	var errno unix.Errno
	err = h.raw.Control(func(fd uintptr) { n, errno = call(int(fd)) })
	return n, h.result(errno, err)
}

// result is the error of a call: that of the descriptor, closed for one, or the call's.
func (h *handle) result(errno unix.Errno, err error) error {
	switch {
	case err != nil:
		return h.closed(err)
	case errno == unix.EAGAIN || errno == unix.EINTR || errno == 0:
		return nil
	}
	return errno
}

// closed makes of the poller's error, which has no name outside, the one that callers look
// for.
func (h *handle) closed(err error) error {
	if h.done.Load() {
		return os.ErrClosed
	}
	return err
}

// waitReadable waits until there is something to read.
func (h *handle) waitReadable() error {
	return h.result(0, h.raw.Read(func(fd uintptr) bool { return ready(int(fd), unix.POLLIN) }))
}

// waitWritable waits until there is room, or for so long.
func (h *handle) waitWritable(limit time.Duration) bool {
	if err := h.file.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return false
	}
	err := h.raw.Write(func(fd uintptr) bool { return ready(int(fd), unix.POLLOUT) })
	return err == nil
}

// ready asks the host without waiting. The poller tells of changes alone, so that what is
// there already has to be seen first.
func ready(fd int, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(p, 0)
	return n > 0 || err != nil && err != unix.EINTR
}

// patience is how long a frame waits for a peer that takes none. After one that waited in
// vain none waits until the peer takes frames again.
const patience = 100 * time.Millisecond
