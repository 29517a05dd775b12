package netconf

import (
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/socket/netlink/nlmsg"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// pass hands the message on with only these attributes.
func (r *request) pass(p *Protocol, own interface {
	SizeBytes() int
	MarshalBytes([]byte) []byte
	MarshalUnsafe([]byte) []byte
}, all []attribute) *syserr.Error {
	m := nlmsg.NewMessage(r.msg.Header())
	b := make([]byte, own.SizeBytes())
	own.MarshalBytes(b)
	m.Put(primitive.AsByteSlice(b))
	for _, a := range all {
		m.PutAttr(a.kind, primitive.AsByteSlice(a.value))
	}
	whole, _, ok := nlmsg.ParseMessage(m.Finalize())
	if !ok {
		return syserr.ErrInvalidArgument
	}
	return p.base.ProcessMessage(r.Context, r.socket, whole, r.ms)
}

// setAddress answers RTM_NEWADDR and RTM_DELADDR. What the Sentry takes of an address is
// IFA_LOCAL; lifetimes, labels and the like are passed over.
func (r *request) setAddress(p *Protocol) *syserr.Error {
	var ifa linux.InterfaceAddrMessage
	rest, ok := r.msg.GetData(&ifa)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	all, ok := attributes(rest)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	address, ok := find(all, linux.IFA_LOCAL)
	if !ok {
		if address, ok = find(all, linux.IFA_ADDRESS); !ok {
			return syserr.ErrInvalidArgument
		}
	}
	if !r.HasNIC(tcpip.NICID(ifa.Index)) {
		return syserr.ErrNoDevice
	}
	if len(address) != 4 && len(address) != 16 || int(ifa.PrefixLen) > 8*len(address) {
		return syserr.ErrInvalidArgument
	}
	return r.pass(p, &ifa, []attribute{{linux.IFA_LOCAL, address}})
}

// Attributes of a route (linux/rtnetlink.h) that gVisor has no names for.
const (
	rtaMultipath = 9
	rtaTable     = 15
	rtaEncap     = 22
)

// setRoute answers RTM_NEWROUTE and RTM_DELROUTE. There is one table.
func (r *request) setRoute(p *Protocol) *syserr.Error {
	var rt linux.RouteMessage
	rest, ok := r.msg.GetData(&rt)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	all, ok := attributes(rest)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	table := uint32(rt.Table)
	if t, ok := find(all, rtaTable); ok {
		if table, ok = t.Uint32(); !ok {
			return syserr.ErrInvalidArgument
		}
	}
	_, several := find(all, rtaMultipath)
	_, encap := find(all, rtaEncap)
	if several || encap || table != linux.RT_TABLE_MAIN && table != linux.RT_TABLE_UNSPEC {
		return syserr.ErrNotSupported
	}
	kept := slices.DeleteFunc(slices.Clone(all), func(a attribute) bool {
		return a.kind != linux.RTA_DST && a.kind != linux.RTA_OIF && a.kind != linux.RTA_GATEWAY
	})
	width := map[uint8]int{linux.AF_INET: 4, linux.AF_INET6: 16}[rt.Family]
	for _, a := range kept {
		if a.kind != linux.RTA_OIF && len(a.value) != width {
			return syserr.ErrInvalidArgument
		}
	}
	if width == 0 || int(rt.DstLen) > 8*width {
		return syserr.ErrInvalidArgument
	}
	_, hasDst := find(kept, linux.RTA_DST)
	gateway, hasGateway := find(kept, linux.RTA_GATEWAY)
	if !hasDst && !hasGateway {
		// A default route without a gateway, which the Sentry takes for a mistake.
		kept = append(kept, attribute{linux.RTA_DST, make([]byte, width)})
	}
	if _, hasOIF := find(kept, linux.RTA_OIF); !hasOIF && r.msg.Header().Type == linux.RTM_NEWROUTE {
		if !hasGateway {
			return syserr.ErrNoDevice
		}
		id := reaches(r.Stack, tcpip.AddrFromSlice(gateway))
		if id == 0 {
			return syserr.ErrNetworkUnreachable
		}
		kept = append(kept, attribute{linux.RTA_OIF, nlmsg.BytesView(nativeUint32(nil, uint32(id)))})
	}
	return r.pass(p, &rt, kept)
}

// reaches is the interface on whose own network an address is, the nearest one.
func reaches(s *stack.Stack, a tcpip.Address) tcpip.NICID {
	best, id := -1, tcpip.NICID(0)
	for _, rt := range s.GetRouteTable() {
		if rt.Gateway.Len() == 0 && rt.Destination.Contains(a) && rt.Destination.Prefix() > best {
			best, id = rt.Destination.Prefix(), rt.NIC
		}
	}
	return id
}
