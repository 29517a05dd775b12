package main

import (
	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/volume"
)

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
