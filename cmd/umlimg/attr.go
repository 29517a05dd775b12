package main

import (
	"fmt"
	"path"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/filemode"
	"github.com/umlkit/umlkit/volume"
)

// chmodCommand and chownCommand change what stat shows.
func chmodCommand() *cli.Command {
	return &cli.Command{
		Name: "chmod", Usage: "change permissions in an image", Category: imageFiles, ArgsUsage: "MODE IMAGE[#N]:/PATH...",
		Description: `umlimg chmod 600 disk.img:/etc/ssh/ssh_host_ed25519_key
umlimg chmod -R go-w,a+rX disk.img:/srv`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "directories with all that is in them"},
			jsonChanged(),
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, -1)
			if err != nil {
				return err
			}
			m, err := filemode.Parse(args[0])
			if err != nil {
				return usagef("chmod: %w", err)
			}
			return attrVerb(c, args[1:], true, func(_ *volume.Volume) (func(*ext4.Inode, ext4.Attr) error, error) {
				return func(n *ext4.Inode, a ext4.Attr) error {
					if a.Mode&format.ModeType == format.ModeSymlink {
						return nil // their permissions are nobody's
					}
					// The umask of this machine's user is none of the image's.
					return volume.Chmod(n, uint16(m.Apply(uint32(a.Mode), 0)))
				}, nil
			})
		},
	}
}

func chownCommand() *cli.Command {
	return &cli.Command{
		Name: "chown", Usage: "change owners in an image", Category: imageFiles, ArgsUsage: "OWNER[:GROUP] IMAGE[#N]:/PATH...",
		Description: `umlimg chown -R www-data: disk.img:/var/www
umlimg chown 1000:1000 disk.img:/home/joe`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "directories with all that is in them"},
			&cli.BoolFlag{Name: "no-dereference", Aliases: []string{"h"}, Usage: "a symbolic link itself, not what it leads to"},
			jsonChanged(),
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, -1)
			if err != nil {
				return err
			}
			follow := !c.Bool("no-dereference")
			return attrVerb(c, args[1:], follow, func(v *volume.Volume) (func(*ext4.Inode, ext4.Attr) error, error) {
				o, err := usersOf(v).parse(args[0])
				if err != nil {
					return nil, err
				}
				return o.apply, nil
			})
		},
	}
}

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

// apply gives a file its owner, and takes from it what the kernel takes: rights that the
// program would give to whoever runs it.
func (o ownership) apply(n *ext4.Inode, a ext4.Attr) error {
	mask := ext4.AttrMask(0)
	if o.uid != nil {
		a.UID, mask = *o.uid, mask|ext4.AttrUID
	}
	if o.gid != nil {
		a.GID, mask = *o.gid, mask|ext4.AttrGID
	}
	if a.Mode&format.ModeType == format.ModeRegular {
		clear := uint16(format.ModeSetUID)
		if a.Mode&0o010 != 0 {
			clear |= format.ModeSetGID
		}
		if a.Mode&clear != 0 {
			a.Mode, mask = a.Mode&^clear, mask|ext4.AttrMode
		}
		if err := n.RemoveXattr("security.capability"); err != nil && !isNoData(err) {
			return err
		}
	}
	return n.SetAttr(mask, a)
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
