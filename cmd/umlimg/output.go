package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/nameless"
)

// writeWhole writes a file that appears when it is whole, or not at all; "-" is stdout. A
// device or a FIFO is written into as it is.
func writeWhole(c *cli.Context, path string, write func(io.Writer) error) error {
	if path == "-" {
		return write(c.App.Writer)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	case !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		err = write(f)
		if e := f.Close(); err == nil {
			err = e
		}
		return err
	}
	f, err := nameless.Create(path, 0o666)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		var file *fs.PathError
		if errors.As(err, &file) && file.Path == f.Name() {
			return fmt.Errorf("create %s: %w", path, file.Err)
		}
		return err
	}
	var old unix.Stat_t
	if info != nil {
		if err = unix.Stat(path, &old); err == nil {
			err = f.Like(&old)
		}
	}
	if err == nil {
		err = f.Commit(true)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, withoutPath(err))
	}
	return nil
}

// noSource refuses to write into a file that a disk is read from.
func noSource(path string, files []string) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil // whoever makes it says what is wrong with it
	}
	for _, f := range files {
		if have, err := os.Stat(f); err == nil && os.SameFile(have, info) {
			return fmt.Errorf("create %s: the disk is read from it", path)
		}
	}
	return nil
}

// withoutPath takes a temporary name off an error.
func withoutPath(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}
