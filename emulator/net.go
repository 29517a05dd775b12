package emulator

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	// Address families register themselves.
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/netfilter"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/unix"

	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
)

// networks makes network stacks: the first of a boot, and one for each new network
// namespace. It implements inet.NetworkStackCreator.
type networks struct {
	clock tcpip.Clock
	ids   uniqueid.Provider
}

// CreateStack implements inet.NetworkStackCreator: a stack with a loopback device.
func (n *networks) CreateStack() (inet.Stack, error) {
	s := netstack.NewStack(stack.New(stack.Options{
		NetworkProtocols:         []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols:       []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:                    n.clock,
		Stats:                    netstack.Metrics,
		HandleLocal:              true,
		RawFactory:               raw.EndpointFactory{},
		AllowPacketEndpointWrite: true,
		DefaultIPTables:          netfilter.DefaultLinuxTables,
	}), n.ids.UniqueID())
	sack := tcpip.TCPSACKEnabled(true)
	if err := s.Stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return nil, fmt.Errorf("network stack: selective acknowledgement: %s", err)
	}
	ttl := tcpip.DefaultTTLOption(netstack.DefaultTTL)
	for _, protocol := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := s.Stack.SetNetworkProtocolOption(protocol, &ttl); err != nil {
			return nil, fmt.Errorf("network stack: time to live: %s", err)
		}
	}
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	if err := s.Stack.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate); err != nil {
		return nil, fmt.Errorf("network stack: receive buffers: %s", err)
	}
	return s, addLoopback(s.Stack)
}

// addLoopback makes lo, which has the index 1 in every namespace.
func addLoopback(s *stack.Stack) error {
	// Counted, or the next interface of the guest's would have the same number.
	index := s.NextNICID()
	err := s.CreateNICWithOptions(index, ethernet.New(loopback.New()), stack.NICOptions{
		Name:               "lo",
		DeliverLinkPackets: true,
	})
	if err != nil {
		return fmt.Errorf("network stack: lo: %s", err)
	}
	for _, a := range []tcpip.ProtocolAddress{
		{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFrom4([4]byte{127, 0, 0, 1}), PrefixLen: 8}},
		{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFrom16([16]byte{15: 1}), PrefixLen: 128}},
	} {
		if err := s.AddProtocolAddress(index, a, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("network stack: address of lo: %s", err)
		}
	}
	return nil
}
