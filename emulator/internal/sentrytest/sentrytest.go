// Package sentrytest gives tests of devices the parts of a Sentry that need no platform:
// a virtual filesystem and a context with root's credentials, a clock and memory. There
// are no tasks.
package sentrytest

import (
	"os"
	"testing"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// Sentry is a virtual filesystem and a context to use it with.
type Sentry struct {
	Context context.Context
	VFS     *vfs.VirtualFilesystem
}

// kernelContext is what a kernel's context knows.
type kernelContext struct {
	context.Context
	creds  *auth.Credentials
	clock  *ktime.SyntheticClock
	memory *pgalloc.MemoryFile
}

// Value implements context.Context.Value.
func (c *kernelContext) Value(key any) any {
	switch key {
	case auth.CtxCredentials:
		return c.creds
	case ktime.CtxRealtimeClock:
		return c.clock
	case pgalloc.CtxMemoryFile:
		return c.memory
	}
	return c.Context.Value(key)
}

// New makes the parts. The test's end takes them away.
func New(tb testing.TB) *Sentry {
	tb.Helper()
	if err := usage.Init(); err != nil {
		tb.Fatalf("account for memory: %v", err)
	}
	fd, err := memutil.CreateMemFD("sentrytest", 0)
	if err != nil {
		tb.Fatalf("make a memfd: %v", err)
	}
	file := os.NewFile(uintptr(fd), "sentrytest")
	memory, err := pgalloc.NewMemoryFile(file, pgalloc.MemoryFileOpts{})
	if err != nil {
		tb.Fatalf("make a memory file: %v", err)
	}
	tb.Cleanup(memory.Destroy)
	s := &Sentry{
		Context: &kernelContext{
			Context: context.Background(),
			creds:   auth.NewRootCredentials(auth.NewRootUserNamespace()),
			clock:   &ktime.SyntheticClock{},
			memory:  memory,
		},
		VFS: &vfs.VirtualFilesystem{},
	}
	if err := s.VFS.Init(s.Context); err != nil {
		tb.Fatalf("make a virtual filesystem: %v", err)
	}
	return s
}

// Open opens a registered device, as open(2) of its node would.
func (s *Sentry) Open(kind vfs.DeviceKind, major, minor, flags uint32) (*vfs.FileDescription, error) {
	at := s.VFS.NewAnonVirtualDentry("[device]")
	defer at.DecRef(s.Context)
	return s.VFS.OpenDeviceSpecialFile(s.Context, at.Mount(), at.Dentry(), kind, major, minor, &vfs.OpenOptions{Flags: flags})
}
