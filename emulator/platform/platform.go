//go:build amd64

package platform

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/hostmm"
	gvisor "gvisor.dev/gvisor/pkg/sentry/platform"
)

// Own is the platform.
type Own struct {
	gvisor.NoCPUPreemptionDetection
	gvisor.UseHostGlobalMemoryBarrier
	gvisor.NoCPUNumbers
	zygote *zygote
}

// theZygote is the one of this process: it and idle stub processes serve every machine.
var theZygote struct {
	sync.Mutex
	*zygote
}

// New starts the platform, or says what the host lacks.
func New() (*Own, error) {
	barrier := hostmm.Probe(false)
	if err := supported(); err != nil {
		return nil, err
	}
	theZygote.Lock()
	defer theZygote.Unlock()
	if theZygote.zygote == nil || theZygote.dead() {
		z, err := newZygote()
		if err != nil {
			return nil, err
		}
		if err := z.seal(); err != nil {
			return nil, err
		}
		theZygote.zygote = z
	}
	return &Own{
		UseHostGlobalMemoryBarrier: gvisor.UseHostGlobalMemoryBarrier{MemBarrier: <-barrier},
		zygote:                     theZygote.zygote,
	}, nil
}

// supported says what the host lacks.
func supported() error {
	if !cpuid.HostFeatureSet().UseFSGSBASE() {
		return fmt.Errorf("the processor or the host's kernel lacks FSGSBASE")
	}
	if !cpuid.HostFeatureSet().UseXsave() {
		return fmt.Errorf("the processor lacks XSAVE")
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("the host's kernel calls itself %q", release)
	}
	if major < 6 || major == 6 && minor < 11 {
		return fmt.Errorf("the host's kernel is %s, and must be 6.11 or later", release)
	}
	return nil
}

// NewAddressSpace implements platform.Platform.
func (o *Own) NewAddressSpace() (gvisor.AddressSpace, error) {
	return o.zygote.newProcess()
}

// NewContext implements platform.Platform.
func (o *Own) NewContext(gcontext.Context) gvisor.Context {
	o.zygote.contexts.Add(1)
	return &taskContext{zygote: o.zygote, changed: true}
}

// SupportsAddressSpaceIO implements platform.Platform: the Sentry reads guest memory
// through mappings of its own.
func (*Own) SupportsAddressSpaceIO() bool { return false }

// MapUnit implements platform.Platform: a mapping costs the same for any length.
func (*Own) MapUnit() uint64 { return 0 }

// MinUserAddress implements platform.Platform.
func (*Own) MinUserAddress() hostarch.Addr { return gvisor.SystemMMapMinAddr() }

// MaxUserAddress implements platform.Platform.
func (*Own) MaxUserAddress() hostarch.Addr { return codeAddress }

// ConcurrencyCount implements platform.Platform.
func (*Own) ConcurrencyCount() int { return concurrency }

// SeccompInfo implements platform.Platform. Nothing filters the kernel's own process.
func (*Own) SeccompInfo() gvisor.SeccompInfo {
	return gvisor.StaticSeccompInfo{PlatformName: "own", Filters: seccomp.MakeSyscallRules(nil)}
}
