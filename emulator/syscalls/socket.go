package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/umlkit/umlkit/emulator/netconf"
)

// Options of SOL_SOCKET that go past the limits on buffers, which no one has here.
const (
	soSndBufForce = 32
	soRcvBufForce = 33
)

// setsockopt implements setsockopt(2).
func setsockopt(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	if args[1].Int() == linux.SOL_SOCKET {
		switch args[2].Int() {
		case soSndBufForce, soRcvBufForce:
			if err := privileged(t, linux.CAP_NET_ADMIN); err != nil {
				return 0, nil, err
			}
			if args[2].Int() == soSndBufForce {
				args[2].Value = linux.SO_SNDBUF
			} else {
				args[2].Value = linux.SO_RCVBUF
			}
		}
	}
	return sentrySetsockopt(t, sysno, args)
}

// ioctl implements ioctl(2) on sockets: the requests that configure the network, where the
// Sentry has none.
func ioctl(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	// Requests of sockets are 0x89xx (linux/sockios.h).
	if request := args[1].Uint(); request&^0xff == 0x8900 {
		if file := t.GetFile(args[0].Int()); file != nil {
			defer file.DecRef(t)
			if handled, err := netconf.Ioctl(t, file, request, args[2].Pointer()); handled {
				return 0, nil, err
			}
		}
	}
	return sentryIoctl(t, sysno, args)
}
