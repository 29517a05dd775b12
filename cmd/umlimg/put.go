package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/volume"
)

func putCommand() *cli.Command {
	return &cli.Command{
		Name: "put", Usage: "write one file of an image, from a file or a pipe", Category: imageFiles, ArgsUsage: "FILE|- IMAGE[#N]:/PATH",
		Description: `echo bookworm | umlimg put - disk.img:/etc/hostname
umlimg put --mode 755 --owner root:root hook.sh disk.img:/usr/local/bin/hook`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "mode", Aliases: []string{"m"}, Usage: "`mode` of the file, octal; else 644, or what a file that is there has"},
			&cli.StringFlag{Name: "owner", Usage: "`user[:group]` of the file; else root, or whose a file that is there is"},
			jsonChanged(),
		},
		Action: into(put, true),
	}
}

// into is the action of what has something and a place in an image as operands; follow says
// whether it works on what a symbolic link there leads to.
func into(do func(c *cli.Context, s *volumes, what string, dest place) error, follow bool) cli.ActionFunc {
	return func(c *cli.Context) error {
		args, err := operands(c, 2, 2)
		if err != nil {
			return err
		}
		places, err := inImages(c, args[1:], false)
		if err != nil {
			return err
		}
		s := &volumes{write: true}
		err = do(c, s, args[0], places[0])
		if err == nil {
			err = s.tellPlace(c, places[0], follow)
		}
		return s.finish(c, err)
	}
}

func put(c *cli.Context, s *volumes, from string, dest place) error {
	mode, given, err := octalOption(c, "644")
	if err != nil {
		return err
	}
	var r io.ReadCloser
	var source os.FileInfo
	if from == "-" {
		r = interruptible(c.Context, io.NopCloser(c.App.Reader))
	} else {
		if r, err = openStream(c.Context, from); err != nil {
			return err
		}
		if r == nil {
			f, err := os.Open(from)
			if err != nil {
				return err
			}
			info, err := f.Stat()
			if err != nil || info.IsDir() {
				f.Close()
				return &os.PathError{Op: "read", Path: from, Err: unix.EISDIR}
			}
			r, source = f, info
		}
	}
	defer r.Close()
	v, err := s.get(dest)
	if err != nil {
		return err
	}
	if disk := s.disks[0]; source != nil && os.SameFile(source, disk.info) {
		return fmt.Errorf("%s is the image itself", from)
	}
	owner, err := ownerOption(c, v)
	if err != nil {
		return err
	}
	at, err := v.Walk(dest.path, true)
	if err != nil {
		return dest.at(err)
	}
	defer at.Close()
	switch {
	case at.IsDir():
		return dest.at(&volume.PathError{Path: dest.path, Err: unix.EISDIR})
	case strings.HasSuffix(dest.path, "/") || at.Dir == nil:
		return dest.at(&volume.PathError{Path: dest.path, Err: fmt.Errorf("no name of a file: %w", unix.ENOTDIR)})
	}
	w := &volume.Writer{V: v, Owner: owner}
	if given {
		w.Mode = &mode
	}
	return dest.targetError(w.Stream(c.Context, at.Dir, path.Dir(dest.path), at.Name, r))
}
