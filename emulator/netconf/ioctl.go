package netconf

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Ioctl answers the requests on sockets that configure interfaces and routes (netdevice(7)),
// and those that ask for what the Sentry's answers lack. It says false of others.
func Ioctl(t *kernel.Task, file *vfs.FileDescription, request uint32, arg hostarch.Addr) (handled bool, err error) {
	set, get := setters[request], getters[request]
	if _, isSocket := file.Impl().(socket.Socket); !isSocket || set == nil && get == nil && request != unix.SIOCADDRT && request != unix.SIOCDELRT {
		return false, nil
	}
	ns := t.GetNetworkNamespace()
	defer ns.DecRef(t)
	n, ok := ns.Stack().(*netstack.Stack)
	if !ok {
		return false, nil
	}
	if get != nil {
		return true, getInterface(t, n, arg, get)
	}
	if !ns.HasCapability(t, linux.CAP_NET_ADMIN) {
		return true, errnoError(unix.EPERM)
	}
	if set == nil {
		return true, setRoute(t, n, arg, request == unix.SIOCADDRT)
	}
	var req linux.IFReq
	if _, err := req.CopyIn(t, arg); err != nil {
		return true, err
	}
	name, id := req.Name(), tcpip.NICID(0)
	// ifconfig's eth0:1 is an address of eth0: all that an interface has are its own.
	name, _, _ = cutLabel(name)
	if id = byName(n.Stack, name); id == 0 {
		return true, errnoError(unix.ENODEV)
	}
	changed, err := set(n, id, &req)
	if changed {
		Tell(t, ns, n, id)
	}
	return true, err
}

// cutLabel takes the label of an address off the name of its interface.
func cutLabel(name string) (device, label string, ok bool) {
	if i := bytes.IndexByte([]byte(name), ':'); i >= 0 {
		return name[:i], name[i+1:], true
	}
	return name, "", false
}

// getInterface answers a request about an interface.
func getInterface(t *kernel.Task, n *netstack.Stack, arg hostarch.Addr, get func(*netstack.Stack, tcpip.NICID, []byte) error) error {
	var req linux.IFReq
	if _, err := req.CopyIn(t, arg); err != nil {
		return err
	}
	device, _, _ := cutLabel(req.Name())
	id := byName(n.Stack, device)
	if id == 0 {
		return errnoError(unix.ENODEV)
	}
	clear(req.Data[:])
	if err := get(n, id, req.Data[:]); err != nil {
		return err
	}
	_, err := req.CopyOut(t, arg)
	return err
}

// getters answer requests about an interface: what they write stands behind its name.
var getters = map[uint32]func(*netstack.Stack, tcpip.NICID, []byte) error{
	unix.SIOCGIFFLAGS: func(n *netstack.Stack, id tcpip.NICID, b []byte) error {
		if info, ok := n.Stack.SingleNICInfo(id); ok {
			// What does not fit is left out, as on Linux.
			binary.NativeEndian.PutUint16(b, uint16(Flags(interfaceOf(n, info))))
		}
		return nil
	},
	unix.SIOCGIFADDR:    getAddress(func(a tcpip.AddressWithPrefix) tcpip.Address { return a.Address }),
	unix.SIOCGIFDSTADDR: getAddress(func(a tcpip.AddressWithPrefix) tcpip.Address { return a.Address }),
	unix.SIOCGIFBRDADDR: getAddress(func(a tcpip.AddressWithPrefix) tcpip.Address {
		subnet := a.Subnet()
		return subnet.Broadcast()
	}),
	unix.SIOCGIFNETMASK: getAddress(func(a tcpip.AddressWithPrefix) tcpip.Address {
		var mask [4]byte
		binary.BigEndian.PutUint32(mask[:], ^uint32(0)<<(32-a.PrefixLen))
		return tcpip.AddrFrom4(mask)
	}),
	unix.SIOCGIFTXQLEN: func(_ *netstack.Stack, _ tcpip.NICID, b []byte) error {
		binary.NativeEndian.PutUint32(b, txQueue)
		return nil
	},
	// No interrupt, no memory.
	unix.SIOCGIFMAP: func(*netstack.Stack, tcpip.NICID, []byte) error { return nil },
}

// getAddress answers with something of the first IPv4 address.
func getAddress(of func(tcpip.AddressWithPrefix) tcpip.Address) func(*netstack.Stack, tcpip.NICID, []byte) error {
	return func(n *netstack.Stack, id tcpip.NICID, b []byte) error {
		a, ok := first(n, id)
		if !ok {
			return errnoError(unix.EADDRNOTAVAIL)
		}
		address := of(a).As4()
		binary.NativeEndian.PutUint16(b, linux.AF_INET)
		copy(b[4:], address[:])
		return nil
	}
}

