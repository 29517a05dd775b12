package ubdfmt

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NewCOW makes an empty COW file over an existing image out of f, a new, empty file that
// nobody else knows, and opens it as a disk; path is the name that it will have. f stays
// the caller's: closing the disk, which makes it stable, does not close f. Errors of the
// backing file are those of CreateCOW.
func NewCOW(f *os.File, path, backing string, o Options) (*COW, error) {
	h, err := newHeader(backing, Options{Shared: o.Shared, Alignment: o.Alignment})
	if err != nil {
		return nil, err
	}
	if err := h.begin(f, path); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	own := &hostFile{File: os.NewFile(uintptr(fd), path), path: path}
	err = own.inspect()
	var c *COW
	if err == nil {
		c, err = newCOW(own, COWOptions{Options: o})
	}
	if err != nil {
		own.Close()
		return nil, err
	}
	return c, nil
}
