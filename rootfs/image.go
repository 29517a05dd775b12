package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/nameless"
)

// Image is a disk image that is being made: a sparse file without a name until Commit
// gives it one. Whatever ends the program before, nothing is left. It is a Disk.
type Image struct {
	path  string
	force bool
	size  int64
	file  *nameless.File
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
	m := &Image{path: path, force: force, size: size}
	if m.file, err = nameless.Create(path, 0o666); err != nil {
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
func (m *Image) File() (*os.File, int64) { return m.file.File, 0 }

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
func (p part) File() (*os.File, int64) { return p.image.file.File, p.start }

// Open is the image's file, for what reads and writes it before it has a name. It stays
// the Image's to close.
func (m *Image) Open() *os.File { return m.file.File }

// Is says whether a file of the host is this image, or the one that it will replace.
func (m *Image) Is(dev, ino uint64) bool { return slices.Contains(m.ids, fileID{dev, ino}) }

// Commit makes the image stable and gives it its name. The image is closed then.
func (m *Image) Commit() error {
	if err := m.commit(); err != nil {
		m.Abort()
		return unwrapTo("create", m.path, err)
	}
	return m.file.Close()
}

func (m *Image) commit() error {
	if !m.Unsynced {
		if err := m.file.Sync(); err != nil {
			return err
		}
	}
	err := m.file.Commit(m.force)
	if errors.Is(err, unix.EEXIST) && !m.force {
		return fmt.Errorf("made by someone else meanwhile: %w", err)
	}
	return err
}

// Abort gives the image up and leaves nothing. After Commit it does nothing.
func (m *Image) Abort() { m.file.Close() }
