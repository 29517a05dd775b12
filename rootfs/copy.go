package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Small files lie one after another in the image: they are gathered in memory and
// written together. What is larger than direct is copied by itself.
const (
	gather = 1 << 20
	direct = 512 << 10
)

// copier carries file content to a disk with several goroutines.
type copier struct {
	ctx     context.Context
	d       Disk
	out     *os.File // nil: the kernel cannot copy
	base    int64    // where in out the disk begins
	jobs    []job
	next    atomic.Int64 // jobs up to here are taken
	takes   sync.Mutex
	done    atomic.Int64
	total   int64
	tell    func(done, total int64)
	noCopy  atomic.Bool // copy_file_range does not work here
	failure atomic.Pointer[error]
}

// copy writes the content of all placed files.
func (l *layout) copy(ctx context.Context, d Disk) error {
	c := &copier{ctx: ctx, d: d, jobs: l.jobs, total: l.total, tell: l.options.Progress}
	c.out, c.base = d.File()
	if c.tell == nil {
		c.tell = func(int64, int64) {}
	}
	c.tell(0, c.total)
	if len(c.jobs) == 0 {
		return nil
	}
	n := min(max(runtime.GOMAXPROCS(0), 2), 4)
	if c.total <= gather {
		n = 1
	}
	var workers sync.WaitGroup
	for range n {
		workers.Go(func() {
			if err := c.work(); err != nil {
				c.failure.CompareAndSwap(nil, &err)
			}
		})
	}
	workers.Wait()
	if err := c.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// take is the next run of jobs for one goroutine: as many as fill a buffer, so that
// their places touch.
func (c *copier) take() []job {
	c.takes.Lock()
	defer c.takes.Unlock()
	first := c.next.Load()
	last, bytes := first, int64(0)
	for last < int64(len(c.jobs)) {
		for _, e := range c.jobs[last].extents {
			bytes += e.Length
		}
		if last > first && bytes > gather {
			break
		}
		last++
	}
	c.next.Store(last)
	return c.jobs[first:last]
}

func (c *copier) work() error {
	w := writer{d: c.d, buf: make([]byte, 0, max(min(c.total, gather), 64<<10))}
	for {
		jobs := c.take()
		if len(jobs) == 0 {
			return nil
		}
		moved := int64(0)
		for i := range jobs {
			if c.failure.Load() != nil {
				return nil
			}
			if err := c.ctx.Err(); err != nil {
				return err
			}
			n, err := c.file(&w, &jobs[i])
			if err != nil {
				return err
			}
			moved += n
		}
		if err := w.flush(); err != nil {
			return err
		}
		c.tell(c.done.Add(moved), c.total)
	}
}

// file copies one file.
func (c *copier) file(w *writer, j *job) (moved int64, err error) {
	r, err := j.content.Open()
	if err != nil {
		return 0, err
	}
	defer func() {
		if closeErr := r.Close(); err == nil {
			err = closeErr
		}
	}()
	for _, e := range j.extents {
		if err := c.extent(w, j, r, e); err != nil {
			return 0, err
		}
		moved += e.Length
	}
	return moved, nil
}

// extent copies one run of a file. The extent may be wider than the data by parts of
// a block; those read as zeros in the source.
func (c *copier) extent(w *writer, j *job, r tree.Reader, e mkfs.Extent) error {
	n := min(e.Length, j.size-e.Offset)
	if n > direct && c.out != nil && !c.noCopy.Load() {
		if err := w.flush(); err != nil {
			return err
		}
		in, at := r.Host(tree.Region{Off: e.Offset, Len: n})
		if in != nil {
			moved, err := c.kernelCopy(in, at, e.Disk, n)
			if err != nil {
				return err
			}
			e.Offset, e.Disk, n = e.Offset+moved, e.Disk+moved, n-moved
		}
	}
	for n > 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		p, err := w.space(e.Disk, n)
		if err != nil {
			return err
		}
		if _, err := r.ReadAt(p, e.Offset); err != nil {
			return fmt.Errorf("%s: %w", j.path, err)
		}
		w.keep(len(p))
		e.Offset, e.Disk, n = e.Offset+int64(len(p)), e.Disk+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// kernelCopy copies by copy_file_range, which shares blocks where the host's file system
// can, and says how much it copied. Where it does not work nothing is copied and
// nothing is wrong.
func (c *copier) kernelCopy(in *os.File, from, to, n int64) (int64, error) {
	moved := int64(0)
	to += c.base
	for moved < n {
		if err := c.ctx.Err(); err != nil {
			return moved, err
		}
		got, err := unix.CopyFileRange(int(in.Fd()), &from, int(c.out.Fd()), &to, int(min(n-moved, 64<<20)), 0)
		switch {
		case err == unix.EINTR:
			continue
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO), errors.Is(err, unix.EFBIG):
			return moved, fmt.Errorf("copy %s: %w", in.Name(), err)
		case err != nil:
			c.noCopy.Store(true)
			return moved, nil
		case got == 0: // the end, or a file whose size lies: reading will tell
			return moved, nil
		}
		startWriteback(c.out, to-int64(got), int64(got))
		moved += int64(got)
	}
	return moved, nil
}

// startWriteback has the host begin to write a range to its disk, which goes on while
// the next files are read. It is a hint: the image is made stable at its end.
func startWriteback(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// writer gathers what lies together on the disk and writes it at once.
type writer struct {
	d   Disk
	buf []byte
	at  int64 // where buf belongs
}

// space is room for up to n bytes that belong to a place on the disk.
func (w *writer) space(disk, n int64) ([]byte, error) {
	const block = 4096 // a gap between two files is less: the rest of a block
	gap := disk - (w.at + int64(len(w.buf)))
	if len(w.buf) > 0 {
		if gap < 0 || gap >= block || gap+1 > int64(cap(w.buf)-len(w.buf)) {
			if err := w.flush(); err != nil {
				return nil, err
			}
		} else {
			end := len(w.buf) + int(gap)
			clear(w.buf[len(w.buf):end])
			w.buf = w.buf[:end]
		}
	}
	if len(w.buf) == 0 {
		w.at = disk
	}
	free := w.buf[len(w.buf):cap(w.buf)]
	return free[:min(int64(len(free)), n)], nil
}

// keep says that n bytes of the room were filled.
func (w *writer) keep(n int) { w.buf = w.buf[:len(w.buf)+n] }

func (w *writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.d.WriteAt(w.buf, w.at)
	if f, base := w.d.File(); f != nil && err == nil {
		startWriteback(f, base+w.at, int64(len(w.buf)))
	}
	w.buf = w.buf[:0]
	return err
}
