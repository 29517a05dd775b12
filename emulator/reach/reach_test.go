package reach

import (
	"reflect"
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/kernel/version"
)

func TestRelease(t *testing.T) {
	old := Release
	defer func() { Release = old }()
	if old == "" || version.LinuxRelease() != old {
		t.Fatalf("Release is %q, gVisor says %q", old, version.LinuxRelease())
	}
	Release = "6.0"
	if version.LinuxRelease() != "6.0" {
		t.Errorf("setting Release does not change gVisor's")
	}
}

var _ proc.FilesystemType

// TestPTYHasNumber holds what NewPTY reads of a pty; the tests of emulator/tty hold that it
// knows a master when it sees one.
func TestPTYHasNumber(t *testing.T) {
	n, ok := reflect.TypeFor[devpts.Terminal]().FieldByName("n")
	if !ok || n.Type.Kind() != reflect.Uint32 {
		t.Errorf("devpts.Terminal has no number n of 32 bits")
	}
}
