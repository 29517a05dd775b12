package reach

import (
	"fmt"
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// sessionAncestors is what KeepSession adds: more than a session has processes, and not
// so much that a process more would overflow 32 bits.
const sessionAncestors = 1 << 30

// KeepSession spares the process group of a session's leader, when the session has just
// begun, a SIGHUP that no Linux sends. Such a group is orphaned from its beginning. To the
// Sentry that is news each time one of its processes leaves it or is reaped: if another
// one is stopped then, all of the group are sent SIGHUP and SIGCONT. killall5(8), which
// stops every process for a moment, so ended shutdowns half-way.
//
// The group counts as not orphaned from then on: one of its processes that reads the
// terminal from the background is stopped, where Linux fails it with EIO.
func KeepSession(pg *kernel.ProcessGroup) error {
	ancestors := reflect.ValueOf(pg).Elem().FieldByName("ancestors")
	set := pg.Originator().TaskSet()
	mu := reflect.ValueOf(set).Elem().FieldByName("mu")
	if !ancestors.IsValid() || ancestors.Kind() != reflect.Uint32 || !mu.IsValid() || mu.Type().String() != "kernel.taskSetRWMutex" {
		return fmt.Errorf("%T has no ancestors, or %T no mu, of the known types", pg, set)
	}
	lock := unsafe.Pointer(mu.UnsafeAddr())
	lockTaskSet(lock)
	defer unlockTaskSet(lock)
	*(*uint32)(unsafe.Pointer(ancestors.UnsafeAddr())) += sessionAncestors
	return nil
}

//go:linkname lockTaskSet gvisor.dev/gvisor/pkg/sentry/kernel.(*taskSetRWMutex).Lock
func lockTaskSet(mu unsafe.Pointer)

//go:linkname unlockTaskSet gvisor.dev/gvisor/pkg/sentry/kernel.(*taskSetRWMutex).Unlock
func unlockTaskSet(mu unsafe.Pointer)
