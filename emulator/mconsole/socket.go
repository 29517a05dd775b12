package mconsole

import (
	"fmt"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is a socket's address as the kernel gives it. Clients bind abstract names
// that have NULs in them, which package net cuts short.
type address struct {
	raw unix.RawSockaddrAny
	n   uint32
}

// bound reports whether the address names a socket that can be answered.
func (a *address) bound() bool { return a.n > uint32(unsafe.Sizeof(a.raw.Addr.Family)) }

// receive waits for a packet.
func receive(conn *net.UnixConn, b []byte) (n int, from address, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, from, err
	}
	var errno unix.Errno
	err = raw.Read(func(fd uintptr) bool {
		from.n = unix.SizeofSockaddrAny
		r, _, e := unix.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.n)))
		n, errno = int(r), e
		return e != unix.EAGAIN && e != unix.EINTR
	})
	if err == nil && errno != 0 {
		err = fmt.Errorf("recvfrom: %w", errno)
	}
	return n, from, err
}

// send sends a packet, and waits as long as patience for room in its reader's queue.
func send(conn *net.UnixConn, b []byte, to *address, patience time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	// The queue that is full is the reader's: ours counts as writable all the while,
	// and only trying again tells.
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		var errno unix.Errno
		err := raw.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
				unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&to.raw)), uintptr(to.n))
		})
		switch {
		case err != nil:
			return err
		case errno == 0:
			return nil
		case errno != unix.EAGAIN && errno != unix.EINTR:
			return fmt.Errorf("sendto: %w", errno)
		case time.Now().After(deadline):
			return fmt.Errorf("sendto: no room for %v: %w", patience, errno)
		}
		time.Sleep(wait)
	}
}
