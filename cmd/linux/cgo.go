//go:build cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// tunable keeps glibc from registering restartable sequences. The processes that run
// guest code are forked from this one without an exec, and a registration they
// inherit makes the kernel kill every call they make.
const tunable = "glibc.pthread.rseq=0"

// prepare makes a program that was built with cgo fit to be a kernel: it starts the
// program again with the C library's feature off, which is only read at start. Started
// again it has no capabilities either: C's threads cannot be told to drop them.
func prepare() error {
	tunables := os.Getenv("GLIBC_TUNABLES")
	if strings.Contains(tunables, tunable) {
		return nil
	}
	if tunables != "" {
		tunables += ":"
	}
	// Capabilities and no_new_privs are a thread's, and an exec keeps those of the
	// thread that calls it.
	runtime.LockOSThread()
	for c := uintptr(0); c < 64; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			break
		}
	}
	var none [2]unix.CapUserData
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return fmt.Errorf("start again for glibc: capset: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("start again for glibc: prctl: %w", err)
	}
	env := []string{"GLIBC_TUNABLES=" + tunables + tunable}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "GLIBC_TUNABLES=") {
			env = append(env, e)
		}
	}
	err := unix.Exec("/proc/self/exe", os.Args, env)
	return fmt.Errorf("start again with GLIBC_TUNABLES=%s (build with CGO_ENABLED=0 to spare this): %w", tunable, err)
}
