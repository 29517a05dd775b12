package netdev

import "encoding/binary"

// Sum is the ones' complement sum of b (RFC 1071) on top of initial, folded to 16 bits and
// not complemented. Data that is summed in parts has an even length in all but the last.
func Sum(b []byte, initial uint16) uint16 {
	// Words of eight bytes in the host's order give the same sum with its bytes swapped.
	sum := uint64(initial>>8 | initial<<8)
	var carry uint64
	for len(b) >= 8 {
		v := binary.LittleEndian.Uint64(b)
		sum += v
		if sum < v {
			carry++
		}
		b = b[8:]
	}
	sum = sum>>32 + sum&0xffffffff + carry
	for len(b) >= 2 {
		sum += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum>>8 | sum<<8)
}

// Complete computes the checksum that a frame lacks. It says false of a frame whose
// offload points outside it.
func (f *Frame) Complete() bool {
	start, at := int(f.ChecksumStart), int(f.ChecksumStart)+int(f.ChecksumOffset)
	if start < 14 || at+2 > f.Size {
		return false
	}
	sum := f.sum(start)
	if sum = ^sum; sum == 0 {
		sum = 0xffff // as UDP has it; TCP does not care
	}
	f.set(at, byte(sum>>8))
	f.set(at+1, byte(sum))
	f.NeedsChecksum, f.Verified = false, true
	return true
}

// sum is the sum of the frame's bytes from start on.
func (f *Frame) sum(start int) uint16 {
	var sum uint16
	odd := false
	at := 0
	for _, p := range f.Pieces {
		p = p[:min(len(p), f.Size-at)]
		if skip := min(max(start-at, 0), len(p)); len(p) > skip {
			part := Sum(p[skip:], 0)
			if odd {
				part = part>>8 | part<<8
			}
			s := uint32(sum) + uint32(part)
			sum = uint16(s + s>>16)
			odd = odd != ((len(p)-skip)%2 == 1)
		}
		at += len(p)
	}
	return sum
}

// set changes one byte of the frame.
func (f *Frame) set(at int, b byte) {
	for _, p := range f.Pieces {
		if at < len(p) {
			p[at] = b
			return
		}
		at -= len(p)
	}
}

// Protocols of IP whose checksums are verified.
const (
	protocolTCP = 6
	protocolUDP = 17
)

// Verify looks whether the checksum of TCP or UDP in a whole frame is right. It says true
// of frames in which it finds none: others, fragments, IPv6 with extension headers, UDP in
// IPv4 that has none. The headers of a frame of interest lie in its first piece.
func (f *Frame) Verify() bool {
	if len(f.Pieces) == 0 {
		return true
	}
	b := f.Pieces[0][:min(len(f.Pieces[0]), f.Size)]
	if len(b) < 14 {
		return true
	}
	kind, at := binary.BigEndian.Uint16(b[12:]), 14
	for n := 0; (kind == 0x8100 || kind == 0x88a8) && n < 2 && len(b) >= at+4; n++ {
		kind, at = binary.BigEndian.Uint16(b[at+2:]), at+4
	}
	ip := b[at:]
	var protocol byte
	var length, head int
	var addresses []byte
	switch {
	case kind == 0x0800 && len(ip) >= 20:
		head = int(ip[0]&15) * 4
		length = int(binary.BigEndian.Uint16(ip[2:])) - head
		if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return true // a fragment
		}
		protocol, addresses = ip[9], ip[12:20]
	case kind == 0x86dd && len(ip) >= 40:
		head, length = 40, int(binary.BigEndian.Uint16(ip[4:]))
		protocol, addresses = ip[6], ip[8:40]
	default:
		return true
	}
	start := at + head
	least := map[byte]int{protocolTCP: 20, protocolUDP: 8}[protocol]
	if least == 0 || head < 20 || length < least || start+length > f.Size {
		return true // the stack says what is wrong with it
	}
	if protocol == protocolUDP && len(addresses) == 8 && len(b) >= start+8 && b[start+6] == 0 && b[start+7] == 0 {
		return true
	}
	whole := *f
	whole.Size = start + length // without the padding of a short frame
	s := uint32(Sum(addresses, uint16(protocol))) + uint32(uint16(length))
	s += uint32(whole.sum(start))
	s = s>>16 + s&0xffff
	return uint16(s+s>>16) == 0xffff
}
