package applet

import (
	"strconv"
	"strings"

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
