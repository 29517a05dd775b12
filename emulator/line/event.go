package line

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// event is an eventfd. It wakes a goroutine that waits in poll, where Go's own
// channels do not reach. Its descriptor lives as long as anyone holds the event, so a
// late set or wait cannot hit another file that got the same number.
type event struct {
	fd      int
	cleanup runtime.Cleanup
}

func newEvent() (*event, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	e := &event{fd: fd}
	e.cleanup = runtime.AddCleanup(e, func(fd int) { unix.Close(fd) }, fd)
	return e, nil
}

// close closes an event that nobody else has seen.
func (e *event) close() {
	e.cleanup.Stop()
	unix.Close(e.fd)
}

// set wakes who waits now, or who waits next.
func (e *event) set() {
	one := [8]byte{1}
	// The counter of an eventfd overflows after 2^64-2 sets: the write cannot fail.
	_, _ = unix.Write(e.fd, one[:])
	runtime.KeepAlive(e)
}

// wait returns once the event is set, and clears it.
func (e *event) wait() error {
	_, err := pollWith(e, -1, 0)
	return err
}

// pollWith waits until fd is ready for what events asks, or has hung up or failed, or
// until e is set. It says whether fd is ready. A set event is cleared.
func pollWith(e *event, fd int, events int16) (bool, error) {
	defer runtime.KeepAlive(e)
	fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}, {Fd: int32(fd), Events: events}}
	for {
		_, err := unix.Poll(fds, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("poll descriptor %d: %w", fd, err)
		}
		if fds[0].Revents != 0 {
			var count [8]byte
			_, _ = unix.Read(e.fd, count[:])
			return false, nil
		}
		if fds[1].Revents&unix.POLLNVAL != 0 {
			return false, fmt.Errorf("poll descriptor %d: %w", fd, unix.EBADF)
		}
		return fds[1].Revents != 0, nil
	}
}
