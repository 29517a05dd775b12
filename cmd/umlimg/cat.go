package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
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
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print an array of the files, as stat does, with what is in them in base64"}},
		Action: func(c *cli.Context) error {
			return readVerb(c, 1, false, func(s *volumes, places []place) error {
				if c.Bool("json") {
					return catJSON(c, s, places)
				}
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

// catJSON prints files as JSON. What is in them is not held in memory.
func catJSON(c *cli.Context, s *volumes, places []place) error {
	out := bufio.NewWriter(c.App.Writer)
	fmt.Fprint(out, "[")
	for i, p := range places {
		v, n, err := s.node(p, true)
		if err != nil {
			return err
		}
		text, err := json.MarshalIndent(infoOf(p, p.path, n, usersOf(v)), "  ", "  ")
		n.Close()
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprint(out, ",")
		}
		fmt.Fprintf(out, "\n  %s,\n    \"content\": \"", bytes.TrimSuffix(text, []byte("\n  }")))
		packer := base64.NewEncoder(base64.StdEncoding, out)
		if err := catFile(c.Context, s, p, packer); err != nil {
			return err
		}
		if err := packer.Close(); err != nil {
			return err
		}
		fmt.Fprint(out, "\"\n  }")
	}
	fmt.Fprint(out, "\n]\n")
	return out.Flush()
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
