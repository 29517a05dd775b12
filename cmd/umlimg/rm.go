package main

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/volume"
)

func rmCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "remove files from an image", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH...",
		Description: `umlimg rm disk.img:/etc/machine-id
umlimg rm -rf 'disk.img:/var/cache/apt/*'`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r", "R"}, Usage: "directories with all that is in them"},
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "what is not there is no mistake"},
			&cli.BoolFlag{Name: "dir", Aliases: []string{"d"}, Usage: "empty directories too"},
			&cli.BoolFlag{Name: "json", Usage: "print how many were removed as JSON"},
		},
		Action: func(c *cli.Context) error {
			sum := &filesSummary{}
			err := writeVerb(c, 1, func(s *volumes, places []place) error {
				for _, p := range places {
					if err := rm(c, s, p, sum); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil || !c.Bool("json") {
				return err
			}
			return printJSON(c, sum)
		},
	}
}

func rm(c *cli.Context, s *volumes, p place, sum *filesSummary) error {
	v, err := s.get(p)
	if err != nil {
		return err
	}
	trimmed := strings.TrimRight(p.path, "/")
	if name := path.Base(trimmed); trimmed == "" || name == "." || name == ".." {
		return fmt.Errorf("%s cannot be removed: it has no name", p.text)
	}
	at, err := v.Walk(trimmed, false)
	if c.Bool("force") && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		return nil
	}
	if err != nil {
		return p.at(err)
	}
	defer at.Close()
	switch {
	case at.Node == nil && c.Bool("force"):
		return nil
	case at.Node == nil:
		return p.at(&volume.PathError{Path: p.path, Err: unix.ENOENT})
	case at.IsDir() && !c.Bool("recursive") && !c.Bool("dir"):
		return fmt.Errorf("%s is a directory: -r removes it", p.text)
	case !at.IsDir() && strings.HasSuffix(p.path, "/"):
		return p.at(&volume.PathError{Path: p.path, Err: unix.ENOTDIR})
	}
	return p.targetError(remove(c, at.Dir, at.Node, at.Name, trimmed, c.Bool("recursive"), 0, sum))
}

// remove takes a name out of a directory, with all that is below it.
func remove(c *cli.Context, dir, n volume.Node, name, full string, recurse bool, depth int, sum *filesSummary) error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	fail := func(err error) error { return &volume.PathError{Path: full, Err: err} }
	d := dir.(volume.Ext).Inode
	if !isDirectory(n) {
		if err := d.Unlink(name); err != nil {
			return fail(err)
		}
		sum.add(uint32(n.Attr().Mode), 1)
		return nil
	}
	if recurse {
		if depth > 4096 {
			return &volume.PathError{Path: fmt.Sprintf("%.60s…", full), Err: unix.ENAMETOOLONG}
		}
		names, err := n.Names()
		if err != nil {
			return fail(err)
		}
		for _, entry := range names {
			child, err := n.Lookup(entry)
			if err != nil {
				return &volume.PathError{Path: path.Join(full, entry), Err: err}
			}
			err = remove(c, n, child, entry, path.Join(full, entry), true, depth+1, sum)
			if e := child.Close(); err == nil {
				err = e
			}
			if err != nil {
				return err
			}
		}
	}
	if err := d.Rmdir(name); err != nil {
		if errors.Is(err, unix.ENOTEMPTY) {
			err = unix.ENOTEMPTY
		}
		return fail(err)
	}
	sum.add(uint32(n.Attr().Mode), 1)
	return nil
}

func isNoData(err error) bool { return errors.Is(err, unix.ENODATA) }
