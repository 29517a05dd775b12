package nic

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// deliver hands frame i of a batch to the stack, if it is in order and for us.
func (p *Port) deliver(e *Endpoint, o *opened, r *room, i int) {
	if e == nil {
		return
	}
	f := &r.batch[i]
	if !p.inOrder(e, o, f) {
		return
	}
	e.mu.RLock()
	dispatcher, addr := e.dispatcher, e.addr
	e.mu.RUnlock()
	if dispatcher == nil {
		return
	}
	eth := header.Ethernet(f.Pieces[0])
	kind := packetKind(eth.DestinationAddress(), addr)
	foreign := kind == tcpip.PacketOtherHost
	// A bridge of the guest's, which wants everything, is a dispatcher of another kind.
	own, ok := dispatcher.(stack.NetworkInterface)
	if foreign = foreign && ok; foreign {
		p.counters.Foreign.Add(1)
		if !e.promiscuous.Load() || !own.Enabled() {
			return
		}
	}
	protocol := eth.Type()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: r.packet(i)})
	defer pkt.DecRef()
	pkt.PktType = kind
	pkt.NetworkProtocolNumber = protocol
	if _, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize); !ok {
		return
	}
	if foreign {
		dispatcher.DeliverLinkPacket(protocol, pkt)
		return
	}
	dispatcher.DeliverNetworkPacket(protocol, pkt)
}

// packetKind is to whom a frame is addressed.
func packetKind(to, us tcpip.LinkAddress) tcpip.PacketType {
	switch {
	case to == us:
		return tcpip.PacketHost
	case to == header.EthernetBroadcastAddress:
		return tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(to):
		return tcpip.PacketMulticast
	}
	return tcpip.PacketOtherHost
}

// inOrder looks whether a frame is what was agreed on, and makes its checksum whole: what
// packet sockets see and what is forwarded has to have one. Only of a frame longer than the
// MTU it stays undone.
func (p *Port) inOrder(e *Endpoint, o *opened, f *netdev.Frame) bool {
	if f.Size < header.EthernetMinimumSize {
		p.counters.Malformed.Add(1)
		return false
	}
	if f.Segment != netdev.Whole {
		if !o.offloads.Segments || f.Segment == netdev.Unsure {
			p.counters.Long.Add(1)
			p.complain("a frame of %d bytes is longer than the MTU and dropped; gro=1 takes those of TCP, and the host's side can stop to make them (ethtool -K IFACE tso off gso off)", f.Size)
			return false
		}
	} else if f.Size > int(e.MTU())+headers {
		p.counters.Long.Add(1)
		return false
	}
	switch {
	case !o.offloads.Checksum:
	case f.Segment != netdev.Whole:
		if !f.NeedsChecksum && !f.Verified {
			p.counters.BadChecksum.Add(1)
			return false
		}
	case f.NeedsChecksum:
		if !f.Complete() {
			p.counters.Malformed.Add(1)
			return false
		}
	case !f.Verified && !f.Verify():
		p.counters.BadChecksum.Add(1)
		return false
	}
	return true
}

// Dropped says how many frames did not get through the port: received ones that were not in
// order, received ones that were not agreed on, and those that could not be sent.
func (p *Port) Dropped() (receiveErrors, receiveDropped, sendErrors, sendDropped uint64) {
	c := &p.counters
	receiveErrors = c.BadChecksum.Load() + c.Malformed.Load()
	receiveDropped = c.Long.Load()
	sendDropped = c.Unplugged.Load()
	all := []*netdev.Counters{&p.past}
	if o := p.device.Load(); o != nil {
		all = append(all, o.Counters())
	}
	for _, d := range all {
		receiveErrors += d.ReceiveErrors.Load()
		receiveDropped += d.ReceiveDropped.Load()
		sendErrors += d.SendErrors.Load()
		sendDropped += d.SendDropped.Load()
	}
	return receiveErrors, receiveDropped, sendErrors, sendDropped
}
