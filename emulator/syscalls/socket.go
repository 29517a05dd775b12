package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
)

// Options of SOL_SOCKET that go past the limits on buffers, which no one has here.
const (
	soSndBufForce = 32
	soRcvBufForce = 33
)

// netlinkAddress is the length of a struct sockaddr_nl; its last four bytes are the
// groups.
const netlinkAddress = 12

// bind implements bind(2). The kernel tells of no event of its devices, so that
// listening to them is granted, and nothing is ever heard: udev and systemd refuse to
// work where it is refused.
func bind(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	file := t.GetFile(args[0].Int())
	if file == nil {
		return sentryBind(t, sysno, args)
	}
	defer file.DecRef(t)
	s, ok := file.Impl().(socket.Socket)
	if !ok || args[2].Uint() < netlinkAddress {
		return sentryBind(t, sysno, args)
	}
	if family, _, protocol := s.Type(); family != linux.AF_NETLINK || protocol != linux.NETLINK_KOBJECT_UEVENT {
		return sentryBind(t, sysno, args)
	}
	address := make([]byte, netlinkAddress)
	if _, err := t.CopyInBytes(args[1].Pointer(), address); err != nil {
		return 0, nil, err
	}
	hostarch.ByteOrder.PutUint32(address[netlinkAddress-4:], 0)
	return 0, nil, s.Bind(t, address).ToError()
}

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
