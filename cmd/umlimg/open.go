package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

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

// openWhole opens a whole disk. o.NoCOW takes any of them for a raw image.
func openWhole(path string, o ubdfmt.Options) (ubdfmt.Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if kind := info.Mode().Type(); kind&^os.ModeDevice != 0 || kind&os.ModeCharDevice != 0 {
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
