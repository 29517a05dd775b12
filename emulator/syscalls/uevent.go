package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/umlkit/umlkit/emulator/uevent"
)

// openSocket implements socket(2). The Sentry's own sockets for uevents hear nothing
// and refuse groups; those of the machine's bus come in their place.
func openSocket(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	const flags = linux.SOCK_NONBLOCK | linux.SOCK_CLOEXEC
	kind := args[1].Int()
	bus := machineOf(t).Uevents()
	if args[0].Int() != linux.AF_NETLINK || args[2].Int() != linux.NETLINK_KOBJECT_UEVENT || bus == nil {
		return sentrySocket(t, sysno, args)
	}
	if kind&^(0xf|flags) != 0 {
		return 0, nil, linuxerr.EINVAL
	}
	file, failure := uevent.New(t, bus, linux.SockType(kind&0xf))
	if failure != nil {
		return 0, nil, failure.ToError()
	}
	defer file.DecRef(t)
	if err := file.SetStatusFlags(t, t.Credentials(), uint32(kind&linux.SOCK_NONBLOCK)); err != nil {
		return 0, nil, err
	}
	fd, err := t.NewFDFrom(0, file, kernel.FDFlags{CloseOnExec: kind&linux.SOCK_CLOEXEC != 0})
	if err != nil {
		return 0, nil, err
	}
	return uintptr(fd), nil, nil
}
