// Package netconf is how guests configure their network: NETLINK_ROUTE (rtnetlink(7)) and
// the older ioctls (netdevice(7)), where the Sentry's own fall short. There interfaces are
// always up; messages with an attribute that it does not know are refused; neighbours and
// the ioctls that set something are not there.
//
// What a message asks for beyond the Sentry is done here, and what is left of it goes on to
// the Sentry's own handling.
package netconf

import (
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	"gvisor.dev/gvisor/pkg/sentry/socket/netlink/nlmsg"
	"gvisor.dev/gvisor/pkg/sentry/socket/netlink/route"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/umlkit/umlkit/emulator/reach"
)

// Protocol is NETLINK_ROUTE.
type Protocol struct{ base }

// base is what the Sentry has.
type base = route.Protocol

var _ netlink.RouteProtocol = (*Protocol)(nil)

// Install has sockets of NETLINK_ROUTE be ours, once in a process.
var Install = sync.OnceFunc(func() {
	reach.NetlinkProviders[linux.NETLINK_ROUTE] = func(*kernel.Task) (netlink.Protocol, *syserr.Error) {
		return &Protocol{}, nil
	}
})

// Receive implements netlink.Protocol.Receive.
func (p *Protocol) Receive(ctx context.Context, s *netlink.Socket, buf []byte) *syserr.Error {
	return s.ProcessMessages(ctx, buf)
}

// ProcessMessage implements netlink.Protocol.ProcessMessage.
func (p *Protocol) ProcessMessage(ctx context.Context, s *netlink.Socket, msg *nlmsg.Message, ms *nlmsg.MessageSet) *syserr.Error {
	if err := p.process(ctx, s, msg, ms); err != nil || !ms.Multi {
		return err
	}
	return portion(ctx, s, ms)
}

// goodSize is how much of a dump Linux puts into one datagram for a reader that asks for
// little, in bytes (NLMSG_GOODSIZE): the C library's reader has room for a page.
const goodSize = 3776

// shortQueue is how long a dump is that needs no longer queue, longQueue how long one may
// get, in bytes.
const (
	shortQueue = 64 << 10
	longQueue  = 16 << 20
)

// portion sends a dump in datagrams, but for what fits the last one.
func portion(ctx context.Context, s *netlink.Socket, ms *nlmsg.MessageSet) *syserr.Error {
	total := 0
	for _, m := range ms.Messages {
		total += len(m.Buffer())
	}
	if total > shortQueue {
		if c, err := reach.NetlinkConnection(s); err == nil {
			c.SetSendBufferSize(longQueue)
		}
	}
	part := *ms
	part.Multi, part.Messages = false, nil // the end is told once
	size := 0
	for _, m := range ms.Messages {
		if n := len(m.Buffer()); size > 0 && size+n > goodSize {
			if err := s.SendResponse(ctx, &part); err != nil {
				return err
			}
			part.Messages, size = nil, 0
		}
		part.Messages = append(part.Messages, m)
		size += len(m.Buffer())
	}
	ms.Messages = part.Messages
	return nil
}

// process answers a message.
func (p *Protocol) process(ctx context.Context, s *netlink.Socket, msg *nlmsg.Message, ms *nlmsg.MessageSet) *syserr.Error {
	ns, ok := s.Stack().(*netstack.Stack)
	if !ok {
		return p.base.ProcessMessage(ctx, s, msg, ms)
	}
	r := request{Context: ctx, socket: s, ns: ns, Stack: ns.Stack, msg: msg, ms: ms}
	hdr := msg.Header()
	get := hdr.Type&3 == 2
	if hdr.Flags&linux.NLM_F_REQUEST == 0 || !get && !s.NetworkNamespace().HasCapability(ctx, linux.CAP_NET_ADMIN) {
		return p.base.ProcessMessage(ctx, s, msg, ms)
	}
	switch hdr.Type {
	case linux.RTM_GETLINK:
		return r.getLink()
	case linux.RTM_NEWLINK, linux.RTM_SETLINK:
		return r.setLink(p)
	case linux.RTM_NEWADDR, linux.RTM_DELADDR:
		return r.setAddress(p)
	case linux.RTM_NEWROUTE, linux.RTM_DELROUTE:
		return r.setRoute(p)
	case linux.RTM_GETNEIGH:
		return r.getNeighbours()
	case linux.RTM_NEWNEIGH, linux.RTM_DELNEIGH:
		return r.setNeighbour()
	}
	return p.base.ProcessMessage(ctx, s, msg, ms)
}

// AddNewLinkMessage implements netlink.RouteProtocol.AddNewLinkMessage.
func (p *Protocol) AddNewLinkMessage(ms *nlmsg.MessageSet, index int32, i inet.Interface) {
	writeLink(ms, linux.RTM_NEWLINK, link{Interface: i, index: index})
}

// AddDelLinkMessage implements netlink.RouteProtocol.AddDelLinkMessage.
func (p *Protocol) AddDelLinkMessage(ms *nlmsg.MessageSet, index int32, i inet.Interface) {
	writeLink(ms, linux.RTM_DELLINK, link{Interface: i, index: index})
}

// request is one message and whom it came from.
type request struct {
	context.Context
	socket *netlink.Socket
	ns     *netstack.Stack
	*stack.Stack
	msg *nlmsg.Message
	ms  *nlmsg.MessageSet
}

// attribute is one attribute of a message.
type attribute struct {
	kind  uint16
	value nlmsg.BytesView
}

// kindMask leaves out what a sender says of an attribute's form (NLA_F_NESTED and
// NLA_F_NET_BYTEORDER).
const kindMask = 0x3fff

// attributes takes the attributes behind a message's own header apart.
func attributes(v nlmsg.AttrsView) ([]attribute, bool) {
	var all []attribute
	for !v.Empty() {
		hdr, value, rest, ok := v.ParseFirst()
		if !ok {
			return nil, false
		}
		all = append(all, attribute{hdr.Type & kindMask, value})
		v = rest
	}
	return all, true
}

// find is the last attribute of a kind.
func find(all []attribute, kind uint16) (nlmsg.BytesView, bool) {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].kind == kind {
			return all[i].value, true
		}
	}
	return nil, false
}
