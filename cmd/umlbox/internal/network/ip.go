// Package network holds the applets that configure the network and use it.
package network

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ip is one run of the applet.
type ip struct {
	e      *applet.Env
	family int  // netlink.FAMILY_…
	line   bool // -o: one line an entry
	mode   bool // the title of a link tells its mode
	args   []string
}

// IP shows and changes links, addresses, routes and neighbours, in the
// words of iproute2.
func IP(e *applet.Env, args []string) error {
	p := &ip{e: e, family: netlink.FAMILY_ALL}
	var o applet.Options
	o.InOrder = true
	o.Func('4', "", func() { p.family = netlink.FAMILY_V4 })
	o.Func('6', "", func() { p.family = netlink.FAMILY_V6 })
	o.Bool(&p.line, 'o', "oneline")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) == 0 {
		return applet.Usagef("missing object")
	}
	object := operands[0]
	p.args = operands[1:]
	objects := []struct {
		name string
		run  func(verb string) error
	}{
		{"address", p.address}, {"link", p.link}, {"route", p.route}, {"neighbour", p.neighbour},
	}
	for _, ob := range objects {
		if strings.HasPrefix(ob.name, object) || object == "neigh" && ob.name == "neighbour" {
			verb := "show"
			if len(p.args) > 0 && !slices.Contains([]string{"dev", "up", "to", "via", "scope"}, p.args[0]) {
				verb, p.args = p.args[0], p.args[1:]
			}
			err := ob.run(verb)
			if _, refused := err.(*kernelAnswer); refused {
				e.Warn(err)
				return applet.Status(2) // as iproute2 tells it from our own errors
			}
			return err
		}
	}
	return applet.Usagef("unknown object %s", applet.Quote(object))
}

// value takes the argument of a keyword.
func (p *ip) value(keyword string) (string, error) {
	if len(p.args) == 0 {
		return "", applet.Usagef("%s needs an argument", applet.Quote(keyword))
	}
	v := p.args[0]
	p.args = p.args[1:]
	return v, nil
}

// is says whether verb is short for one of the names.
func is(verb string, names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, verb) })
}

// device finds a link by name, for messages that name it.
func device(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("cannot find device %q", name)
	}
	return l, nil
}

// selected takes [dev] NAME and up from the command line.
func (p *ip) selected() (links []netlink.Link, err error) {
	name, up := "", false
	for len(p.args) > 0 {
		switch word := p.args[0]; word {
		case "up":
			up, p.args = true, p.args[1:]
		case "dev":
			p.args = p.args[1:]
			if name, err = p.value(word); err != nil {
				return nil, err
			}
		default:
			name, p.args = word, p.args[1:]
		}
	}
	if name != "" {
		l, err := device(name)
		if err != nil {
			return nil, err
		}
		links = []netlink.Link{l}
	} else if links, err = netlink.LinkList(); err != nil {
		return nil, fmt.Errorf("cannot list links: %s", applet.Reason(err))
	}
	if up {
		links = slices.DeleteFunc(links, func(l netlink.Link) bool { return l.Attrs().RawFlags&unix.IFF_UP == 0 })
	}
	return links, nil
}

// flagNames in the order iproute2 shows them.
var flagNames = [...]struct {
	bit  uint32
	name string
}{
	{unix.IFF_LOOPBACK, "LOOPBACK"}, {unix.IFF_BROADCAST, "BROADCAST"}, {unix.IFF_POINTOPOINT, "POINTOPOINT"},
	{unix.IFF_MULTICAST, "MULTICAST"}, {unix.IFF_NOARP, "NOARP"}, {unix.IFF_ALLMULTI, "ALLMULTI"},
	{unix.IFF_PROMISC, "PROMISC"}, {unix.IFF_MASTER, "MASTER"}, {unix.IFF_SLAVE, "SLAVE"},
	{unix.IFF_DEBUG, "DEBUG"}, {unix.IFF_DYNAMIC, "DYNAMIC"}, {unix.IFF_AUTOMEDIA, "AUTOMEDIA"},
	{unix.IFF_PORTSEL, "PORTSEL"}, {unix.IFF_NOTRAILERS, "NOTRAILERS"}, {unix.IFF_UP, "UP"},
	{unix.IFF_LOWER_UP, "LOWER_UP"}, {unix.IFF_DORMANT, "DORMANT"}, {unix.IFF_ECHO, "ECHO"},
}

