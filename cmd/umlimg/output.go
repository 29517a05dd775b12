package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
)

// writeOutput writes what an option asks for to a file, whole or not at all; "-" is
// stdout. A device or a pipe is written to as it is.
func writeOutput(c *cli.Context, path, text string) error {
	if path == "-" {
		_, err := fmt.Fprint(c.App.Writer, text)
		return err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	case !info.Mode().IsRegular():
		return os.WriteFile(path, []byte(text), 0)
	}
	temp := filepath.Join(filepath.Dir(path), ".umlimg-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, withoutPath(err))
	}
	defer os.Remove(temp) // gone already when it has its name
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, withoutPath(err))
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
