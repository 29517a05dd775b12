package transport

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// headerOf is the header of a specification.
func headerOf(t testing.TB, text string) header {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var h header
	if s.Transport == "gre" {
		h, err = s.gre()
	} else {
		h, err = s.l2tpv3()
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ip is an IPv4 header as raw sockets give it before a packet.
const ip = "4500003000000000402f0000" + "7f000001" + "7f000002"

// TestHeaders holds the headers of tunnels byte for byte, as RFC 2890 and RFC 3931 have
// them: what the first three frames carry, and what is taken and what not.
func TestHeaders(t *testing.T) {
	for _, test := range []struct {
		text string
		sent []string
		// taken has what is ours, refused what is not.
		taken   string
		refused []string
	}{
		{"transport=gre,dst=h", []string{"00006558", "00006558"}, ip + "00006558",
			[]string{ip + "20006558", ip + "80006558", ip + "40006558", ip + "00000800", ip + "00016558", "46" + ip[2:] + "00006558", ip, ip[:20], ""}},
		{"transport=gre,dst=h,rx_key=5,tx_key=6,sequence=1", []string{"3000655800000006" + "00000001", "3000655800000006" + "00000002"},
			ip + "300065580000000500000009", []string{ip + "300065580000000600000009", ip + "2000655800000005", ip + "1000655800000005"}},
		{"transport=gre,dst=h,sequence=1,pin_sequence=1", []string{"10006558" + "00000000", "10006558" + "00000000"}, ip + "1000655800000007", []string{ip + "1000655800"}},
		{"transport=l2tpv3,udp=1,dst=h,srcport=1,dstport=2,rx_session=0x11,tx_session=0x22,rx_cookie=0x33,tx_cookie=0x44,cookie64=1,counter=1",
			[]string{"00030000" + "00000022" + "0000000000000044" + "00000001", "00030000" + "00000022" + "0000000000000044" + "00000002"},
			"00030000" + "00000011" + "0000000000000033" + "00000000",
			[]string{"00020000" + "00000011" + "0000000000000033" + "00000000", "00030000" + "00000022" + "0000000000000033" + "00000000",
				"00030000" + "00000011" + "0000000000000034" + "00000000", "00030000" + "00000011" + "0000000000000033" + "000000"}},
		{"transport=l2tpv3,dst=h,rx_session=1,tx_session=2,rx_cookie=3,tx_cookie=4,counter=1,pin_counter=1",
			[]string{"00000002" + "00000004" + "00000000", "00000002" + "00000004" + "00000000"}, ip + "00000001" + "00000003" + "ffffffff",
			[]string{ip + "00000002" + "00000003" + "ffffffff", ip + "00000001" + "00000004" + "ffffffff", "00000001" + "00000003" + "ffffffff"}},
	} {
		h := headerOf(t, test.text)
		for i, want := range test.sent {
			b := make([]byte, h.size())
			h.put(b, &netdev.Offload{})
			if got := hex.EncodeToString(b); got != want {
				t.Errorf("%s: frame %d has the header %s; want %s", test.text, i, got, want)
			}
		}
		take := func(text string) bool {
			b, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			_, ok := h.take(b)
			return ok
		}
		if !take(test.taken) {
			t.Errorf("%s: refuses %s", test.text, test.taken)
		}
		if h.room() != len(test.taken)/2 {
			t.Errorf("%s: looks at %d bytes; want %d", test.text, h.room(), len(test.taken)/2)
		}
		for _, text := range test.refused {
			if take(text) {
				t.Errorf("%s: takes %s", test.text, text)
			}
		}
	}
}

// FuzzHeaders holds that no datagram is looked at outside of it, and that what a header
// puts is taken by one of the other side.
func FuzzHeaders(f *testing.F) {
	f.Add([]byte{0x45, 19: 1, 20: 0x30, 22: 0x65, 23: 0x58, 40: 0}, true, true, uint32(5), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, one, two bool, number uint32, kind uint8) {
		g := &gre{v6: kind&1 != 0, key: one, sequence: two, rxKey: number, txKey: number, pinned: kind&2 != 0}
		l := &l2tpv3{v6: kind&1 != 0, udp: kind&2 != 0, counter: one, pinned: two, cookie: int(kind%3) * 4, rxSession: number, txSession: number,
			rxCookie: uint64(number), txCookie: uint64(number)}
		for _, h := range []header{g, l, vnet{}, plain{}} {
			h.take(b)
			h.take(b[:min(len(b), h.room())])
			sent := make([]byte, h.size())
			h.put(sent, &netdev.Offload{NeedsChecksum: one, ChecksumStart: uint16(number)})
			if h.room() == h.size()+ipHeader {
				sent = append(append([]byte{0x45}, make([]byte, ipHeader-1)...), sent...)
			}
			if _, ok := h.take(sent); !ok {
				t.Errorf("%T refuses what it put: %x", h, sent)
			}
		}
	})
}

// TestFilter holds which files are filters.
func TestFilter(t *testing.T) {
	if f, err := parseFilter(bytes.Repeat([]byte{6, 0, 1, 2, 4, 0, 0, 0}, 3)); err != nil || len(f) != 3 || f[2].Code != 6 || f[2].Jt != 1 || f[2].Jf != 2 || f[2].K != 4 {
		t.Errorf("three instructions: %+v, %v", f, err)
	}
	for _, b := range [][]byte{nil, make([]byte, 7), make([]byte, 9), make([]byte, 8*4097), append([]byte("\x7fELF"), make([]byte, 60)...)} {
		if f, err := parseFilter(b); err == nil {
			t.Errorf("%d bytes are taken for %d instructions", len(b), len(f))
		}
	}
}
