package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/ubdfmt/qcow2"
)

func mapCommand() *cli.Command {
	return &cli.Command{
		Name:      "map",
		Usage:     "show where the bytes of a disk lie",
		Category:  "disks",
		ArgsUsage: "IMAGE[#N]",
		Description: `umlimg map disk.cow
umlimg map --json disk.cow
umlimg map --svg disk.svg disk.cow`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "start-offset", Value: "0", Usage: "begin at this byte of the disk"},
			&cli.StringFlag{Name: "max-length", Usage: "show so many bytes at most"},
			&cli.StringFlag{Name: "svg", Usage: "write a picture of the disk to a `FILE`, - for stdout"},
			forceShareFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print the extents as JSON, one a line"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			if c.Bool("json") && c.String("svg") == "-" {
				return usagef("map: --json and --svg - both write to stdout")
			}
			if err := mapImage(c, args[0]); err != nil {
				return fmt.Errorf("map %s: %w", args[0], ofImage(args[0], err))
			}
			return nil
		},
	}
}

// region is a run of the disk of one kind that lies together. Numbers are bytes.
type region struct {
	Start, Length int64
	Depth         int
	Present       bool // false: no file of the disk has a place for it
	Zero, Data    bool
	Offset        int64 // in the file; < 0: it has no place there

	file string
}

// layer is one of the files that a disk is made of, the topmost first.
type layer struct {
	path  string
	kind  string // "raw", "cow" or "qcow2"
	start int64  // where in it the disk begins, of a partition, in bytes
}

// layersOf names a disk's files.
func layersOf(path string, dev ubdfmt.Device) (layers []layer) {
	if part, ok := dev.(*partition.Section); ok {
		path, _ = splitPartition(path)
		layers = layersOf(path, part.Disk())
		for i := range layers {
			layers[i].start = part.Start()
		}
		return layers
	}
	for im, ok := dev.(*qcow2.Image); ok; im, ok = dev.(*qcow2.Image) {
		layers = append(layers, layer{path: im.Path(), kind: "qcow2"})
		if dev = im.Backing(); dev == nil {
			return layers
		}
		path = im.Files()[1]
	}
	if cow, ok := dev.(*ubdfmt.COW); ok {
		return append(layers, layer{path: path, kind: "cow"}, layer{path: cow.Backing(), kind: "raw"})
	}
	return append(layers, layer{path: path, kind: "raw"})
}

// regionsOf visits the extents of a range, put together where they are alike.
func regionsOf(dev ubdfmt.Device, layers []layer, off, n int64, visit func(region) error) error {
	var last region
	var failed error
	err := dev.Extents(off, n, func(e ubdfmt.Extent) bool {
		r := region{Start: e.Offset, Length: e.Length, Depth: e.Depth, Present: true, Zero: e.File == nil, Data: e.File != nil, Offset: -1}
		if e.Depth < len(layers) {
			r.file = layers[e.Depth].path
			switch {
			case layers[e.Depth].kind == "raw":
				r.Offset = layers[e.Depth].start + e.Offset // a hole has its place in the file, too
			case e.Depth == len(layers)-1:
				r.Present = r.Data // no file has it
			}
		}
		switch {
		case e.Compressed:
			r.Offset = -1
		case r.Data:
			r.Offset = e.FileOffset
		}
		if last.joins(r) {
			last.Length += r.Length
			return true
		}
		if last.Length > 0 {
			failed = visit(last)
		}
		last = r
		return failed == nil
	})
	if err == nil && failed == nil && last.Length > 0 {
		failed = visit(last)
	}
	return errors.Join(err, failed)
}

// joins tells whether next goes on where r ends.
func (r region) joins(next region) bool {
	return r.Length > 0 && r.Depth == next.Depth && r.Data == next.Data && r.Present == next.Present &&
		(r.Offset < 0) == (next.Offset < 0) && (r.Offset < 0 || r.Offset+r.Length == next.Offset)
}

func mapImage(c *cli.Context, path string) error {
	dev, err := openImage(path, looking(c))
	if err != nil {
		return err
	}
	defer dev.Close()
	off, n, err := mapRange(c, dev.Size())
	if err != nil {
		return err
	}
	layers := layersOf(path, dev)
	regions := func(visit func(region) error) error {
		return regionsOf(dev, layers, off, n, func(r region) error {
			if err := c.Context.Err(); err != nil {
				return err
			}
			return visit(r)
		})
	}
	if name := c.String("svg"); name != "" {
		if err := noSource(name, diskFiles(dev, path)); err != nil {
			return err
		}
		return drawSVG(c, name, path, layers, off, n, regions)
	}
	out := bufio.NewWriter(c.App.Writer)
	columns := terminalWidth(c.App.Writer)
	switch {
	case c.Bool("json"):
		err = printRegionsJSON(out, regions)
	case columns > 0:
		err = drawText(out, columns, layers, off, n, regions)
	default:
		err = printRegions(out, regions)
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

// mapRange is the part of the disk that the options name.
func mapRange(c *cli.Context, size int64) (off, n int64, err error) {
	if off, err = parseBytes(c.String("start-offset")); err != nil {
		return 0, 0, usagef("--start-offset %q: %w", c.String("start-offset"), err)
	}
	most := int64(math.MaxInt64)
	if text := c.String("max-length"); text != "" {
		if most, err = parseBytes(text); err != nil {
			return 0, 0, usagef("--max-length %q: %w", text, err)
		}
	}
	if off > size {
		return 0, 0, usagef("--start-offset %d: the disk has %d bytes", off, size)
	}
	return off, min(most, size-off), nil
}

// regionLines visits the regions that a command shows.
type regionLines func(visit func(region) error) error

// printRegionsJSON prints one region a line, as qemu-img does: there can be millions.
func printRegionsJSON(w io.Writer, regions regionLines) error {
	line := []byte("[")
	some := false
	err := regions(func(r region) error {
		some = true
		line = appendRegion(line, r)
		_, err := w.Write(line)
		line = append(line[:0], ",\n"...)
		return err
	})
	if err != nil {
		return err
	}
	end := "]\n"
	if !some { // a range without a byte
		end = "[]\n"
	}
	_, err = io.WriteString(w, end)
	return err
}

func appendRegion(line []byte, r region) []byte {
	number := func(name string, n int64) {
		line = strconv.AppendInt(append(line, name...), n, 10)
	}
	truth := func(name string, so bool) {
		line = strconv.AppendBool(append(line, name...), so)
	}
	number(`{ "start": `, r.Start)
	number(`, "length": `, r.Length)
	number(`, "depth": `, int64(r.Depth))
	truth(`, "present": `, r.Present)
	truth(`, "zero": `, r.Zero)
	truth(`, "data": `, r.Data)
	if r.Offset >= 0 {
		number(`, "offset": `, r.Offset)
	}
	return append(line, '}')
}

func printRegions(w io.Writer, regions regionLines) error {
	if _, err := fmt.Fprintf(w, "%-15s %-15s %-6s %-8s %-15s %s\n", "Offset", "Length", "Depth", "Content", "Mapped to", "File"); err != nil {
		return err
	}
	return regions(func(r region) error {
		content, at := "zero", "-"
		if r.Data {
			content = "data"
			if r.Offset >= 0 {
				at = fmt.Sprintf("%#x", r.Offset)
			}
		}
		_, err := fmt.Fprintf(w, "%-15s %-15s %-6d %-8s %-15s %s\n",
			fmt.Sprintf("%#x", r.Start), fmt.Sprintf("%#x", r.Length), r.Depth, content, at, quoted(r.file))
		return err
	})
}
