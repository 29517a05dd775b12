package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/volume"
)

func lnCommand() *cli.Command {
	return &cli.Command{
		Name: "ln", Usage: "make links in an image", Category: imageFiles, ArgsUsage: "TARGET IMAGE[#N]:/PATH",
		Description: `umlimg ln -s /usr/share/zoneinfo/Europe/Berlin disk.img:/etc/localtime
umlimg ln disk.img:/bin/gzip disk.img:/bin/gunzip`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "symbolic", Aliases: []string{"s"}, Usage: "a symbolic link, to any text; else one more name of a file"},
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "replace what has the name, but a directory"},
			jsonChanged(),
		},
		Action: into(ln, false),
	}
}

func ln(c *cli.Context, s *volumes, target string, dest place) error {
	v, err := s.get(dest)
	if err != nil {
		return err
	}
	at, err := v.Walk(strings.TrimRight(dest.path, "/"), false)
	if err != nil {
		return dest.at(err)
	}
	defer at.Close()
	if at.Dir == nil {
		return fmt.Errorf("%s has no name", dest.text)
	}
	n, err := linkTarget(c, s, v, target, at.Dir)
	if err != nil {
		return err
	}
	defer n.Put()
	dir, full := at.Dir.(volume.Ext).Inode, dest.path
	switch {
	case at.Node == nil:
		err = dir.Link(at.Name, n)
	case at.IsDir():
		err = unix.EISDIR
	case !c.Bool("force"):
		err = unix.EEXIST
	default:
		err = dir.Replace(at.Name, n)
	}
	if err != nil {
		return dest.at(&volume.PathError{Path: full, Err: volume.Short(err)})
	}
	return nil
}

// linkTarget is the file that is to get a name: a new symbolic link, or one that is there.
func linkTarget(c *cli.Context, s *volumes, v *volume.Volume, target string, dir volume.Node) (*ext4.Inode, error) {
	if c.Bool("symbolic") {
		n, err := dir.(volume.Ext).CreateUnlinked(ext4.NewInode{Mode: format.ModeSymlink | 0o777, Target: target})
		if err != nil {
			return nil, volume.Short(err)
		}
		return n, nil
	}
	p := placeOf(target)
	if !p.inImage() {
		return nil, usagef("%s names no file in an image: write IMAGE:/PATH, or -s for a symbolic link", target)
	}
	from, n, err := s.node(p, false)
	if err != nil {
		return nil, err
	}
	e := n.(volume.Ext)
	switch {
	case from != v:
		err = fmt.Errorf("%s is in another filesystem: %w", p.text, unix.EXDEV)
	case isDirectory(n):
		err = p.at(&volume.PathError{Path: p.path, Err: unix.EISDIR})
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return e.Inode, nil
}
