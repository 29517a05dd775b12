package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/rootfs"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/ubdfmt/qcow2"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "copy a disk into a new image, raw, COW or qcow2",
		Category:  "disks",
		ArgsUsage: "IMAGE NEW",
		Description: `umlimg convert debian.qcow2 disk.img
umlimg convert disk.cow merged.img
umlimg convert -O qcow2 -c disk.img disk.qcow2
umlimg convert -O cow -b base.img disk.img disk.cow`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "take IMAGE for `FORMAT`, raw, cow or qcow2, instead of looking at how it begins"},
			&cli.StringFlag{Name: "output-format", Aliases: []string{"O"}, Value: "raw", Usage: "write `FORMAT`: raw, cow or qcow2"},
			&cli.StringFlag{Name: "backing", Aliases: []string{"b"}, Usage: "write only what differs from `FILE`, which NEW then names as its backing file"},
			&cli.BoolFlag{Name: "compress", Aliases: []string{"c"}, Usage: "compress, in a qcow2 image"},
			&cli.BoolFlag{Name: "force", Usage: "replace NEW where it exists"},
			&cli.BoolFlag{Name: "no-sync", Usage: "do not wait until NEW is stable on the host's disk"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, 2)
			if err != nil {
				return err
			}
			if err := checkFormats(c); err != nil {
				return err
			}
			if err := convert(c, args[0], args[1]); err != nil {
				return fmt.Errorf("convert %s: %w", args[0], err)
			}
			return nil
		},
	}
}

func checkFormats(c *cli.Context) error {
	for _, option := range []string{"format", "output-format"} {
		switch f := c.String(option); f {
		case "raw", "cow", "qcow2":
		default:
			if option != "format" || c.IsSet(option) {
				return usagef("convert: --%s %q: formats are raw, cow and qcow2", option, f)
			}
		}
	}
	switch to := c.String("output-format"); {
	case c.IsSet("backing") && c.String("backing") == "":
		return usagef("convert: the backing file's name is empty")
	case to == "cow" && !c.IsSet("backing"):
		return usagef("convert: a COW file needs a backing file: --backing FILE")
	case to == "raw" && c.IsSet("backing"):
		return usagef("convert: a raw image has no backing file: -O cow or -O qcow2 has")
	case to != "qcow2" && c.Bool("compress"):
		return usagef("convert: --compress is for -O qcow2")
	}
	return nil
}

// convertSummary is what --json prints. Sizes are bytes.
type convertSummary struct {
	Source       string  `json:"source"`
	SourceFormat string  `json:"source_format"`
	Image        string  `json:"image"`
	Format       string  `json:"format"`
	Backing      string  `json:"backing,omitempty"`
	Size         int64   `json:"size"`
	Length       int64   `json:"length"`
	Allocated    int64   `json:"allocated"`
	Seconds      float64 `json:"seconds"`
}

