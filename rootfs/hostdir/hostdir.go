// Package hostdir reads a directory of this machine as the source of an image: what
// lstat(2), readlink(2) and listxattr(2) say goes into the tree at once, file content
// is read when the image is written. What is read is left as it was, access times
// too where the kernel lets us. A Writer goes the other way.
package hostdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Source is a directory to be read. It is used once.
type Source struct {
	// Path is the directory that becomes the root of the image.
	Path string

	// OneFileSystem leaves what is mounted below Path out; the directory it is mounted on
	// arrives empty. Mounts of the kernel's own (proc, sysfs, cgroup and their kind)
	// are always left out so: their files are no data.
	OneFileSystem bool

	// Skip, where set, leaves out files by device and inode: an image that is
	// written below Path must not hold itself.
	Skip func(dev, ino uint64) bool

	// Only, where set, leaves out everything in Path itself but the entry of that name.
	Only string

	root int // descriptor of Path

	// procs is where open descriptors have names, "" where /proc is not mounted: then
	// attributes are read by the whole path.
	procs string

	mu     sync.Mutex
	wake   *sync.Cond
	queue  []dirTask
	busy   int
	err    error
	linked []linkedName
}

// dirTask is a directory that waits to be read.
type dirTask struct {
	node *tree.Node
	path string // relative to the root, "" for it
	dev  uint64 // the file system the directory is on
}

// linkedName is a name of a file that has several.
type linkedName struct {
	dir      *tree.Node
	name     string
	dev, ino uint64
}

// String names the source in messages.
func (s *Source) String() string { return s.Path }

// Fill reads the directory into the tree. Several goroutines read, the tree is the
// same whatever order the host lists names in. Contents stay open for reading until Close.
func (s *Source) Fill(ctx context.Context, t *tree.Tree, _ tree.Store) error {
	fd, err := unix.Open(s.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: s.Path, Err: err}
	}
	s.root = fd
	if _, err := os.Stat("/proc/self/fd"); err == nil {
		s.procs = "/proc/self/fd/"
	}
	s.wake = sync.NewCond(&s.mu)

	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: s.Path, Err: err}
	}
	root := node(&st)
	s.queue = append(s.queue, dirTask{node: root, dev: st.Dev})

	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		s.fail(ctx.Err())
		close(interrupted)
	})
	var workers sync.WaitGroup
	for range min(max(runtime.GOMAXPROCS(0), 2), 8) {
		workers.Go(s.work)
	}
	workers.Wait()
	if !stop() {
		<-interrupted // it still speaks to s
	}
	if s.err != nil {
		return s.err
	}
	if err := s.joinLinks(); err != nil {
		return err
	}
	t.Root = root
	return nil
}

// Close lets go of the directory. Contents cannot be opened after it.
func (s *Source) Close() error {
	if s.wake == nil {
		return nil
	}
	s.wake = nil
	return unix.Close(s.root)
}

func (s *Source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.wake.Broadcast()
}

// work reads directories until none is left or waited for.
func (s *Source) work() {
	buf := make([]byte, 64<<10)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.queue) == 0 && s.busy > 0 && s.err == nil {
			s.wake.Wait()
		}
		if len(s.queue) == 0 || s.err != nil {
			s.wake.Broadcast()
			return
		}
		task := s.queue[len(s.queue)-1]
		s.queue = s.queue[:len(s.queue)-1]
		s.busy++
		s.mu.Unlock()
		found, linked, err := s.readDir(task, buf)
		s.mu.Lock()
		s.busy--
		if err != nil && s.err == nil {
			s.err = err
		}
		s.queue = append(s.queue, found...)
		s.linked = append(s.linked, linked...)
		if len(found) > 1 || s.busy == 0 {
			s.wake.Broadcast()
		}
	}
}

// shown is a path as messages name it.
func (s *Source) shown(rel string) string { return filepath.Join(s.Path, rel) }

