package emulator

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/ptrace"  // seccomp=off
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap" // seccomp=on
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sighandling"

	own "github.com/umlkit/umlkit/emulator/platform"
)

// startPlatform starts what runs guest code and catches its system calls. It outlasts
// a restart.
func (m *Machine) startPlatform() error {
	cpuid.Initialize()
	ring0.InitDefault()
	if err := rand.Init(); err != nil {
		return fmt.Errorf("open the host's random numbers: %w", err)
	}
	if err := usage.Init(); err != nil {
		return fmt.Errorf("memory accounting: %w", err)
	}
	if err := tracedForks(); err != nil {
		return err
	}
	name := m.platformName()
	done, restore := nameForGuests(), reserveProcesses()
	var err error
	m.platform, err = m.newPlatform(name)
	restore()
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

// platformName is the platform that platform= names; auto is the fastest, unless seccomp=off
// asks for ptrace.
func (m *Machine) platformName() string {
	switch name := m.config.Platform; {
	case name != "auto" && name != "":
		return name
	case m.config.Intercept == "off":
		return "ptrace"
	default:
		return "systrap"
	}
}

// newPlatform makes the platform of that name, of ours or gVisor's.
func (m *Machine) newPlatform(name string) (platform.Platform, error) {
	if name == "own" {
		return own.New()
	}
	constructor, err := platform.Lookup(name)
	if err != nil {
		return nil, err
	}
	return constructor.New(platform.Options{
		ApplicationCores: m.config.CPUs,
		// Patched call sites break strace and gdb inside the guest, and getppid
		// measured the same either way.
		DisableSyscallPatching: true,
	})
}
