package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// maxSeconds keeps a time in nanoseconds within an int64, as Linux does.
const maxSeconds = 1<<63/1_000_000_000 - 1

// clockSettime implements clock_settime(2). Only the wall clock can be set.
func clockSettime(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	if args[0].Int() != linux.CLOCK_REALTIME {
		return 0, nil, linuxerr.EINVAL
	}
	sec, nsec, err := copyInPair(t, args[1].Pointer())
	if err != nil {
		return 0, nil, err
	}
	return setTime(t, sec, nsec)
}

// settimeofday implements settimeofday(2). The time zone, which no one uses, is taken
// and forgotten by Linux too once it has set the clock.
func settimeofday(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	if args[0].Pointer() == 0 {
		return 0, nil, privileged(t, linux.CAP_SYS_TIME)
	}
	sec, usec, err := copyInPair(t, args[0].Pointer())
	if err != nil {
		return 0, nil, err
	}
	if usec < 0 || usec >= 1_000_000 {
		return 0, nil, linuxerr.EINVAL
	}
	return setTime(t, sec, usec*1000)
}

// copyInPair copies in a timespec or a timeval.
func copyInPair(t *kernel.Task, addr hostarch.Addr) (int64, int64, error) {
	pair := make([]int64, 2)
	if _, err := primitive.CopyInt64SliceIn(t, addr, pair); err != nil {
		return 0, 0, err
	}
	return pair[0], pair[1], nil
}

func setTime(t *kernel.Task, sec, nsec int64) (uintptr, *kernel.SyscallControl, error) {
	if sec < 0 || sec > maxSeconds || nsec < 0 || nsec >= 1_000_000_000 {
		return 0, nil, linuxerr.EINVAL
	}
	if err := privileged(t, linux.CAP_SYS_TIME); err != nil {
		return 0, nil, err
	}
	machineOf(t).SetTime(sec*1_000_000_000 + nsec)
	return 0, nil, nil
}
