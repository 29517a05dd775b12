package reach

import (
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route"
)

// TestNetlinkProviders fails when an upgrade of gVisor keeps its providers elsewhere.
func TestNetlinkProviders(t *testing.T) {
	if NetlinkProviders[linux.NETLINK_ROUTE] == nil {
		t.Errorf("no provider of NETLINK_ROUTE among %d", len(NetlinkProviders))
	}
}
