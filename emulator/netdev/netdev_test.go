package netdev

import (
	"bytes"
	"encoding/binary"
	"math/rand"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// naive is the sum as RFC 1071 words it.
func naive(b []byte, initial uint16) uint16 {
	sum := uint32(initial)
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// same says whether two sums are, of which one may be 0 and the other its negative.
func same(a, b uint16) bool { return a == b || a%0xffff == b%0xffff }

func TestSum(t *testing.T) {
	r := rand.New(rand.NewSource(oracle.Seed(t)))
	for range 2000 {
		b := make([]byte, r.Intn(100))
		r.Read(b)
		if r.Intn(4) == 0 {
			for i := range b {
				b[i] = 0xff
			}
		}
		initial := uint16(r.Uint32())
		if got, want := Sum(b, initial), naive(b, initial); !same(got, want) {
			t.Fatalf("Sum(%x, %#x) = %#x; want %#x", b, initial, got, want)
		}
	}
}

// pieces cuts a frame at random.
func pieces(r *rand.Rand, b []byte, first int) [][]byte {
	p := [][]byte{b[:first]}
	for b = b[first:]; len(b) > 0; {
		n := 1 + r.Intn(len(b))
		p = append(p, b[:n])
		b = b[n:]
	}
	return append(p, make([]byte, 5)) // room that the frame does not need
}

// TestChecksums makes packets of TCP and UDP with a checksum by the naive sum, and holds
// that it is found right, that one bit makes it wrong, and that Complete makes the same.
func TestChecksums(t *testing.T) {
	r := rand.New(rand.NewSource(oracle.Seed(t)))
	for range 500 {
		v6, udp, tagged := r.Intn(2) == 0, r.Intn(2) == 0, r.Intn(4) == 0
		payload := make([]byte, r.Intn(300))
		r.Read(payload)
		head, protocol, at := 20, byte(6), 16
		if udp {
			head, protocol, at = 8, 17, 6
		}
		transport := append(make([]byte, head), payload...)
		r.Read(transport[:head])
		var ip []byte
		if v6 {
			ip = make([]byte, 40)
			r.Read(ip)
			ip[6] = protocol
			binary.BigEndian.PutUint16(ip[4:], uint16(len(transport)))
		} else {
			ip = make([]byte, 20+4*r.Intn(3))
			r.Read(ip)
			ip[0], ip[6], ip[7], ip[9] = 0x40|byte(len(ip)/4), 0x40, 0, protocol
			binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(transport)))
		}
		addresses := ip[12:20]
		if v6 {
			addresses = ip[8:40]
		}
		pseudo := naive(append(append([]byte{}, addresses...), 0, protocol, byte(len(transport)>>8), byte(len(transport))), 0)
		transport[at], transport[at+1] = 0, 0
		sum := ^naive(transport, pseudo)
		if sum == 0 {
			sum = 0xffff
		}
		eth := make([]byte, 12, 14)
		if tagged {
			eth = append(eth, 0x81, 0, 0, 5)
		}
		kind := []byte{8, 0}
		if v6 {
			kind = []byte{0x86, 0xdd}
		}
		eth = append(eth, kind...)
		build := func(sum uint16) []byte {
			binary.BigEndian.PutUint16(transport[at:], sum)
			return append(append(append(append([]byte{}, eth...), ip...), transport...), make([]byte, r.Intn(3))...)
		}
		whole := build(sum)
		headers := len(eth) + len(ip) + head
		f := Frame{Pieces: pieces(r, whole, headers), Size: len(whole)}
		if !f.Verify() {
			t.Fatalf("a right checksum is found wrong (v6 %v udp %v): %x", v6, udp, whole)
		}
		bit := len(eth) + len(ip) + r.Intn(len(transport))
		if udp {
			bit = len(eth) + len(ip) + r.Intn(4) // its length says what is summed
		}
		f.set(bit, whole[bit]^1)
		if f.Verify() {
			t.Fatalf("a wrong checksum is found right (v6 %v udp %v)", v6, udp)
		}
		partial := build(pseudo)
		partial = partial[:len(eth)+len(ip)+len(transport)]
		f = Frame{Pieces: pieces(r, partial, headers), Size: len(partial),
			Offload: Offload{NeedsChecksum: true, ChecksumStart: uint16(len(eth) + len(ip)), ChecksumOffset: uint16(at)}}
		if !f.Complete() || !bytes.Equal(bytes.Join(f.Pieces, nil)[:len(partial)], build(sum)[:len(partial)]) {
			t.Fatalf("Complete makes another checksum (v6 %v udp %v)", v6, udp)
		}
	}
}

func TestVnet(t *testing.T) {
	for _, o := range []Offload{
		{},
		{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16},
		{NeedsChecksum: true, ChecksumStart: 54, ChecksumOffset: 16, Segment: TCPv6, SegmentSize: 1440, HeaderSize: 74},
		{Segment: TCPv4, SegmentSize: 1448, HeaderSize: 66},
	} {
		var b [VnetSize]byte
		PutVnet(b[:], &o)
		if got := Vnet(b[:]); got != o {
			t.Errorf("%+v becomes %+v", o, got)
		}
	}
	if o := Vnet([]byte{2, 3, 0, 0, 0, 0, 0, 0, 0, 0}); !o.Verified || o.Segment != Unsure {
		t.Errorf("verified, cut as UDP: %+v", o)
	}
}

// FuzzFrame holds that no frame, however its offload points, is looked at outside of it.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{1, 1, 66, 0, 200, 5, 34, 0, 16, 0}, bytes.Repeat([]byte{0x45}, 80), 20)
	f.Fuzz(func(t *testing.T, head, frame []byte, cut int) {
		if len(head) < VnetSize {
			return
		}
		cut = min(max(cut, 0), len(frame))
		one := Frame{Offload: Vnet(head), Pieces: [][]byte{frame[:cut], frame[cut:]}, Size: len(frame)}
		before := bytes.Clone(frame)
		one.Verify()
		if !bytes.Equal(before, frame) {
			t.Fatal("Verify changed the frame")
		}
		one.Complete()
		changed := 0
		for i := range frame {
			if frame[i] != before[i] {
				changed++
			}
		}
		if changed > 2 {
			t.Fatalf("Complete changed %d bytes", changed)
		}
	})
}
