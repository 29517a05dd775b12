package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/ubdfmt/qcow2"
)

// openImage opens the disk that an operand names: a raw image, a COW file, a block device
// or, for reading only, a qcow2 image, or a partition of one, as in disk.img#2.
func openImage(operand string, o ubdfmt.Options) (ubdfmt.Device, error) {
	path, number := splitPartition(operand)
	dev, err := openWhole(path, o)
	if err != nil || number == 0 {
		return dev, err
	}
	part, err := partition.Open(dev, number)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return part, nil
}

// splitPartition is the file of an operand and the number behind its #, 0 without one. A
// file of the whole name is what it is.
func splitPartition(operand string) (path string, number int) {
	i := strings.LastIndexByte(operand, '#')
	if i < 1 {
		return operand, 0
	}
	n, err := strconv.ParseUint(operand[i+1:], 10, 16)
	if err != nil || n == 0 {
		return operand, 0
	}
	if _, err := os.Lstat(operand); err == nil {
		return operand, 0
	}
	return operand[:i], int(n)
}

// mayName refuses the name of a partition for a file that is to be made: it would stand in
// the partition's way from then on.
func mayName(path string) error {
	if whole, number := splitPartition(path); number > 0 {
		if info, err := os.Stat(whole); err == nil && holdsImage(info) {
			return usagef("%s is a partition of %s, and no name for a new file", quoted(path), quoted(whole))
		}
	}
	return nil
}

// wholeDisks refuses partitions where only whole disks will do, as under a COW file.
func wholeDisks(paths ...string) error {
	for _, path := range paths {
		if whole, number := splitPartition(path); number > 0 {
			if info, err := os.Stat(whole); err == nil && holdsImage(info) {
				return usagef("%s is a partition: name a whole disk, or a copy of it by umlimg convert", quoted(path))
			}
		}
	}
	return nil
}

// openWhole opens a whole disk. o.NoCOW takes any of them for a raw image.
func openWhole(path string, o ubdfmt.Options) (ubdfmt.Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !holdsImage(info) {
		return nil, fmt.Errorf("%s is neither a regular file nor a block device", path)
	}
	if !o.NoCOW {
		is, err := qcow2.Probe(path)
		if err != nil {
			return nil, err
		}
		if is && !o.ReadOnly {
			return nil, fmt.Errorf("%s: a qcow2 image can only be read: make it a raw one with umlimg convert", path)
		}
		if is {
			return opened(qcow2.Open(path, o))
		}
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

// opened keeps a nil pointer from becoming a Device that is not nil.
func opened(im *qcow2.Image, err error) (ubdfmt.Device, error) {
	if err != nil {
		return nil, err
	}
	return im, nil
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

// refuseQcow2 keeps qcow2 images from being taken for raw ones, where only those will do.
func refuseQcow2(paths ...string) error {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || !holdsImage(info) {
			continue // whoever opens it says so
		}
		if is, err := qcow2.Probe(path); err == nil && is {
			return fmt.Errorf("%s is a qcow2 image: make it a raw one with umlimg convert", path)
		}
	}
	return nil
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
