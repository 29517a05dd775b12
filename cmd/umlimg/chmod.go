package main

import (
	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/filemode"
	"github.com/umlkit/umlkit/volume"
)

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
