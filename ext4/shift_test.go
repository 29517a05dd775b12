package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// shiftModel collapses or inserts a range and does the same to a slice. Where the engine
// must refuse it, it says when it does not.
func shiftModel(n *Inode, collapse bool, off, length int, model *[]byte) error {
	want, m := unix.Errno(0), *model
	var err error
	if collapse {
		if off+length >= len(m) {
			want = unix.EINVAL
		}
		err = n.Collapse(int64(off), int64(length))
	} else {
		if off >= len(m) {
			want = unix.EINVAL
		}
		err = n.Insert(int64(off), int64(length))
	}
	if !n.extents() {
		want = unix.EOPNOTSUPP
	}
	switch {
	case want != 0:
		if !unixIs(err, want) {
			return fmt.Errorf("shift of %d+%d in %d gives %v, want %v", off, length, len(m), err, want)
		}
		return nil
	case err != nil:
		return err
	case collapse:
		*model = append(m[:off:off], m[off+length:]...)
	default:
		*model = append(append(m[:off:off], make([]byte, length)...), m[off:]...)
	}
	return nil
}

// Files of thousands of extents, in trees of several levels, are shifted in one handle
// and in many, and read as a slice does under the same.
func TestShiftTrees(t *testing.T) {
	for _, limit := range []int{0, 30} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			image := makeImage(t, 64<<20, "-t", "ext4", "-b", "1024", "-m", "0")
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			n := must(root.Create("f", regular))
			if limit > 0 {
				fs.txn.limit = limit
			}
			var model []byte
			block := make([]byte, 1024)
			for i := range 9000 { // every second block, so that no two extents touch
				binary.LittleEndian.PutUint32(block, uint32(i)+1)
				must(n.WriteAt(block, int64(i)*2048))
				model = append(append(model[:i*2048:cap(model)], block...), make([]byte, 1024)...)
			}
			model = model[:len(model)-1024]
			sameFile(t, n, model)
			r := rand.New(rand.NewPCG(9, uint64(limit)))
			for i := range 60 {
				off, length := r.IntN(len(model))&^1023, (1+r.IntN(1<<(1+r.IntN(12))))*1024
				if err := shiftModel(n, i%2 == 0, off, length, &model); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if i%20 == 19 {
					sameFile(t, n, model)
					check(t, n.Put())
					check(t, root.Put())
					closeFS(t, fs)
					fsck(t, image)
					fs = openFS(t, image, Options{})
					if limit > 0 {
						fs.txn.limit = limit
					}
					root = must(fs.Root())
					n = must(root.Lookup("f"))
				}
			}
			sameFile(t, n, model)
			// What a file cannot be moved to.
			wantErr(t, n.Insert(0, 1<<42), unix.EFBIG)
			wantErr(t, n.Collapse(512, 1024), unix.EINVAL)
			wantErr(t, n.Insert(0, 0), unix.EINVAL)
			check(t, n.Put())
			check(t, root.Put())
			closeFS(t, fs)
			fsck(t, image)
		})
	}
}

// A crash during shifts of a file leaves it as it was before one or after it, when they
// fit transactions, and sound in any case.
func TestCrashShift(t *testing.T) {
	for _, limit := range []int{0, 12} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			image := makeImage(t, 24<<20, "-t", "ext4", "-b", "1024", "-J", "size=4", "-m", "0")
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			n := must(root.Create("f", regular))
			for i := range 4000 {
				must(n.WriteAt(bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 512), int64(i)*2048))
			}
			check(t, n.Put())
			check(t, root.Put())
			closeFS(t, fs)

			base := must(os.ReadFile(image))
			d := &recorder{data: bytes.Clone(base)}
			fs, err := Open(d, Options{Discard: true})
			check(t, err)
			if limit > 0 {
				fs.txn.limit = limit
			}
			root = must(fs.Root())
			n = must(root.Lookup("f"))
			content := func(n *Inode) []byte {
				p := make([]byte, n.Attr().Size)
				must(n.ReadAt(p, 0))
				return p
			}
			// Commits come between the steps of whatever has several.
			stop, stopped := make(chan bool), make(chan error)
			go func() {
				other, err := root.Create("other", regular)
				for err == nil {
					select {
					case <-stop:
						stopped <- other.Put()
						return
					default:
					}
					if _, err = other.WriteAt([]byte("x"), 0); err == nil {
						err = other.Sync(false)
					}
				}
				stopped <- err
			}()
			states := []uint32{format.CRC32C(0, content(n))}
			model := content(n)
			r := rand.New(rand.NewPCG(4, uint64(limit)))
			for i := range 12 {
				off, length := r.IntN(len(model))&^1023, (1+r.IntN(500))*1024
				d.mark(2*i + 1)
				check(t, shiftModel(n, i%2 == 0, off, length, &model))
				d.mark(2*i + 2)
				states = append(states, format.CRC32C(0, model))
				if i%3 == 2 {
					check(t, n.Sync(true))
				}
			}
			sameFile(t, n, model)
			close(stop)
			check(t, <-stopped)
			check(t, n.Put())
			check(t, root.Put())
			check(t, fs.Close())

			cuts := 10
			if os.Getenv("UMLKIT_NIGHTLY") != "" {
				cuts = 100
			}
			var during []int // what was recorded while a shift ran
			mark := 0
			for i, e := range d.log {
				if e.off == -2 {
					mark = e.mark
				} else if mark%2 == 1 {
					during = append(during, i)
				}
			}
			seen := map[int]bool{}
			for i := range cuts {
				cut := len(d.log) * (i + 1) / (cuts + 1)
				if i%2 == 0 && len(during) > 0 {
					cut = during[len(during)*i/cuts]
				}
				data, _ := replayTo(base, d.log[:cut], r, i%4 == 0)
				crashCheck(t, data, nil, fmt.Sprintf("cut %d of %d", cut, len(d.log)), i%10 == 0)
				if limit > 0 {
					continue // in steps: sound is all that is promised
				}
				fs, err := Open(&recorder{data: data}, Options{})
				check(t, err)
				root := must(fs.Root())
				n := must(root.Lookup("f"))
				sum, at := format.CRC32C(0, content(n)), -1
				for k, s := range states {
					if s == sum {
						at = k
					}
				}
				if at < 0 {
					t.Errorf("cut %d of %d: the file is neither what it was before a shift nor after one", cut, len(d.log))
				}
				seen[at] = true
				check(t, n.Put())
				check(t, root.Put())
				check(t, fs.Close())
			}
			if limit == 0 && len(seen) < 3 {
				t.Errorf("only %d states were seen: the test proves little", len(seen))
			}
		})
	}
}
