package main

import (
	"fmt"
	"math/bits"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ubdfmt"
)

func measureCommand() *cli.Command {
	return &cli.Command{
		Name:      "measure",
		Usage:     "say how much room another format would take",
		Category:  "disks",
		ArgsUsage: "[IMAGE]",
		Description: `umlimg measure --output qcow2 disk.cow
umlimg measure --output cow --size 16G`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"O"}, Value: "raw", Usage: "the `FORMAT` that is measured: raw, cow or qcow2"},
			&cli.StringFlag{Name: "size", Usage: "measure an empty disk of that size, without IMAGE"},
			&cli.StringFlag{Name: "cluster-size", Value: "64K", Usage: "of qcow2, a power of two from 512 to 2M"},
			forceShareFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print it as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 0, 1)
			if err != nil {
				return err
			}
			if (len(args) == 1) == c.IsSet("size") {
				return usagef("measure: name an image, or --size: umlimg measure -O FORMAT IMAGE")
			}
			m, err := measureImage(c, args)
			if err != nil {
				if len(args) == 0 {
					return named(c, err)
				}
				return fmt.Errorf("measure %s: %w", args[0], ofImage(args[0], err))
			}
			if c.Bool("json") {
				return printJSON(c, measurement{m.Required, m.Full})
			}
			_, err = fmt.Fprintf(c.App.Writer, "required size: %d\nfully allocated size: %d\n", m.Required, m.Full)
			return err
		},
	}
}

// measurement is what --json prints, in qemu-img's names. Sizes are bytes.
type measurement struct {
	Required int64 `json:"required"`
	Full     int64 `json:"fully-allocated"`
}

func measureImage(c *cli.Context, args []string) (m ubdfmt.Measurement, err error) {
	cluster, err := parseSize(c.String("cluster-size"))
	if err != nil || cluster > 2<<20 || bits.OnesCount64(uint64(cluster)) != 1 {
		return m, usagef("--cluster-size %q is no power of two from 512 to 2M", c.String("cluster-size"))
	}
	format := c.String("output")
	switch format {
	case "raw", "cow", "qcow2":
	default:
		return m, usagef("--output %q: raw, cow or qcow2", format)
	}
	if c.IsSet("cluster-size") && format != "qcow2" {
		return m, usagef("--cluster-size is of qcow2, not of %s", format)
	}
	var dev ubdfmt.Device
	var size int64
	if len(args) == 0 {
		if size, err = parseSize(c.String("size")); err != nil {
			return m, usagef("--size %q: %w", c.String("size"), err)
		}
	} else {
		if dev, err = openImage(args[0], looking(c)); err != nil {
			return m, err
		}
		defer dev.Close()
		size = dev.Size()
	}
	if size > ubdfmt.MaxSize && dev != nil {
		return m, fmt.Errorf("it has %d bytes, and a disk at most %d", size, int64(ubdfmt.MaxSize))
	}
	if size > ubdfmt.MaxSize {
		return m, usagef("--size %q: a disk has 64T at most", c.String("size"))
	}
	switch format {
	case "cow":
		return ubdfmt.MeasureCOW(size), nil
	case "qcow2":
		return ubdfmt.MeasureQcow2(c.Context, size, cluster, dev)
	}
	return ubdfmt.Measurement{Required: size, Full: size}, nil
}
