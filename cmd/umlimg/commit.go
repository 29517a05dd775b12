package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ubdfmt"
)

func commitCommand() *cli.Command {
	return &cli.Command{
		Name:      "commit",
		Usage:     "write what a copy-on-write file holds into its backing file",
		Category:  "disks",
		ArgsUsage: "COW",
		Description: `umlimg commit disk.cow
umlimg commit --keep -b moved.img disk.cow`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "backing", Aliases: []string{"b"}, Usage: "the backing file (default: the one that the header names)"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the copy-on-write file as it is; it no longer matches the backing file then"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			if err := commit(c, args[0]); err != nil {
				return fmt.Errorf("commit %s: %w", args[0], ofImage(args[0], err))
			}
			return nil
		},
	}
}

// commitSummary is what --json prints. Sizes are bytes.
type commitSummary struct {
	Image     string   `json:"image"`
	Backing   string   `json:"backing-filename"`
	Kept      bool     `json:"kept"`
	Allocated int64    `json:"actual-size"` // of the backing file
	Broken    []string `json:"no-longer-matching"`
	Seconds   float64  `json:"seconds"`
}

func commit(c *cli.Context, cow string) error {
	start := time.Now()
	if err := wholeDisks(cow, c.String("backing")); err != nil {
		return err
	}
	backing := c.String("backing")
	if backing == "" {
		h, err := ubdfmt.ReadHeader(cow)
		if err != nil {
			return err
		}
		backing = h.Backing
	}
	others := []string{}
	bar := newProgress(c.App.ErrWriter)
	err := ubdfmt.MergeInPlace(c.Context, cow, ubdfmt.MergeOptions{
		Backing: c.String("backing"), Keep: c.Bool("keep"), Progress: bar.tell, Others: func(cows []string) { others = cows },
	})
	bar.finish()
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w; run it again to finish it", context.Canceled)
	case err != nil:
		return err
	}
	if len(others) > 0 {
		fmt.Fprintf(c.App.ErrWriter, "umlimg: commit %s: no longer of use over %s: %s (and whatever lies in other directories)\n",
			printable(cow), printable(backing), printable(strings.Join(others, ", ")))
	}
	if !c.Bool("json") {
		return nil
	}
	room, err := allocated(backing)
	if err != nil {
		return err
	}
	return printJSON(c, commitSummary{cow, backing, c.Bool("keep"), room, others, time.Since(start).Seconds()})
}
