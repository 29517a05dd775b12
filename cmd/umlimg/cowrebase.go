package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ubdfmt"
)

func cowRebaseCommand() *cli.Command {
	return &cli.Command{
		Name:      "rebase",
		Usage:     "give a copy-on-write file another backing file, or the same one that was moved or touched",
		ArgsUsage: "COW",
		Description: `umlimg cow rebase -b new.img disk.cow
umlimg cow rebase --verify --reference backup.img disk.cow
umlimg cow rebase --unsafe disk.cow`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "backing", Aliases: []string{"b"}, Usage: "the new backing file (default: the one that the header names)"},
			&cli.StringFlag{Name: "reference", Usage: "a copy of the backing file as it was, to compare with (default: the one that the header names, if it still matches)"},
			&cli.BoolFlag{Name: "verify", Usage: "refuse a backing file that differs in what the disk shows, and copy nothing"},
			&cli.BoolFlag{Name: "unsafe", Usage: "compare nothing: the disk shows then what the new backing file has"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			switch {
			case c.Bool("verify") && c.Bool("unsafe"):
				return usagef("cow rebase: --verify compares and --unsafe does not: give one")
			case c.Bool("unsafe") && c.IsSet("reference"):
				return usagef("cow rebase: --unsafe compares with no --reference")
			}
			if err := rebase(c, args[0]); err != nil {
				return fmt.Errorf("cow rebase %s: %w", args[0], ofImage(args[0], err))
			}
			return nil
		},
	}
}

// rebaseSummary is what --json prints.
type rebaseSummary struct {
	Image     string `json:"image"`
	Backing   string `json:"backing-filename"`
	MTime     int64  `json:"mtime"` // of the backing file, seconds since 1970
	Compared  bool   `json:"compared"`
	Reference string `json:"reference,omitempty"`
	Copied    int64  `json:"copied"` // bytes
}

func rebase(c *cli.Context, cow string) error {
	o := ubdfmt.RebaseOptions{Reference: c.String("reference")}
	switch {
	case c.Bool("verify"):
		o.Mode = ubdfmt.RebaseVerify
	case c.Bool("unsafe"):
		o.Mode = ubdfmt.RebaseUnsafe
	}
	if err := errors.Join(wholeDisks(cow, c.String("backing"), o.Reference), refuseQcow2(c.String("backing"), o.Reference)); err != nil {
		return err
	}
	bar := newProgress(c.App.ErrWriter)
	o.Progress = bar.tell
	done, err := ubdfmt.Rebase(c.Context, cow, c.String("backing"), o)
	bar.finish()
	if errors.Is(err, ubdfmt.ErrNoReference) {
		return fmt.Errorf("%w: --reference, or --unsafe", err)
	}
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		return nil
	}
	return printJSON(c, rebaseSummary{cow, done.Header.Backing, int64(done.Header.MTime), done.Compared, done.Reference, done.Copied})
}
