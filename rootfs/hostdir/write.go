package hostdir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/nameless"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Writer puts trees into directories of this machine. Names in a tree were chosen by
// others: each is made in its directory by itself, and no symbolic link is followed, made
// from the tree or there before. A file that is there keeps its content until the new one
// is complete.
type Writer struct {
	// Preserve keeps owners, modes, times, extended attributes and device nodes, as far as
	// the kernel lets us. Without it files are new ones of the user's, with the tree's
	// permissions and the umask.
	Preserve bool

	// Update leaves alone what is there and not older, NoClobber what is there.
	Update, NoClobber bool

	// Keep, where set, tells of files that are not to be replaced: what the tree is read from.
	Keep func(dev, ino uint64) bool

	// Left, where set, is told of what was left alone, for whichever reason; several
	// goroutines call it.
	Left func(n *tree.Node)

	// Skipped, where set, is told what was left out, and why.
	Skipped func(path, why string)

	// Wrote, where set, is told of bytes of content that were written; several goroutines
	// call it.
	Wrote func(n int64)

	ctx   context.Context
	stop  context.CancelCauseFunc
	root  *openDir
	links map[*tree.Node]string // where the first name of a file is, below root
	jobs  chan fileJob
}

var errKept = errors.New("the disk is read from it")

// openDir is a directory that is being filled. Its attributes are set when all is in it.
type openDir struct {
	w    *Writer
	fd   int
	path string // in messages
	rel  string // below root
	node *tree.Node
	made bool
	refs atomic.Int64
}

type fileJob struct {
	dir  *openDir
	name string
	node *tree.Node
}

// Put puts a node and all below it under a name into the directory dir.
func (w *Writer) Put(ctx context.Context, dir, name string, n *tree.Node) error {
	if err := tree.CheckName(name); err != nil {
		return err
	}
	return w.run(ctx, dir, nil, func() error { return w.put(w.root, name, n) })
}

// PutAll puts what is in the directory n into the directory dir, and gives dir the
// attributes of n where those are kept.
func (w *Writer) PutAll(ctx context.Context, dir string, n *tree.Node) error {
	return w.run(ctx, dir, n, func() error { return w.fill(w.root, n) })
}

func (w *Writer) run(ctx context.Context, dir string, n *tree.Node, work func() error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	w.ctx, w.stop = context.WithCancelCause(ctx)
	defer w.stop(nil)
	w.links = make(map[*tree.Node]string)
	w.root = &openDir{w: w, fd: fd, path: dir, node: n}
	w.root.refs.Store(1)
	w.jobs = make(chan fileJob, 64)
	var workers sync.WaitGroup
	for range min(max(runtime.GOMAXPROCS(0), 2), 4) {
		workers.Go(func() {
			var buf []byte
			for j := range w.jobs {
				if w.ctx.Err() == nil {
					if err := w.file(j, &buf); err != nil {
						w.stop(err)
					}
				}
				j.dir.done()
			}
		})
	}
	if err := work(); err != nil {
		w.stop(err)
	}
	close(w.jobs)
	workers.Wait()
	w.root.done()
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return nil
}

// done gives up one use of a directory; after the last, nothing more comes into it.
func (d *openDir) done() {
	if d.refs.Add(-1) > 0 {
		return
	}
	err := d.finish()
	if e := unix.Close(d.fd); err == nil && e != nil {
		err = &fs.PathError{Op: "close", Path: d.path, Err: e}
	}
	if err != nil {
		d.w.stop(err)
	}
}

func (d *openDir) finish() error {
	switch {
	case d.node == nil || d.w.ctx.Err() != nil:
		return nil
	case d.w.Preserve && !d.node.Mtime.IsZero():
		return d.w.attributes(d.fd, d.node, d.path)
	case d.made && d.node.Mode&0o700 != 0o700:
		// It had to be written into.
		var st unix.Stat_t
		if err := unix.Fstat(d.fd, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: d.path, Err: err}
		}
		if err := unix.Fchmod(d.fd, st.Mode&0o7777&^(0o700&^d.node.Mode)); err != nil {
			return &fs.PathError{Op: "chmod", Path: d.path, Err: err}
		}
	}
	return nil
}

func (d *openDir) join(name string) string { return filepath.Join(d.path, name) }

func (w *Writer) put(dir *openDir, name string, n *tree.Node) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.Keep != nil && !n.IsDir() {
		var st unix.Stat_t
		if err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && w.Keep(uint64(st.Dev), st.Ino) {
			return &fs.PathError{Op: "replace", Path: dir.join(name), Err: errKept}
		}
	}
	switch {
	case n.IsDir():
		return w.dir(dir, name, n)
	case n.Names() > 1:
		return w.linked(dir, name, n)
	case n.IsRegular():
		dir.refs.Add(1)
		w.jobs <- fileJob{dir, name, n}
		return nil
	}
	_, err := w.special(dir, name, n)
	return err
}

