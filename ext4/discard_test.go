package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// Blocks are trimmed only when the transaction that freed them is stable: whatever is
// lost in a crash just after a trim, files have what they held before a change or after
// it.
func TestDiscardAfterCommit(t *testing.T) {
	for _, args := range [][]string{{"-t", "ext4"}, {"-t", "ext3", "-b", "1024"}} {
		t.Run(args[1], func(t *testing.T) {
			base := must(os.ReadFile(makeImage(t, 32<<20, args...)))
			d := &recorder{data: base}
			fs, err := Open(d, Options{})
			check(t, err)
			const size = 300_000
			before := func(i int) []byte { return bytes.Repeat([]byte{byte(i) + 1}, size) }
			name := func(i int) string { return fmt.Sprint("file-", i) }
			root := must(fs.Root())
			for i := range 40 {
				n := must(root.Create(name(i), regular))
				must(n.WriteAt(before(i), 0))
				check(t, n.Put())
			}
			check(t, root.Put())
			check(t, fs.Close())
			base = bytes.Clone(d.data)
			d.log = nil

			fs, err = Open(d, Options{Discard: true})
			check(t, err)
			root = must(fs.Root())
			r := rand.New(rand.NewPCG(6, 6))
			after := make([][]byte, 40) // nil: gone
			for i := range 40 {
				n := must(root.Lookup(name(i)))
				after[i] = before(i)
				switch i % 4 {
				case 0:
					after[i] = nil
					check(t, root.Unlink(name(i)))
				case 1:
					check(t, n.Truncate(50_000))
					after[i] = after[i][:50_000]
				case 2:
					check(t, n.Punch(65_536, 131_072))
					clear(after[i][65_536:][:131_072])
				case 3:
					if n.extents() {
						check(t, n.Collapse(65_536, 131_072))
						after[i] = after[i][:size-131_072]
					}
				}
				if r.IntN(4) == 0 {
					check(t, n.Sync(false))
				}
				check(t, n.Put())
			}
			check(t, root.Put())
			check(t, fs.Close())

			trims, trimmed := 0, 0
			lastSync := 0
			for i, e := range d.log {
				if e.off == -1 {
					lastSync = i
				}
				if !e.trim {
					continue
				}
				trims++
				trimmed += len(e.data)
				if trims%4 != 1 {
					continue
				}
				// The trims have happened, the writes since the last sync are lost.
				data := bytes.Clone(base)
				for k, e := range d.log[:i+1] {
					if e.off >= 0 && (k <= lastSync || e.trim) {
						copy(data[e.off:], e.data)
					}
				}
				fs, err := Open(&recorder{data: data}, Options{})
				check(t, err)
				root := must(fs.Root())
				for i := range 40 {
					n, err := root.Lookup(name(i))
					if err != nil {
						if after[i] != nil {
							t.Errorf("trim %d: %s: %v", trims, name(i), err)
						}
						continue
					}
					got := make([]byte, n.Attr().Size)
					must(n.ReadAt(got, 0))
					if !bytes.Equal(got, before(i)) && !bytes.Equal(got, after[i]) {
						t.Errorf("trim %d: %s is neither as before its change nor as after it", trims, name(i))
					}
					check(t, n.Put())
				}
				check(t, root.Put())
				check(t, fs.Close())
			}
			if trims < 20 || trimmed < 5_000_000 {
				t.Errorf("only %d trims of %d bytes: the test proves little", trims, trimmed)
			}
		})
	}
}
