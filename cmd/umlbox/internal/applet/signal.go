package applet

import (
	"os/signal"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SignalText describes a signal as strsignal(3) does.
func SignalText(sig unix.Signal) string {
	switch sig {
	case unix.SIGABRT:
		return "Aborted"
	case unix.SIGIO:
		return "I/O possible"
	}
	return capital(sig.String())
}

// SignalNumber reads a signal given as a name, with or without SIG, or as a number.
func SignalNumber(s string) (unix.Signal, bool) {
	if n, err := strconv.Atoi(s); err == nil {
		return unix.Signal(n), n >= 0 && n <= 64
	}
	name := strings.ToUpper(s)
	if name == "EXIT" {
		return 0, true
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	sig := unix.SignalNum(name)
	return sig, sig != 0
}

// SignalName is the name of a signal without SIG, or its number.
func SignalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return strconv.Itoa(int(sig))
}

// DefaultSignals gives signals back the default action that Go's runtime takes
// from them: SIGQUIT would show its stacks, SIGUSR1 and the like do nothing,
// and SIGTERM would end the process a little later than it is sent. It must
// not run in a program that calls signal.Notify for one of them: the runtime
// would not learn that it has to install its handler again.
func DefaultSignals() {
	// struct sigaction of the kernel: handler, flags, restorer, mask; all zero.
	var action [4]uint64
	for _, sig := range [...]unix.Signal{unix.SIGHUP, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM} {
		if sig == unix.SIGHUP && signal.Ignored(sig) {
			continue // nohup's
		}
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
}
