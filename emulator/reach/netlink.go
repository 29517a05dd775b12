package reach

import (
	"fmt"
	"reflect"
	"unsafe" // also go:linkname

	"gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
)

// NetlinkProviders are what makes netlink sockets of each protocol. Nothing exported
// replaces one, and the Sentry's NETLINK_ROUTE has to be.
//
//go:linkname NetlinkProviders gvisor.dev/gvisor/pkg/sentry/socket/netlink.protocols
var NetlinkProviders map[int]netlink.Provider

// NetlinkConnection is how the Sentry writes to a netlink socket. Its queue holds some 200
// kB, and what does not fit is dropped without a word; nothing exported makes it longer.
func NetlinkConnection(s *netlink.Socket) (transport.Sender, error) {
	field := reflect.ValueOf(s).Elem().FieldByName("connection")
	if field.IsValid() {
		if c, ok := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Interface().(transport.Sender); ok {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%T has no connection", s)
}
