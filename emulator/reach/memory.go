package reach

import (
	"fmt"
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
)

// Releasing reports whether a memory file holds pages that nobody uses any more and that
// its own goroutine has yet to return to the host. Nothing exported tells.
func Releasing(f *pgalloc.MemoryFile) (bool, error) {
	v := reflect.ValueOf(f).Elem()
	mu, have := v.FieldByName("mu"), v.FieldByName("haveWaste")
	if !mu.IsValid() || mu.Type().String() != "pgalloc.memoryFileMutex" || !have.IsValid() || have.Kind() != reflect.Bool {
		return false, fmt.Errorf("%T has no mu and no haveWaste of the known types", f)
	}
	lock := unsafe.Pointer(mu.UnsafeAddr())
	lockMemoryFile(lock)
	defer unlockMemoryFile(lock)
	return have.Bool(), nil
}

//go:linkname lockMemoryFile gvisor.dev/gvisor/pkg/sentry/pgalloc.(*memoryFileMutex).Lock
func lockMemoryFile(mu unsafe.Pointer)

//go:linkname unlockMemoryFile gvisor.dev/gvisor/pkg/sentry/pgalloc.(*memoryFileMutex).Unlock
func unlockMemoryFile(mu unsafe.Pointer)
