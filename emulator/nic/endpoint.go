package nic

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/qdisc/fifo"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// Endpoint is the interface over a port in the stack of one boot. It implements
// stack.LinkEndpoint and stack.GSOEndpoint.
type Endpoint struct {
	port  *Port
	stack *stack.Stack
	id    tcpip.NICID
	// promiscuous is whether frames to other addresses are shown to packet sockets.
	promiscuous atomic.Bool

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	addr       tcpip.LinkAddress
	mtu        uint32
	onClose    func()
}

var (
	_ stack.LinkEndpoint = (*Endpoint)(nil)
	_ stack.GSOEndpoint  = (*Endpoint)(nil)
)

// queueLength is how many packets wait to be sent, as txqueuelen of Linux has it.
const queueLength = 1000

// Add makes the interface of a port in a stack, down, and returns its number. It reports
// whether it was not there before.
func Add(p *Port, s *stack.Stack) (tcpip.NICID, bool, error) {
	p.adding.Lock()
	defer p.adding.Unlock()
	if e := p.current.Load(); e != nil && e.stack == s {
		return e.id, false, nil
	}
	e := &Endpoint{port: p, stack: s, addr: p.MAC, mtu: p.MTU}
	id := s.NextNICID()
	err := s.CreateNICWithOptions(id, e, stack.NICOptions{
		Name:               p.Name,
		Context:            e,
		Disabled:           true,
		DeliverLinkPackets: true,
		QDisc:              fifo.New(e, 1, queueLength),
	})
	if err != nil {
		return 0, false, &StackError{err}
	}
	e.id = id
	p.current.Store(e)
	return id, true, nil
}

// StackError is an error of the stack's.
type StackError struct{ Err tcpip.Error }

func (e *StackError) Error() string { return e.Err.String() }

// Port is the port of the interface.
func (e *Endpoint) Port() *Port { return e.port }

// Up is called before the interface is brought up: it connects a port that is not.
func (e *Endpoint) Up() error { return e.port.Connect() }

// Dropped is the port's.
func (e *Endpoint) Dropped() (receiveErrors, receiveDropped, sendErrors, sendDropped uint64) {
	return e.port.Dropped()
}

// SetPromiscuous says whether packet sockets see frames to other addresses.
func (e *Endpoint) SetPromiscuous(on bool) { e.promiscuous.Store(on) }

// Promiscuous says whether they do.
func (e *Endpoint) Promiscuous() bool { return e.promiscuous.Load() }

// MTU implements stack.NetworkLinkEndpoint.MTU.
func (e *Endpoint) MTU() uint32 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.mtu
}

// SetMTU implements stack.NetworkLinkEndpoint.SetMTU.
func (e *Endpoint) SetMTU(mtu uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mtu = mtu
}

// MaxHeaderLength implements stack.NetworkLinkEndpoint.MaxHeaderLength.
func (e *Endpoint) MaxHeaderLength() uint16 { return header.EthernetMinimumSize + e.port.Headroom }

// LinkAddress implements stack.NetworkLinkEndpoint.LinkAddress.
func (e *Endpoint) LinkAddress() tcpip.LinkAddress {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.addr
}

// SetLinkAddress implements stack.NetworkLinkEndpoint.SetLinkAddress.
func (e *Endpoint) SetLinkAddress(addr tcpip.LinkAddress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addr = addr
}

// Capabilities implements stack.NetworkLinkEndpoint.Capabilities. Of a device with offloads
// deliver verifies what the host did not.
func (e *Endpoint) Capabilities() stack.LinkEndpointCapabilities {
	c := stack.LinkEndpointCapabilities(stack.CapabilityResolutionRequired)
	if o := e.port.device.Load(); o != nil && o.offloads.Checksum {
		c |= stack.CapabilityRXChecksumOffload
	}
	return c
}

// SupportedGSO implements stack.GSOEndpoint.SupportedGSO: the host cuts what TCP sends, or
// else the stack does at the last moment.
func (e *Endpoint) SupportedGSO() stack.SupportedGSO {
	if o := e.port.device.Load(); o != nil && o.offloads.Segments {
		return stack.HostGSOSupported
	}
	return stack.GVisorGSOSupported
}

// GSOMaxSize implements stack.GSOEndpoint.GSOMaxSize.
func (e *Endpoint) GSOMaxSize() uint32 { return stack.GVisorGSOMaxSize }

// Attach implements stack.NetworkLinkEndpoint.Attach. A bridge of the guest's attaches its
// own dispatcher.
func (e *Endpoint) Attach(dispatcher stack.NetworkDispatcher) {
	e.mu.Lock()
	e.dispatcher = dispatcher
	e.mu.Unlock()
	if dispatcher == nil {
		e.port.current.CompareAndSwap(e, nil)
	}
}

// IsAttached implements stack.NetworkLinkEndpoint.IsAttached.
func (e *Endpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// Wait implements stack.NetworkLinkEndpoint.Wait. What reads belongs to the port.
func (e *Endpoint) Wait() {}

// ARPHardwareType implements stack.NetworkLinkEndpoint.ARPHardwareType.
func (e *Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.NetworkLinkEndpoint.AddHeader.
func (e *Endpoint) AddHeader(pkt *stack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize))
	eth.Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.NetworkLinkEndpoint.ParseHeader.
func (e *Endpoint) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// Close implements stack.NetworkLinkEndpoint.Close.
func (e *Endpoint) Close() {
	e.mu.Lock()
	f := e.onClose
	e.onClose = nil
	e.mu.Unlock()
	if f != nil {
		f()
	}
}

// SetOnCloseAction implements stack.NetworkLinkEndpoint.SetOnCloseAction.
func (e *Endpoint) SetOnCloseAction(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.onClose = f
}

// outgoing is a batch on its way out.
type outgoing struct{ frames []netdev.Frame }

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// WritePackets implements stack.LinkWriter.WritePackets.
func (e *Endpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	packets := list.AsSlice()
	o := e.port.device.Load()
	if o == nil {
		e.port.counters.Unplugged.Add(uint64(len(packets)))
		return len(packets), nil
	}
	out := outgoings.Get().(*outgoing)
	defer func() {
		clear(out.frames)
		out.frames = out.frames[:0]
		outgoings.Put(out)
	}()
	for _, pkt := range packets {
		pieces := pkt.AsSlices()
		size := 0
		for _, p := range pieces {
			size += len(p)
		}
		out.frames = append(out.frames, netdev.Frame{Offload: offloadOf(pkt), Pieces: pieces, Size: size})
	}
	n, err := o.Write(out.frames)
	if err != nil {
		return n, &tcpip.ErrClosedForSend{}
	}
	return len(packets), nil
}

// offloadOf is what the stack left to be done.
func offloadOf(pkt *stack.PacketBuffer) (o netdev.Offload) {
	g := &pkt.GSOOptions
	if g.Type != stack.GSOTCPv4 && g.Type != stack.GSOTCPv6 {
		return o
	}
	if g.NeedsCsum {
		o.NeedsChecksum = true
		o.ChecksumStart = header.EthernetMinimumSize + g.L3HdrLen
		o.ChecksumOffset = g.CsumOffset
	}
	if pkt.Data().Size() > int(g.MSS) {
		o.Segment, o.SegmentSize, o.HeaderSize = netdev.TCPv4, g.MSS, uint16(pkt.HeaderSize())
		if g.Type == stack.GSOTCPv6 {
			o.Segment = netdev.TCPv6
		}
	}
	return o
}
