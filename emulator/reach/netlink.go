package reach

import (
	_ "unsafe" // go:linkname

	"gvisor.dev/gvisor/pkg/sentry/socket/netlink"
)

// NetlinkProviders are what makes netlink sockets of each protocol. Nothing exported
// replaces one, and the Sentry's NETLINK_ROUTE has to be.
//
//go:linkname NetlinkProviders gvisor.dev/gvisor/pkg/sentry/socket/netlink.protocols
var NetlinkProviders map[int]netlink.Provider
