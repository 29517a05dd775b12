package nic

import (
	"bytes"
	"errors"
	"math/rand"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/netdev"
	"github.com/umlkit/umlkit/internal/oracle"
)

const (
	us   = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01")
	peer = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02")
)

// fixture is a stack with an interface over a fake device.
type fixture struct {
	*stack.Stack
	port *Port
	dev  *netdev.Fake
	id   tcpip.NICID
}

func newFixture(t testing.TB, o netdev.Offloads) *fixture {
	t.Helper()
	f := &fixture{dev: netdev.NewFake(4, o)}
	f.Stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{icmp.NewProtocol4, udp.NewProtocol},
	})
	f.port = New(Options{Name: "vec0", MAC: us, MTU: 1500, Headroom: 32, Segments: o.Segments,
		Open: func() (netdev.Device, error) { return f.dev, nil },
		Logf: func(string, ...any) {}})
	id, added, err := Add(f.port, f.Stack)
	if err != nil || !added {
		t.Fatalf("Add = %v, %v", added, err)
	}
	if again, added, err := Add(f.port, f.Stack); again != id || added || err != nil {
		t.Errorf("a second Add = %d, %v, %v", again, added, err)
	}
	f.id = id
	if err := f.AddProtocolAddress(id, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4([4]byte{10, 9, 0, 2}), PrefixLen: 24}}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	f.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: id})
	f.AddStaticNeighbor(id, ipv4.ProtocolNumber, tcpip.AddrFrom4([4]byte{10, 9, 0, 1}), peer)
	t.Cleanup(func() {
		f.port.Close()
		f.Stack.Destroy()
	})
	return f
}

// up brings the interface up.
func (f *fixture) up(t testing.TB) {
	t.Helper()
	if err := f.port.Connect(); err != nil {
		t.Fatal(err)
	}
	if err := f.EnableNIC(f.id); err != nil {
		t.Fatal(err)
	}
}

// echo is a frame with a ping of so many bytes.
func echo(to tcpip.LinkAddress, payload []byte) []byte {
	icmp := header.ICMPv4(make([]byte, 8+len(payload)))
	icmp.SetType(header.ICMPv4Echo)
	copy(icmp.Payload(), payload)
	icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
	ip := header.IPv4(make([]byte, 20))
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(20 + len(icmp)), TTL: 64, Protocol: 1,
		SrcAddr: tcpip.AddrFrom4([4]byte{10, 9, 0, 1}), DstAddr: tcpip.AddrFrom4([4]byte{10, 9, 0, 2})})
	ip.SetChecksum(^ip.CalculateChecksum())
	eth := header.Ethernet(make([]byte, 14))
	eth.Encode(&header.EthernetFields{SrcAddr: peer, DstAddr: to, Type: ipv4.ProtocolNumber})
	return append(append(eth, ip...), icmp...)
}

// TestEcho has pings answered, of every size a frame can have, and only those to us, and
// only while the interface is up.
func TestEcho(t *testing.T) {
	f := newFixture(t, netdev.Offloads{})
	r := rand.New(rand.NewSource(oracle.Seed(t)))
	f.dev.Receive(netdev.Sent{Data: echo(us, nil)}) // before it is connected: waits in the device
	f.up(t)
	for n := range 200 {
		payload := make([]byte, 1+r.Intn(1472))
		if n == 0 {
			payload = make([]byte, 1472)
		}
		r.Read(payload)
		f.dev.Receive(netdev.Sent{Data: echo(peer, []byte("to another"))})
		f.dev.Receive(netdev.Sent{Data: echo(us, payload)})
		for {
			s, ok := f.dev.Take()
			if !ok {
				t.Fatal("closed")
			}
			if header.Ethernet(s.Data).Type() != ipv4.ProtocolNumber || len(s.Data) == 14+20+8 {
				continue // of the first ping, or the stack's own
			}
			if eth := header.Ethernet(s.Data); eth.DestinationAddress() != peer || eth.SourceAddress() != us {
				t.Fatalf("an answer goes from %s to %s", eth.SourceAddress(), eth.DestinationAddress())
			}
			if !bytes.Equal(s.Data[14+20+8:], payload) {
				t.Fatalf("ping %d: the answer has %d other bytes than the %d asked", n, len(s.Data)-42, len(payload))
			}
			break
		}
	}
	if n := f.port.counters.Foreign.Load(); n != 200 {
		t.Errorf("%d frames to others are counted; want 200", n)
	}
	if err := f.DisableNIC(f.id); err != nil {
		t.Fatal(err)
	}
	f.dev.Receive(netdev.Sent{Data: echo(us, []byte("while down"))})
	f.dev.Receive(netdev.Sent{Data: []byte{1, 2, 3}})
	for f.port.counters.Malformed.Load() == 0 {
		time.Sleep(time.Millisecond) // the frame behind the ping has been seen
	}
	if info, _ := f.SingleNICInfo(f.id); info.Stats.DisabledRx.Packets.Value() == 0 {
		t.Errorf("a ping while the interface is down is not counted")
	}
}

