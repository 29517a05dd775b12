package emulator

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/inet"

	"github.com/umlkit/umlkit/emulator/netconf"
	"github.com/umlkit/umlkit/emulator/sysfs"
)

// netDevice is a network device in /sys.
type netDevice struct {
	inet.Interface
	index int32
}

// netDevices are the network devices of the first network namespace, by their numbers.
func (s *sentry) netDevices() []netDevice {
	stack := s.k.RootNetworkNamespace().Stack()
	if stack == nil {
		return nil
	}
	var list []netDevice
	for index, i := range stack.Interfaces() {
		i.Flags = netconf.Flags(i)
		list = append(list, netDevice{i, index})
	}
	slices.SortFunc(list, func(a, b netDevice) int { return cmp.Compare(a.index, b.index) })
	return list
}

func (s *sentry) netLinks() []sysfs.Entry {
	var entries []sysfs.Entry
	for _, d := range s.netDevices() {
		entries = append(entries, sysfs.Entry{Name: d.Name, Link: "../../devices/virtual/net/" + d.Name})
	}
	return entries
}

func (s *sentry) netEntries() []sysfs.Entry {
	var entries []sysfs.Entry
	for _, d := range s.netDevices() {
		entries = append(entries, s.netEntry(d))
	}
	return entries
}

// netEntry is the directory of a network device.
func (s *sentry) netEntry(d netDevice) sysfs.Entry {
	number := func(name string, n int64) sysfs.Entry { return sysfs.File(name, fmt.Sprintf("%d\n", n)) }
	// As netdevice(7) and Linux's net-sysfs have it: lo has no state of a link.
	state, carrier := "down", int64(0)
	if d.Flags&linux.IFF_UP != 0 {
		state = "up"
		if d.Flags&linux.IFF_LOOPBACK != 0 {
			state = "unknown"
		}
		carrier = flag(d.Flags&linux.IFF_RUNNING != 0)
	}
	broadcast := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if d.Flags&linux.IFF_LOOPBACK != 0 {
		broadcast = make([]byte, len(broadcast))
	}
	return sysfs.Directory(d.Name,
		s.ueventFile(netEvent(d.Name, d.index)),
		sysfs.Entry{Name: "subsystem", Link: "../../../../class/net"},
		sysfs.File("address", hardwareAddress(d.Addr)),
		sysfs.File("broadcast", hardwareAddress(broadcast)),
		number("addr_len", int64(len(broadcast))),
		number("addr_assign_type", 0),
		number("carrier", carrier),
		sysfs.File("dev_id", "0x0\n"),
		sysfs.File("dev_port", "0\n"),
		// Without what follows from the link's state, as Linux keeps them.
		sysfs.File("flags", fmt.Sprintf("0x%x\n", d.Flags&^(linux.IFF_RUNNING|linux.IFF_LOWER_UP))),
		sysfs.File("ifalias", "\n"),
		number("ifindex", int64(d.index)),
		number("iflink", int64(d.index)),
		number("link_mode", 0),
		number("mtu", int64(d.MTU)),
		number("name_assign_type", 2),
		sysfs.File("operstate", state+"\n"),
		number("tx_queue_len", 1000),
		number("type", int64(d.DeviceType)),
		s.netStatistics(d.Name),
	)
}

// hardwareAddress writes an address as /sys has it, that of a device without one as zeros.
func hardwareAddress(a []byte) string {
	if len(a) == 0 {
		a = make([]byte, 6)
	}
	parts := make([]string, len(a))
	for i, b := range a {
		parts[i] = fmt.Sprintf("%02x", b)
	}
	return strings.Join(parts, ":") + "\n"
}

// netCounters are the files of a device's directory statistics, by their places in
// inet.StatDev.
var netCounters = []struct {
	name string
	at   int
}{
	{"rx_bytes", 0}, {"rx_packets", 1}, {"rx_errors", 2}, {"rx_dropped", 3}, {"rx_fifo_errors", 4}, {"rx_frame_errors", 5},
	{"rx_compressed", 6}, {"multicast", 7}, {"tx_bytes", 8}, {"tx_packets", 9}, {"tx_errors", 10}, {"tx_dropped", 11},
	{"tx_fifo_errors", 12}, {"collisions", 13}, {"tx_carrier_errors", 14}, {"tx_compressed", 15},
}

func (s *sentry) netStatistics(device string) sysfs.Entry {
	var files []sysfs.Entry
	for _, c := range netCounters {
		files = append(files, sysfs.Entry{Name: c.name, Read: func() string {
			var all inet.StatDev
			if stack := s.k.RootNetworkNamespace().Stack(); stack != nil {
				_ = stack.Statistics(&all, device) // a device that went counts nothing
			}
			return fmt.Sprintf("%d\n", all[c.at])
		}})
	}
	return sysfs.Directory("statistics", files...)
}
