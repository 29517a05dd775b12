package syscalls

import (
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

// ProcVersion is the line of /proc/version.
func ProcVersion() string {
	return strings.Join([]string{"Linux version", release.Name, "(umlkit@" + runtime.GOOS + ")", "(" + runtime.Version() + ")", Version}, " ") + "\n"
}
