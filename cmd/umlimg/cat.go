package main

import (
	"context"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/volume"
	"golang.org/x/sys/unix"
)

func catCommand() *cli.Command {
	return &cli.Command{
		Name: "cat", Usage: "print files of an image", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH...",
		Description: `umlimg cat disk.img:/etc/fstab
umlimg cat 'disk.img:/var/log/syslog*' | less`,
		Action: func(c *cli.Context) error {
			return readVerb(c, 1, false, func(s *volumes, places []place) error {
				for _, p := range places {
					if err := catFile(c.Context, s, p, c.App.Writer); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// catFile writes what is in a file of an image.
func catFile(ctx context.Context, s *volumes, p place, w io.Writer) error {
	_, n, err := s.node(p, true)
	if err != nil {
		return err
	}
	defer n.Close()
	switch n.Attr().Mode & format.ModeType {
	case format.ModeRegular:
	case format.ModeDir:
		return p.at(&volume.PathError{Path: p.path, Err: unix.EISDIR})
	default:
		return p.at(&volume.PathError{Path: p.path, Err: volume.ErrNotRegular})
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := n.ReadAt(buf, off)
		off += int64(got)
		if err != nil && err != io.EOF {
			return p.at(&volume.PathError{Path: p.path, Err: err})
		}
		if _, werr := w.Write(buf[:got]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
	}
}
