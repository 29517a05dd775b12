package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// openImage opens the disk that an operand names: a raw image, a COW file or a block
// device.
func openImage(path string, o ubdfmt.Options) (ubdfmt.Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !holdsImage(info) {
		return nil, fmt.Errorf("%s is neither a regular file nor a block device", path)
	}
	dev, err := ubdfmt.Open(path, "", o)
	if err != nil {
		return nil, err
	}
	if r, ok := dev.(interface{ ReadOnly() bool }); ok && r.ReadOnly() && !o.ReadOnly {
		return nil, errors.Join(&os.PathError{Op: "open", Path: path, Err: os.ErrPermission}, dev.Close())
	}
	return dev, nil
}

// openLook opens a file that may hold an image, to look at it without a lock.
func openLook(path string) (*os.File, error) {
	// Without O_NONBLOCK, opening a FIFO would wait for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !holdsImage(info) {
		err = fmt.Errorf("%s is neither a regular file nor a block device", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func holdsImage(info os.FileInfo) bool {
	kind := info.Mode().Type()
	return kind&^os.ModeDevice == 0 && kind&os.ModeCharDevice == 0
}

// beginsAsCOW tells whether a file is a COW file, of whichever dialect.
func beginsAsCOW(f *os.File) (bool, error) {
	b := make([]byte, 8)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	return ubdfmt.Detect(b[:n]) != ubdfmt.NotCOW, nil
}
