package netdev

import "encoding/binary"

// VnetSize is the size of struct virtio_net_hdr (linux/virtio_net.h), in bytes: what
// stands before a frame on taps and packet sockets and says what is still to be done.
const VnetSize = 10

// Flags and kinds of virtio_net_hdr.
const (
	vnetNeedsCsum = 1
	vnetDataValid = 2

	vnetGSONone  = 0
	vnetGSOTCPv4 = 1
	vnetGSOTCPv6 = 4
	vnetGSOECN   = 0x80
)

// PutVnet writes the offloads of a frame as a virtio_net_hdr in the host's order, which on
// all that this program runs on is little-endian.
func PutVnet(b []byte, o *Offload) {
	clear(b[:VnetSize])
	if o.NeedsChecksum {
		b[0] = vnetNeedsCsum
		binary.LittleEndian.PutUint16(b[6:], o.ChecksumStart)
		binary.LittleEndian.PutUint16(b[8:], o.ChecksumOffset)
	}
	switch o.Segment {
	case TCPv4:
		b[1] = vnetGSOTCPv4
	case TCPv6:
		b[1] = vnetGSOTCPv6
	default:
		return
	}
	binary.LittleEndian.PutUint16(b[2:], o.HeaderSize)
	binary.LittleEndian.PutUint16(b[4:], o.SegmentSize)
}

// Vnet reads a virtio_net_hdr. What it says is the host's word, and is checked against the
// frame where it is used.
func Vnet(b []byte) Offload {
	var o Offload
	if b[0]&vnetNeedsCsum != 0 {
		o.NeedsChecksum = true
		o.ChecksumStart = binary.LittleEndian.Uint16(b[6:])
		o.ChecksumOffset = binary.LittleEndian.Uint16(b[8:])
	}
	o.Verified = b[0]&vnetDataValid != 0
	switch b[1] &^ vnetGSOECN {
	case vnetGSONone:
		return o
	case vnetGSOTCPv4:
		o.Segment = TCPv4
	case vnetGSOTCPv6:
		o.Segment = TCPv6
	default:
		o.Segment = Unsure
	}
	o.HeaderSize = binary.LittleEndian.Uint16(b[2:])
	o.SegmentSize = binary.LittleEndian.Uint16(b[4:])
	return o
}
