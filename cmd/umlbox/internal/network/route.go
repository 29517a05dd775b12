package network

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (p *ip) route(verb string) error {
	switch {
	case is(verb, "show", "list"):
		return p.showRoutes()
	case is(verb, "add"), is(verb, "replace"), is(verb, "delete"), is(verb, "get"):
	default:
		return applet.Usagef("unknown command %s", applet.Quote(verb))
	}
	if is(verb, "get") {
		to, err := p.value("get")
		if err != nil {
			return err
		}
		dst := net.ParseIP(to)
		if dst == nil {
			return applet.Usagef("invalid address %s", applet.Quote(to))
		}
		routes, err := netlink.RouteGet(dst)
		if err != nil {
			return answer(err)
		}
		for _, r := range routes {
			r.Dst = &net.IPNet{IP: dst, Mask: net.CIDRMask(len(dst)*8, len(dst)*8)}
			p.showRoute(r, true)
		}
		return nil
	}
	r, err := p.parseRoute()
	if err != nil {
		return err
	}
	switch {
	case is(verb, "add"):
		err = netlink.RouteAdd(r)
	case is(verb, "replace"):
		err = netlink.RouteReplace(r)
	default:
		err = netlink.RouteDel(r)
	}
	return answer(err)
}

func (p *ip) parseRoute() (*netlink.Route, error) {
	r := &netlink.Route{}
	seen := false
	v6 := p.family == netlink.FAMILY_V6
	for len(p.args) > 0 {
		word := p.args[0]
		p.args = p.args[1:]
		switch word {
		case "via", "dev", "src", "metric", "scope", "table", "mtu":
			v, err := p.value(word)
			if err != nil {
				return nil, err
			}
			if err := routeOption(r, word, v); err != nil {
				return nil, err
			}
		case "onlink":
			r.Flags |= int(netlink.FLAG_ONLINK)
		case "blackhole":
			r.Type = unix.RTN_BLACKHOLE
		case "unreachable":
			r.Type = unix.RTN_UNREACHABLE
		case "to":
		default:
			if seen {
				return nil, applet.Usagef("unexpected %s", applet.Quote(word))
			}
			seen = true
			if word == "default" {
				continue
			}
			a, err := parseCIDR(word)
			if err != nil {
				return nil, err
			}
			r.Dst = &net.IPNet{IP: a.IP.Mask(a.Mask), Mask: a.Mask}
			if !r.Dst.IP.Equal(a.IP) {
				return nil, fmt.Errorf("invalid argument: %s has bits behind its prefix", word)
			}
		}
	}
	if !seen {
		return nil, applet.Usagef("a destination is needed")
	}
	if r.Dst == nil { // the default route, of the gateway's family
		r.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		if r.Gw != nil && r.Gw.To4() == nil || r.Gw == nil && v6 {
			r.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
	}
	if r.Gw == nil && r.Scope == 0 && r.Dst.IP.To4() != nil && r.Type == 0 {
		r.Scope = netlink.SCOPE_LINK
	}
	return r, nil
}

func routeOption(r *netlink.Route, word, v string) error {
	switch word {
	case "dev":
		l, err := device(v)
		if err != nil {
			return err
		}
		r.LinkIndex = l.Attrs().Index
		return nil
	case "scope":
		s, ok := scopes[v]
		if !ok {
			return applet.Usagef("invalid scope %s", applet.Quote(v))
		}
		r.Scope = s
		return nil
	case "via", "src":
		ip := net.ParseIP(v)
		if ip == nil {
			return applet.Usagef("invalid address %s", applet.Quote(v))
		}
		if word == "via" {
			r.Gw = ip
		} else {
			r.Src = ip
		}
		return nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		if named, ok := map[string]int{"main": unix.RT_TABLE_MAIN, "local": unix.RT_TABLE_LOCAL, "default": unix.RT_TABLE_DEFAULT}[v]; ok && word == "table" {
			n, err = named, nil
		}
	}
	if err != nil {
		return applet.Usagef("invalid number %s", applet.Quote(v))
	}
	switch word {
	case "metric":
		r.Priority = n
	case "table":
		r.Table = n
	case "mtu":
		r.MTU = n
	}
	return nil
}

func (p *ip) showRoutes() error {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	mask := netlink.RT_FILTER_TABLE
	family := p.family
	if family == netlink.FAMILY_ALL {
		family = netlink.FAMILY_V4
	}
	onlyDefault := false
	for len(p.args) > 0 {
		word := p.args[0]
		p.args = p.args[1:]
		switch word {
		case "default":
			onlyDefault = true
		case "dev", "table":
			v, err := p.value(word)
			if err != nil {
				return err
			}
			if v == "all" && word == "table" {
				mask &^= netlink.RT_FILTER_TABLE
				filter.Table = unix.RT_TABLE_UNSPEC
				continue
			}
			if err := routeOption(filter, word, v); err != nil {
				return err
			}
			if word == "dev" {
				mask |= netlink.RT_FILTER_OIF
			}
		default:
			return applet.Usagef("unexpected %s", applet.Quote(word))
		}
	}
	routes, err := netlink.RouteListFiltered(family, filter, mask)
	if err != nil {
		return answer(err)
	}
	for _, r := range routes {
		if onlyDefault && !isDefault(r.Dst) {
			continue
		}
		p.showRoute(r, mask&netlink.RT_FILTER_OIF == 0)
	}
	return nil
}

func isDefault(n *net.IPNet) bool {
	if n == nil {
		return true
	}
	ones, _ := n.Mask.Size()
	return ones == 0
}

func (p *ip) showRoute(r netlink.Route, withDevice bool) {
	var b strings.Builder
	switch r.Type {
	case unix.RTN_BLACKHOLE:
		b.WriteString("blackhole ")
	case unix.RTN_UNREACHABLE:
		b.WriteString("unreachable ")
	case unix.RTN_LOCAL:
		b.WriteString("local ")
	case unix.RTN_BROADCAST:
		b.WriteString("broadcast ")
	case unix.RTN_MULTICAST:
		b.WriteString("multicast ")
	case unix.RTN_ANYCAST:
		b.WriteString("anycast ")
	}
	if isDefault(r.Dst) {
		b.WriteString("default ")
	} else if ones, bits := r.Dst.Mask.Size(); ones == bits {
		b.WriteString(r.Dst.IP.String() + " ")
	} else {
		b.WriteString(r.Dst.String() + " ")
	}
	if r.Gw != nil {
		b.WriteString("via " + r.Gw.String() + " ")
	}
	if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && withDevice {
		b.WriteString("dev " + l.Attrs().Name + " ")
	}
	if name := protocol(int(r.Protocol)); name != "boot" {
		b.WriteString("proto " + name + " ")
	}
	if r.Scope != netlink.SCOPE_UNIVERSE && r.Dst != nil {
		b.WriteString("scope " + scopeName(int(r.Scope)) + " ")
	}
	if r.Src != nil {
		b.WriteString("src " + r.Src.String() + " ")
	}
	if r.Priority != 0 {
		b.WriteString("metric " + strconv.Itoa(r.Priority) + " ")
	}
	if r.MTU != 0 {
		b.WriteString("mtu " + strconv.Itoa(r.MTU) + " ")
	}
	if r.Flags&unix.RTNH_F_LINKDOWN != 0 {
		b.WriteString("linkdown ")
	}
	if r.Flags&int(netlink.FLAG_ONLINK) != 0 {
		b.WriteString("onlink ")
	}
	if r.Dst != nil && r.Dst.IP.To4() == nil || r.Dst == nil && r.Gw != nil && r.Gw.To4() == nil {
		b.WriteString("pref medium")
	}
	p.e.Stdout.WriteString(b.String() + "\n")
}

func protocol(n int) string {
	switch n {
	case unix.RTPROT_UNSPEC:
		return "unspec"
	case unix.RTPROT_KERNEL:
		return "kernel"
	case unix.RTPROT_BOOT:
		return "boot"
	case unix.RTPROT_STATIC:
		return "static"
	case unix.RTPROT_RA:
		return "ra"
	case unix.RTPROT_DHCP:
		return "dhcp"
	}
	return strconv.Itoa(n)
}

func (p *ip) neighbour(verb string) error {
	if !is(verb, "show", "list") {
		return applet.Usagef("neighbours are only shown")
	}
	links, err := p.selected()
	if err != nil {
		return err
	}
	for _, l := range links {
		all, err := netlink.NeighList(l.Attrs().Index, p.family)
		if err != nil {
			return answer(err)
		}
		for _, n := range all {
			if n.State&unix.NUD_NOARP != 0 {
				continue
			}
			text := n.IP.String() + " dev " + l.Attrs().Name
			if len(n.HardwareAddr) > 0 {
				text += " lladdr " + n.HardwareAddr.String()
			}
			p.e.Stdout.WriteString(text + " " + neighbourState(n.State) + "\n")
		}
	}
	return nil
}

func neighbourState(state int) string {
	for _, s := range []struct {
		bit  int
		name string
	}{{unix.NUD_INCOMPLETE, "INCOMPLETE"}, {unix.NUD_REACHABLE, "REACHABLE"}, {unix.NUD_STALE, "STALE"}, {unix.NUD_DELAY, "DELAY"},
		{unix.NUD_PROBE, "PROBE"}, {unix.NUD_FAILED, "FAILED"}, {unix.NUD_PERMANENT, "PERMANENT"}} {
		if state&s.bit != 0 {
			return s.name
		}
	}
	return "NONE"
}
