package ubdfmt

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CreateCOW makes a COW file over an existing image, of version 3 and holding nothing.
// The backing file's path is stored as an absolute one. The COW file appears whole or
// not at all; one that exists is an error that satisfies errors.Is(err, os.ErrExist),
// and is left alone. The backing file is only looked at; a machine that writes to it
// is an error, *LockedError, unless o.Shared. Of the other options only Alignment has a meaning here.
func CreateCOW(path, backing string, o Options) error {
	h, err := newHeader(backing, o)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if exists(path) {
		return &os.PathError{Op: "create", Path: path, Err: os.ErrExist}
	}
	return h.create(path, nil)
}

// ReplaceCOW is CreateCOW, but for a COW file that exists, of whatever dialect: the new one
// takes its place and its mode, at once, and all that it held is gone. A file that is
// neither a COW file nor empty, and one that a machine has open, is left alone.
func ReplaceCOW(path, backing string, o Options) error {
	h, err := newHeader(backing, o)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	target, err := resolve(path)
	if err != nil {
		return err
	}
	old, err := openHost(target, Options{}, true)
	if errors.Is(err, unix.ENOENT) {
		return h.create(target, nil)
	}
	if err != nil {
		return err
	}
	defer old.Close()
	b := make([]byte, HeaderLength)
	n, err := old.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if d := Detect(b[:n]); old.size > 0 && (d == NotCOW || d == QEMU) || !old.info.Mode().IsRegular() {
		return fmt.Errorf("%s is no COW file, and is not replaced: %w", path, os.ErrExist)
	}
	return h.create(target, old)
}

// create makes the COW file, in place of an old one if there is one.
func (h Header) create(path string, old *hostFile) error {
	f, err := createFile(path)
	if err != nil {
		return err
	}
	defer f.discard()
	if err := h.begin(f.File, path); err != nil {
		return err
	}
	if old != nil {
		if err := f.Chmod(old.info.Mode().Perm()); err != nil {
			return fmt.Errorf("create %s: %w", path, errno(err))
		}
	}
	return f.commit(old != nil)
}

// begin makes a new file a COW file that holds nothing, and as long as it is to be. path is
// the name that it will have.
func (h Header) begin(f *os.File, path string) error {
	b, err := h.Encode()
	if err != nil {
		return withPath(err, path)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		// The last byte makes the file as long as the disk, as kernels have it.
		_, err = f.WriteAt([]byte{0}, h.Layout().DataOffset+h.Size-1)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, errno(err))
	}
	return nil
}

// newHeader is the header of a COW file over an image. Of the options only Shared
// and Alignment count.
func newHeader(backing string, o Options) (Header, error) {
	abs, err := absolute(backing)
	if err != nil {
		return Header{}, err
	}
	b, err := openHost(backing, Options{ReadOnly: true, Shared: o.Shared}, false)
	if err != nil {
		return Header{}, fmt.Errorf("backing file: %w", err)
	}
	defer b.Close()
	isCOW, err := b.isCOW()
	if err != nil {
		return Header{}, fmt.Errorf("backing file: %w", err)
	}
	if isCOW {
		return Header{}, fmt.Errorf("backing file %s is a COW file itself", backing)
	}
	return Header{
		Dialect:    V3,
		Backing:    abs,
		MTime:      uint32(b.mtime()),
		Size:       b.size,
		SectorSize: SectorSize,
		Alignment:  cmp.Or(o.Alignment, newAlignment),
	}, nil
}
