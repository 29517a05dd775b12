package transport

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// maxUnixPath is the longest name of a Unix socket, in bytes.
const maxUnixPath = 107

// openBess connects to a port of a BESS switch: a seqpacket socket at dst, with ours at src
// when one is named.
func openBess(s *Spec) (_ netdev.Device, err error) {
	src, dst := s.words["src"], s.words["dst"]
	for _, path := range []string{src, dst} {
		if len(path) > maxUnixPath {
			return nil, fmt.Errorf("%s: longer than the %d bytes of a socket's name", path, maxUnixPath)
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	closing := func() {}
	defer func() {
		if err != nil {
			unix.Close(fd)
			closing()
		}
	}()
	if src != "" {
		if err := bindUnix(fd, unix.SOCK_SEQPACKET, src); err != nil {
			return nil, err
		}
		closing = func() { os.Remove(src) }
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: dst}); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", dst, err)
	}
	h, err := newHandle(fd, dst)
	if err != nil {
		return nil, err
	}
	return &socket{rx: h, tx: h, header: plain{}, depth: s.Depth, stream: true, closing: closing}, nil
}

// bindUnix gives a socket a name. One that a dead process left is taken over: a socket is
// there and nobody answers.
func bindUnix(fd, kind int, path string) error {
	address := &unix.SockaddrUnix{Name: path}
	err := unix.Bind(fd, address)
	if errors.Is(err, unix.EADDRINUSE) && abandoned(kind, address) {
		if err = unix.Unlink(path); err == nil {
			err = unix.Bind(fd, address)
		}
	}
	if err != nil {
		return fmt.Errorf("bind to %s: %w", path, err)
	}
	return nil
}

// abandoned says whether nobody has the socket of a name any more.
func abandoned(kind int, address *unix.SockaddrUnix) bool {
	probe, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(probe)
	if !errors.Is(unix.Connect(probe, address), unix.ECONNREFUSED) {
		return false
	}
	// A bound socket that does not listen refuses too, and may be alive: its inode is in
	// the host's list then.
	return !listed(address.Name)
}
