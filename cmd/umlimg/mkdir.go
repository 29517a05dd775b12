package main

import (
	"errors"
	"path"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/volume"
)

func mkdirCommand() *cli.Command {
	return &cli.Command{
		Name: "mkdir", Usage: "make directories in an image", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH...",
		Description: `umlimg mkdir -p disk.img:/srv/www/html
umlimg mkdir --mode 1777 disk.img:/scratch`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "parents", Aliases: []string{"p"}, Usage: "those on the way too; one that is there is no mistake"},
			&cli.StringFlag{Name: "mode", Aliases: []string{"m"}, Usage: "`mode` of the last one, octal; else 755, or what the default ACL above it gives"},
			&cli.StringFlag{Name: "owner", Usage: "`user[:group]` of all, by number or by a name from the image"},
			jsonChanged(),
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, -1)
			if err != nil {
				return err
			}
			places, err := inImages(c, args, false)
			if err != nil {
				return err
			}
			mode, given, err := octalOption(c, "755")
			if err != nil {
				return named(c, err)
			}
			if !given {
				mode = usualMode
			}
			s := &volumes{write: true}
			for _, p := range places {
				if err == nil {
					err = mkdir(c, s, p, mode)
				}
				if err == nil {
					err = s.tellPlace(c, p, true)
				}
			}
			return s.finish(c, err)
		},
	}
}

// usualMode asks for what a directory's default ACL gives to those in it, or where it has
// none, for 755.
const usualMode = 1<<16 - 1

func mkdir(c *cli.Context, s *volumes, p place, mode uint16) error {
	v, err := s.get(p)
	if err != nil {
		return err
	}
	owner, err := ownerOption(c, v)
	if err != nil {
		return err
	}
	full := strings.TrimRight(p.path, "/")
	if c.Bool("parents") {
		parts := strings.Split(full, "/")
		for i := 2; i < len(parts); i++ {
			err := mkdirOne(v, strings.Join(parts[:i], "/"), usualMode, owner, true)
			var in *volume.PathError
			if errors.As(err, &in) && in.Err == unix.EEXIST { // and is no directory
				in.Err = unix.ENOTDIR
			}
			if err != nil {
				return p.targetError(err)
			}
		}
	}
	return p.targetError(mkdirOne(v, full, mode, owner, c.Bool("parents")))
}

func mkdirOne(v *volume.Volume, full string, mode uint16, owner *volume.Owner, have bool) error {
	at, err := v.Walk(full, true)
	if err != nil {
		return err
	}
	defer at.Close()
	switch {
	case at.IsDir() && have:
		return nil
	case at.Node != nil:
		return &volume.PathError{Path: path.Clean(full + "/"), Err: unix.EEXIST}
	}
	dir := at.Dir.(volume.Ext).Inode
	m := ext4.NewInode{Mode: format.ModeDir | 0o777}
	setgid := dir.Attr().Mode & format.ModeSetGID
	if setgid != 0 {
		m.GID, m.Mode = dir.Attr().GID, m.Mode|setgid
	}
	if owner != nil {
		m.UID, m.GID = owner.UID, owner.GID
	}
	n, err := volume.Create(dir, at.Name, m, 0o022)
	if err != nil {
		return &volume.PathError{Path: full, Err: volume.Short(err)}
	}
	if mode != usualMode {
		err = volume.Chmod(n, mode|setgid)
	}
	if e := n.Put(); err == nil {
		err = e
	}
	return err
}
