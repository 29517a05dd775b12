package ext4fs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// modeArgs are the system calls that make files, with the number of the argument that
// is the mode. Those that only some architectures have are in oldModeArgs.
var modeArgs = map[uintptr]int{
	unix.SYS_OPENAT:  3,
	unix.SYS_MKDIRAT: 2,
	unix.SYS_MKNODAT: 2,
}

// beforeUmask is the mode that the task of ctx makes a file with, before the Sentry took
// its umask off: a directory's default ACL stands in its place. Where the task's system
// call is not the one that gave mode, or openat2(2), whose mode lies in memory, mode
// stays.
func beforeUmask(ctx context.Context, mode uint16) uint16 {
	t := kernel.TaskFromContext(ctx)
	if t == nil || t.Arch() == nil {
		return mode
	}
	number := t.Arch().SyscallNo()
	arg, ok := modeArgs[number]
	if !ok {
		if arg, ok = oldModeArgs[number]; !ok {
			return mode
		}
	}
	asked := uint16(t.Arch().SyscallArgs()[arg].ModeT()) & linux.PermissionsMask
	if asked&^uint16(t.FSContext().Umask()) != mode&linux.PermissionsMask {
		return mode
	}
	return mode | asked
}