func convert(c *cli.Context, source, path string) error {
	start := time.Now()
	if err := mayName(path); err != nil {
		return err
	}
	from, format, err := openFormat(source, c.String("format"))
	if err != nil {
		return ofImage(source, err)
	}
	defer from.Close()
	if from.Size() == 0 {
		return errors.New("the disk is empty")
	}
	sum := convertSummary{Source: source, SourceFormat: format, Image: path, Format: c.String("output-format"), Size: from.Size()}
	d := &diskCopy{from: from, known: map[*os.File]bool{}, stable: !c.Bool("no-sync")}
	files := diskFiles(from, source)
	if backing := c.String("backing"); backing != "" {
		var baseFormat string
		if d.base, baseFormat, err = openFormat(backing, ""); err != nil {
			return fmt.Errorf("backing file: %w", err)
		}
		defer d.base.Close()
		if _, part := d.base.(*partition.Section); part {
			return fmt.Errorf("backing file %s: a partition is none", backing)
		}
		if err := checkBacking(backing, baseFormat, sum.Format, d.base.Size(), from.Size()); err != nil {
			return err
		}
		if baseFormat == "raw" {
			d.basePath = backing
		}
		files = append(files, diskFiles(d.base, backing)...)
		if sum.Backing, err = filepath.Abs(backing); err != nil {
			return err
		}
	}
	image, old, err := beginImage(path, c.Bool("force"), files)
	if err != nil {
		return err
	}
	defer image.Abort()
	if old != nil {
		defer old.Close()
	}
	image.Unsynced = c.Bool("no-sync")
	bar := newProgress(c.App.ErrWriter)
	d.progress = bar.tell
	d.out, _ = image.File()
	err = d.write(c, image, &sum)
	bar.finish()
	if err != nil {
		return err
	}
	if err := image.Commit(); err != nil {
		return err
	}
	if !c.Bool("json") {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	sum.Length = info.Size()
	if sum.Allocated, err = allocated(path); err != nil {
		return err
	}
	sum.Seconds = time.Since(start).Seconds()
	return printJSON(c, sum)
}

// write fills the new image.
func (d *diskCopy) write(c *cli.Context, image *rootfs.Image, sum *convertSummary) error {
	switch sum.Format {
	case "cow":
		cow, err := ubdfmt.NewCOW(d.out, sum.Image, sum.Backing, ubdfmt.Options{})
		if err != nil {
			return err
		}
		d.to = cowTarget{cow}
		return errors.Join(d.run(c.Context), cow.Close())
	case "qcow2":
		o := qcow2.WriterOptions{Size: sum.Size, Backing: sum.Backing, Compress: c.Bool("compress")}
		if o.Backing != "" {
			o.BackingFormat = formatOf(d.base)
		}
		w, err := qcow2.NewWriter(image, o)
		if err != nil {
			return err
		}
		d.to, d.inOrder = qcow2Target{w}, true
		if err := d.run(c.Context); err != nil {
			return err
		}
		return w.Finish()
	}
	if err := d.out.Truncate(sum.Size); err != nil {
		return err
	}
	d.to, d.cloning = rawTarget{image}, true
	return d.run(c.Context)
}

// openFormat opens a disk for reading, and says of what format it is. One that is not of
// the format asked for, "" for any, is refused.
func openFormat(path, format string) (ubdfmt.Device, string, error) {
	dev, err := openImage(path, ubdfmt.Options{ReadOnly: true, NoCOW: format == "raw"})
	if err != nil {
		return nil, "", err
	}
	have := formatOf(dev)
	if format != "" && have != format {
		dev.Close()
		return nil, "", fmt.Errorf("%s is no %s image but %s", path, format, have)
	}
	return dev, have, nil
}

// formatOf is the format of an open disk, as options name it.
func formatOf(dev ubdfmt.Device) string {
	switch dev.(type) {
	case *ubdfmt.COW:
		return "cow"
	case *qcow2.Image:
		return "qcow2"
	}
	return "raw"
}

// diskFiles are the files that a disk lies in.
func diskFiles(dev ubdfmt.Device, path string) []string {
	switch dev := dev.(type) {
	case *partition.Section:
		whole, _ := splitPartition(path)
		return diskFiles(dev.Disk(), whole)
	case *ubdfmt.COW:
		return []string{path, dev.Backing()}
	case *qcow2.Image:
		return dev.Files()
	}
	return []string{path}
}

// checkBacking refuses a backing file that the new image cannot have.
func checkBacking(path, format, to string, size, want int64) error {
	switch {
	case format == "cow":
		return fmt.Errorf("backing file %s: a COW file is no backing file for others", path)
	case to == "cow" && format != "raw":
		return fmt.Errorf("backing file %s: that of a COW file is a raw image, and this is a %s one", path, format)
	case to == "cow" && size != want:
		return fmt.Errorf("backing file %s has %d bytes, the disk %d: a COW file has the size of its backing file", path, size, want)
	case strings.ContainsRune(path, 0):
		return fmt.Errorf("backing file %q: a name has no NUL", path)
	}
	return nil
}

// beginImage begins a new image that is none of the files that it is made from, and
// replaces, with force, only a regular file that nobody uses. The old file is open and
// locked as long as it is to stay so.
func beginImage(path string, force bool, sources []string) (_ *rootfs.Image, old io.Closer, err error) {
	if err := noSource(path, sources); err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(path)
	if err == nil {
		if force && info.Mode().IsRegular() {
			raw, err := ubdfmt.OpenRaw(path, ubdfmt.Options{NoCOW: true})
			if err != nil {
				return nil, nil, err
			}
			old = raw
		}
	}
	image, err := rootfs.NewImage(path, 0, force)
	if err != nil && old != nil {
		old.Close()
	}
	return image, old, err
}