// readDir fills one directory and returns the directories in it.
func (s *Source) readDir(task dirTask, buf []byte) (found []dirTask, linked []linkedName, err error) {
	fd, err := s.open(task.path, unix.O_DIRECTORY)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: s.shown(task.path), Err: err}
	}
	defer unix.Close(fd)
	if skip, err := s.foreign(fd, &task); err != nil {
		return nil, nil, &fs.PathError{Op: "statfs", Path: s.shown(task.path), Err: err}
	} else if skip {
		return nil, nil, nil
	}
	if task.node.Xattrs, err = readXattrs(fdXattrs(fd)); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", s.shown(task.path), err)
	}
	names, err := []string{s.Only}, error(nil)
	if s.Only == "" || task.path != "" {
		names, err = readNames(fd, buf)
	}
	if err != nil {
		return nil, nil, &fs.PathError{Op: "readdir", Path: s.shown(task.path), Err: err}
	}
	task.node.Reserve(len(names))
	at := s.shown(task.path) + "/"
	if s.procs != "" {
		at = s.procs + strconv.Itoa(fd) + "/"
	}
	for _, name := range names {
		rel := name
		if task.path != "" {
			rel = task.path + "/" + name
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return nil, nil, fmt.Errorf("%s was removed while the directory was read", s.shown(rel))
			}
			return nil, nil, &fs.PathError{Op: "lstat", Path: s.shown(rel), Err: err}
		}
		if s.Skip != nil && s.Skip(st.Dev, st.Ino) {
			continue
		}
		n := node(&st)
		switch n.Type() {
		case unix.S_IFDIR:
			found = append(found, dirTask{n, rel, task.dev})
		case unix.S_IFLNK:
			if n.Target, err = readlink(fd, name, st.Size); err != nil {
				return nil, nil, &fs.PathError{Op: "readlink", Path: s.shown(rel), Err: err}
			}
		case unix.S_IFREG:
			n.Size = st.Size
		}
		switch {
		case n.IsDir():
		case n.IsRegular() && n.Size > 0:
			c := &content{s: s, dir: task.path, name: name, dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim}
			n.Content = c
			if err := c.examine(fd, n); err != nil {
				return nil, nil, err
			}
		default:
			if n.Xattrs, err = readXattrs(pathXattrs(at + name)); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", s.shown(rel), err)
			}
		}
		if st.Nlink > 1 && !n.IsDir() {
			linked = append(linked, linkedName{task.node, name, st.Dev, st.Ino})
		}
		if err := task.node.Set(name, n); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", s.shown(task.path), err)
		}
	}
	return found, linked, nil
}

// foreign says whether a directory begins another file system that is left out, and
// notes the file system it is on.
func (s *Source) foreign(fd int, task *dirTask) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if st.Dev == task.dev {
		return false, nil
	}
	task.dev = st.Dev
	if s.OneFileSystem {
		return true, nil
	}
	var about unix.Statfs_t
	if err := unix.Fstatfs(fd, &about); err != nil {
		return false, err
	}
	return kernelsOwn[uint32(about.Type)], nil
}

// kernelsOwn are file systems whose files are views of the kernel's state. devtmpfs
// is not among them: its type is tmpfs's, and its nodes are nodes.
var kernelsOwn = map[uint32]bool{
	unix.PROC_SUPER_MAGIC:      true,
	unix.SYSFS_MAGIC:           true,
	unix.CGROUP_SUPER_MAGIC:    true,
	unix.CGROUP2_SUPER_MAGIC:   true,
	unix.DEVPTS_SUPER_MAGIC:    true,
	unix.DEBUGFS_MAGIC:         true,
	unix.TRACEFS_MAGIC:         true,
	unix.SECURITYFS_MAGIC:      true,
	unix.SELINUX_MAGIC:         true,
	unix.SMACK_MAGIC:           true,
	unix.EFIVARFS_MAGIC:        true,
	unix.PSTOREFS_MAGIC:        true,
	unix.BPF_FS_MAGIC:          true,
	unix.BINFMTFS_MAGIC:        true,
	unix.NSFS_MAGIC:            true,
	unix.BINDERFS_SUPER_MAGIC:  true,
	unix.RDTGROUP_SUPER_MAGIC:  true,
	0x19800202:                 true, // mqueue
	0x62656570:                 true, // configfs
	0x65735543:                 true, // fusectl
	unix.ANON_INODE_FS_MAGIC:   true,
	unix.AUTOFS_SUPER_MAGIC:    true,
	unix.SOCKFS_MAGIC:          true,
	unix.USBDEVICE_SUPER_MAGIC: true,
}

