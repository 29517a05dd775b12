package mconsole

import (
	"fmt"
	"net"
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

// send sends a packet. It fails with EAGAIN where its reader's queue has no room.
func send(conn *net.UnixConn, b []byte, to *address) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	for {
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
		case errno != unix.EINTR:
			return fmt.Errorf("sendto: %w", errno)
		}
	}
}

// bufferSize is how many bytes a socket may have sent that are not read yet, as the host
// counts them, 0 where it does not tell; unsent is how many they are.
func bufferSize(conn *net.UnixConn) int {
	return number(conn, func(fd int) (int, error) { return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF) })
}

func unsent(conn *net.UnixConn) int {
	return number(conn, func(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) })
}

func number(conn *net.UnixConn, ask func(fd int) (int, error)) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	if raw.Control(func(fd uintptr) { n, err = ask(int(fd)) }) != nil || err != nil {
		return 0
	}
	return n
}
