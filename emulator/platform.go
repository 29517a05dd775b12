package emulator

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/ptrace"  // seccomp=off
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap" // seccomp=on
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sighandling"
)

// startPlatform starts what runs guest code and catches its system calls. It outlasts
// a restart.
func (m *Machine) startPlatform() error {
	cpuid.Initialize()
	ring0.InitDefault()
	seccheck.Initialize()
	if err := rand.Init(); err != nil {
		return fmt.Errorf("open the host's random numbers: %w", err)
	}
	if err := usage.Init(); err != nil {
		return fmt.Errorf("memory accounting: %w", err)
	}
	name := m.platformName()
	constructor, err := platform.Lookup(name)
	if err != nil {
		return fmt.Errorf("platform %s: %w", name, err)
	}
	if err := tracedForks(); err != nil {
		return err
	}
	done := nameForGuests()
	m.platform, err = constructor.New(platform.Options{
		ApplicationCores: m.config.CPUs,
		// Patched call sites break strace and gdb inside the guest, and getppid
		// measured the same either way.
		DisableSyscallPatching: true,
	})
	done()
	if err != nil {
		return fmt.Errorf("platform %s: %w", name, err)
	}
	// Stubs stop and go all the time; nobody asks for those signals.
	if err := sighandling.IgnoreChildStop(); err != nil {
		return fmt.Errorf("ignore stops of children: %w", err)
	}
	return nil
}

// platformName is the platform that seccomp= asks for: on and auto are the fastest.
func (m *Machine) platformName() string {
	if m.config.Intercept == "off" {
		return "ptrace"
	}
	return "systrap"
}
