package ubdfmt

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// newFile is a file in the making. It has no name until it is committed, where the
// host can do that, so that nothing is left of it if we are killed; elsewhere it has
// a temporary name beside the final one.
type newFile struct {
	*os.File
	path string
	temp string // "" while it has no name
}

// createFile begins a file that will be path, with mode 0644 less the umask.
func createFile(path string) (*newFile, error) {
	dir := dirOf(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err == nil {
		n := &newFile{File: os.NewFile(uintptr(fd), path), path: path}
		if _, err := os.Stat(n.self()); err == nil {
			return n, nil
		}
		n.Close() // without /proc it could never get a name
	}
	temp := tempName(path)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, errno(err))
	}
	return &newFile{File: f, path: path, temp: temp}, nil
}

func (n *newFile) self() string { return fmt.Sprintf("/proc/self/fd/%d", n.Fd()) }

// commit makes the file stable and gives it its name, in place of a file of that name
// if replace is set; else such a file is an error, os.ErrExist. The file stays open.
func (n *newFile) commit(replace bool) error {
	if err := (&hostFile{File: n.File, path: n.path}).fullSync(); err != nil {
		return fmt.Errorf("create %s: %w", n.path, errno(err))
	}
	if err := n.commitUnsynced(replace); err != nil {
		return err
	}
	return syncDir(dirOf(n.path))
}

// commitUnsynced is commit, but the host makes file and name stable in its own time, and in
// its own order.
func (n *newFile) commitUnsynced(replace bool) error {
	if err := n.name(replace); err != nil {
		return fmt.Errorf("create %s: %w", n.path, err)
	}
	return nil
}

func (n *newFile) name(replace bool) error {
	if n.temp == "" {
		// A name that is free needs no temporary one, which a kill would leave.
		err := n.link(n.path)
		if !replace || !errors.Is(err, unix.EEXIST) {
			return err
		}
		to := tempName(n.path)
		if err := n.link(to); err != nil {
			return err
		}
		n.temp = to
	}
	err := error(nil)
	if replace {
		err = unix.Rename(n.temp, n.path)
	} else {
		err = n.rename()
	}
	if err == nil {
		n.temp = ""
	}
	return err
}

// rename gives the file its name where nothing has it. Of the three ways, FAT knows the
// first, an older NFS the second, and some FUSE neither.
func (n *newFile) rename() error {
	err := unix.Renameat2(unix.AT_FDCWD, n.temp, unix.AT_FDCWD, n.path, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	err = unix.Link(n.temp, n.path)
	switch {
	case err == nil:
		return unix.Unlink(n.temp)
	case err != unix.EPERM && err != unix.EOPNOTSUPP && err != unix.ENOSYS:
		return err
	case exists(n.path):
		return unix.EEXIST
	}
	return unix.Rename(n.temp, n.path)
}

// link gives a file that has no name its first.
func (n *newFile) link(to string) error {
	return unix.Linkat(unix.AT_FDCWD, n.self(), unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
}

// discard closes the file and, unless it was committed, leaves nothing of it.
func (n *newFile) discard() {
	if n.temp != "" {
		os.Remove(n.temp)
	}
	n.Close()
}

// tempName is a name beside path that no other process will choose.
func tempName(path string) string {
	dir, base := filepath.Split(path)
	if len(base) > 200 {
		base = base[:200]
	}
	return dir + "." + base + "." + rand.Text()[:12]
}

// dirOf is the directory of a path. Unlike filepath.Dir it leaves what is in the path as
// it is: "link/.." need not be ".".
func dirOf(path string) string {
	dir, _ := filepath.Split(path)
	if dir == "" {
		return "."
	}
	return dir
}

// absolute makes a path good in every directory. What stands before a ".." may be a
// symbolic link, the working directory's name too: where it leads, the host tells.
func absolute(path string) (string, error) {
	if !slices.Contains(strings.Split(path, "/"), "..") {
		return filepath.Abs(path)
	}
	dir, base := filepath.Split(path)
	if !filepath.IsAbs(dir) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		dir = wd + "/" + dir
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, base), nil
}

// syncDir makes the names in a directory stable. In one that may not be read, the host
// makes them so in its own time.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, unix.EACCES) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// errno takes the path off an error that is about a temporary name.
func errno(err error) error {
	var e *os.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
