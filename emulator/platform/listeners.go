//go:build amd64

package platform

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// What /proc calls a listener.
const listenerName = "anon_inode:seccomp notify"

// vouch takes a descriptor that a new thread has named for its listener, if it can be: a
// listener that nobody has. The caller holds z.threads.
func (z *zygote) vouch(fd int) error {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || name != listenerName || z.listeners[fd] {
		z.closeStrays()
		return fmt.Errorf("make a stub thread: descriptor %d is not its listener", fd)
	}
	z.listeners[fd] = true
	return nil
}

// forget closes a listener.
func (z *zygote) forget(fd int) {
	z.threads.Lock()
	delete(z.listeners, fd)
	unix.Close(fd)
	z.threads.Unlock()
}

// closeStrays closes the listeners that nobody has: of a thread whose process lied about
// it. The caller holds z.threads.
func (z *zygote) closeStrays() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || z.listeners[fd] {
			continue
		}
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && name == listenerName {
			unix.Close(fd)
		}
	}
}
