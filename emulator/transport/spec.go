package transport

import (
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Spec is what `transport=T,option=value,…` says. Its zero value is no device.
type Spec struct {
	// Text is the specification as it was given.
	Text string
	// Transport is T.
	Transport string
	// MAC is mac=, nil when it was not given. MTU is mtu=, in bytes.
	MAC net.HardwareAddr
	MTU int
	// Depth is how many packets one system call moves: depth=, or 1 after vec=0.
	Depth int
	// Headroom is headroom=: how many bytes are kept free before a packet.
	Headroom int
	// GRO is gro=: whether the two sides leave each other checksums and segmentation.
	GRO bool

	// words are the options that belong to the transport.
	words map[string]string
	// err is the first thing that is wrong with a number.
	err error
}

// The defaults of the options that all transports have, and their bounds. The greatest
// depth is what one system call takes (UIO_MAXIOV).
const (
	DefaultMTU      = 1500
	minMTU          = 68
	maxMTU          = 65535
	defaultDepth    = 64
	maxDepth        = 1024
	defaultHeadroom = 32
	maxHeadroom     = 1024
)

// common are the options that all transports have.
var common = []string{"transport", "depth", "mac", "gro", "mtu", "headroom", "vec"}

// options are the transport's own options, by transport.
var options = map[string][]string{
	"tap":    {"ifname"},
	"hybrid": {"ifname", "bpffile"},
	"raw":    {"ifname", "bpffile"},
	"gre":    {"src", "dst", "rx_key", "tx_key", "sequence", "pin_sequence", "v6"},
	"l2tpv3": {"src", "dst", "srcport", "dstport", "udp", "rx_session", "tx_session", "rx_cookie", "tx_cookie",
		"cookie64", "counter", "pin_counter", "v6"},
	"bess":   {"src", "dst"},
	"fd":     {"fd"},
	"mcast":  {"group", "port", "ttl"},
	"ucast":  {"src", "dst", "srcport", "dstport", "v6"},
	"daemon": {"ctl"},
}

// Transports are the names of all transports.
func Transports() []string { return slices.Sorted(maps.Keys(options)) }

// maxText bounds a specification, in bytes.
const maxText = 4096

// Parse reads a specification. What it refuses it names, with what would be right.
func Parse(text string) (Spec, error) {
	s := Spec{Text: text, words: map[string]string{}}
	if len(text) > maxText {
		return s, fmt.Errorf("vector_setup - Couldn't parse '%.40s…': longer than %d bytes", text, maxText)
	}
	var names []string
	for _, word := range strings.Split(text, ",") {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" || value == "" {
			return s, fmt.Errorf("vector_setup - Couldn't parse '%s': %q is not of the form option=value", text, word)
		}
		// The HOWTO has both spellings.
		switch name {
		case "src_port":
			name = "srcport"
		case "dst_port":
			name = "dstport"
		}
		if _, twice := s.words[name]; twice {
			return s, fmt.Errorf("%s is given twice", name)
		}
		s.words[name] = value
		names = append(names, name)
	}
	s.Transport = s.words["transport"]
	if s.Transport == "" {
		return s, fmt.Errorf("no transport=: one of %s", strings.Join(Transports(), ", "))
	}
	own, ok := options[s.Transport]
	if !ok {
		return s, fmt.Errorf("transport=%s: not one of %s", s.Transport, strings.Join(Transports(), ", "))
	}
	for _, name := range names {
		if !slices.Contains(common, name) && !slices.Contains(own, name) {
			if name == "bpfflash" && slices.Contains(own, "bpffile") {
				return s, fmt.Errorf("bpfflash: filters are loaded by bpffile= alone, not from inside the guest")
			}
			return s, fmt.Errorf("%s is no option of transport=%s: %s", name, s.Transport, strings.Join(append(slices.Clone(common[1:]), own...), ", "))
		}
	}
	s.MTU = int(s.number("mtu", DefaultMTU, minMTU, maxMTU))
	s.Depth = int(s.number("depth", defaultDepth, 1, maxDepth))
	s.Headroom = int(s.number("headroom", defaultHeadroom, 0, maxHeadroom))
	s.GRO = s.flag("gro")
	if vec := s.number("vec", 1, 0, math.MaxInt32); vec == 0 {
		s.Depth = 1
	}
	if mac := s.words["mac"]; mac != "" {
		var err error
		if s.MAC, err = parseMAC(mac); err != nil {
			return s, err
		}
	}
	if s.err != nil {
		return s, s.err
	}
	return s, check[s.Transport](&s)
}

