package transport

import (
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// The defaults of transport=mcast, as Linux's UML had them.
const (
	mcastGroup = "239.192.168.1"
	mcastPort  = 1102
	mcastTTL   = 1
)

// mcast reads the options of transport=mcast.
func (s *Spec) mcast() (group netip.AddrPort, ttl int, err error) {
	text := s.words["group"]
	if text == "" {
		text = mcastGroup
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() || !a.IsMulticast() {
		return group, 0, fmt.Errorf("group=%s: not an IPv4 address of a group, 224.0.0.0 to 239.255.255.255", text)
	}
	port := s.number("port", mcastPort, 1, 65535)
	ttl = int(s.number("ttl", mcastTTL, 0, 255))
	return netip.AddrPortFrom(a, uint16(port)), ttl, s.err
}

// openMcast joins a group, whose members all have each other's frames.
func openMcast(s *Spec) (_ netdev.Device, err error) {
	group, ttl, err := s.mcast()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"SO_REUSEADDR", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }},
		{"IP_MULTICAST_TTL", func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl) }},
		// Other machines on this host are members too.
		{"IP_MULTICAST_LOOP", func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1) }},
		{"join " + group.Addr().String(), func() error {
			return unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: group.Addr().As4()})
		}},
		{"bind to " + group.String(), func() error { return unix.Bind(fd, sockaddr(group)) }},
	} {
		if err := step.do(); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	h, err := newHandle(fd, group.String())
	if err != nil {
		return nil, err
	}
	return &mcast{socket: &socket{rx: h, tx: h, header: plain{}, depth: s.Depth, to: rawAddress(group)}, sent: map[[6]byte]bool{}}, nil
}

// mcast hears itself: frames from an address that it sent from are its own.
type mcast struct {
	*socket

	own  sync.Mutex
	sent map[[6]byte]bool
}

// maxOwn bounds the addresses that are remembered: those of a bridge's other side.
const maxOwn = 1024

// source is the source address of a frame whose header lies in its first piece.
func source(f *netdev.Frame) (a [6]byte, ok bool) {
	if len(f.Pieces) == 0 || len(f.Pieces[0]) < 12 || f.Size < 12 {
		return a, false
	}
	return [6]byte(f.Pieces[0][6:12]), true
}

// Write implements netdev.Device.Write.
func (m *mcast) Write(frames []netdev.Frame) (int, error) {
	m.own.Lock()
	for i := range frames {
		if a, ok := source(&frames[i]); ok && !m.sent[a] {
			if len(m.sent) == maxOwn {
				clear(m.sent)
			}
			m.sent[a] = true
		}
	}
	m.own.Unlock()
	return m.socket.Write(frames)
}

// Read implements netdev.Device.Read.
func (m *mcast) Read(frames []netdev.Frame) (int, error) {
	n, err := m.socket.Read(frames)
	m.own.Lock()
	defer m.own.Unlock()
	kept := 0
	for i := range n {
		if a, ok := source(&frames[i]); ok && m.sent[a] {
			continue
		}
		frames[kept], frames[i] = frames[i], frames[kept]
		kept++
	}
	return kept, err
}

// ucast reads the options of transport=ucast.
func (s *Spec) ucast() (local, remote uint16, err error) {
	if err := s.needs("dst", "srcport", "dstport"); err != nil {
		return 0, 0, err
	}
	local, remote = uint16(s.number("srcport", 0, 1, 65535)), uint16(s.number("dstport", 0, 1, 65535))
	s.flag("v6")
	return local, remote, s.err
}

// openUcast sends frames as datagrams of UDP to one other side, without any header.
func openUcast(s *Spec) (netdev.Device, error) {
	local, remote, err := s.ucast()
	if err != nil {
		return nil, err
	}
	e, err := s.resolve(local, remote)
	if err != nil {
		return nil, err
	}
	h, err := tunnel(e, 0, true)
	if err != nil {
		return nil, err
	}
	return &socket{rx: h, tx: h, header: plain{}, depth: s.Depth, to: rawAddress(e.dst), from: comesFrom(e.dst.Addr())}, nil
}
