package netconf

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netlink/nlmsg"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Link is what an interface's context may be: it is asked before the interface comes up,
// and about the rest that the stack does not know.
type Link interface {
	Up() error
	SetPromiscuous(bool)
	Promiscuous() bool
	Dropped() (receiveErrors, receiveDropped, sendErrors, sendDropped uint64)
}

// Flags are those of an interface as Linux has them: the Sentry says of each that it is up.
func Flags(i inet.Interface) uint32 {
	f := i.Flags
	if f&linux.IFF_RUNNING == 0 {
		f &^= linux.IFF_UP | linux.IFF_LOWER_UP
	}
	if i.DeviceType == linux.ARPHRD_ETHER {
		f |= linux.IFF_BROADCAST | linux.IFF_MULTICAST
	}
	return f
}

// link is an interface as it is told of.
type link struct {
	inet.Interface
	index int32
	// info is more of it, nil in what is told of a change.
	info *stack.NICInfo
}

// interfaceOf is what the Sentry makes of an interface's description.
func interfaceOf(s *netstack.Stack, info *stack.NICInfo) inet.Interface {
	i := inet.Interface{
		Name:       info.Name,
		Addr:       []byte(info.LinkAddress),
		DeviceType: uint16(linux.ARPHRD_ETHER),
		MTU:        info.MTU,
		Master:     uint32(info.Primary),
		Kind:       info.Kind,
		Flags:      linux.IFF_UP | linux.IFF_LOWER_UP,
	}
	switch info.ARPHardwareType {
	case header.ARPHardwareLoopback:
		i.DeviceType = linux.ARPHRD_LOOPBACK
	case header.ARPHardwareNone:
		i.DeviceType = linux.ARPHRD_NONE
	}
	if info.Flags.Running {
		i.Flags |= linux.IFF_RUNNING
	}
	if l, ok := info.Context.(Link); info.Flags.Promiscuous || ok && l.Promiscuous() {
		i.Flags |= linux.IFF_PROMISC
	}
	if info.Flags.Loopback {
		i.Flags |= linux.IFF_LOOPBACK
	}
	return i
}

// txQueue is how many packets wait to be sent, as every interface has it.
const txQueue = 1000

// operState is an interface's state as RFC 2863 has it.
func operState(flags uint32) uint8 {
	switch {
	case flags&linux.IFF_LOOPBACK != 0:
		return 0 // unknown
	case flags&linux.IFF_UP != 0:
		return 6
	}
	return 2
}