// title is the first line of a link, without its number's newline.
func (p *ip) title(l netlink.Link) string {
	a := l.Attrs()
	var flags []string
	// A link that is up but has no carrier says so first.
	if a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING == 0 {
		flags = append(flags, "NO-CARRIER")
	}
	for _, f := range flagNames {
		if a.RawFlags&f.bit != 0 {
			flags = append(flags, f.name)
		}
	}
	name := a.Name
	if a.ParentIndex != 0 {
		if peer, err := netlink.LinkByIndex(a.ParentIndex); err == nil && a.NetNsID < 0 {
			name += "@" + peer.Attrs().Name
		} else {
			name += "@if" + strconv.Itoa(a.ParentIndex)
		}
	}
	s := fmt.Sprintf("%d: %s: <%s> mtu %d", a.Index, name, strings.Join(flags, ","), a.MTU)
	if q := qdisc(a.Index); q != "" {
		s += " qdisc " + q
	}
	if a.MasterIndex != 0 {
		if m, err := netlink.LinkByIndex(a.MasterIndex); err == nil {
			s += " master " + m.Attrs().Name
		}
	}
	s += " state " + strings.ToUpper(a.OperState.String()) + " "
	if p.mode {
		s += "mode DEFAULT "
	}
	s += "group default"
	if a.TxQLen > 0 {
		s += " qlen " + strconv.Itoa(a.TxQLen)
	}
	return s
}

func qdisc(index int) string {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}
	if q, err := netlink.QdiscList(l); err == nil {
		for _, d := range q {
			if d.Attrs().Parent == netlink.HANDLE_ROOT {
				return d.Type()
			}
		}
	}
	if l.Attrs().RawFlags&unix.IFF_UP == 0 {
		return "noop"
	}
	return "noqueue"
}

func (p *ip) separator() string {
	if p.line {
		return `\   `
	}
	return "\n   "
}

func hardware(l netlink.Link) string {
	a := l.Attrs()
	kind := a.EncapType
	if kind == "" {
		kind = "none"
	}
	if len(a.HardwareAddr) == 0 {
		if kind == "loopback" || kind == "ether" {
			zero := net.HardwareAddr(make([]byte, 6)).String()
			return "link/" + kind + " " + zero + " brd " + broadcast(kind)
		}
		return "link/" + kind
	}
	return "link/" + kind + " " + a.HardwareAddr.String() + " brd " + broadcast(kind)
}

func broadcast(kind string) string {
	if kind == "loopback" {
		return "00:00:00:00:00:00"
	}
	return "ff:ff:ff:ff:ff:ff"
}

func (p *ip) link(verb string) error {
	p.mode = true
	switch {
	case is(verb, "show", "list"):
		links, err := p.selected()
		if err != nil {
			return err
		}
		for _, l := range links {
			p.e.Stdout.WriteString(p.title(l) + p.separator() + " " + hardware(l) + "\n")
		}
		return nil
	case is(verb, "set"):
		return p.setLink()
	case is(verb, "add"):
		return p.addLink()
	case is(verb, "delete"):
		links, err := p.selected()
		if err != nil || len(links) != 1 {
			if err == nil {
				err = applet.Usagef("one device is needed")
			}
			return err
		}
		return answer(netlink.LinkDel(links[0]))
	}
	return applet.Usagef("unknown command %s", applet.Quote(verb))
}

// answer words what the kernel said.
func answer(err error) error {
	if err != nil {
		return &kernelAnswer{err}
	}
	return nil
}

// kernelAnswer is a request that the kernel refused.
type kernelAnswer struct{ err error }

func (k *kernelAnswer) Error() string { return "RTNETLINK answers: " + applet.Reason(k.err) }

