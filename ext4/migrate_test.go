package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Files keep what they hold when their mapping becomes another, and work on with it.
func TestSetExtents(t *testing.T) {
	for _, bs := range []string{"1024", "4096"} {
		t.Run(bs, func(t *testing.T) {
			// ext3, which gets the feature extent: its files have none yet.
			image := makeImage(t, 64<<20, "-t", "ext3", "-b", bs)
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			r := rand.New(rand.NewPCG(8, 8))
			var models [][]byte
			for i := range 8 {
				n := must(root.Create(fmt.Sprint(i), regular))
				model := []byte{}
				for range 3 * i {
					off, p := r.IntN(1<<(10+i)), bytes.Repeat([]byte{byte(r.IntN(255)) + 1}, 1+r.IntN(40_000))
					if end := off + len(p); end > len(model) {
						model = append(model, make([]byte, end-len(model))...)
					}
					copy(model[off:], p)
					must(n.WriteAt(p, int64(off)))
				}
				models = append(models, model)
				check(t, n.Put())
			}
			far := must(root.Create("far", regular)) // in three levels
			must(far.WriteAt([]byte("far"), int64(fs.bs)*int64(fs.bs/4)*int64(fs.bs/4)*2))
			wantErr(t, far.SetExtents(true), unix.EOPNOTSUPP) // without the feature
			check(t, far.Put())
			dir := must(root.Create("dir", NewInode{Mode: format.ModeDir | 0o755}))
			for i := range 300 {
				n := must(dir.Create(fmt.Sprintf("name-%d", i), regular))
				check(t, n.Put())
			}
			check(t, dir.Put())
			check(t, root.Put())
			closeFS(t, fs)
			tool(t, "tune2fs", "-O", "extent", image)

			fs = openFS(t, image, Options{})
			root = must(fs.Root())
			free := fs.Statfs().Free
			for i, model := range models {
				n := must(root.Lookup(fmt.Sprint(i)))
				check(t, n.SetExtents(true))
				if !n.extents() {
					t.Fatalf("file %d has no extents", i)
				}
				sameFile(t, n, model)
				model = append(model, []byte("more")...)
				must(n.WriteAt([]byte("more"), int64(len(model)-4)))
				sameFile(t, n, model)
				models[i] = model
				if err := n.SetExtents(false); err != nil {
					wantErr(t, err, unix.EOPNOTSUPP)
				} else if n.extents() || len(model) > 20*fs.bs {
					t.Errorf("file %d of %d bytes lost its extents", i, len(model))
				}
				sameFile(t, n, model)
				must(n.WriteAt([]byte("again"), 0))
				copy(models[i], "again")
				if len(models[i]) < 5 {
					models[i] = []byte("again")
				}
				check(t, n.Put())
			}
			far = must(root.Lookup("far"))
			check(t, far.SetExtents(true))
			if a := far.Attr(); a.Blocks512*512 != int64(fs.bs) {
				t.Errorf("a file of one block has %d", a.Blocks512*512/int64(fs.bs))
			}
			check(t, far.Put())
			if now := fs.Statfs().Free; now+8 < free { // each may have grown by a block
				t.Errorf("%d blocks free, %d before", now, free)
			}
			dir = must(root.Lookup("dir"))
			check(t, dir.SetExtents(true))
			if got := len(readDir(t, dir)); got != 302 {
				t.Errorf("the directory has %d names", got)
			}
			check(t, dir.Put())
			check(t, root.Put())
			closeFS(t, fs)
			fsck(t, image)
			fs = openFS(t, image, Options{ReadOnly: true})
			root = must(fs.Root())
			for i, model := range models {
				n := must(root.Lookup(fmt.Sprint(i)))
				sameFile(t, n, model)
				check(t, n.Put())
			}
			check(t, root.Put())
		})
	}
}
