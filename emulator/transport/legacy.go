package transport

import (
	"fmt"
	"strings"
)

// legacy are the fields of each of the older transports of `ethN=T,…`, in their order, by
// the option of `vecN:` that means the same; "" is one without a meaning here, which has to
// be empty.
var legacy = map[string]struct {
	transport string
	fields    []string
}{
	"tuntap": {"tap", []string{"ifname", "mac", ""}},
	"daemon": {"daemon", []string{"mac", "unix", "ctl", ""}},
	"mcast":  {"mcast", []string{"mac", "group", "port", "ttl"}},
	"ucast":  {"ucast", []string{"mac", "dst", "srcport", "dstport"}},
}

// gone are older transports that there are not, and what to write instead.
var gone = map[string]string{
	"ethertap": "ethertap is obsolete: use vecN:transport=tap",
	"slip":     "slip is obsolete: use vecN:transport=tap",
	"slirp":    "slirp is not in this version",
	"vde":      "vde is not in this version; vde_switch -compat takes ethN=daemon",
	"pcap":     "pcap is not in this version; vecN:transport=raw with bpffile= receives so",
}

// ignored says what becomes of a field without a meaning here.
var ignored = map[string]string{
	"tuntap": "the address of the host's side is set on the host: ip addr add %s dev IFACE",
	"daemon": "the switch says where its data socket is, not %s",
}

// Translate makes of what stands behind `ethN=` what would stand behind `vecN:`. The note
// is about a field that has no effect, or empty.
func Translate(text string) (vec, note string, err error) {
	if len(text) > maxText {
		return "", "", fmt.Errorf("%.40s…: longer than %d bytes", text, maxText)
	}
	parts := strings.Split(text, ",")
	kind := parts[0]
	if why := gone[kind]; why != "" {
		return "", "", fmt.Errorf("%s", why)
	}
	l, ok := legacy[kind]
	if !ok {
		return "", "", fmt.Errorf("%s: not one of tuntap, daemon, mcast, ucast", kind)
	}
	if parts = parts[1:]; len(parts) > len(l.fields) {
		return "", "", fmt.Errorf("%s has at most %d fields, not %d", kind, len(l.fields), len(parts))
	}
	words := []string{"transport=" + l.transport}
	for i, value := range parts {
		switch name := l.fields[i]; {
		case value == "":
		case name == "":
			note = fmt.Sprintf(ignored[kind], value)
		case name == "unix":
			if value != "unix" {
				return "", "", fmt.Errorf("daemon's sockets are of the kind unix, not %s", value)
			}
		case strings.Contains(value, "="):
			return "", "", fmt.Errorf("%s: %q has a \"=\"", kind, value)
		default:
			words = append(words, name+"="+value)
		}
	}
	return strings.Join(words, ","), note, nil
}
