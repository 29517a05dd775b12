package transport

import (
	"encoding/binary"
	"math"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// protocolL2TP is the number of L2TPv3 directly over IP (RFC 3931).
const protocolL2TP = 115

// l2tpData is the first word of a data message over UDP: version 3.
const l2tpData = 0x00030000

// l2tpv3 is the header of Ethernet over L2TPv3: over UDP a word before all, the session, a
// cookie of 4 or 8 bytes, a counter.
type l2tpv3 struct {
	udp, v6              bool
	rxSession, txSession uint32
	cookie               int // its bytes: 0, 4 or 8
	rxCookie, txCookie   uint64
	counter, pinned      bool

	count uint32 // the last counter
}

// l2tpv3 reads the options of transport=l2tpv3.
func (s *Spec) l2tpv3() (*l2tpv3, error) {
	if err := s.needs("dst", "rx_session", "tx_session"); err != nil {
		return nil, err
	}
	if err := s.both("rx_cookie", "tx_cookie"); err != nil {
		return nil, err
	}
	l := &l2tpv3{
		udp:       s.flag("udp"),
		rxSession: uint32(s.number("rx_session", 0, 0, math.MaxUint32)),
		txSession: uint32(s.number("tx_session", 0, 0, math.MaxUint32)),
		counter:   s.flag("counter"),
		pinned:    s.flag("pin_counter"),
	}
	s.flag("v6")
	longest := uint64(math.MaxUint32)
	if s.flag("cookie64") {
		longest = math.MaxUint64
	}
	if s.has("rx_cookie") {
		l.cookie = 4
		if longest == math.MaxUint64 {
			l.cookie = 8
		}
		l.rxCookie = s.number("rx_cookie", 0, 0, longest)
		l.txCookie = s.number("tx_cookie", 0, 0, longest)
	}
	if l.udp {
		if err := s.needs("srcport", "dstport"); err != nil {
			return nil, err
		}
		s.number("srcport", 0, 1, 65535)
		s.number("dstport", 0, 1, 65535)
	}
	return l, s.err
}

// openL2TPv3 opens Ethernet over L2TPv3, over UDP or IP.
func openL2TPv3(s *Spec) (netdev.Device, error) {
	l, err := s.l2tpv3()
	if err != nil {
		return nil, err
	}
	var src, dst uint16
	if l.udp {
		src, dst = uint16(s.number("srcport", 0, 1, 65535)), uint16(s.number("dstport", 0, 1, 65535))
	}
	e, err := s.resolve(src, dst)
	if err != nil {
		return nil, err
	}
	h, err := tunnel(e, protocolL2TP, l.udp)
	if err != nil {
		return nil, err
	}
	l.v6 = e.v6
	d := &socket{rx: h, tx: h, header: l, depth: s.Depth}
	if l.udp {
		d.to, d.from = rawAddress(e.dst), comesFrom(e.dst.Addr())
	}
	return d, nil
}

func (l *l2tpv3) size() int {
	n := 4 + l.cookie
	if l.udp {
		n += 4
	}
	if l.counter {
		n += 4
	}
	return n
}

func (l *l2tpv3) room() int {
	if l.udp || l.v6 {
		return l.size()
	}
	return ipHeader + l.size()
}

func (l *l2tpv3) put(b []byte, _ *netdev.Offload) {
	if l.udp {
		binary.BigEndian.PutUint32(b, l2tpData)
		b = b[4:]
	}
	binary.BigEndian.PutUint32(b, l.txSession)
	b = b[4:]
	switch l.cookie {
	case 4:
		binary.BigEndian.PutUint32(b, uint32(l.txCookie))
	case 8:
		binary.BigEndian.PutUint64(b, l.txCookie)
	}
	b = b[l.cookie:]
	if l.counter {
		if !l.pinned {
			l.count++
		}
		binary.BigEndian.PutUint32(b, l.count)
	}
}

func (l *l2tpv3) take(b []byte) (o netdev.Offload, ok bool) {
	if !l.udp && !l.v6 {
		if b, ok = inIP(b); !ok {
			return o, false
		}
	}
	if len(b) < l.size() {
		return o, false
	}
	if l.udp {
		if binary.BigEndian.Uint32(b) != l2tpData {
			return o, false
		}
		b = b[4:]
	}
	if binary.BigEndian.Uint32(b) != l.rxSession {
		return o, false
	}
	switch b = b[4:]; l.cookie {
	case 4:
		ok = binary.BigEndian.Uint32(b) == uint32(l.rxCookie)
	case 8:
		ok = binary.BigEndian.Uint64(b) == l.rxCookie
	default:
		ok = true
	}
	return o, ok
}
