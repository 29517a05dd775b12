package syscalls

import (
	"math"
	"runtime"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/umlkit/umlkit/release"
)

// Version is the version that uname(2) gives beside the release: the number of the
// build and its date, which is that of the release.
const Version = "#1 Mon Nov 23 00:00:00 UTC 2026"

// Architecture is the machine that uname(2) gives.
func Architecture() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64"
	}
	return "x86_64"
}

// uname implements uname(2).
func uname(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	uts := t.UTSNamespace()
	var u linux.UtsName
	copy(u.Sysname[:], "Linux")
	copy(u.Nodename[:], uts.HostName())
	copy(u.Release[:], release.Name)
	copy(u.Version[:], Version)
	copy(u.Machine[:], Architecture())
	copy(u.Domainname[:], uts.DomainName())
	_, err := u.CopyOut(t, args[0].Pointer())
	return 0, nil, err
}

// sysinfo implements sysinfo(2).
func sysinfo(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	total, free, shared := machineOf(t).Memory()
	si := linux.Sysinfo{
		Uptime:    t.Kernel().MonotonicClock().Now().Seconds(),
		TotalRAM:  uint64(total),
		FreeRAM:   uint64(free),
		SharedRAM: uint64(shared),
		Procs:     uint16(min(t.Kernel().TaskSet().Root.NumTasks(), math.MaxUint16)),
		Unit:      1,
	}
	_, err := si.CopyOut(t, args[0].Pointer())
	return 0, nil, err
}

// ProcVersion is the line of /proc/version.
func ProcVersion() string {
	return strings.Join([]string{"Linux version", release.Name, "(umlkit@" + runtime.GOOS + ")", "(" + runtime.Version() + ")", Version}, " ") + "\n"
}
