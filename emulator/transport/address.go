package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ends are the two ends of a tunnel.
type ends struct {
	src, dst netip.AddrPort
	v6       bool
}

// resolvePatience bounds how long names are looked up.
const resolvePatience = 5 * time.Second

// resolve looks up src and dst, of the family that v6= says, or else of that of dst's first
// address. Ports are those of UDP, 0 without.
func (s *Spec) resolve(srcPort, dstPort uint16) (ends, error) {
	families := []bool{false, true}
	if s.has("v6") {
		families = []bool{s.flag("v6")}
	}
	var e ends
	var why error
	for _, v6 := range families {
		dst, err := lookup("dst", s.words["dst"], v6)
		if err != nil {
			why = err
			continue
		}
		src := netip.IPv4Unspecified()
		if v6 {
			src = netip.IPv6Unspecified()
		}
		if s.has("src") {
			if src, err = lookup("src", s.words["src"], v6); err != nil {
				why = err
				continue
			}
		}
		e = ends{netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort), v6}
		return e, nil
	}
	return e, why
}

// lookup is the address of a host in a family.
func lookup(option, host string, v6 bool) (netip.Addr, error) {
	network := "ip4"
	if v6 {
		network = "ip6"
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolvePatience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s=%s: %w", option, host, err)
	}
	for _, a := range addresses {
		if a = a.Unmap(); a.Is6() == v6 {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s=%s: no address of that family (v6=%v)", option, host, v6)
}

// sockaddr is an address as bind and connect take it.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zone(a.Addr().Zone())}
}

// zone is the number of an interface that a link-local address names.
func zone(name string) uint32 {
	if i, err := net.InterfaceByName(name); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// rawAddress is an address as sendmmsg takes it.
func rawAddress(a netip.AddrPort) []byte {
	if a.Addr().Is4() {
		b := make([]byte, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], a.Port())
		ip := a.Addr().As4()
		copy(b[4:], ip[:])
		return b
	}
	b := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	ip := a.Addr().As16()
	copy(b[8:], ip[:])
	binary.NativeEndian.PutUint32(b[24:], zone(a.Addr().Zone()))
	return b
}

// comesFrom makes a function that says whether a datagram comes from an address, whatever
// its port. Answers to a group come from anyone.
func comesFrom(a netip.Addr) func(*unix.RawSockaddrAny) bool {
	if a.IsMulticast() {
		return nil
	}
	want4, want16 := [4]byte{}, [16]byte{}
	if a.Is4() {
		want4 = a.As4()
	} else {
		want16 = a.As16()
	}
	return func(from *unix.RawSockaddrAny) bool {
		switch from.Addr.Family {
		case unix.AF_INET:
			return a.Is4() && (*unix.RawSockaddrInet4)(unsafe.Pointer(from)).Addr == want4
		case unix.AF_INET6:
			return a.Is6() && (*unix.RawSockaddrInet6)(unsafe.Pointer(from)).Addr == want16
		}
		return false
	}
}

// tunnel opens the socket of a tunnel over IP, bound and, with udp false, a raw one of the
// protocol that hears its other end alone.
func tunnel(e ends, protocol int, udp bool) (*handle, error) {
	family, kind := unix.AF_INET, unix.SOCK_RAW
	if e.v6 {
		family = unix.AF_INET6
	}
	if udp {
		kind, protocol = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("raw socket of protocol %d: %w", protocol, refused(err, "CAP_NET_RAW"))
	}
	if err := unix.Bind(fd, sockaddr(e.src)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind to %s: %w", name(e.src, udp), err)
	}
	if !udp {
		if err := unix.Connect(fd, sockaddr(e.dst)); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("connect to %s: %w", e.dst.Addr(), err)
		}
	}
	return newHandle(fd, name(e.dst, udp))
}

func name(a netip.AddrPort, udp bool) string {
	if udp {
		return a.String()
	}
	return a.Addr().String()
}
