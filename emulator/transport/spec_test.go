package transport

import (
	"strings"
	"testing"
)

// TestParse holds what is taken, and the words of what is refused.
func TestParse(t *testing.T) {
	for text, why := range map[string]string{
		"transport=tap,ifname=tap0,depth=128,gro=1":                                                     "",
		"transport=tap,ifname=tap0,mac=02:00:00:00:00:01,mtu=9000,vec=0,headroom=64,depth=1":            "",
		"transport=raw,ifname=p-veth0,bpffile=/f":                                                       "",
		"transport=gre,src=10.0.0.1,dst=10.0.0.2,rx_key=1,tx_key=0xffffffff,sequence=1":                 "",
		"transport=l2tpv3,udp=1,dst=h,src_port=1,dst_port=2,rx_session=1,tx_session=2":                  "",
		"transport=l2tpv3,dst=h,rx_session=1,tx_session=2,rx_cookie=1,tx_cookie=0x100000000,cookie64=1": "",
		"transport=bess,dst=/s": "",
		"transport=fd,fd=3":     "",

		"":                                                                 `Couldn't parse '': "" is not of the form`,
		"transport":                                                        "Couldn't parse 'transport'",
		"transport=tap,,ifname=x":                                          "Couldn't parse",
		"transport=tap,ifname=":                                            "Couldn't parse",
		"ifname=tap0":                                                      "no transport=: one of bess, daemon, fd",
		"transport=carrier-pigeon":                                         "transport=carrier-pigeon: not one of",
		"transport=tap":                                                    "ifname= is missing",
		"transport=tap,ifname=a,ifname=b":                                  "ifname is given twice",
		"transport=tap,ifname=a,dst=x":                                     "dst is no option of transport=tap: depth, mac,",
		"transport=tap,ifname=a,bpffile=x":                                 "bpffile is no option of transport=tap",
		"transport=raw,ifname=a,bpfflash=1":                                "bpfflash: filters are loaded by bpffile= alone",
		"transport=tap,ifname=a,depth=0":                                   "depth=0: not a number from 1 to 1024",
		"transport=tap,ifname=a,depth=many":                                "depth=many: not a number",
		"transport=tap,ifname=a,mtu=67":                                    "mtu=67: not a number from 68 to 65535",
		"transport=tap,ifname=a,gro=2":                                     "gro=2: not a number from 0 to 1",
		"transport=tap,ifname=a,headroom=1025":                             "headroom=1025: not a number",
		"transport=tap,ifname=a,mac=01:00:00:00:00:01":                     "the address of a group",
		"transport=tap,ifname=a,mac=00:00:00:00:00:00":                     "no address",
		"transport=tap,ifname=a,mac=2:0:0:0:0:1":                           "not of the form XX:XX",
		"transport=gre,src=a":                                              "dst= is missing",
		"transport=gre,dst=a,rx_key=1":                                     "of rx_key= and tx_key= one is given",
		"transport=gre,dst=a,rx_key=1,tx_key=0x100000000":                  "tx_key=0x100000000: not a number",
		"transport=l2tpv3,dst=h,rx_session=1":                              "tx_session= is missing",
		"transport=l2tpv3,dst=h,rx_session=1,tx_session=2,tx_cookie=1":     "of rx_cookie= and tx_cookie= one is given",
		"transport=l2tpv3,udp=1,dst=h,srcport=1,rx_session=1,tx_session=2": "dstport= is missing",
		"transport=l2tpv3,dst=h,rx_session=1,tx_session=2,rx_cookie=0x100000000,tx_cookie=1": "rx_cookie=0x100000000: not a number",
		"transport=bess,src=/s": "dst= is missing",
		"transport=fd":          "fd= is missing",
		"transport=fd,fd=-1":    "fd=-1: not a number",
		"transport=tap,ifname=" + strings.Repeat("x", 5000): "longer than",
	} {
		s, err := Parse(text)
		switch {
		case why == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case why == "" && s.Text != text:
			t.Errorf("%s: kept as %s", text, s.Text)
		case why != "" && (err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%.80s: error %v; want one line with %q", text, err, why)
		}
	}
	s, err := Parse("transport=tap,ifname=t,vec=0,depth=99")
	if err != nil || s.Depth != 1 {
		t.Errorf("vec=0 gives the depth %d, %v; want 1", s.Depth, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("transport=l2tpv3,udp=1,dst=h,src_port=1,dst_port=2,rx_session=1,tx_session=2,mac=02:00:00:00:00:01")
	f.Add("transport=gre,dst=a,rx_key=0x1,tx_key=0b1,v6=1,=,a=")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") && !strings.Contains(text, "\n") {
				t.Errorf("%q: error of several lines: %v", text, err)
			}
			return
		}
		if s.Depth < 1 || s.Depth > maxDepth || s.MTU < minMTU || s.MTU > maxMTU {
			t.Errorf("%q: %+v", text, s)
		}
		if again, err := Parse(s.Text); err != nil || again.Transport != s.Transport {
			t.Errorf("%q is not taken again: %v", text, err)
		}
		s.Identity()
	})
}

// TestTranslate holds what the older words mean, and what is refused.
func TestTranslate(t *testing.T) {
	for text, want := range map[string]string{
		"tuntap,tap0": "transport=tap,ifname=tap0",
		"tuntap,tap0,02:00:00:00:00:01,192.168.0.254": "transport=tap,ifname=tap0,mac=02:00:00:00:00:01",
		"daemon":                   "transport=daemon",
		"daemon,,unix,/run/switch": "transport=daemon,ctl=/run/switch",
		"daemon,02:00:00:00:00:01,unix,/run/switch,/d": "transport=daemon,mac=02:00:00:00:00:01,ctl=/run/switch",
		"mcast": "transport=mcast",
		"mcast,02:00:00:00:00:01,239.192.168.2,1103,5": "transport=mcast,mac=02:00:00:00:00:01,group=239.192.168.2,port=1103,ttl=5",
		"ucast,,127.0.0.1,5000,5001":                   "transport=ucast,dst=127.0.0.1,srcport=5000,dstport=5001",
	} {
		got, note, err := Translate(text)
		if err != nil || got != want {
			t.Errorf("%s means %s, %v; want %s", text, got, err, want)
		}
		if _, err := Parse(got); err != nil {
			t.Errorf("%s: %v", got, err)
		}
		if (note != "") != (strings.HasSuffix(text, ",/d") || strings.HasSuffix(text, ".254")) {
			t.Errorf("%s: the note is %q", text, note)
		}
	}
	for text, why := range map[string]string{
		"slip,,":         "slip is obsolete",
		"ethertap,tap0":  "ethertap is obsolete",
		"slirp,,slirp":   "slirp is not in this version",
		"pigeon":         "pigeon: not one of tuntap, daemon, mcast, ucast",
		"tuntap,a,b,c,d": "tuntap has at most 3 fields, not 4",
		"daemon,,tcp,/s": "of the kind unix, not tcp",
		"tuntap,tap0=x":  `has a "="`,
	} {
		if _, _, err := Translate(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v; want %q", text, err, why)
		}
	}
	for text, why := range map[string]string{
		"transport=mcast,group=10.0.0.1": "not an IPv4 address of a group",
		"transport=mcast,ttl=256":        "ttl=256: not a number from 0 to 255",
		"transport=ucast,dst=a":          "srcport= is missing",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v; want %q", text, err, why)
		}
	}
}
