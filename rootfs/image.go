package rootfs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Image is a disk image that is being made: a sparse file without a name until Commit
// gives it one. Whatever ends the program before, nothing is left. It is a Disk.
type Image struct {
	path  string
	force bool
	size  int64
	file  *os.File
	temp  string // its name until Commit, "" where the host can do without
	ids   []fileID

	// Unsynced: Commit gives the image its name without making it stable before. A
	// crash of the host can leave it under its name without its content.
	Unsynced bool
}

// fileID is which file of the host a file is.
type fileID struct{ dev, ino uint64 }

// NewImage begins an image of size bytes that will be at path. An existing file is refused
// (fs.ErrExist) unless force is set; then it stays as it is until Commit. Only a regular
// file is ever replaced. Errors of an Image are *fs.PathError with its path.
func NewImage(path string, size int64, force bool) (*Image, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "create", Path: path, Err: errors.New("not a regular file")}
	case err == nil && !force:
		return nil, &fs.PathError{Op: "create", Path: path, Err: errExists}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, unwrapTo("create", path, err)
	}
	// A symbolic link to the image stays one, also where the image is not there yet.
	if path, err = followLinks(path); err != nil {
		return nil, err
	}
	m := &Image{path: path, force: force, size: size}
	if err := m.open(); err != nil {
		return nil, unwrapTo("create", path, err)
	}
	var st unix.Stat_t
	if size > 0 { // to make a file empty tells ext4 to write all of it when it is closed
		err = m.file.Truncate(size)
	}
	if err == nil {
		err = unix.Fstat(int(m.file.Fd()), &st)
	}
	if err != nil {
		m.Abort()
		return nil, unwrapTo("create", path, err)
	}
	m.ids = append(m.ids, fileID{st.Dev, st.Ino})
	if force && unix.Stat(path, &st) == nil {
		m.ids = append(m.ids, fileID{st.Dev, st.Ino})
	}
	return m, nil
}

// followLinks is the name that a name at last stands for, which may not exist.
func followLinks(path string) (string, error) {
	for range 40 { // as many as the kernel follows
		target, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link, or nothing
		}
		if !filepath.IsAbs(target) {
			target = directory(path) + target
		}
		path = target
	}
	return "", &fs.PathError{Op: "create", Path: path, Err: unix.ELOOP}
}

// directory is the part of a name before its last, with a slash behind it. It is not
// cleaned: where "link/.." leads only the kernel knows.
func directory(path string) string {
	dir, _ := filepath.Split(path)
	if dir == "" {
		return "./"
	}
	return dir
}

// beside is a name for a while in the image's directory.
func (m *Image) beside() string { return directory(m.path) + ".umlimg-" + rand.Text()[:12] }

// errExists names the way out, too.
var errExists = fmt.Errorf("%w: --force overwrites it", fs.ErrExist)

// unwrapTo names the image where the host named a temporary file.
func unwrapTo(op, path string, err error) error {
	var perr *fs.PathError
	var lerr *os.LinkError
	switch {
	case errors.As(err, &perr):
		err = perr.Err
	case errors.As(err, &lerr):
		err = lerr.Err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// selfFD is where open files have names.
const selfFD = "/proc/self/fd/"

func (m *Image) open() error {
	dir := directory(m.path)
	_, err := os.Stat(selfFD)
	if err == nil { // else a nameless file could not get its name
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
		if err == nil {
			m.file = os.NewFile(uintptr(fd), m.path)
			return nil
		}
		// EISDIR and EOPNOTSUPP: a kernel or a file system without nameless files.
		if err != unix.EISDIR && err != unix.EOPNOTSUPP && err != unix.EINVAL {
			return err
		}
	}
	m.temp = m.beside()
	m.file, err = os.OpenFile(m.temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		m.temp = ""
	}
	return err
}

// ReadAt implements Disk.
func (m *Image) ReadAt(p []byte, off int64) (int, error) { return m.file.ReadAt(p, off) }

// WriteAt implements Disk. An error names the image.
func (m *Image) WriteAt(p []byte, off int64) (int, error) {
	n, err := m.file.WriteAt(p, off)
	if err != nil {
		err = unwrapTo("write", m.path, err)
	}
	return n, err
}

// Size implements Disk.
func (m *Image) Size() int64 { return m.size }

// File implements Disk.
func (m *Image) File() (*os.File, int64) { return m.file, 0 }

// Part is [start, start+size) of the image as a Disk of its own, as a partition is.
func (m *Image) Part(start, size int64) Disk { return part{m, start, size} }

type part struct {
	image       *Image
	start, size int64
}

// ReadAt implements Disk.
func (p part) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.image, p.start, p.size).ReadAt(b, off)
}

// WriteAt implements Disk.
func (p part) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > p.size-int64(len(b)) {
		return 0, &fs.PathError{Op: "write", Path: p.image.path, Err: unix.ENOSPC}
	}
	return p.image.WriteAt(b, p.start+off)
}

// Size implements Disk.
func (p part) Size() int64 { return p.size }

// File implements Disk.
func (p part) File() (*os.File, int64) { return p.image.file, p.start }

// Is says whether a file of the host is this image, or the one that it will replace.
func (m *Image) Is(dev, ino uint64) bool { return slices.Contains(m.ids, fileID{dev, ino}) }

// Commit makes the image stable and gives it its name. The image is closed then.
func (m *Image) Commit() error {
	if err := m.commit(); err != nil {
		m.Abort()
		return unwrapTo("create", m.path, err)
	}
	m.temp = ""
	return m.file.Close()
}

func (m *Image) commit() error {
	if !m.Unsynced {
		if err := m.file.Sync(); err != nil {
			return err
		}
	}
	if m.temp == "" {
		// A nameless file cannot replace another at once: it takes a name beside it first.
		if !m.force {
			err := m.link(m.path)
			if errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("made by someone else meanwhile: %w", err)
			}
			return err
		}
		temp := m.beside()
		if err := m.link(temp); err != nil {
			return err
		}
		m.temp = temp
	}
	if m.force {
		return os.Rename(m.temp, m.path)
	}
	err := unix.Renameat2(unix.AT_FDCWD, m.temp, unix.AT_FDCWD, m.path, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	// A file system that cannot say "only if it is not there".
	if _, err := os.Lstat(m.path); err == nil {
		return unix.EEXIST
	}
	return os.Rename(m.temp, m.path)
}

// link names a nameless file. Only /proc lets someone without privilege do it.
func (m *Image) link(path string) error {
	self := selfFD + strconv.Itoa(int(m.file.Fd()))
	return unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
}

// Abort gives the image up and leaves nothing. After Commit it does nothing.
func (m *Image) Abort() {
	m.file.Close()
	if m.temp != "" {
		os.Remove(m.temp)
		m.temp = ""
	}
}