// setters set something of an interface, by request, and report whether that changed it.
var setters = map[uint32]func(*netstack.Stack, tcpip.NICID, *linux.IFReq) (bool, error){
	unix.SIOCSIFFLAGS: func(n *netstack.Stack, id tcpip.NICID, r *linux.IFReq) (bool, error) {
		return setFlags(n.Stack, id, uint32(binary.NativeEndian.Uint16(r.Data[:])), settable)
	},
	unix.SIOCSIFMTU: func(n *netstack.Stack, id tcpip.NICID, r *linux.IFReq) (bool, error) {
		mtu := binary.NativeEndian.Uint32(r.Data[:])
		if mtu < minMTU || mtu > maxMTU {
			return false, errnoError(unix.EINVAL)
		}
		return true, translate(n.Stack.SetNICMTU(id, mtu))
	},
	unix.SIOCSIFHWADDR: func(n *netstack.Stack, id tcpip.NICID, r *linux.IFReq) (bool, error) {
		if binary.NativeEndian.Uint16(r.Data[:]) != linux.ARPHRD_ETHER {
			return false, errnoError(unix.EINVAL)
		}
		if !goodAddress(r.Data[2:8]) {
			return false, errnoError(unix.EADDRNOTAVAIL)
		}
		return true, translate(n.Stack.SetNICAddress(id, tcpip.LinkAddress(r.Data[2:8])))
	},
	unix.SIOCSIFNAME: func(n *netstack.Stack, id tcpip.NICID, r *linux.IFReq) (bool, error) {
		end := bytes.IndexByte(r.Data[:linux.IFNAMSIZ], 0)
		if end < 0 || !goodName(string(r.Data[:end])) {
			return false, errnoError(unix.EINVAL)
		}
		if other := byName(n.Stack, string(r.Data[:end])); other != 0 && other != id {
			return false, errnoError(unix.EEXIST)
		}
		return true, translate(n.Stack.SetNICName(id, string(r.Data[:end])))
	},
	unix.SIOCSIFTXQLEN: nothing,
	unix.SIOCSIFMETRIC: func(_ *netstack.Stack, _ tcpip.NICID, r *linux.IFReq) (bool, error) {
		if binary.NativeEndian.Uint32(r.Data[:]) != 0 {
			return false, errnoError(unix.EOPNOTSUPP)
		}
		return false, nil
	},
	unix.SIOCSIFADDR:    setAddress,
	unix.SIOCSIFNETMASK: setNetmask,
	// The broadcast address of a network is the last one of it.
	unix.SIOCSIFBRDADDR: nothing,
}

// nothing is what has no effect here and does no harm.
func nothing(*netstack.Stack, tcpip.NICID, *linux.IFReq) (bool, error) { return false, nil }

func translate(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	return syserr.TranslateNetstackError(err).ToError()
}

// inetAddress is the IPv4 address of a sockaddr in a request.
func inetAddress(b []byte) ([4]byte, bool) {
	return [4]byte(b[4:8]), binary.NativeEndian.Uint16(b) == linux.AF_INET
}

// first is the first IPv4 address of an interface.
func first(n *netstack.Stack, id tcpip.NICID) (tcpip.AddressWithPrefix, bool) {
	info, ok := n.Stack.SingleNICInfo(id)
	if !ok {
		return tcpip.AddressWithPrefix{}, false
	}
	for _, a := range info.ProtocolAddresses {
		if a.Protocol == ipv4.ProtocolNumber {
			return a.AddressWithPrefix, true
		}
	}
	return tcpip.AddressWithPrefix{}, false
}

// setAddress is SIOCSIFADDR: the one IPv4 address of an interface, of a network of its
// class, which brings it up; 0.0.0.0 takes it away.
func setAddress(n *netstack.Stack, id tcpip.NICID, r *linux.IFReq) (bool, error) {
	a, ok := inetAddress(r.Data[:])
	if !ok {
		return false, errnoError(unix.EINVAL)
	}
	if old, ok := first(n, id); ok {
		if err := n.RemoveInterfaceAddr(int32(id), interfaceAddress(old)); err != nil {
			return false, err
		}
	}
	if a == [4]byte{} {
		return true, nil
	}
	prefix := 24
	switch {
	case a[0] < 128:
		prefix = 8
	case a[0] < 192:
		prefix = 16
	}
	err := n.AddInterfaceAddr(int32(id), interfaceAddress(tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(a), PrefixLen: prefix}))
	if err != nil {
		return true, err
	}
	_, err = setFlags(n.Stack, id, linux.IFF_UP, linux.IFF_UP)
	return true, err
}

