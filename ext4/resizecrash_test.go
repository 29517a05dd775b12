package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// resizeTo grows or shrinks, as umlimg does it.
func resizeTo(t testing.TB, d Device, size int64, log Log) error {
	t.Helper()
	fs, err := Open(d, Options{Log: log})
	if err != nil {
		return err
	}
	blocks := uint64(size) >> fs.bsBits
	if blocks >= fs.blocks.Load() {
		err = fs.Grow(blocks)
	} else {
		_, err = fs.Shrink(t.Context(), blocks)
	}
	return errors.Join(err, fs.Close())
}

// TestCrashResize kills a growing and a shrinking at any write, with any of the writes since
// the last sync lost: what is there is whole, for e2fsck too where there is a journal, and
// resizing again ends well.
func TestCrashResize(t *testing.T) {
	cuts, seed := 4, uint64(20)
	if os.Getenv("UMLKIT_NIGHTLY") != "" {
		cuts, seed = 1<<30, rand.Uint64() // every write
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for _, c := range []struct {
		form     string
		from, to int64
	}{
		{"default", 40 << 20, 15 << 20}, {"default", 40 << 20, 18 << 20}, {"ext3", 300 << 20, 30 << 20}, {"ext2", 40 << 20, 15 << 20},
		{"default", 20 << 20, 90 << 20}, {"1k-noresize", 20 << 20, 300 << 20}, {"ext2", 20 << 20, 90 << 20},
		{"quota", 40 << 20, 15 << 20}, {"quota", 20 << 20, 90 << 20},
	} {
		t.Run(fmt.Sprintf("%s-%dM", c.form, c.to>>20), func(t *testing.T) {
			args := append([]string{"-t", "ext4", "-J", "size=1"}, quotaForms[1]...)
			for _, f := range forms {
				if f.name == c.form {
					args = f.args
				}
			}
			image := makeImage(t, c.from, args...)
			fs := openFS(t, image, Options{})
			smallScatter(t, fs)
			want := engineTree(t, fs)
			closeFS(t, fs)
			base := must(os.ReadFile(image))
			var log Log
			end := max(c.from, c.to)
			if c.form == "ext2" {
				log = Log{end, 8 << 20}
			}
			base = append(base, make([]byte, end+log.Len-int64(len(base)))...)
			d := &recorder{data: bytes.Clone(base)}
			check(t, resizeTo(t, d, c.to, log))
			var writes []int
			for i, e := range d.log {
				if e.off >= 0 {
					writes = append(writes, i+1)
				}
			}
			n := min(cuts, len(writes))
			for i := range n {
				cut := writes[i]
				if n < len(writes) {
					cut = writes[r.IntN(len(writes))]
				}
				what := fmt.Sprintf("seed %d, cut %d of %d", seed, cut, len(d.log))
				data, _ := replayTo(base, d.log[:cut], r, i%2 == 0)
				if c.form != "ext2" && i%3 == 0 {
					path := filepath.Join(t.TempDir(), "e2fsck.img")
					writeSparse(t, path, data)
					out := tool(t, "sh", "-c", "e2fsck -fp '"+path+"' || test $? = 1")
					if strings.Contains(out, "UNEXPECTED") {
						t.Fatalf("%s: %s", what, out)
					}
					fs := openFS(t, path, Options{ReadOnly: true})
					sameTrees(t, what+": after e2fsck", engineTree(t, fs), want)
					check(t, os.Remove(path))
				}
				again := &recorder{data: data}
				if err := resizeTo(t, again, c.to, log); err != nil {
					t.Fatalf("%s: again: %v", what, err)
				}
				path := filepath.Join(t.TempDir(), "again.img")
				writeSparse(t, path, again.data[:c.to])
				fsckQuota(t, path)
				fs := openFS(t, path, Options{ReadOnly: true})
				if got := int64(fs.blocks.Load()) << fs.bsBits; got > c.to || got < c.to-8<<20 {
					t.Errorf("%s: %d bytes, want %d", what, got, c.to)
				}
				sameTrees(t, what, engineTree(t, fs), want)
				check(t, os.Remove(path))
			}
		})
	}
}

// smallScatter is scatter for small filesystems.
func smallScatter(t testing.TB, fs *FS) {
	t.Helper()
	root := must(fs.Root())
	for d := range 8 {
		dir := must(root.Create(fmt.Sprintf("dir-%d", d), NewInode{Mode: format.ModeDir | 0o755}))
		for i := range 5 {
			n := must(dir.Create(fmt.Sprintf("file-%d", i), NewInode{Mode: format.ModeRegular | 0o640, UID: uint32(d*i) << d}))
			for k := range 30 * (i % 2) {
				must(n.WriteAt([]byte(fmt.Sprint("part ", k, d)), int64(k)*int64(3*fs.bs)))
			}
			must(n.WriteAt(bytes.Repeat([]byte{byte(d), byte(i)}, 20000*i), 0))
			check(t, n.SetXattr("user.large", bytes.Repeat([]byte{byte(i % 2)}, 500), XattrFlags{}))
			check(t, root.Link(fmt.Sprintf("hard-%d-%d", d, i), n))
			check(t, n.Put())
		}
		check(t, must(must(dir.Create("sub", NewInode{Mode: format.ModeDir | 0o700})).Create("below", NewInode{Mode: format.ModeDir | 0o700})).Put())
		check(t, dir.Put())
	}
	check(t, root.Put())
}

// failing fails at a write.
type failing struct {
	*recorder
	left atomic.Int64
}

func (d *failing) WriteAt(p []byte, off int64) (int, error) {
	if d.left.Add(-1) < 0 {
		return 0, unix.EIO
	}
	return d.recorder.WriteAt(p, off)
}

// TestFailResize lets the disk fail at a write: the error reaches the caller, and nothing is
// lost.
func TestFailResize(t *testing.T) {
	image := makeImage(t, 40<<20, "-t", "ext4", "-b", "1024")
	fs := openFS(t, image, Options{})
	smallScatter(t, fs)
	want := engineTree(t, fs)
	closeFS(t, fs)
	base := must(os.ReadFile(image))
	for _, at := range []int64{5, 40, 120} {
		d := &failing{recorder: &recorder{data: bytes.Clone(base)}}
		d.left.Store(at)
		if err := resizeTo(t, d, 15<<20, Log{}); !errors.Is(err, unix.EIO) {
			t.Fatalf("write %d: %v", at, err)
		}
		check(t, resizeTo(t, d.recorder, 15<<20, Log{}))
		path := filepath.Join(t.TempDir(), "failed.img")
		writeSparse(t, path, d.data[:15<<20])
		fsck(t, path)
		fs := openFS(t, path, Options{ReadOnly: true})
		sameTrees(t, fmt.Sprintf("write %d", at), engineTree(t, fs), want)
	}
}
