package transport

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// Flags of a GRE header (RFC 2890), and the type of what is inside: Ethernet.
const (
	greKey      = 0x2000
	greSequence = 0x1000
	greEthernet = 0x6558
)

// ipHeader is what raw sockets of IPv4 give before a packet when it has no options.
const ipHeader = 20

// gre is the header of Ethernet over GRE: flags, the type, a key, a sequence number.
type gre struct {
	v6               bool
	key              bool
	rxKey, txKey     uint32
	sequence, pinned bool

	count uint32 // the last sequence number
}

// gre reads the options of transport=gre.
func (s *Spec) gre() (*gre, error) {
	if err := s.needs("dst"); err != nil {
		return nil, err
	}
	if err := s.both("rx_key", "tx_key"); err != nil {
		return nil, err
	}
	g := &gre{
		key:      s.has("rx_key"),
		rxKey:    uint32(s.number("rx_key", 0, 0, 1<<32-1)),
		txKey:    uint32(s.number("tx_key", 0, 0, 1<<32-1)),
		sequence: s.flag("sequence"),
		pinned:   s.flag("pin_sequence"),
	}
	s.flag("v6")
	return g, s.err
}

// openGRE opens Ethernet over GRE.
func openGRE(s *Spec) (netdev.Device, error) {
	g, err := s.gre()
	if err != nil {
		return nil, err
	}
	e, err := s.resolve(0, 0)
	if err != nil {
		return nil, err
	}
	h, err := tunnel(e, unix.IPPROTO_GRE, false)
	if err != nil {
		return nil, err
	}
	g.v6 = e.v6
	return &socket{rx: h, tx: h, header: g, depth: s.Depth}, nil
}

func (g *gre) flags() (f uint16) {
	if g.key {
		f |= greKey
	}
	if g.sequence {
		f |= greSequence
	}
	return f
}

func (g *gre) size() int {
	n := 4
	if g.key {
		n += 4
	}
	if g.sequence {
		n += 4
	}
	return n
}

func (g *gre) room() int {
	if g.v6 {
		return g.size()
	}
	return ipHeader + g.size()
}

func (g *gre) put(b []byte, _ *netdev.Offload) {
	binary.BigEndian.PutUint16(b, g.flags())
	binary.BigEndian.PutUint16(b[2:], greEthernet)
	b = b[4:]
	if g.key {
		binary.BigEndian.PutUint32(b, g.txKey)
		b = b[4:]
	}
	if g.sequence {
		if !g.pinned {
			g.count++
		}
		binary.BigEndian.PutUint32(b, g.count)
	}
}

// take has the flags be what ours are: a checksum, a route or another form is refused.
func (g *gre) take(b []byte) (o netdev.Offload, ok bool) {
	if !g.v6 {
		if b, ok = inIP(b); !ok {
			return o, false
		}
	}
	if len(b) < g.size() || binary.BigEndian.Uint16(b) != g.flags() || binary.BigEndian.Uint16(b[2:]) != greEthernet {
		return o, false
	}
	return o, !g.key || binary.BigEndian.Uint32(b[4:]) == g.rxKey
}

// inIP is what stands behind the header of an IPv4 packet without options.
func inIP(b []byte) ([]byte, bool) {
	if len(b) < ipHeader || b[0] != 0x45 {
		return nil, false
	}
	return b[ipHeader:], true
}