func (w *Writer) fill(dir *openDir, n *tree.Node) error {
	for _, e := range n.Entries() {
		if err := w.put(dir, e.Name, e.Node); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) dir(parent *openDir, name string, n *tree.Node) error {
	full := parent.join(name)
	err := unix.Mkdirat(parent.fd, name, n.Mode&0o777|0o700)
	if err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "mkdir", Path: full, Err: err}
	}
	made := err == nil
	fd, err := unix.Openat(parent.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: full, Err: err}
	}
	d := &openDir{w: w, fd: fd, path: full, rel: filepath.Join(parent.rel, name), node: n, made: made}
	d.refs.Store(1)
	defer d.done()
	return w.fill(d, n)
}

// linked makes the first name of a file with the file, and each later one as a link.
func (w *Writer) linked(dir *openDir, name string, n *tree.Node) error {
	rel := filepath.Join(dir.rel, name)
	first, ok := w.links[n]
	if !ok {
		made := true
		var err error
		if n.IsRegular() {
			var buf []byte
			err = w.file(fileJob{dir, name, n}, &buf)
		} else {
			made, err = w.special(dir, name, n)
		}
		if err == nil && made {
			w.links[n] = rel
		}
		return err
	}
	from, err := w.openBelow(filepath.Dir(first))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return w.replace(dir, name, func(temp string) error {
		return unix.Linkat(from, filepath.Base(first), dir.fd, temp, 0)
	})
}

// openBelow opens a directory below the root again, without following a link.
func (w *Writer) openBelow(rel string) (int, error) {
	at, err := unix.Dup(w.root.fd)
	if err != nil {
		return -1, err
	}
	for _, name := range strings.Split(rel, "/") {
		if name == "" || name == "." {
			continue
		}
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: filepath.Join(w.root.path, rel), Err: err}
		}
		at = next
	}
	return at, nil
}

// replace makes something under its name, or under another that then becomes its name.
func (w *Writer) replace(dir *openDir, name string, make func(name string) error) error {
	full := dir.join(name)
	err := make(name)
	if err != unix.EEXIST {
		return wrapPath("create", full, err)
	}
	temp := ".umlimg-" + rand.Text()
	if err := make(temp); err != nil {
		return wrapPath("create", full, err)
	}
	return w.rename(dir, temp, name)
}

func (w *Writer) rename(dir *openDir, temp, name string) error {
	err := unix.Renameat(dir.fd, temp, dir.fd, name)
	// Two names of one file stay both.
	if e := unix.Unlinkat(dir.fd, temp, 0); err == nil && e != nil && e != unix.ENOENT {
		err = e
	}
	return wrapPath("replace", dir.join(name), err)
}

func wrapPath(op, path string, err error) error {
	var no unix.Errno
	if errors.As(err, &no) {
		return &fs.PathError{Op: op, Path: path, Err: no}
	}
	return err
}

// leave says whether what is there is to stay.
func (w *Writer) leave(dir *openDir, name string, n *tree.Node) (bool, error) {
	if !w.NoClobber && !w.Update {
		return false, nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "stat", Path: dir.join(name), Err: err}
	}
	stays := w.NoClobber || !n.Mtime.After(time.Unix(st.Mtim.Unix()))
	if stays && w.Left != nil {
		w.Left(n)
	}
	return stays, nil
}

