package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

func infoCommand() *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "say what an image is, and how large",
		Category:  "disks",
		ArgsUsage: "IMAGE",
		Description: `umlimg info disk.img
umlimg info --chain --json disk.cow`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "chain", Usage: "the backing file too"},
			&cli.BoolFlag{Name: "json", Usage: "print it as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			if err := showInfo(c, args[0]); err != nil {
				return fmt.Errorf("info %s: %w", args[0], ofImage(args[0], err))
			}
			return nil
		},
	}
}

// imageInfo is what --json prints, in qemu-img's names where it has one. Sizes are bytes.
type imageInfo struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
	// VirtualSize is the disk's, ApparentSize the file's, ActualSize what it takes on
	// the host.
	VirtualSize  int64 `json:"virtual-size"`
	ApparentSize int64 `json:"apparent-size"`
	ActualSize   int64 `json:"actual-size"`
	// Backing is the backing file as the header names it, FullBacking its path.
	Backing       string `json:"backing-filename,omitempty"`
	FullBacking   string `json:"full-backing-filename,omitempty"`
	BackingFormat string `json:"backing-filename-format,omitempty"`
	// BackingProblem says why the backing file would be refused.
	BackingProblem string          `json:"backing-problem,omitempty"`
	Specific       *formatSpecific `json:"format-specific,omitempty"`
}

type formatSpecific struct {
	Type string  `json:"type"`
	Data cowInfo `json:"data"`
}

// cowInfo is what the header of a COW file says.
type cowInfo struct {
	Dialect      string `json:"dialect"`
	MTime        int64  `json:"mtime"` // of the backing file, seconds since 1970
	BackingSize  int64  `json:"backing-size"`
	SectorSize   int64  `json:"sector-size"`
	Alignment    int64  `json:"alignment"`
	BitmapOffset int64  `json:"bitmap-offset"`
	BitmapLength int64  `json:"bitmap-length"`
	DataOffset   int64  `json:"data-offset"`
}

func showInfo(c *cli.Context, path string) error {
	info, err := inspectImage(path, false)
	if err != nil {
		return err
	}
	chain := []imageInfo{info}
	if c.Bool("chain") && info.Backing != "" {
		below, err := inspectImage(info.FullBacking, true)
		if err != nil {
			return fmt.Errorf("backing file: %w", err)
		}
		chain = append(chain, below)
	}
	switch {
	case c.Bool("json") && c.Bool("chain"):
		return printJSON(c, chain)
	case c.Bool("json"):
		return printJSON(c, info)
	}
	for i, info := range chain {
		if i > 0 {
			fmt.Fprintln(c.App.Writer)
		}
		if err := printInfo(c.App.Writer, info); err != nil {
			return err
		}
	}
	return nil
}

// inspectImage looks at a file's size and header, and takes no lock for it. A backing file
// is a raw image whatever it begins with.
func inspectImage(path string, isBacking bool) (imageInfo, error) {
	f, err := openLook(path)
	if err != nil {
		return imageInfo{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return imageInfo{}, err
	}
	info := imageInfo{Filename: path, Format: "raw", ApparentSize: st.Size, ActualSize: st.Blocks * 512}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		if info.ApparentSize, err = f.Seek(0, io.SeekEnd); err != nil {
			return imageInfo{}, err
		}
	}
	info.VirtualSize = wholeSectors(info.ApparentSize)
	if isBacking {
		return info, nil
	}
	isCOW, err := beginsAsCOW(f)
	if err != nil || !isCOW {
		return info, err
	}
	h, err := ubdfmt.ReadHeader(path)
	if err != nil {
		return imageInfo{}, err
	}
	l := h.Layout()
	info.Format, info.VirtualSize = "cow", wholeSectors(h.Size)
	info.Backing, info.FullBacking, info.BackingFormat = h.Backing, h.Backing, "raw"
	if abs, err := filepath.Abs(h.Backing); err == nil {
		info.FullBacking = abs
	}
	info.BackingProblem = backingProblem(f, h)
	info.Specific = &formatSpecific{Type: "cow", Data: cowInfo{
		Dialect: h.Dialect.String(), MTime: int64(h.MTime), BackingSize: h.Size, SectorSize: h.SectorSize, Alignment: h.Alignment,
		BitmapOffset: l.BitmapOffset, BitmapLength: l.BitmapLength, DataOffset: l.DataOffset,
	}}
	return info, nil
}

// backingProblem says why a machine would refuse the backing file or misread it, "" if it
// would not.
func backingProblem(cow *os.File, h ubdfmt.Header) string {
	self, err := cow.Stat()
	if err != nil {
		return err.Error()
	}
	f, err := openLook(h.Backing)
	if err != nil {
		return withoutPath(err).Error()
	}
	defer f.Close()
	below, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	isCOW, err := beginsAsCOW(f)
	switch {
	case err != nil:
		return withoutPath(err).Error()
	case os.SameFile(self, below):
		return "it is the COW file itself"
	case below.Mode().IsRegular() && below.Size() != h.Size:
		return fmt.Sprintf("it has %d bytes, the COW file is of one with %d", below.Size(), h.Size)
	case uint32(below.ModTime().Unix()) != h.MTime:
		return fmt.Sprintf("it was changed at %d, the COW file is of one changed at %d", below.ModTime().Unix(), h.MTime)
	case isCOW:
		return "it is a COW file itself, and taken as a raw image"
	}
	return ""
}

func wholeSectors(n int64) int64 {
	return (n + ubdfmt.SectorSize - 1) / ubdfmt.SectorSize * ubdfmt.SectorSize
}

func printInfo(w io.Writer, i imageInfo) error {
	var b strings.Builder
	fmt.Fprintf(&b, "image: %s\nfile format: %s\nvirtual size: %s (%d bytes)\nfile size: %s (%d bytes)\ndisk size: %s (%d bytes)\n",
		shown(i.Filename), i.Format, human(i.VirtualSize), i.VirtualSize, human(i.ApparentSize), i.ApparentSize, human(i.ActualSize), i.ActualSize)
	if i.Backing != "" {
		fmt.Fprintf(&b, "backing file: %s\n", shown(i.Backing))
	}
	if i.BackingProblem != "" {
		fmt.Fprintf(&b, "backing file problem: %s\n", i.BackingProblem)
	}
	if i.Specific != nil {
		d := i.Specific.Data
		fmt.Fprintf(&b, "header: %s\nbacking file changed: %s\nbitmap: %d bytes at %d\ndata: at %d\n",
			d.Dialect, time.Unix(d.MTime, 0).UTC().Format(time.RFC3339), d.BitmapLength, d.BitmapOffset, d.DataOffset)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
