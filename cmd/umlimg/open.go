package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/umlkit/umlkit/ubdfmt"
)

// openImage opens the disk that an operand names: a raw image, a COW file or a block
// device.
func openImage(path string, o ubdfmt.Options) (ubdfmt.Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if kind := info.Mode().Type(); kind&^os.ModeDevice != 0 || kind&os.ModeCharDevice != 0 {
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