// special makes a symbolic link, a FIFO, a socket or a device.
func (w *Writer) special(dir *openDir, name string, n *tree.Node) (made bool, err error) {
	full := dir.join(name)
	if leave, err := w.leave(dir, name, n); leave || err != nil {
		return false, err
	}
	device := n.Type() == unix.S_IFBLK || n.Type() == unix.S_IFCHR
	if device && (!w.Preserve || os.Geteuid() != 0) {
		if w.Skipped != nil {
			w.Skipped(full, "a device node, which only root makes, when attributes are kept")
		}
		if w.Left != nil {
			w.Left(n)
		}
		return false, nil
	}
	err = w.replace(dir, name, func(name string) error {
		if n.IsSymlink() {
			return unix.Symlinkat(n.Target, dir.fd, name)
		}
		mode := n.Type() | n.Mode&0o777
		if w.Preserve {
			mode = n.Type() | 0o600
		}
		return unix.Mknodat(dir.fd, name, mode, int(unix.Mkdev(n.Major, n.Minor)))
	})
	if err != nil || !w.Preserve {
		return err == nil, err
	}
	if err := unix.Fchownat(dir.fd, name, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil && os.Geteuid() == 0 {
		return true, &fs.PathError{Op: "chown", Path: full, Err: err}
	}
	if !n.IsSymlink() {
		if err := chmodNode(dir.fd, name, n.Mode); err != nil {
			return true, &fs.PathError{Op: "chmod", Path: full, Err: err}
		}
	}
	times := []unix.Timespec{timespec(n.Atime, n.Mtime), timespec(n.Mtime, n.Mtime)}
	if err := unix.UtimesNanoAt(dir.fd, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return true, &fs.PathError{Op: "utimes", Path: full, Err: err}
	}
	return true, nil
}

// chmodNode gives what was made its permissions, unless a symbolic link took its place.
func chmodNode(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != mode&unix.S_IFMT {
		return unix.ELOOP
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode&0o7777)
}

func timespec(t, otherwise time.Time) unix.Timespec {
	if t.IsZero() {
		t = otherwise
	}
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return ts
}

// file writes a regular file.
func (w *Writer) file(j fileJob, buf *[]byte) error {
	if leave, err := w.leave(j.dir, j.name, j.node); leave || err != nil {
		return err
	}
	full := j.dir.join(j.name)
	perm := j.node.Mode & 0o777
	old := new(unix.Stat_t)
	switch err := unix.Fstatat(j.dir.fd, j.name, old, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		old = nil
	case err != nil:
		return &fs.PathError{Op: "stat", Path: full, Err: err}
	case old.Mode&unix.S_IFMT == unix.S_IFDIR:
		return &fs.PathError{Op: "replace", Path: full, Err: unix.EISDIR}
	case old.Mode&unix.S_IFMT != unix.S_IFREG:
		old = nil
	}
	if w.Preserve || old != nil {
		perm = 0o600
	}
	f, err := nameless.CreateAt(j.dir.fd, j.name, perm)
	if err != nil {
		return &fs.PathError{Op: "create", Path: full, Err: err}
	}
	defer f.Close()
	fd := int(f.Fd())
	err = w.content(fd, j.node, full, buf)
	switch {
	case err != nil:
		return err
	case w.Preserve:
		err = w.attributes(fd, j.node, full)
	case old != nil:
		err = wrapPath("chmod", full, f.Like(old))
	}
	if err == nil {
		err = wrapPath("create", full, f.Commit(true))
	}
	if e := f.Close(); err == nil && e != nil {
		err = wrapPath("close", full, e)
	}
	return err
}

func (w *Writer) content(fd int, n *tree.Node, full string, buf *[]byte) error {
	if n.Size == 0 {
		return nil
	}
	if err := unix.Ftruncate(fd, n.Size); err != nil {
		return &fs.PathError{Op: "write", Path: full, Err: err}
	}
	return n.Copy(w.ctx, buf, func(p []byte, off int64) error {
		size := len(p)
		for len(p) > 0 {
			done, err := unix.Pwrite(fd, p, off)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return &fs.PathError{Op: "write", Path: full, Err: err}
			}
			p, off = p[done:], off+int64(done)
		}
		if w.Wrote != nil {
			w.Wrote(int64(size))
		}
		return nil
	})
}

// attributes gives an open file or directory what a node has. What only root may give is
// left out for others.
func (w *Writer) attributes(fd int, n *tree.Node, full string) error {
	root := os.Geteuid() == 0
	mode := n.Mode & 0o7777
	if err := unix.Fchown(fd, int(n.UID), int(n.GID)); err != nil {
		if root {
			return &fs.PathError{Op: "chown", Path: full, Err: err}
		}
		mode &= 0o1777 // whose rights it would give is another now
	}
	for name, value := range n.Xattrs {
		if err := unix.Fsetxattr(fd, name, value, 0); err != nil && err != unix.ENOTSUP && (root || err != unix.EPERM) {
			return fmt.Errorf("%s: extended attribute %q: %w", full, name, err)
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: full, Err: err}
	}
	times := []unix.Timespec{timespec(n.Atime, n.Mtime), timespec(n.Mtime, n.Mtime)}
	if err := futimens(fd, times); err != nil {
		return &fs.PathError{Op: "utimes", Path: full, Err: err}
	}
	return nil
}

// futimens sets the times of an open file.
func futimens(fd int, times []unix.Timespec) error {
	err := unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	if err != unix.EINVAL && err != unix.ENOENT {
		return err
	}
	// Linux before 5.8 wants a name.
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0)
}