func node(st *unix.Stat_t) *tree.Node {
	n := &tree.Node{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		Atime: time.Unix(st.Atim.Unix()), Mtime: time.Unix(st.Mtim.Unix()), Ctime: time.Unix(st.Ctim.Unix()),
	}
	if t := n.Type(); t == unix.S_IFBLK || t == unix.S_IFCHR {
		n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return n
}

// joinLinks makes the names of one file one node. Names that lie outside Path do not
// count.
func (s *Source) joinLinks() error {
	type id struct{ dev, ino uint64 }
	first := make(map[id]*tree.Node, len(s.linked))
	for _, l := range s.linked {
		n := l.dir.Child(l.name)
		if had := first[id{l.dev, l.ino}]; had == nil {
			first[id{l.dev, l.ino}] = n
		} else if had.Mode != n.Mode || had.Size != n.Size {
			return fmt.Errorf("%s: a file of several names (%q) was changed while the directory was read", s.Path, l.name)
		} else if err := l.dir.Set(l.name, had); err != nil {
			return err
		}
	}
	s.linked = nil
	return nil
}

// open opens what is at a path below the root without following a symbolic link at
// its end and without waiting for a FIFO's other side.
func (s *Source) open(rel string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	if rel == "" {
		rel = "."
	}
	// A path longer than the kernel takes is gone along in pieces.
	at := s.root
	for len(rel) >= unix.PathMax {
		cut := unix.PathMax - 1
		for cut > 0 && rel[cut] != '/' {
			cut--
		}
		next, err := unix.Openat(at, rel[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if at != s.root {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at, rel = next, rel[cut+1:]
	}
	fd, err := openQuietly(at, rel, flags)
	if at != s.root {
		unix.Close(at)
	}
	return fd, err
}

// openQuietly leaves the access time alone where the file is ours.
func openQuietly(at int, rel string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, rel, flags|unix.O_NOATIME, 0)
		if err == unix.EPERM {
			fd, err = unix.Openat(at, rel, flags, 0)
		}
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readNames lists an open directory.
func readNames(fd int, buf []byte) ([]string, error) {
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func readlink(fd int, name string, size int64) (string, error) {
	buf := make([]byte, min(max(size, 0), tree.PathMax)+1)
	for {
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		if len(buf) > tree.PathMax {
			return "", unix.ENAMETOOLONG
		}
		buf = make([]byte, tree.PathMax+1)
	}
}

// content is a regular file of the host.
type content struct {
	s         *Source
	dir, name string
	dev, ino  uint64
	size      int64
	mtime     unix.Timespec
}

func (c *content) rel() string {
	if c.dir == "" {
		return c.name
	}
	return c.dir + "/" + c.name
}

// errChanged tells of a file that is not what it was when its directory was read.
var errChanged = errors.New("the file was changed while it was read")

// examine reads what only an open file tells, its holes and attributes. That it can
// be opened is known before anything is written.
func (c *content) examine(dir int, n *tree.Node) error {
	fd, err := openQuietly(dir, c.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return &fs.PathError{Op: "open", Path: c.s.shown(c.rel()), Err: err}
	}
	defer unix.Close(fd)
	if n.Xattrs, err = readXattrs(fdXattrs(fd)); err != nil {
		return fmt.Errorf("%s: %w", c.s.shown(c.rel()), err)
	}
	if n.Data, err = dataRuns(fd, c.size); err != nil {
		return &fs.PathError{Op: "seek", Path: c.s.shown(c.rel()), Err: err}
	}
	return nil
}

// dataRuns are the runs of an open file that are no holes; nil means all of it.
func dataRuns(fd int, size int64) ([]tree.Region, error) {
	runs := []tree.Region{}
	for end := int64(0); end < size; {
		// The usual file has no hole: one call says so.
		hole, err := unix.Seek(fd, end, unix.SEEK_HOLE)
		if err == unix.EINVAL { // the file system knows no holes
			return nil, nil
		}
		if err == unix.ENXIO { // shorter than it was
			return nil, errChanged
		}
		if err != nil {
			return nil, err
		}
		hole = min(hole, size)
		if end == 0 && hole == size {
			return nil, nil
		}
		if hole > end {
			runs = append(runs, tree.Region{Off: end, Len: hole - end})
		}
		if hole == size {
			break
		}
		data, err := unix.Seek(fd, hole, unix.SEEK_DATA)
		if err == unix.ENXIO { // nothing but hole up to the end
			break
		}
		if err != nil {
			return nil, err
		}
		if hole < end || data <= end { // a file system that makes no sense (a FUSE server can)
			return nil, nil
		}
		end = data
	}
	return runs, nil
}

// Open implements tree.Content.
func (c *content) Open() (tree.Reader, error) {
	rel := c.rel()
	fd, err := c.s.open(rel, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: c.s.shown(rel), Err: err}
	}
	r := &reader{c: c, fd: fd}
	if err := r.same(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return r, nil
}

type reader struct {
	c    *content
	fd   int
	file *os.File // set by Host, owns fd then
}

// same holds an open file against what its directory said of it.
func (r *reader) same() error {
	var st unix.Stat_t
	if err := unix.Fstat(r.fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: r.c.s.shown(r.c.rel()), Err: err}
	}
	if st.Dev != r.c.dev || st.Ino != r.c.ino || st.Size != r.c.size || st.Mtim != r.c.mtime || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s: %w", r.c.s.shown(r.c.rel()), errChanged)
	}
	return nil
}

// ReadAt implements tree.Reader.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(r.fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, &fs.PathError{Op: "read", Path: r.c.s.shown(r.c.rel()), Err: err}
		}
		if n == 0 {
			return done, fmt.Errorf("%s: %w", r.c.s.shown(r.c.rel()), errChanged)
		}
		done += n
	}
	return done, nil
}

// Host implements tree.Reader.
func (r *reader) Host(run tree.Region) (*os.File, int64) {
	if r.file == nil {
		r.file = os.NewFile(uintptr(r.fd), r.c.s.shown(r.c.rel()))
	}
	return r.file, run.Off
}

// Close implements tree.Reader.
func (r *reader) Close() error {
	err := r.same()
	if r.file != nil {
		return errors.Join(err, r.file.Close())
	}
	return errors.Join(err, unix.Close(r.fd))
}
