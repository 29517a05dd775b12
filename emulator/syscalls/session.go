package syscalls

import (
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/reach"
)

// setsid begins a session whose first process group is not hung up for nothing; see
// reach.KeepSession.
func setsid(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	id, ctl, err := sentrySetsid(t, sysno, args)
	if err == nil {
		if kept := reach.KeepSession(t.ThreadGroup().ProcessGroup()); kept != nil {
			machineOf(t).Log().Printf(klog.Warning, "setsid: %v", kept)
		}
	}
	return id, ctl, err
}