func (p *ip) setLink() error {
	var l netlink.Link
	var steps []func() error
	for len(p.args) > 0 {
		word := p.args[0]
		p.args = p.args[1:]
		switch word {
		case "up":
			steps = append(steps, func() error { return netlink.LinkSetUp(l) })
			continue
		case "down":
			steps = append(steps, func() error { return netlink.LinkSetDown(l) })
			continue
		case "nomaster":
			steps = append(steps, func() error { return netlink.LinkSetNoMaster(l) })
			continue
		case "dev", "mtu", "address", "name", "txqueuelen", "master", "promisc", "arp", "multicast", "netns":
		default:
			if l != nil {
				return applet.Usagef("unexpected %s", applet.Quote(word))
			}
			p.args = append([]string{word}, p.args...)
			word = "dev"
		}
		v, err := p.value(word)
		if err != nil {
			return err
		}
		step, err := linkStep(&l, word, v)
		if err != nil {
			return err
		}
		if step != nil {
			steps = append(steps, step)
		}
	}
	if l == nil {
		return applet.Usagef("a device is needed")
	}
	for _, s := range steps {
		if err := s(); err != nil {
			return answer(err)
		}
	}
	return nil
}

// linkStep is one change to the link that l will be.
func linkStep(l *netlink.Link, word, v string) (func() error, error) {
	onOff := func(on, off func(netlink.Link) error) (func() error, error) {
		switch v {
		case "on":
			return func() error { return on(*l) }, nil
		case "off":
			return func() error { return off(*l) }, nil
		}
		return nil, applet.Usagef("%s is on or off", word)
	}
	switch word {
	case "dev":
		d, err := device(v)
		*l = d
		return nil, err
	case "mtu", "txqueuelen":
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, applet.Usagef("invalid number %s", applet.Quote(v))
		}
		if word == "mtu" {
			return func() error { return netlink.LinkSetMTU(*l, n) }, nil
		}
		return func() error { return netlink.LinkSetTxQLen(*l, n) }, nil
	case "address":
		hw, err := net.ParseMAC(v)
		if err != nil {
			return nil, applet.Usagef("invalid address %s", applet.Quote(v))
		}
		return func() error { return netlink.LinkSetHardwareAddr(*l, hw) }, nil
	case "name":
		return func() error { return netlink.LinkSetName(*l, v) }, nil
	case "master":
		m, err := device(v)
		return func() error { return netlink.LinkSetMaster(*l, m) }, err
	case "netns":
		pid, err := strconv.Atoi(v)
		if err != nil {
			return nil, applet.Usagef("a network namespace is given by a process ID")
		}
		return func() error { return netlink.LinkSetNsPid(*l, pid) }, nil
	case "promisc":
		return onOff(netlink.SetPromiscOn, netlink.SetPromiscOff)
	case "arp":
		return onOff(netlink.LinkSetARPOn, netlink.LinkSetARPOff)
	}
	return onOff(netlink.LinkSetMulticastOn, netlink.LinkSetMulticastOff)
}

func (p *ip) addLink() error {
	attrs := netlink.NewLinkAttrs()
	kind, peer := "", ""
	for len(p.args) > 0 {
		word := p.args[0]
		p.args = p.args[1:]
		var err error
		switch word {
		case "type":
			if kind, err = p.value(word); err != nil {
				return err
			}
		case "peer":
			if len(p.args) > 0 && p.args[0] == "name" {
				p.args = p.args[1:]
			}
			if peer, err = p.value(word); err != nil {
				return err
			}
		case "dev", "name":
			if attrs.Name, err = p.value(word); err != nil {
				return err
			}
		default:
			if attrs.Name != "" {
				return applet.Usagef("unexpected %s", applet.Quote(word))
			}
			attrs.Name = word
		}
	}
	var l netlink.Link
	switch kind {
	case "dummy":
		l = &netlink.Dummy{LinkAttrs: attrs}
	case "bridge":
		l = &netlink.Bridge{LinkAttrs: attrs}
	case "veth":
		if peer == "" {
			peer = attrs.Name + "-peer"
		}
		l = &netlink.Veth{LinkAttrs: attrs, PeerName: peer}
	case "ifb":
		l = &netlink.Ifb{LinkAttrs: attrs}
	default:
		return applet.Usagef("links of type %s are not made here; bridge, dummy, ifb and veth are", applet.Quote(kind))
	}
	return answer(netlink.LinkAdd(l))
}