// check looks at the options of a transport before anything is opened.
var check = map[string]func(*Spec) error{
	"tap":    func(s *Spec) error { return s.needs("ifname") },
	"hybrid": func(s *Spec) error { return s.needs("ifname") },
	"raw":    func(s *Spec) error { return s.needs("ifname") },
	"gre":    func(s *Spec) error { _, err := s.gre(); return err },
	"l2tpv3": func(s *Spec) error { _, err := s.l2tpv3(); return err },
	"bess":   func(s *Spec) error { return s.needs("dst") },
	"fd":     func(s *Spec) error { _, err := s.fd(); return err },
	"mcast":  func(s *Spec) error { _, _, err := s.mcast(); return err },
	"ucast":  func(s *Spec) error { _, _, err := s.ucast(); return err },
	"daemon": func(*Spec) error { return nil },
}

// parseMAC reads an address that an interface can have.
func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	switch {
	case err != nil || len(mac) != 6 || strings.Count(text, ":") != 5:
		return nil, fmt.Errorf("mac=%s: not of the form XX:XX:XX:XX:XX:XX", text)
	case mac[0]&1 != 0:
		return nil, fmt.Errorf("mac=%s: the address of a group (the last bit of its first byte is set)", text)
	case slices.Equal(mac, make([]byte, 6)):
		return nil, fmt.Errorf("mac=%s: no address", text)
	}
	return mac, nil
}

// needs says which of the named options are missing.
func (s *Spec) needs(names ...string) error {
	for _, name := range names {
		if s.words[name] == "" {
			return fmt.Errorf("transport=%s: %s= is missing", s.Transport, name)
		}
	}
	return nil
}

// both refuses one option of a pair without the other.
func (s *Spec) both(a, b string) error {
	if (s.words[a] == "") != (s.words[b] == "") {
		return fmt.Errorf("transport=%s: of %s= and %s= one is given: both or none", s.Transport, a, b)
	}
	return nil
}

// has says whether the option was given.
func (s *Spec) has(name string) bool { return s.words[name] != "" }

// number is the value of an option, decimal, or hexadecimal behind 0x. What is wrong is
// kept for Parse.
func (s *Spec) number(name string, otherwise, low, high uint64) uint64 {
	text := s.words[name]
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil || n < low || n > high {
		if s.err == nil {
			s.err = fmt.Errorf("%s=%s: not a number from %d to %d", name, text, low, high)
		}
		return otherwise
	}
	return n
}

// flag is the value of an option that is 0 or 1.
func (s *Spec) flag(name string) bool { return s.number(name, 0, 0, 1) == 1 }

// Identity is what no two devices may have in common: nothing, or who the device is to its
// other side.
func (s *Spec) Identity() string {
	switch s.Transport {
	case "gre":
		return fmt.Sprintf("gre src=%s,dst=%s,rx_key=%s", s.words["src"], s.words["dst"], s.words["rx_key"])
	case "l2tpv3":
		return fmt.Sprintf("l2tpv3 src=%s,dst=%s,srcport=%s,rx_session=%s", s.words["src"], s.words["dst"], s.words["srcport"], s.words["rx_session"])
	case "tap", "hybrid":
		return "the tap ifname=" + s.words["ifname"]
	case "bess":
		if s.has("src") {
			return "bess src=" + s.words["src"]
		}
	}
	return ""
}
