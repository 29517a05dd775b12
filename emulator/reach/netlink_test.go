package reach

import (
	"reflect"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route"
)

// TestNetlinkProviders fails when an upgrade of gVisor keeps its providers elsewhere.
func TestNetlinkProviders(t *testing.T) {
	if NetlinkProviders[linux.NETLINK_ROUTE] == nil {
		t.Errorf("no provider of NETLINK_ROUTE among %d", len(NetlinkProviders))
	}
}

// TestNetlinkConnection fails when an upgrade of gVisor takes the field away. What it holds
// is had by machines that describe thousands of interfaces.
func TestNetlinkConnection(t *testing.T) {
	field, ok := reflect.TypeFor[netlink.Socket]().FieldByName("connection")
	if !ok || field.Type.String() != "transport.Sender" {
		t.Errorf("the field connection is %v", field.Type)
	}
}
