package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ubdfmt"
)

func cowCreateCommand() *cli.Command {
	return &cli.Command{
		Name:        "create",
		Usage:       "make a copy-on-write file over an image",
		ArgsUsage:   "COW IMAGE",
		Description: `umlimg cow create disk.cow base.img`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "replace a copy-on-write file that exists, with all that it holds"},
			&cli.BoolFlag{Name: "json", Usage: "print what was made as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, 2)
			if err != nil {
				return err
			}
			cow, image := args[0], args[1]
			if err := errors.Join(mayName(cow), wholeDisks(image), refuseQcow2(image)); err != nil {
				return fmt.Errorf("cow create %s: %w", cow, err)
			}
			create := ubdfmt.CreateCOW
			if c.Bool("force") {
				create = ubdfmt.ReplaceCOW
			}
			if err := create(cow, image, ubdfmt.Options{}); err != nil {
				return fmt.Errorf("cow create: %w", err)
			}
			if !c.Bool("json") {
				return nil
			}
			info, err := inspectImage(cow, "")
			if err != nil {
				return fmt.Errorf("cow create %s: %w", cow, err)
			}
			return printJSON(c, info)
		},
	}
}
