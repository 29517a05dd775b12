package hostfs

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/safecopy"

	gverrors "gvisor.dev/gvisor/pkg/errors"
)

// statxMask is what is asked of the host.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// statx describes the file behind a descriptor.
func statx(fd int, st *unix.Statx_t) error {
	return again(func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, statxMask, st)
	})
}

// again repeats a call that a signal interrupted: the runtime sends them at any time.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// procPath leads to the file behind a descriptor, of whatever kind, without a name of
// the tree in it. A symlink there is that symlink itself.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// reopen opens the file behind a descriptor. The caller knows that it is a regular file
// or a directory. O_NONBLOCK keeps what only looks like one, as the files of /proc do,
// from blocking the machine.
func reopen(fd, flags int) (int, error) {
	return open(unix.AT_FDCWD, procPath(fd), flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// open is openat(2).
func open(dir int, name string, flags int, mode uint32) (int, error) {
	fd := -1
	err := again(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// plain says whether name is one that may be given to the host: a single component that
// leads nowhere else.
func plain(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// openDir opens a directory below root. The host walks the path as if root were its
// root: symlinks stay inside, and magic links are refused.
func openDir(root int, dir string) (int, error) {
	dir = path.Clean("/" + dir)
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 100 {
		fd, err := unix.Openat2(root, dir, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN:
			continue // something was renamed meanwhile
		case unix.ENOSYS, unix.EPERM:
			return openSteps(root, dir)
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

// openSteps is openDir for hosts without openat2(2): it follows no symlinks at all.
func openSteps(root int, dir string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	at, err := open(root, ".", flags, 0)
	if err != nil {
		return -1, err
	}
	for _, name := range strings.Split(strings.Trim(dir, "/"), "/") {
		if name == "" {
			continue
		}
		if !plain(name) {
			unix.Close(at)
			return -1, unix.EINVAL
		}
		next, err := open(at, name, flags, 0)
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// descriptors bounds how many descriptors of the process all mounts hold: the machine has
// other needs too. Half of what the process may open is for inodes, in use or cached; a
// quarter for files that are open or mapped.
type descriptors struct {
	inodes, files         atomic.Int64
	mostInodes, mostFiles int64
}

func newDescriptors() *descriptors {
	limit := unix.Rlimit{Cur: 1024}
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	n := int64(min(limit.Cur, 1<<20))
	return &descriptors{mostInodes: n / 2, mostFiles: n / 4}
}

// full says whether inodes hold too many.
func (d *descriptors) full() bool { return d.inodes.Load() >= d.mostInodes }

// openFile counts a file that is to be opened, unless there are too many.
func (d *descriptors) openFile() error {
	if d.files.Add(1) > d.mostFiles {
		d.files.Add(-1)
		return linuxerr.ENFILE
	}
	return nil
}

// closeFile closes a file that openFile counted.
func (d *descriptors) closeFile(fd int) {
	unix.Close(fd)
	d.files.Add(-1)
}

// errno turns an error of the host into one that the Sentry hands to the guest.
func errno(err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *gverrors.Error:
		return err
	case safecopy.BusError, safecopy.SegvError, safecopy.AlignmentError:
		return err
	case unix.Errno:
		if e == unix.EMFILE {
			e = unix.ENFILE // it is the machine that has too many open
		}
		if e > 0 && e < unix.EHWPOISON {
			return linuxerr.ErrorFromUnix(e)
		}
	}
	return linuxerr.EIO
}

// Export is a directory of the host that mounts may show.
type Export struct {
	// Path is the directory as the command line has it.
	Path string

	// Append is whether files may only grow.
	Append bool

	fd int
}

// OpenExport opens a directory of the host to be mounted.
func OpenExport(dir string, grow bool) (*Export, error) {
	fd, err := open(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return &Export{Path: dir, Append: grow, fd: fd}, nil
}

// Close gives the directory up. Mounts of it go on.
func (e *Export) Close() {
	if e != nil && e.fd >= 0 {
		unix.Close(e.fd)
		e.fd = -1
	}
}
