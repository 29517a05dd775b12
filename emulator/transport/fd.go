package transport

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// fd is the number of the inherited descriptor.
func (s *Spec) fd() (int, error) {
	if err := s.needs("fd"); err != nil {
		return 0, err
	}
	n := int(s.number("fd", 0, 0, 1<<20))
	return n, s.err
}

// openFD makes a device of an inherited descriptor: a socket of datagrams or packets, or a
// tap. The descriptor itself stays open, so that a device that was removed comes back.
func openFD(s *Spec) (netdev.Device, error) {
	given, err := s.fd()
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(uintptr(given), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("fd=%d: not an open descriptor: %w", given, err)
	}
	name := fmt.Sprintf("fd=%d", given)
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if errors.Is(err, unix.ENOTSOCK) {
		return fdTap(fd, name, s)
	}
	if err != nil || kind != unix.SOCK_DGRAM && kind != unix.SOCK_SEQPACKET && kind != unix.SOCK_RAW {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: a socket that does not keep packets apart: datagram and seqpacket ones do", name)
	}
	h, err := newHandle(fd, name)
	if err != nil {
		return nil, err
	}
	return &socket{rx: h, tx: h, header: plain{}, depth: s.Depth, stream: kind == unix.SOCK_SEQPACKET}, nil
}

// fdTap makes a device of an open tap as it was set up by who opened it.
func fdTap(fd int, name string, s *Spec) (netdev.Device, error) {
	req, err := unix.NewIfreq("x")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, req)
	}
	flags := uint16(0)
	if err == nil {
		flags = req.Uint16()
	}
	switch {
	case err != nil:
		err = fmt.Errorf("%s: neither a socket nor a tap", name)
	case flags&unix.IFF_TAP == 0:
		err = fmt.Errorf("%s: a tun, which carries no Ethernet frames; a tap does", name)
	case flags&unix.IFF_NO_PI == 0:
		err = fmt.Errorf("%s: a tap with packet information; it has to be opened with IFF_NO_PI", name)
	}
	size := 0
	if err == nil && flags&unix.IFF_VNET_HDR != 0 {
		if size, err = unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ); err == nil && size != netdev.VnetSize {
			err = fmt.Errorf("%s: a tap with %d bytes before each frame; %d is right", name, size, netdev.VnetSize)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	h, err := newHandle(fd, name)
	if err != nil {
		return nil, err
	}
	return newTap(h, s, size != 0), nil
}
