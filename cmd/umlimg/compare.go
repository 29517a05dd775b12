package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ubdfmt"
)

// The exit statuses of compare are qemu-img's.
const (
	compareDiffers = 1
	compareOpen    = 2
	compareMap     = 3
	compareRead    = 4
)

func compareCommand() *cli.Command {
	return &cli.Command{
		Name:      "compare",
		Usage:     "tell whether two disks show the same bytes",
		Category:  "disks",
		ArgsUsage: "IMAGE IMAGE",
		Description: `umlimg compare disk.cow merged.img
umlimg compare --strict disk.img copy.img`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "strict", Aliases: []string{"s"}, Usage: "take other sizes, and data over a hole, for different too"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing, the exit status says it"},
			forceShareFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, 2)
			if err != nil {
				return err
			}
			return compareImages(c, args[0], args[1])
		},
	}
}

// forceShareFlag is an option of commands that only look.
func forceShareFlag() cli.Flag {
	return &cli.BoolFlag{Name: "force-share", Aliases: []string{"U"}, Usage: "look also while a machine uses the image; what it writes meanwhile may show or not"}
}

// looking are the options of a command that only looks.
func looking(c *cli.Context) ubdfmt.Options {
	return ubdfmt.Options{ReadOnly: true, Shared: c.Bool("force-share")}
}

// comparison is what --json prints. Sizes and offsets are bytes.
type comparison struct {
	Identical bool    `json:"identical"`
	Sizes     []int64 `json:"sizes"`
	// Difference is what differs first: "content", "size" or "mapping".
	Difference string `json:"difference,omitempty"`
	Offset     *int64 `json:"offset,omitempty"`
}

func compareImages(c *cli.Context, pathA, pathB string) error {
	a, err := openImage(pathA, looking(c))
	if err != nil {
		return verdict{compareOpen, fmt.Errorf("compare: %w", err)}
	}
	defer a.Close()
	b, err := openImage(pathB, looking(c))
	if err != nil {
		return verdict{compareOpen, fmt.Errorf("compare: %w", err)}
	}
	defer b.Close()
	bar := newProgress(c.App.ErrWriter)
	got, err := ubdfmt.Compare(c.Context, a, b, ubdfmt.CompareOptions{Strict: c.Bool("strict"), Progress: bar.tell})
	bar.finish()
	var unmapped *ubdfmt.MapError
	switch {
	case err != nil && c.Context.Err() != nil:
		return fmt.Errorf("compare %s %s: %w", pathA, pathB, c.Context.Err())
	case errors.As(err, &unmapped):
		return verdict{compareMap, fmt.Errorf("compare %s %s: %w", pathA, pathB, err)}
	case err != nil:
		return verdict{compareRead, fmt.Errorf("compare %s %s: %w", pathA, pathB, err)}
	}
	if err := printComparison(c, got, a.Size(), b.Size()); err != nil {
		return verdict{compareRead, err}
	}
	if got.Difference != ubdfmt.Same {
		return verdict{status: compareDiffers}
	}
	return nil
}

// printComparison says what was found in the words of qemu-img.
func printComparison(c *cli.Context, got ubdfmt.Comparison, sizeA, sizeB int64) error {
	if c.Bool("json") {
		out := comparison{Identical: got.Difference == ubdfmt.Same, Sizes: []int64{sizeA, sizeB}}
		if !out.Identical {
			out.Difference = map[ubdfmt.Difference]string{ubdfmt.DifferentContent: "content",
				ubdfmt.DifferentSize: "size", ubdfmt.DifferentMapping: "mapping"}[got.Difference]
			out.Offset = &got.Offset
		}
		return printJSON(c, out)
	}
	if c.Bool("quiet") {
		return nil
	}
	text := "Images are identical.\n"
	switch got.Difference {
	case ubdfmt.DifferentContent:
		text = fmt.Sprintf("Content mismatch at offset %d!\n", got.Offset)
	case ubdfmt.DifferentSize:
		text = "Strict mode: Image size mismatch!\n"
	case ubdfmt.DifferentMapping:
		text = fmt.Sprintf("Strict mode: Offset %d block status mismatch!\n", got.Offset)
	}
	if sizeA != sizeB && !c.Bool("strict") && (got.Difference == ubdfmt.Same || got.Offset >= min(sizeA, sizeB)) {
		text = "Warning: Image size mismatch!\n" + text
	}
	_, err := fmt.Fprint(c.App.Writer, text)
	return err
}
