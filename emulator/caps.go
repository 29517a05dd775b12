package emulator

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropCapabilities takes every capability from every thread of the process: the
// processes that run guest code inherit what a thread has. Devices that need one are
// open by now.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held, none [2]unix.CapUserData
	if err := unix.Capget(&header, &held[0]); err != nil {
		return fmt.Errorf("read the capabilities: capget: %w", err)
	}
	// Clearing the inheritable and permitted sets empties the ambient set too.
	if held != none {
		_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
			uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
		if errno != 0 {
			return fmt.Errorf("give up the capabilities: capset: %w", errno)
		}
	}
	// A program with file capabilities starts out not dumpable, and then may neither
	// trace its children nor open its own /proc entries as an ordinary user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become dumpable: prctl: %w", err)
	}
	return nil
}
