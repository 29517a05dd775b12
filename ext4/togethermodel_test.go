package ext4

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
)

// Several goroutines, each with a model of its own names, work in directories of their
// own and in two that all share. The engine agrees with all models together, before and
// after closing, and e2fsck with both.
func TestTreeModelTogether(t *testing.T) {
	steps, workers, phases := 400, 5, 2
	if testing.Short() {
		steps = 120
	}
	seed := uint64(0)
	if nightly {
		steps, phases, seed = 1500, 6, uint64(time.Now().UnixNano())%1e9
	}
	for _, f := range []string{"4k", "32bit", "ext3", "ext2", "orphan_file", "4k data=journal", "ext3 data=journal"} {
		t.Run(f, func(t *testing.T) {
			image := makeImage(t, 160<<20, formArgs(f)...)
			// A small cache and quick commits: what is evicted is read again under way.
			o := Options{CommitEvery: 3 * time.Millisecond, CacheBytes: 1 << 17, Discard: true, Data: modeOf(f)}
			fs := openFS(t, image, o)
			root := must(fs.Root())
			check(t, must(root.Create("shared", NewInode{Mode: format.ModeDir | 0o755})).Put())
			runs := make([]*modelRun, workers)
			for w := range runs {
				own := fmt.Sprint("own-", w)
				check(t, must(root.Create(own, NewInode{Mode: format.ModeDir | 0o755})).Put())
				m := &modelRun{t: t, r: rand.New(rand.NewPCG(seed, uint64(w))), root: newMnode(format.ModeDir), prefix: fmt.Sprintf("w%d-", w)}
				m.root.perm = 0o755
				for _, name := range []string{"shared", own} {
					d := newMnode(format.ModeDir)
					d.perm, d.parent = 0o755, m.root
					m.root.children[name] = d
				}
				runs[w] = m
			}
			check(t, root.Put())
			for phase := range phases {
				var wg sync.WaitGroup
				for _, m := range runs {
					m.fs = fs
					wg.Go(func() {
						for i := range steps {
							m.step(phase*steps + i)
						}
					})
				}
				wg.Wait()
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
				all := *runs[0].root
				all.children = map[string]*mnode{}
				shared := *runs[0].root.children["shared"]
				shared.children = map[string]*mnode{}
				for _, m := range runs {
					maps.Copy(all.children, m.root.children)
					maps.Copy(shared.children, m.root.children["shared"].children)
				}
				all.children["shared"] = &shared
				var want []string
				all.tree("", &want)
				sort.Strings(want)
				sameModels(t, fs, want)
				closeFS(t, fs)
				fsck(t, image)
				fs = openFS(t, image, o)
				sameModels(t, fs, want)
			}
			closeFS(t, fs)
		})
	}
}
