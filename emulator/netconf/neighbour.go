package netconf

import (
	"structs"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ndmsg is struct ndmsg of linux/neighbour.h.
type ndmsg struct {
	_      structs.HostLayout
	Family uint8
	Index  int32
	State  uint16
	Flags  uint8
	Type   uint8
}

// ndmsgSize is its size in bytes.
const ndmsgSize = 12

// Attributes and states of a neighbour (linux/neighbour.h).
const (
	ndaDst    = 1
	ndaLladdr = 2

	nudIncomplete = 0x01
	nudReachable  = 0x02
	nudStale      = 0x04
	nudDelay      = 0x08
	nudProbe      = 0x10
	nudFailed     = 0x20
	nudPermanent  = 0x80
)

func (n *ndmsg) bytes() []byte {
	b := []byte{n.Family, 0, 0, 0}
	b = nativeUint32(b, uint32(n.Index))
	return append(b, byte(n.State), byte(n.State>>8), n.Flags, n.Type)
}

// parse reads the message's own header.
func (r *request) ndmsg() (ndmsg, []attribute, bool) {
	own := primitive.ByteSlice(make([]byte, ndmsgSize))
	rest, ok := r.msg.GetData(&own)
	if !ok {
		return ndmsg{}, nil, false
	}
	all, ok := attributes(rest)
	n := ndmsg{Family: own[0], State: uint16(own[8]) | uint16(own[9])<<8, Flags: own[10], Type: own[11]}
	n.Index = int32(uint32(own[4]) | uint32(own[5])<<8 | uint32(own[6])<<16 | uint32(own[7])<<24)
	return n, all, ok
}

// state is a neighbour's state as Linux numbers it, 0 for one that is not told of.
func state(s stack.NeighborState) uint16 {
	switch s {
	case stack.Incomplete:
		return nudIncomplete
	case stack.Reachable:
		return nudReachable
	case stack.Stale:
		return nudStale
	case stack.Delay:
		return nudDelay
	case stack.Probe:
		return nudProbe
	case stack.Static:
		return nudPermanent
	case stack.Unreachable:
		return nudFailed
	}
	return 0
}

// families are those that have neighbours.
var families = []struct {
	family   uint8
	protocol tcpip.NetworkProtocolNumber
}{{linux.AF_INET, ipv4.ProtocolNumber}, {linux.AF_INET6, ipv6.ProtocolNumber}}

// getNeighbours answers the dump of RTM_GETNEIGH.
func (r *request) getNeighbours() *syserr.Error {
	if r.msg.Header().Flags&(linux.NLM_F_DUMP|linux.NLM_F_ROOT) == 0 {
		return syserr.ErrNotSupported
	}
	// Older programs send less than a whole header.
	asked, _, _ := r.ndmsg()
	r.ms.Multi = true
	for id := range r.NICInfo() {
		if asked.Index > 0 && tcpip.NICID(asked.Index) != id {
			continue
		}
		for _, f := range families {
			if asked.Family != linux.AF_UNSPEC && asked.Family != f.family {
				continue
			}
			entries, err := r.Neighbors(id, f.protocol)
			if err != nil {
				continue // an interface without neighbours
			}
			for _, e := range entries {
				n := ndmsg{Family: f.family, Index: int32(id), State: state(e.State), Type: linux.RTN_UNICAST}
				if n.State == 0 {
					continue
				}
				m := r.ms.AddMessage(linux.NetlinkMessageHeader{Type: linux.RTM_NEWNEIGH})
				m.Put(primitive.AsByteSlice(n.bytes()))
				m.PutAttr(ndaDst, primitive.AsByteSlice(e.Addr.AsSlice()))
				if len(e.LinkAddr) > 0 {
					m.PutAttr(ndaLladdr, primitive.AsByteSlice([]byte(e.LinkAddr)))
				}
			}
		}
	}
	return nil
}

// setNeighbour answers RTM_NEWNEIGH and RTM_DELNEIGH. A neighbour that is set stays.
func (r *request) setNeighbour() *syserr.Error {
	n, all, ok := r.ndmsg()
	if !ok {
		return syserr.ErrInvalidArgument
	}
	dst, ok := find(all, ndaDst)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	if !r.HasNIC(tcpip.NICID(n.Index)) {
		return syserr.ErrNoDevice
	}
	for _, f := range families {
		if f.family != n.Family {
			continue
		}
		if len(dst) != map[uint8]int{linux.AF_INET: 4, linux.AF_INET6: 16}[f.family] {
			return syserr.ErrInvalidArgument
		}
		address := tcpip.AddrFromSlice(dst)
		if r.msg.Header().Type == linux.RTM_DELNEIGH {
			switch err := r.RemoveNeighbor(tcpip.NICID(n.Index), f.protocol, address); err.(type) {
			case nil:
				return nil
			case *tcpip.ErrBadAddress:
				return syserr.ErrNoFileOrDir
			default:
				return syserr.TranslateNetstackError(err)
			}
		}
		lladdr, ok := find(all, ndaLladdr)
		if !ok || len(lladdr) != 6 {
			return syserr.ErrInvalidArgument
		}
		return syserr.TranslateNetstackError(r.AddStaticNeighbor(tcpip.NICID(n.Index), f.protocol, address, tcpip.LinkAddress(lladdr)))
	}
	return syserr.ErrNotSupported
}
