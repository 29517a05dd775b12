// Package transport carries the frames of a guest's network devices over what the host
// has: taps, packet sockets, tunnels, sockets of switches, inherited descriptors. Each
// transport is one file, with a function that opens it as a netdev.Device; Parse reads
// what a command line says of one. Options and wire formats are those of Linux's UML
// (Documentation/virt/uml/user_mode_linux_howto_v2.rst).
//
// socket.go moves frames over sockets, tap.go over taps; a header is what a tunnel puts
// before each frame.
package transport

import (
	"fmt"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// openers open the transports.
var openers = map[string]func(*Spec) (netdev.Device, error){
	"tap":    openTap,
	"hybrid": openHybrid,
	"raw":    openRaw,
	"gre":    openGRE,
	"l2tpv3": openL2TPv3,
	"bess":   openBess,
	"fd":     openFD,
	"mcast":  openMcast,
	"ucast":  openUcast,
	"daemon": openDaemon,
}

// Open opens the device of a specification that Parse took. Its errors are one line that
// says what is missing on the host.
func (s *Spec) Open() (netdev.Device, error) {
	d, err := openers[s.Transport](s)
	if err != nil {
		return nil, fmt.Errorf("transport=%s: %w", s.Transport, err)
	}
	return d, nil
}
