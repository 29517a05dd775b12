package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ubdfmt"
)

func diffCommand() *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "make a copy-on-write file that turns one disk into another",
		Category:  "disks",
		ArgsUsage: "OLD NEW -o COW",
		Description: `umlimg diff monday.img tuesday.img -o tuesday.cow
umlimg diff --output tuesday.cow monday.img tuesday.img`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "the copy-on-write file; it stands behind OLD and NEW, too"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: func(c *cli.Context) error {
			old, target, cow, err := diffOperands(c)
			if err != nil {
				return err
			}
			if err := diff(c, old, target, cow); err != nil {
				return fmt.Errorf("diff %s %s: %w", old, target, err)
			}
			return nil
		},
	}
}

// diffOperands takes -o behind the images, where people write it, as well as before.
func diffOperands(c *cli.Context) (old, target, cow string, err error) {
	args := c.Args().Slice()
	cow = c.String("output")
	if n := len(args); n == 4 && (args[2] == "-o" || args[2] == "--output") && cow == "" {
		args, cow = args[:2], args[3]
	}
	if len(args) != 2 || cow == "" || args[0] == "" || args[1] == "" {
		return "", "", "", usagef("diff: name two images and the file to make: umlimg diff OLD NEW -o COW")
	}
	return args[0], args[1], cow, nil
}

// diffSummary is what --json prints. Sizes are bytes.
type diffSummary struct {
	Image     string `json:"image"`
	Backing   string `json:"backing-filename"`
	Size      int64  `json:"virtual-size"`
	Differing int64  `json:"differing"`
	Allocated int64  `json:"actual-size"`
}

func diff(c *cli.Context, old, target, cow string) error {
	if err := mayName(cow); err != nil {
		return err
	}
	if err := errors.Join(wholeDisks(old, target), refuseQcow2(old, target)); err != nil {
		return err
	}
	bar := newProgress(c.App.ErrWriter)
	n, err := ubdfmt.Diff(c.Context, old, target, cow, ubdfmt.DiffOptions{Progress: bar.tell})
	bar.finish()
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		return nil
	}
	info, err := inspectImage(cow, "")
	if err != nil {
		return err
	}
	return printJSON(c, diffSummary{cow, info.Backing, info.VirtualSize, n, info.ActualSize})
}
