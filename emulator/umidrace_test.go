package emulator

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// TestDirectoryHasOneOwner holds that of many that take a directory and give it up again,
// all the time, never two have it.
func TestDirectoryHasOneOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "T")
	var owners, taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				u := &umid{name: "T", dir: dir}
				_, err := u.claim()
				if err != nil {
					if !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
					u.unlock()
					continue
				}
				taken.Add(1)
				if n := owners.Add(1); n != 1 {
					t.Errorf("%d have the directory", n)
				}
				owners.Add(-1)
				u.remove()
			}
		})
	}
	all.Wait()
	if taken.Load() < 100 {
		t.Errorf("taken %d times", taken.Load())
	}
}
