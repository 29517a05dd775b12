package transport

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// packetIgnoreOutgoing is PACKET_IGNORE_OUTGOING: what the host itself sends out of the
// interface is not ours.
const packetIgnoreOutgoing = 23

// openRaw binds to an interface of the host, of which the guest has what comes in and to
// whose wire it sends.
func openRaw(s *Spec) (netdev.Device, error) {
	filter, err := s.filter()
	if err != nil {
		return nil, err
	}
	h, err := packetSocket(s.words["ifname"], func(fd, index int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, packetIgnoreOutgoing, 1); err != nil {
			return fmt.Errorf("PACKET_IGNORE_OUTGOING: %w", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return fmt.Errorf("PACKET_QDISC_BYPASS: %w", err)
		}
		// The guest has an address of its own. The host forgets this with the socket.
		all := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &all); err != nil {
			return fmt.Errorf("PACKET_MR_PROMISC: %w", err)
		}
		return attachFilter(fd, filter)
	})
	if err != nil {
		return nil, err
	}
	return &socket{rx: h, tx: h, header: vnet{}, depth: s.Depth, offloads: netdev.Offloads{Checksum: true, Segments: s.GRO}}, nil
}

// packetSocket makes a packet socket with virtio_net_hdr before its frames, sets it up and
// only then lets it hear the interface.
func packetSocket(ifname string, setUp func(fd, index int) error) (*handle, error) {
	// Protocol 0: nothing is heard before the bind.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", refused(err, "CAP_NET_RAW"))
	}
	i, err := net.InterfaceByName(ifname)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ifname=%s: no such interface on the host", ifname)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		err = fmt.Errorf("%s: PACKET_VNET_HDR: %w", ifname, err)
	} else if err = setUp(fd, i.Index); err != nil {
		err = fmt.Errorf("%s: %w", ifname, err)
	} else if err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: i.Index}); err != nil {
		err = fmt.Errorf("bind to %s: %w", ifname, err)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newHandle(fd, ifname)
}

// bigEndian is a number as it is in memory in the order of the network.
func bigEndian(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// maxFilter is how many instructions a filter of the host's can have (BPF_MAXINSNS).
const maxFilter = 4096

// filterSize is the size of struct sock_filter in bytes.
const filterSize = 8

// filter reads bpffile=: struct sock_filter one behind the other, in the host's order.
func (s *Spec) filter() ([]unix.SockFilter, error) {
	name := s.words["bpffile"]
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("bpffile: %w", err)
	}
	defer f.Close()
	b := make([]byte, maxFilter*filterSize+1)
	n := 0
	for n < len(b) {
		m, err := f.Read(b[n:])
		n += m
		if err != nil || m == 0 {
			break
		}
	}
	filter, err := parseFilter(b[:n])
	if err != nil {
		return nil, fmt.Errorf("bpffile=%s: %w", name, err)
	}
	return filter, nil
}

// parseFilter takes a filter apart. Whether it is a good one the host says.
func parseFilter(b []byte) ([]unix.SockFilter, error) {
	switch {
	case len(b) >= 4 && string(b[:4]) == "\x7fELF":
		return nil, fmt.Errorf("an eBPF object; classic instructions of %d bytes are right, as `bpf_asm` and `tcpdump -ddd` have them", filterSize)
	case len(b) == 0 || len(b)%filterSize != 0 || len(b) > maxFilter*filterSize:
		return nil, fmt.Errorf("%d bytes are no filter: instructions of %d bytes, 1 to %d of them", len(b), filterSize, maxFilter)
	}
	filter := make([]unix.SockFilter, len(b)/filterSize)
	for i := range filter {
		p := b[i*filterSize:]
		filter[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.NativeEndian.Uint32(p[4:])}
	}
	return filter, nil
}

// attachFilter has the host look at frames before we do.
func attachFilter(fd int, filter []unix.SockFilter) error {
	if len(filter) == 0 {
		return nil
	}
	if len(filter) > maxFilter {
		return fmt.Errorf("bpffile: %d instructions are too many", len(filter))
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fmt.Errorf("the host refuses the filter: %w", err)
	}
	return nil
}
