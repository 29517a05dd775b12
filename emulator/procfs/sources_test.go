package procfs

import (
	"runtime"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// TestSourcesLetGo holds that a kernel that nobody uses any more goes, though its
// sources note filesystems that it holds.
func TestSourcesLetGo(t *testing.T) {
	type kernel struct {
		sources Sources
		mounted *vfs.Filesystem
	}
	gone := make(chan struct{})
	func() {
		k := &kernel{mounted: new(vfs.Filesystem)}
		k.sources.note(k.mounted, "/dev/ubda")
		runtime.AddCleanup(k, func(c chan struct{}) { close(c) }, gone)
	}()
	for range 100 {
		runtime.GC()
		select {
		case <-gone:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("the sources are kept for ever")
}
