// Package netdev is the one shape that every packet device of the machine has: Ethernet
// frames in batches, in and out. What carries them, a tap, a tunnel, a switch's socket, is
// package transport's; the guest's interface over a device is package nic's. Fake is a
// device without either.
package netdev

import "sync/atomic"

// Device carries Ethernet frames. One goroutine reads, any number write, and Close may be
// called beside both.
type Device interface {
	// Read takes the frames that are there, as many as frames has room for, and does not
	// wait: it may say 0. It fills the pieces of each frame, and sets its size and its
	// offloads. A frame longer than its pieces is dropped and counted. The error is
	// os.ErrClosed after Close, io.EOF when the other side is gone for good; other errors
	// pass.
	Read(frames []Frame) (int, error)
	// Wait waits until Read has something. It may come back early.
	Wait() error
	// Write sends frames in their order, and says how many left. It waits when the other
	// side does not take them, for a bounded time.
	Write(frames []Frame) (int, error)
	// BatchSize is how many frames it is worth to give to Read and Write at once.
	BatchSize() int
	// Offloads is what the other side leaves undone, and does for us.
	Offloads() Offloads
	// Counters are what happened to frames on the way.
	Counters() *Counters
	Close() error
}

// Offloads is what two sides of a device leave each other to do. A device without any
// carries frames that are whole.
type Offloads struct {
	// Checksum is whether frames come with a checksum that is not yet computed, or not
	// yet verified, and may go so.
	Checksum bool
	// Segments is whether frames of TCP may be longer than the MTU in both directions.
	Segments bool
}

// MaxFrame is the longest frame: an IP packet of 65535 bytes behind an Ethernet header
// with a VLAN tag.
const MaxFrame = 65535 + 18

// Frame is an Ethernet frame, without the check sequence at its end, and what is still to
// be done to it.
type Frame struct {
	Offload
	// Pieces are the frame's bytes, one behind the other. For Read they are room: the
	// first Size bytes of it are the frame afterwards.
	Pieces [][]byte
	// Size is the frame's length in bytes.
	Size int
}

// Offload is what is still to be done to a frame.
type Offload struct {
	// NeedsChecksum: the ones' complement sum from ChecksumStart to the frame's end is to
	// be put ChecksumOffset bytes behind ChecksumStart, where the sum of the pseudo header
	// is now. Both are in bytes.
	NeedsChecksum                 bool
	ChecksumStart, ChecksumOffset uint16
	// Verified: the other side found the checksums right.
	Verified bool
	// Segment is what a frame longer than the MTU is to be cut into, SegmentSize the
	// payload of each piece, HeaderSize the bytes of all headers.
	Segment                 Segment
	SegmentSize, HeaderSize uint16
}

// Segment is a kind of frame that is longer than the MTU.
type Segment uint8

// The kinds of long frames.
const (
	Whole  Segment = iota // not longer
	TCPv4                 // TCP in IPv4
	TCPv6                 // TCP in IPv6
	Unsure                // any other: to be dropped
)

// Counters count frames that did not get through.
type Counters struct {
	// ReceiveErrors are those that were not ours or not in order: a wrong key, session,
	// cookie or header, a spoofed source.
	ReceiveErrors atomic.Uint64
	// ReceiveDropped are those that were longer than what the interface takes.
	ReceiveDropped atomic.Uint64
	// SendErrors are those that the host refused, SendDropped those that nobody took in
	// time.
	SendErrors, SendDropped atomic.Uint64
}
