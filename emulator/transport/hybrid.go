package transport

import (
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// Parts of a classic filter (linux/filter.h): where the kind of a packet is read, and what
// one that leaves the interface has there.
const (
	skfPacketType  = 0xfffff000 + 4
	packetOutgoing = 4
)

// outgoingOnly lets through what leaves the interface, to be looked at by what follows.
// Jumps are relative, so that another filter can stand behind it.
var outgoingOnly = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfPacketType},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: packetOutgoing},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// takeAll lets a whole packet through.
var takeAll = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18}

// hybrid sends into a tap, and receives many frames at once from a packet socket on it:
// what the host sends out of the tap.
type hybrid struct {
	*socket
	out *tap
}

// openHybrid attaches to a tap, and binds a packet socket to it.
func openHybrid(s *Spec) (netdev.Device, error) {
	user, err := s.filter()
	if err != nil {
		return nil, err
	}
	if user == nil {
		user = []unix.SockFilter{takeAll}
	}
	name := s.words["ifname"]
	tx, err := attach(name, s.GRO)
	if err != nil {
		return nil, err
	}
	filter := append(append([]unix.SockFilter{}, outgoingOnly...), user...)
	rx, err := packetSocket(name, func(fd, _ int) error { return attachFilter(fd, filter) })
	if err != nil {
		tx.close()
		return nil, err
	}
	in := &socket{rx: rx, tx: rx, header: vnet{}, depth: s.Depth, offloads: netdev.Offloads{Checksum: true, Segments: s.GRO}}
	return &hybrid{in, newTap(tx, s, true)}, nil
}

// Write implements netdev.Device.Write.
func (h *hybrid) Write(frames []netdev.Frame) (int, error) {
	n, err := h.out.Write(frames)
	// The counters of a device are those of both its halves.
	h.counters.SendErrors.Add(h.out.counters.SendErrors.Swap(0))
	h.counters.SendDropped.Add(h.out.counters.SendDropped.Swap(0))
	return n, err
}

// Close implements netdev.Device.Close.
func (h *hybrid) Close() error {
	err := h.out.Close()
	if e := h.socket.Close(); e != nil {
		err = e
	}
	return err
}
