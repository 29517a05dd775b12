package main

import (
	"fmt"
	"path"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/filemode"
	"github.com/umlkit/umlkit/volume"
)

// octalOption is the mode that --mode names, and whether it was given.
func octalOption(c *cli.Context, example string) (mode uint16, given bool, err error) {
	text := c.String("mode")
	if text == "" && !c.IsSet("mode") {
		return 0, false, nil
	}
	m, err := filemode.Parse(text)
	bits, ok := m.Number()
	if err != nil || !ok {
		return 0, false, usagef("--mode %q: an octal number, as %s", text, example)
	}
	return uint16(bits), true, nil
}

// attrVerb changes files of images, with -R all below them.
func attrVerb(c *cli.Context, args []string, follow bool, of func(*volume.Volume) (func(*ext4.Inode, ext4.Attr) error, error)) error {
	places, err := inImages(c, args, false)
	if err != nil {
		return err
	}
	s := &volumes{write: true}
	work := func() error {
		places, err := s.expand(places)
		if err != nil {
			return err
		}
		for _, p := range places {
			v, n, err := s.node(p, follow)
			if err != nil {
				return err
			}
			change, err := of(v)
			if err == nil {
				err = eachBelow(c, n, p.path, c.Bool("recursive"), 0, func(n volume.Node, full string) error {
					if err := change(n.(volume.Ext).Inode, n.Attr()); err != nil {
						return err
					}
					s.tell(c, p, full, n)
					return nil
				})
			}
			n.Close()
			if err != nil {
				return p.targetError(err)
			}
		}
		return nil
	}
	return s.finish(c, work())
}

// eachBelow changes a file, and all below it where it is a directory; links in there are
// not followed.
func eachBelow(c *cli.Context, n volume.Node, full string, recurse bool, depth int, change func(n volume.Node, full string) error) error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if depth > 4096 {
		return &volume.PathError{Path: fmt.Sprintf("%.60s…", full), Err: unix.ENAMETOOLONG}
	}
	if recurse && isDirectory(n) {
		names, err := n.Names()
		if err != nil {
			return &volume.PathError{Path: full, Err: err}
		}
		for _, name := range names {
			child, err := n.Lookup(name)
			if err != nil {
				return &volume.PathError{Path: path.Join(full, name), Err: err}
			}
			err = eachBelow(c, child, path.Join(full, name), true, depth+1, change)
			child.Close()
			if err != nil {
				return err
			}
		}
	}
	if err := change(n, full); err != nil {
		return &volume.PathError{Path: full, Err: err}
	}
	return nil
}
