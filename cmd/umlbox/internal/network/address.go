package network

import (
	"fmt"
	"math"
	"net"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (p *ip) address(verb string) error {
	switch {
	case is(verb, "show", "list"):
		links, err := p.selected()
		if err != nil {
			return err
		}
		for _, l := range links {
			if err := p.showAddresses(l); err != nil {
				return err
			}
		}
		return nil
	case is(verb, "add"), is(verb, "replace"), is(verb, "delete"):
		l, a, err := p.parseAddress()
		if err != nil {
			return err
		}
		switch {
		case is(verb, "add"):
			err = netlink.AddrAdd(l, a)
		case is(verb, "replace"):
			err = netlink.AddrReplace(l, a)
		default:
			err = netlink.AddrDel(l, a)
		}
		return answer(err)
	case is(verb, "flush"):
		links, err := p.selected()
		if err != nil {
			return err
		}
		for _, l := range links {
			all, err := netlink.AddrList(l, p.family)
			if err != nil {
				return answer(err)
			}
			for i := range all {
				if err := netlink.AddrDel(l, &all[i]); err != nil {
					return answer(err)
				}
			}
		}
		return nil
	}
	return applet.Usagef("unknown command %s", applet.Quote(verb))
}

func (p *ip) parseAddress() (l netlink.Link, a *netlink.Addr, err error) {
	scoped := false
	for len(p.args) > 0 {
		word := p.args[0]
		p.args = p.args[1:]
		switch word {
		case "dev":
			name, err := p.value(word)
			if err != nil {
				return nil, nil, err
			}
			if l, err = device(name); err != nil {
				return nil, nil, err
			}
		case "label", "broadcast", "brd", "scope", "peer":
			v, err := p.value(word)
			if err != nil {
				return nil, nil, err
			}
			if a == nil {
				return nil, nil, applet.Usagef("%s comes behind the address", applet.Quote(word))
			}
			if err := addressOption(a, word, v); err != nil {
				return nil, nil, err
			}
			scoped = scoped || word == "scope"
		default:
			if a != nil {
				return nil, nil, applet.Usagef("unexpected %s", applet.Quote(word))
			}
			if a, err = parseCIDR(word); err != nil {
				return nil, nil, err
			}
		}
	}
	if l == nil || a == nil {
		return nil, nil, applet.Usagef("an address and a device are needed")
	}
	if a.IP.To4() != nil && a.Broadcast == nil {
		a.Broadcast = net.IPv4zero // none: the library would make one up
	}
	if !scoped && a.IP.To4() != nil && a.IP.IsLoopback() {
		a.Scope = int(netlink.SCOPE_HOST)
	}
	return l, a, nil
}

func parseCIDR(s string) (*netlink.Addr, error) {
	full := s
	if !strings.Contains(s, "/") {
		full += "/32"
		if strings.Contains(s, ":") {
			full = s + "/128"
		}
	}
	a, err := netlink.ParseAddr(full)
	if err != nil {
		return nil, applet.Usagef("invalid address %s", applet.Quote(s))
	}
	return a, nil
}

func addressOption(a *netlink.Addr, word, v string) error {
	switch word {
	case "label":
		a.Label = v
	case "scope":
		n, ok := scopes[v]
		if !ok {
			return applet.Usagef("invalid scope %s", applet.Quote(v))
		}
		a.Scope = int(n)
	case "peer":
		peer, err := parseCIDR(v)
		if err != nil {
			return err
		}
		a.Peer = peer.IPNet
	default:
		if v == "+" {
			a.Broadcast = lastOf(a.IPNet)
			return nil
		}
		if a.Broadcast = net.ParseIP(v); a.Broadcast == nil {
			return applet.Usagef("invalid address %s", applet.Quote(v))
		}
	}
	return nil
}

// lastOf is the broadcast address of a network.
func lastOf(n *net.IPNet) net.IP {
	ip := n.IP.To4()
	if ip == nil {
		return nil
	}
	out := make(net.IP, len(ip))
	for i := range ip {
		out[i] = ip[i] | ^n.Mask[len(n.Mask)-4+i]
	}
	return out
}

var scopes = map[string]netlink.Scope{"global": 0, "universe": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}

func scopeName(n int) string {
	if n == 0 {
		return "global"
	}
	for name, v := range scopes {
		if int(v) == n {
			return name
		}
	}
	return fmt.Sprint(n)
}

func (p *ip) showAddresses(l netlink.Link) error {
	all, err := netlink.AddrList(l, p.family)
	if err != nil {
		return answer(err)
	}
	w := p.e.Stdout
	if !p.line {
		if p.family != netlink.FAMILY_ALL && len(all) == 0 {
			return nil
		}
		w.WriteString(p.title(l) + "\n")
		if p.family == netlink.FAMILY_ALL {
			w.WriteString("    " + hardware(l) + "\n")
		}
	}
	for _, a := range all {
		kind := "inet"
		if a.IP.To4() == nil {
			kind = "inet6"
		}
		ones, _ := a.Mask.Size()
		text := fmt.Sprintf("%s %s/%d", kind, a.IP, ones)
		if a.Peer != nil && !a.Peer.IP.Equal(a.IP) {
			text = fmt.Sprintf("%s %s peer %s", kind, a.IP, a.Peer)
		}
		if a.Broadcast != nil && !a.Broadcast.IsUnspecified() {
			text += " brd " + a.Broadcast.String()
		}
		text += " scope " + scopeName(a.Scope) + " "
		for _, f := range []struct {
			bit  int
			name string
		}{{unix.IFA_F_TENTATIVE, "tentative"}, {unix.IFA_F_DEPRECATED, "deprecated"}, {unix.IFA_F_SECONDARY, "secondary"}} {
			if a.Flags&f.bit != 0 {
				text += f.name + " "
			}
		}
		if a.Flags&unix.IFA_F_PERMANENT == 0 {
			text += "dynamic "
		}
		text += a.Label
		life := "valid_lft " + lifetime(a.ValidLft) + " preferred_lft " + lifetime(a.PreferedLft)
		if p.line {
			fmt.Fprintf(w, "%d: %s    %s\\       %s\n", l.Attrs().Index, l.Attrs().Name, text, life)
		} else {
			fmt.Fprintf(w, "    %s\n       %s\n", text, life)
		}
	}
	return nil
}

func lifetime(sec int) string {
	if sec == 0 || sec < 0 || int64(sec) >= math.MaxUint32 {
		return "forever"
	}
	return fmt.Sprintf("%dsec", sec)
}
