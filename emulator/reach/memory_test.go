package reach

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"
)

// TestReleasing fails when an upgrade of gVisor changes what Releasing reaches into: it
// has to be true from the moment on when pages are let go, and false in the end.
func TestReleasing(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := pgalloc.NewMemoryFile(file, pgalloc.MemoryFileOpts{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Destroy()
	is := func() bool {
		t.Helper()
		yes, err := Releasing(f)
		if err != nil {
			t.Fatal(err)
		}
		return yes
	}
	if is() {
		t.Error("a file without pages releases some")
	}
	seen := false
	for deadline := time.Now().Add(30 * time.Second); !seen; {
		fr, err := f.Allocate(64<<20, pgalloc.AllocOpts{Kind: usage.Anonymous, Mode: pgalloc.AllocateAndWritePopulate})
		if err != nil {
			t.Fatal(err)
		}
		if is() {
			t.Fatal("pages that are in use are released")
		}
		f.DecRef(fr)
		for is() {
			seen = true
			if time.Now().After(deadline) {
				t.Fatal("it is never done")
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("it is never seen releasing")
		}
	}
}
