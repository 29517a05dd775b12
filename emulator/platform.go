package emulator

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/kvm"     // platform=kvm
	_ "gvisor.dev/gvisor/pkg/sentry/platform/ptrace"  // seccomp=off
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap" // seccomp=on
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sighandling"

	"github.com/umlkit/umlkit/emulator/klog"
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
	var err error
	for _, name := range m.platformNames() {
		if err != nil {
			m.printk(klog.Notice, "%v; %s takes its place", err, name)
		}
		if err = m.tryPlatform(name); err == nil {
			m.caughtBy = name
			break
		}
		err = fmt.Errorf("platform %s: %w", name, err)
	}
	if err != nil {
		return err
	}
	m.printk(klog.Info, "seccomp=%s: system calls are caught by %s", m.config.Intercept, m.caughtBy)
	// Stubs stop and go all the time; nobody asks for those signals.
	if err := sighandling.IgnoreChildStop(); err != nil {
		return fmt.Errorf("ignore stops of children: %w", err)
	}
	return nil
}

// platformNames are the platforms to try, in this order: the one that platform= names. auto is
// systrap, or our own where that cannot be, unless seccomp=off asks for ptrace.
func (m *Machine) platformNames() []string {
	switch name := m.config.Platform; {
	case name != "auto" && name != "":
		return []string{name}
	case m.config.Intercept == "off":
		return []string{"ptrace"}
	default:
		return []string{"systrap", "own"}
	}
}

// tryPlatform starts the platform of that name.
func (m *Machine) tryPlatform(name string) (err error) {
	if name == "systrap" || name == "ptrace" {
		if err := tracedForks(); err != nil {
			return err
		}
	}
	done, restore := nameForGuests(), reserveProcesses()
	m.platform, err = m.newPlatform(name)
	restore()
	done()
	return err
}

// newPlatform makes the platform of that name, of ours or gVisor's.
func (m *Machine) newPlatform(name string) (_ platform.Platform, err error) {
	if name == "own" {
		return own.New()
	}
	constructor, err := platform.Lookup(name)
	if err != nil {
		return nil, err
	}
	var device *fd.FD
	if name == "kvm" {
		m.printk(klog.Warning, "platform=kvm: nobody has tested this program with it")
		if device, err = constructor.OpenDevice(""); err != nil {
			return nil, err
		}
		// It panics where the host's KVM lacks what it needs.
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("the host's KVM does not serve: %v", r)
			}
		}()
	}
	return constructor.New(platform.Options{
		DeviceFile:       device,
		ApplicationCores: m.config.CPUs,
		// Patched call sites break strace and gdb inside the guest, and getppid
		// measured the same either way.
		DisableSyscallPatching: true,
	})
}