// setNetmask is SIOCSIFNETMASK.
func setNetmask(n *netstack.Stack, id tcpip.NICID, r *linux.IFReq) (bool, error) {
	a, ok := inetAddress(r.Data[:])
	mask := binary.BigEndian.Uint32(a[:])
	prefix := bits.OnesCount32(mask)
	if !ok || prefix > 0 && mask != ^uint32(0)<<(32-prefix) {
		return false, errnoError(unix.EINVAL)
	}
	old, ok := first(n, id)
	if !ok {
		return false, errnoError(unix.EADDRNOTAVAIL)
	}
	if old.PrefixLen == prefix {
		return false, nil
	}
	if err := n.RemoveInterfaceAddr(int32(id), interfaceAddress(old)); err != nil {
		return false, err
	}
	old.PrefixLen = prefix
	return true, n.AddInterfaceAddr(int32(id), interfaceAddress(old))
}

func interfaceAddress(a tcpip.AddressWithPrefix) inet.InterfaceAddr {
	return inet.InterfaceAddr{Family: linux.AF_INET, PrefixLen: uint8(a.PrefixLen), Addr: a.Address.AsSlice()}
}

// The places of what is read of struct rtentry (linux/route.h) on processors of 64 bits, and
// its size, in bytes.
const (
	rtDst     = 8
	rtGateway = 24
	rtMask    = 40
	rtFlags   = 56
	rtDevice  = 88
	rtSize    = 120
)

// Flags of a route (linux/route.h).
const (
	rtfGateway = 0x2
	rtfHost    = 0x4
	rtfReject  = 0x200
)

// setRoute is SIOCADDRT and SIOCDELRT, of IPv4.
func setRoute(t *kernel.Task, n *netstack.Stack, arg hostarch.Addr, add bool) error {
	b := make([]byte, rtSize)
	if _, err := t.CopyInBytes(arg, b); err != nil {
		return err
	}
	flags := binary.NativeEndian.Uint16(b[rtFlags:])
	dst, ok := inetAddress(b[rtDst:])
	if !ok {
		return errnoError(unix.EAFNOSUPPORT)
	}
	if flags&rtfReject != 0 {
		return errnoError(unix.EOPNOTSUPP)
	}
	prefix := 32
	if flags&rtfHost == 0 {
		a := [4]byte(b[rtMask+4 : rtMask+8])
		mask := binary.BigEndian.Uint32(a[:])
		prefix = bits.OnesCount32(mask)
		if prefix > 0 && mask != ^uint32(0)<<(32-prefix) {
			return errnoError(unix.EINVAL)
		}
	}
	rt := tcpip.Route{Destination: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(dst), PrefixLen: prefix}.Subnet()}
	if id := rt.Destination.ID(); id != tcpip.AddrFrom4(dst) {
		return errnoError(unix.EINVAL)
	}
	if flags&rtfGateway != 0 {
		gateway, ok := inetAddress(b[rtGateway:])
		if !ok || gateway == [4]byte{} {
			return errnoError(unix.EINVAL)
		}
		rt.Gateway = tcpip.AddrFrom4(gateway)
	}
	if name := binary.NativeEndian.Uint64(b[rtDevice:]); name != 0 {
		device, err := t.CopyInString(hostarch.Addr(name), linux.IFNAMSIZ)
		if err != nil {
			return err
		}
		device, _, _ = cutLabel(device)
		if rt.NIC = byName(n.Stack, device); rt.NIC == 0 {
			return errnoError(unix.ENODEV)
		}
	}
	if !add {
		return removeRoute(n.Stack, rt)
	}
	if rt.NIC == 0 {
		if rt.Gateway.Len() == 0 {
			return errnoError(unix.ENODEV)
		}
		if rt.NIC = reaches(n.Stack, rt.Gateway); rt.NIC == 0 {
			return errnoError(unix.ENETUNREACH)
		}
	}
	if slices.ContainsFunc(n.Stack.GetRouteTable(), rt.Equal) {
		return errnoError(unix.EEXIST)
	}
	n.Stack.AddRoute(rt)
	return nil
}

// removeRoute removes the first route that is what is asked for.
func removeRoute(s *stack.Stack, want tcpip.Route) error {
	done := false
	s.RemoveRoutes(func(rt tcpip.Route) bool {
		if done || rt.Destination != want.Destination || want.NIC != 0 && rt.NIC != want.NIC || want.Gateway.Len() > 0 && rt.Gateway != want.Gateway {
			return false
		}
		done = true
		return true
	})
	if !done {
		return errnoError(unix.ESRCH)
	}
	return nil
}
