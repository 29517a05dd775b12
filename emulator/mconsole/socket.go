package mconsole

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a Unix datagram socket. A thread waits in its read: the answer to a request
// then costs two system calls and no way through Go's poller, which makes it half as
// long again.
type socket struct {
	fd   int
	path string
}

// listenAt makes a socket with a name.
func listenAt(path string) (*socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	return &socket{fd, path}, nil
}

// wake ends a read that waits, and all others.
func (s *socket) wake() { _ = unix.Shutdown(s.fd, unix.SHUT_RD) }

// close closes the socket and removes its name. Nobody may use it any more.
func (s *socket) close() error {
	_ = os.Remove(s.path)
	return unix.Close(s.fd)
}

// address is a socket's address as the kernel gives it. Clients bind abstract names
// that have NULs in them, which package net cuts short.
type address struct {
	raw unix.RawSockaddrAny
	n   uint32
}

// bound reports whether the address names a socket that can be answered.
func (a *address) bound() bool { return a.n > uint32(unsafe.Sizeof(a.raw.Addr.Family)) }

// receive waits for a packet.
func (s *socket) receive(b []byte) (n int, from address, err error) {
	for {
		from.n = unix.SizeofSockaddrAny
		r, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			0, uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.n)))
		if e == 0 {
			return int(r), from, nil
		}
		if e != unix.EINTR {
			return 0, from, fmt.Errorf("recvfrom: %w", e)
		}
	}
}

// send sends a packet. It fails with EAGAIN where its reader's queue has no room.
func (s *socket) send(b []byte, to *address) error {
	for {
		_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&to.raw)), uintptr(to.n))
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return fmt.Errorf("sendto: %w", e)
		}
	}
}

// setBuffer asks for a buffer of so many bytes, and returns how many bytes may be sent
// that are not read yet, as the host counts them; 0 where it does not tell.
func (s *socket) setBuffer(bytes int) int {
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
	n, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return 0
	}
	return n
}

// unsent is how many bytes were sent and are not read yet.
func (s *socket) unsent() int {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}
