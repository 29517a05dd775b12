package reach

import "unsafe"

// SpareStub reports whether systrap keeps a process that a guest's process has left, for
// the next one to have: it asks the host for none then.
func SpareStub() bool {
	pool := unsafe.Pointer(&systrapPool)
	stub := fetchAvailable(pool)
	if stub == nil {
		return false
	}
	markAvailable(pool, stub)
	return true
}

// systrapPool is a struct of which only the address is used.
//
//go:linkname systrapPool gvisor.dev/gvisor/pkg/sentry/platform/systrap.globalPool
var systrapPool struct{}

//go:linkname fetchAvailable gvisor.dev/gvisor/pkg/sentry/platform/systrap.(*subprocessPool).fetchAvailable
func fetchAvailable(pool unsafe.Pointer) unsafe.Pointer

//go:linkname markAvailable gvisor.dev/gvisor/pkg/sentry/platform/systrap.(*subprocessPool).markAvailable
func markAvailable(pool, stub unsafe.Pointer)