// writeLink writes a message of an interface.
func writeLink(ms *nlmsg.MessageSet, kind uint16, l link) {
	flags := Flags(l.Interface)
	m := ms.AddMessage(linux.NetlinkMessageHeader{Type: kind})
	m.Put(&linux.InterfaceInfoMessage{Family: linux.AF_UNSPEC, Type: l.DeviceType, Index: l.index, Flags: flags})
	m.PutAttrString(linux.IFLA_IFNAME, l.Name)
	m.PutAttr(linux.IFLA_TXQLEN, primitive.AllocateUint32(txQueue))
	state := operState(flags)
	m.PutAttr(linux.IFLA_OPERSTATE, primitive.AllocateUint8(state))
	m.PutAttr(linux.IFLA_LINKMODE, primitive.AllocateUint8(0))
	m.PutAttr(linux.IFLA_MTU, primitive.AllocateUint32(l.MTU))
	m.PutAttr(linux.IFLA_GROUP, primitive.AllocateUint32(0))
	m.PutAttr(linux.IFLA_PROMISCUITY, primitive.AllocateUint32(bit(flags&linux.IFF_PROMISC != 0)))
	m.PutAttr(linux.IFLA_NUM_TX_QUEUES, primitive.AllocateUint32(1))
	m.PutAttr(linux.IFLA_NUM_RX_QUEUES, primitive.AllocateUint32(1))
	m.PutAttr(linux.IFLA_CARRIER, primitive.AllocateUint8(uint8(bit(flags&linux.IFF_RUNNING != 0))))
	discipline := "pfifo_fast"
	if flags&linux.IFF_LOOPBACK != 0 {
		discipline = "noqueue"
	}
	m.PutAttrString(linux.IFLA_QDISC, discipline)
	address, broadcast := make([]byte, 6), make([]byte, 6)
	if len(l.Addr) > 0 {
		address, broadcast = l.Addr, bytes.Repeat([]byte{0xff}, len(l.Addr))
	}
	if flags&linux.IFF_LOOPBACK != 0 {
		broadcast = make([]byte, len(address))
	}
	m.PutAttr(linux.IFLA_ADDRESS, primitive.AsByteSlice(address))
	m.PutAttr(linux.IFLA_BROADCAST, primitive.AsByteSlice(broadcast))
	if l.Master != 0 {
		m.PutAttr(linux.IFLA_MASTER, primitive.AllocateUint32(l.Master))
	}
	if l.info != nil {
		m.PutAttr(linux.IFLA_STATS64, primitive.AsByteSlice(stats(l.info)))
	}
	if l.Kind != "" {
		var nested nlmsg.NestedAttr
		nested.PutAttrString(linux.IFLA_INFO_KIND, l.Kind)
		m.PutNestedAttr(linux.IFLA_LINKINFO, nested)
	}
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// stats is struct rtnl_link_stats64.
func stats(info *stack.NICInfo) []byte {
	var n [25]uint64
	n[0], n[1] = info.Stats.Rx.Packets.Value(), info.Stats.Tx.Packets.Value()
	n[2], n[3] = info.Stats.Rx.Bytes.Value(), info.Stats.Tx.Bytes.Value()
	n[7] = info.Stats.TxPacketsDroppedNoBufferSpace.Value()
	if l, ok := info.Context.(Link); ok {
		var dropped uint64
		n[4], n[6], n[5], dropped = l.Dropped()
		n[7] += dropped
	}
	b := make([]byte, 0, len(n)*8)
	for _, v := range n {
		b = nativeUint64(b, v)
	}
	return b
}

// getLink answers RTM_GETLINK.
func (r *request) getLink() *syserr.Error {
	var ifi linux.InterfaceInfoMessage
	dump := r.msg.Header().Flags&(linux.NLM_F_DUMP|linux.NLM_F_ROOT) != 0
	rest, ok := r.msg.GetData(&ifi)
	if dump {
		r.ms.Multi = true
		infos := r.NICInfo()
		var ids []tcpip.NICID
		for id := range infos {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			info := infos[id]
			writeLink(r.ms, linux.RTM_NEWLINK, link{interfaceOf(r.ns, &info), int32(id), &info})
		}
		return nil
	}
	if !ok {
		return syserr.ErrInvalidArgument
	}
	all, ok := attributes(rest)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	id, err := r.which(ifi.Index, all)
	if err != nil {
		return err
	}
	info, ok := r.SingleNICInfo(id)
	if !ok {
		return syserr.ErrNoDevice
	}
	writeLink(r.ms, linux.RTM_NEWLINK, link{interfaceOf(r.ns, info), int32(id), info})
	return nil
}

// iflaAltIfname is IFLA_ALT_IFNAME: programs of today ask by it for names of any length.
const iflaAltIfname = 53

// which finds the interface that a message is of, by its number or name.
func (r *request) which(index int32, all []attribute) (tcpip.NICID, *syserr.Error) {
	if index > 0 {
		if !r.HasNIC(tcpip.NICID(index)) {
			return 0, syserr.ErrNoDevice
		}
		return tcpip.NICID(index), nil
	}
	for _, kind := range []uint16{linux.IFLA_IFNAME, iflaAltIfname} {
		if name, ok := find(all, kind); ok {
			if id := byName(r.Stack, name.String()); id != 0 {
				return id, nil
			}
			return 0, syserr.ErrNoDevice
		}
	}
	return 0, syserr.ErrInvalidArgument
}

// hints are where interfaces of a name were found last, in whatever stack: the stack itself
// describes all of thousands to find one. Each is looked at before it is believed.
var hints struct {
	sync.Mutex
	ids map[string]tcpip.NICID
}

// maxHints bounds them.
const maxHints = 1 << 16

// byName is the number of the interface of a name, or 0.
func byName(s *stack.Stack, name string) tcpip.NICID {
	if name == "" {
		return 0
	}
	hints.Lock()
	id := hints.ids[name]
	hints.Unlock()
	if id != 0 && s.FindNICNameFromID(id) == name {
		return id
	}
	infos := s.NICInfo()
	hints.Lock()
	defer hints.Unlock()
	if hints.ids == nil || len(hints.ids)+len(infos) > maxHints {
		hints.ids = map[string]tcpip.NICID{}
	}
	found := tcpip.NICID(0)
	for id, info := range infos {
		hints.ids[info.Name] = id
		if info.Name == name {
			found = id
		}
	}
	return found
}

// sentryLink are the attributes of a link that the Sentry sets; noLink are those that say
// nothing that could be done.
var (
	sentryLink = []uint16{linux.IFLA_IFNAME, linux.IFLA_MASTER, linux.IFLA_LINKINFO, linux.IFLA_ADDRESS, linux.IFLA_MTU, linux.IFLA_NET_NS_FD, linux.IFLA_TXQLEN}
	noLink     = []uint16{linux.IFLA_EXT_MASK, linux.IFLA_LINKMODE, linux.IFLA_OPERSTATE, linux.IFLA_AF_SPEC, linux.IFLA_GROUP, linux.IFLA_PROMISCUITY,
		linux.IFLA_NUM_TX_QUEUES, linux.IFLA_NUM_RX_QUEUES, linux.IFLA_BROADCAST}
)

// settable are the flags that a message may change: others change by themselves.
const settable = linux.IFF_UP | linux.IFF_PROMISC

// setLink answers RTM_NEWLINK and RTM_SETLINK.
func (r *request) setLink(p *Protocol) *syserr.Error {
	var ifi linux.InterfaceInfoMessage
	rest, ok := r.msg.GetData(&ifi)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	all, ok := attributes(rest)
	if !ok {
		return syserr.ErrInvalidArgument
	}
	flags, change := ifi.Flags, ifi.Change
	if change == 0 && flags != 0 {
		change = ^uint32(0)
	}
	ifi.Flags, ifi.Change = 0, 0
	m := nlmsg.NewMessage(r.msg.Header())
	m.Put(&ifi)
	for _, a := range all {
		switch {
		case slices.Contains(noLink, a.kind):
		case slices.Contains(sentryLink, a.kind):
			m.PutAttr(a.kind, primitive.AsByteSlice(a.value))
		default:
			return syserr.ErrNotSupported
		}
	}
	if mtu, ok := find(all, linux.IFLA_MTU); ok {
		if n, ok := mtu.Uint32(); !ok || n < minMTU || n > maxMTU {
			return syserr.ErrInvalidArgument
		}
	}
	if address, ok := find(all, linux.IFLA_ADDRESS); ok && !goodAddress(address) {
		return syserr.FromError(errnoError(unix.EADDRNOTAVAIL))
	}
	if name, ok := find(all, linux.IFLA_IFNAME); ok && ifi.Index > 0 {
		if err := r.nameIsFree(tcpip.NICID(ifi.Index), name.String()); err != nil {
			return err
		}
	}
	if _, err := r.which(ifi.Index, all); err == nil || r.msg.Header().Flags&linux.NLM_F_CREATE != 0 {
		whole, _, ok := nlmsg.ParseMessage(m.Finalize())
		if !ok {
			return syserr.ErrInvalidArgument
		}
		if err := p.base.ProcessMessage(r.Context, r.socket, whole, r.ms); err != nil {
			return err
		}
	}
	if change&settable == 0 {
		return nil
	}
	id, err := r.which(ifi.Index, all)
	if err != nil {
		return err
	}
	return r.setFlags(id, flags, change)
}

// The MTUs that an interface may have, in bytes: what IPv4 needs, and what fits a packet.
const (
	minMTU = 68
	maxMTU = 65535
)

// goodAddress says whether an interface may have an address.
func goodAddress(b []byte) bool {
	return len(b) == 6 && b[0]&1 == 0 && !bytes.Equal(b, make([]byte, 6))
}

// nameIsFree says whether an interface may have a name.
func (r *request) nameIsFree(id tcpip.NICID, name string) *syserr.Error {
	if !goodName(name) {
		return syserr.ErrInvalidArgument
	}
	if other := byName(r.Stack, name); other != 0 && other != id {
		return syserr.ErrExists
	}
	return nil
}

// goodName says whether a name is one, as dev_valid_name of Linux does.
func goodName(name string) bool {
	return name != "" && len(name) < linux.IFNAMSIZ && name != "." && name != ".." && !bytes.ContainsAny([]byte(name), "/: \t\n\v\f\r")
}

// setFlags brings an interface up or down, and makes it promiscuous.
func (r *request) setFlags(id tcpip.NICID, flags, change uint32) *syserr.Error {
	changed, err := setFlags(r.Stack, id, flags, change)
	if err != nil {
		return syserr.FromError(err)
	}
	if changed {
		r.tell(id)
	}
	return nil
}

// tell tells who listens that an interface changed.
func (r *request) tell(id tcpip.NICID) {
	Tell(r.Context, r.socket.NetworkNamespace(), r.ns, id)
}

// setFlags does it, and reports whether anything changed.
func setFlags(s *stack.Stack, id tcpip.NICID, flags, change uint32) (bool, error) {
	info, ok := s.SingleNICInfo(id)
	if !ok {
		return false, errnoError(unix.ENODEV)
	}
	l, ours := info.Context.(Link)
	changed := false
	if change&linux.IFF_PROMISC != 0 && ours {
		on := flags&linux.IFF_PROMISC != 0
		changed = l.Promiscuous() != on
		l.SetPromiscuous(on)
	}
	up := flags&linux.IFF_UP != 0
	if change&linux.IFF_UP == 0 || up == info.Flags.Running {
		return changed, nil
	}
	if !up {
		if err := s.DisableNIC(id); err != nil {
			return changed, syserr.TranslateNetstackError(err).ToError()
		}
		// As Linux does: what led through it is gone, but for its own networks.
		s.RemoveRoutes(func(rt tcpip.Route) bool { return rt.NIC == id && rt.Gateway.Len() > 0 })
		return true, nil
	}
	if ours {
		if err := l.Up(); err != nil {
			var errno unix.Errno
			if !errors.As(err, &errno) {
				errno = unix.ENODEV
			}
			return changed, errnoError(errno)
		}
	}
	if err := s.EnableNIC(id); err != nil {
		return changed, syserr.TranslateNetstackError(err).ToError()
	}
	return true, nil
}