// TestHostile holds what is counted and dropped, of a device that leaves us checksums: a
// wrong one, an offload that points outside, frames longer than agreed on.
func TestHostile(t *testing.T) {
	f := newFixture(t, netdev.Offloads{Checksum: true})
	f.up(t)
	c := &f.port.counters
	udpFrame := func(sum byte) []byte {
		b := echo(us, make([]byte, 8))
		b[14+9] = 17
		ip := header.IPv4(b[14:34])
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		copy(b[34:], []byte{0, 7, 0, 7, 0, 16, 0, sum})
		return b
	}
	for _, test := range []struct {
		name    string
		sent    netdev.Sent
		counter func() uint64
	}{
		{"a wrong checksum", netdev.Sent{Data: udpFrame(1)}, c.BadChecksum.Load},
		{"an offload outside", netdev.Sent{Data: udpFrame(0), Offload: netdev.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 60000}}, c.Malformed.Load},
		{"an offload in the header", netdev.Sent{Data: udpFrame(0), Offload: netdev.Offload{NeedsChecksum: true, ChecksumStart: 2, ChecksumOffset: 2}}, c.Malformed.Load},
		{"a runt", netdev.Sent{Data: make([]byte, 13)}, c.Malformed.Load},
		{"nothing", netdev.Sent{}, c.Malformed.Load},
		{"a long frame that was not agreed on", netdev.Sent{Data: echo(us, make([]byte, 1400)), Offload: netdev.Offload{Segment: netdev.TCPv4, SegmentSize: 100}}, c.Long.Load},
		{"a long frame of another kind", netdev.Sent{Data: echo(us, make([]byte, 1400)), Offload: netdev.Offload{Segment: netdev.Unsure}}, c.Long.Load},
		{"longer than the MTU", netdev.Sent{Data: echo(us, make([]byte, 1700))}, c.Long.Load},
		{"longer than the room", netdev.Sent{Data: echo(us, make([]byte, 3000))}, f.dev.Counters().ReceiveDropped.Load},
	} {
		before := test.counter()
		f.dev.Receive(test.sent)
		for start := time.Now(); test.counter() != before+1; time.Sleep(time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				t.Fatalf("%s is not counted", test.name)
			}
		}
	}
	// A right one still gets through, with what it lacked.
	s := netdev.Sent{Data: echo(us, []byte("alive"))}
	f.dev.Receive(s)
	for {
		s, ok := f.dev.Take()
		if !ok || strings.HasSuffix(string(s.Data), "alive") {
			break
		}
	}
}

// TestReconnect holds that an interface whose device is not there, or goes, asks for it
// again when it is brought up.
func TestReconnect(t *testing.T) {
	f := newFixture(t, netdev.Offloads{})
	missing := errors.New("no such switch")
	open := f.port.Open
	f.port.Open = func() (netdev.Device, error) { return nil, missing }
	e := f.port.current.Load()
	if err := e.Up(); !errors.Is(err, missing) {
		t.Errorf("Up = %v; want %v", err, missing)
	}
	f.port.Open = open
	if err := e.Up(); err != nil || !f.port.Connected() {
		t.Errorf("Up = %v, connected %v", err, f.port.Connected())
	}
	f.port.Close()
	if err := e.Up(); err == nil {
		t.Errorf("a port that was removed comes up")
	}
	var q waiter.Queue
	ep, err := f.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &q)
	if err != nil {
		t.Fatal(err)
	}
	defer ep.Close()
	_ = f.EnableNIC(f.id)
	if _, err := ep.Write(strings.NewReader("lost"), tcpip.WriteOptions{To: &tcpip.FullAddress{Addr: tcpip.AddrFrom4([4]byte{10, 9, 0, 1}), Port: 9}}); err != nil {
		t.Errorf("a packet into nothing: %v", err)
	}
	for start := time.Now(); f.port.counters.Unplugged.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("a packet that could not be sent is not counted")
		}
	}
}

// FuzzDeliver holds that no frame, whole or long, harms the stack.
func FuzzDeliver(f *testing.F) {
	f.Add(echo(us, []byte("payload")), []byte{1, 1, 0, 0, 100, 0, 34, 0, 6, 0})
	f.Add([]byte{}, []byte{0, 4, 0, 0, 0, 0, 0, 0, 0, 0})
	x := newFixture(f, netdev.Offloads{Checksum: true, Segments: true})
	x.up(f)
	f.Fuzz(func(t *testing.T, frame, head []byte) {
		if len(head) < netdev.VnetSize || len(frame) > netdev.MaxFrame {
			return
		}
		x.dev.Receive(netdev.Sent{Data: frame, Offload: netdev.Vnet(head)})
		before := x.port.counters.Malformed.Load()
		x.dev.Receive(netdev.Sent{Data: []byte{1}})
		for x.port.counters.Malformed.Load() <= before {
			time.Sleep(10 * time.Microsecond)
		}
	})
}
