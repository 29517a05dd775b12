package ext4

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// A filesystem goes between reading only and writing while many work in it: each change
// is made or refused in whole, the usage in the quota files too.
func TestRemountUnderLoad(t *testing.T) {
	image := makeImage(t, 32<<20, append([]string{"-t", "ext4", "-J", "size=4"}, quotaForms[2]...)...)
	fs := openFS(t, image, Options{CommitEvery: 3 * time.Millisecond, CacheBytes: 1 << 17})
	root := must(fs.Root())
	files := make([]*Inode, 4)
	for i := range files {
		files[i] = must(root.Create(fmt.Sprint("f", i), regular))
		check(t, files[i].SetXattr("user.x", value(i, 6000), XattrFlags{}))
	}
	var stop atomic.Bool
	var all sync.WaitGroup
	for w := range files {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 4))
			for i := 0; !stop.Load(); i++ {
				var err error
				n := files[r.IntN(len(files))]
				switch r.IntN(4) {
				case 0, 1:
					err = n.SetAttr(AttrUID|AttrProject, Attr{UID: r.Uint32N(90) << 8, Project: r.Uint32N(9)})
				case 2:
					_, err = n.WriteAt(make([]byte, 5000), int64(r.IntN(1<<19)))
				case 3:
					name := fmt.Sprint(w, "-", i%5)
					var c *Inode
					if c, err = root.Create(name, NewInode{Mode: format.ModeRegular | 0o600, UID: r.Uint32()}); err == nil {
						err = c.SetXattr("user.x", value(i%9, 5000), XattrFlags{})
						err = errors.Join(err, root.Unlink(name), c.Put())
					}
				}
				if err != nil && !unixIs(err, unix.EROFS) && !unixIs(err, unix.EEXIST) {
					t.Errorf("%d of %d: %v", i, w, err)
					return
				}
			}
		})
	}
	for range 60 {
		time.Sleep(2 * time.Millisecond)
		check(t, fs.Remount(true))
		check(t, fs.Remount(false))
	}
	stop.Store(true)
	all.Wait()
	for _, n := range append(files, root) {
		check(t, n.Put())
	}
	closeFS(t, fs)
	fsckQuota(t, image)
}
