package ext4

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Many goroutines work in shared and own directories, with commits, trims and evictions
// beside them. What each wrote is there, and e2fsck is content.
func TestConcurrent(t *testing.T) {
	image := makeImage(t, 128<<20, "-t", "ext4", "-b", "4096", "-g", "8192")
	fs := openFS(t, image, Options{CommitEvery: 20 * time.Millisecond, CacheBytes: 1 << 20, Discard: true})
	root := must(fs.Root())
	shared := must(root.Create("shared", NewInode{Mode: format.ModeDir | 0o755}))
	steps := 8000
	if testing.Short() {
		steps = 300
	}
	var wg sync.WaitGroup
	fail := make(chan error, 100)
	for w := range 8 {
		wg.Go(func() {
			if err := worker(fs, root, shared, w, steps); err != nil {
				fail <- err
			}
		})
	}
	stop := make(chan struct{})
	var side sync.WaitGroup
	side.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if _, err := fs.Trim(context.Background(), 0, 1<<40, 1<<16); err != nil {
				fail <- fmt.Errorf("trim: %w", err)
			}
			if err := shared.ReadDir(0, func(e DirEntry) bool {
				n, err := shared.Lookup(e.Name)
				if err == nil {
					n.Attr()
					_ = n.Put()
				}
				return true
			}); err != nil {
				fail <- err
			}
			fs.Statfs()
			if err := fs.Freeze(); err != nil {
				fail <- fmt.Errorf("freeze: %w", err)
				return
			}
			fs.Thaw()
		}
	})
	wg.Wait()
	close(stop)
	side.Wait()
	close(fail)
	for err := range fail {
		t.Error(err)
	}
	check(t, shared.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

func worker(fs *FS, root, shared *Inode, w, steps int) error {
	r := rand.New(rand.NewPCG(uint64(w), 9))
	own, err := root.Create(fmt.Sprintf("own-%d", w), NewInode{Mode: format.ModeDir | 0o755})
	if err != nil {
		return err
	}
	defer own.Put()
	content := map[string]byte{}
	ok := func(err error, allowed ...unix.Errno) error {
		for _, no := range allowed {
			if unixIs(err, no) {
				return nil
			}
		}
		return err
	}
	for i := range steps {
		name := fmt.Sprintf("f%d", r.IntN(60))
		var err error
		switch r.IntN(10) {
		case 0, 1, 2:
			var n *Inode
			if n, err = own.Lookup(name); err != nil {
				n, err = own.Create(name, NewInode{Mode: format.ModeRegular | 0o644})
			}
			if err == nil {
				c := byte(i) | 1
				_, err = n.WriteAt(bytes.Repeat([]byte{c}, 10000), 0)
				content[name] = c
				if r.IntN(20) == 0 {
					err = n.Sync(false)
				}
				if e := n.Put(); err == nil {
					err = e
				}
			}
		case 3:
			err = ok(own.Unlink(name), unix.ENOENT)
			delete(content, name)
		case 4:
			var n *Inode
			if n, err = own.Lookup(name); err == nil {
				p := make([]byte, 10000)
				if _, e := n.ReadAt(p, 0); e != nil && e != io.EOF {
					err = e
				} else if c := content[name]; !bytes.Equal(p, bytes.Repeat([]byte{c}, len(p))) {
					err = fmt.Errorf("worker %d: %s holds %#x, want %#x", w, name, p[0], c)
				}
				if e := n.Put(); err == nil {
					err = e
				}
			}
			err = ok(err, unix.ENOENT)
		case 5:
			sname := fmt.Sprintf("s%d", r.IntN(40))
			var n *Inode
			if n, err = shared.Create(sname, NewInode{Mode: format.ModeRegular | 0o644}); err == nil {
				_, err = n.WriteAt([]byte(sname), int64(r.IntN(30000)))
				if e := n.Put(); err == nil {
					err = e
				}
			}
			err = ok(err, unix.EEXIST)
		case 6:
			err = ok(shared.Unlink(fmt.Sprintf("s%d", r.IntN(40))), unix.ENOENT)
		case 7:
			err = ok(fs.Rename(shared, fmt.Sprintf("s%d", r.IntN(40)), shared, fmt.Sprintf("s%d", r.IntN(40)), RenameFlags{}), unix.ENOENT)
		case 8:
			d := fmt.Sprintf("d%d", r.IntN(5))
			if n, e := shared.Create(d, NewInode{Mode: format.ModeDir | 0o755}); e == nil {
				err = n.Put()
			} else if err = ok(e, unix.EEXIST); err == nil {
				err = ok(fs.Rename(shared, d, own, d, RenameFlags{}), unix.ENOENT, unix.ENOTEMPTY)
				if err == nil {
					err = ok(own.Rmdir(d), unix.ENOENT, unix.ENOTEMPTY)
				}
			}
		case 9:
			var n *Inode
			if n, err = shared.Lookup(fmt.Sprintf("s%d", r.IntN(40))); err == nil {
				if err = n.Truncate(int64(r.IntN(40000))); err == nil {
					err = n.SetXattr("user.w", []byte{byte(w)}, XattrFlags{})
				}
				at, count := int64(r.IntN(8))<<12, int64(1+r.IntN(4))<<12
				for _, e := range []error{n.Insert(at, count), n.Collapse(at/2&^4095, count), n.SetExtents(r.IntN(2) == 0)} {
					if err == nil {
						err = ok(e, unix.EINVAL, unix.EOPNOTSUPP)
					}
				}
				if e := n.Put(); err == nil {
					err = e
				}
			}
			err = ok(err, unix.ENOENT)
		}
		if err != nil {
			return fmt.Errorf("worker %d step %d: %w", w, i, err)
		}
	}
	return nil
}

// One file written and read by many goroutines at once.
func TestConcurrentFile(t *testing.T) {
	for _, mode := range []DataMode{DataOrdered, DataJournal, DataWriteback} {
		t.Run(fmt.Sprint("mode ", mode), func(t *testing.T) { concurrentFile(t, mode) })
	}
}

func concurrentFile(t *testing.T, mode DataMode) {
	image := makeImage(t, 64<<20, "-t", "ext4", "-b", "4096")
	fs := openFS(t, image, Options{CommitEvery: 10 * time.Millisecond, Data: mode})
	root := must(fs.Root())
	n := must(root.Create("f", NewInode{Mode: format.ModeRegular | 0o644}))
	const part = 200_000
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range 100 {
				off := r.IntN(part - 5000)
				if _, err := n.WriteAt(bytes.Repeat([]byte{byte(w + 1)}, 5000), int64(w*part+off)); err != nil {
					t.Error(err)
				}
				p := make([]byte, 5000)
				if _, err := n.ReadAt(p, int64(w*part+off)); err != nil && err != io.EOF {
					t.Error(err)
				}
				for _, c := range p {
					if c != byte(w+1) {
						t.Errorf("part %d holds %#x", w, c)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}
