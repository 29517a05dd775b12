package reach

import (
	"testing"

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
