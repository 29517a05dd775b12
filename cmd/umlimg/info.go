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
	"github.com/umlkit/umlkit/ubdfmt/qcow2"
)

func infoCommand() *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "say what an image is, and how large",
		Category:  "disks",
		ArgsUsage: "IMAGE[#N]",
		Description: `umlimg info disk.img
umlimg info 'disk.img#1'
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
	ClusterSize  int64 `json:"cluster-size,omitempty"` // of qcow2
	Dirty        bool  `json:"dirty-flag"`             // of qcow2
	// Backing is the backing file as the header names it, FullBacking its path.
	Backing       string `json:"backing-filename,omitempty"`
	FullBacking   string `json:"full-backing-filename,omitempty"`
	BackingFormat string `json:"backing-filename-format,omitempty"`
	// BackingProblem says why the backing file would be refused.
	BackingProblem string          `json:"backing-problem,omitempty"`
	Specific       *formatSpecific `json:"format-specific,omitempty"`
	Partition      *partitionInfo  `json:"partition,omitempty"` // of IMAGE#N
}

// formatSpecific is a cowInfo or a qcow2Info.
type formatSpecific struct {
	Type string `json:"type"`
	Data any    `json:"data"`
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

// qcow2Info is what the header of a qcow2 image says, in qemu-img's names.
type qcow2Info struct {
	Compat        string `json:"compat"`
	Compression   string `json:"compression-type"`
	LazyRefcounts bool   `json:"lazy-refcounts"`
	RefcountBits  int    `json:"refcount-bits"`
	ExtendedL2    bool   `json:"extended-l2"`
}

func showInfo(c *cli.Context, operand string) error {
	path, number := splitPartition(operand)
	info, err := inspectImage(path, "")
	if err != nil {
		return err
	}
	if number > 0 {
		if info.Partition, err = inspectPartition(path, number); err != nil {
			return err
		}
		info.Filename, info.VirtualSize = operand, info.Partition.Size
	}
	chain := []imageInfo{info}
	for last := info; c.Bool("chain") && last.Backing != ""; {
		if len(chain) == maxChain {
			return fmt.Errorf("more than %d files lie over each other: a loop", maxChain)
		}
		if last.FullBacking == "" {
			return fmt.Errorf("backing file: %s", last.BackingProblem)
		}
		if last, err = inspectImage(last.FullBacking, last.BackingFormat); err != nil {
			return fmt.Errorf("backing file: %w", err)
		}
		chain = append(chain, last)
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

// maxChain is how many files may lie over each other.
const maxChain = 64

// inspectImage looks at a file's size and header, and takes no lock for it. As "raw" it is a
// raw image, whatever it begins with; "" lets its first bytes decide.
func inspectImage(path, format string) (imageInfo, error) {
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
	if format == "raw" {
		return info, nil
	}
	if is, err := qcow2.Probe(path); err != nil {
		return imageInfo{}, err
	} else if is {
		return info, info.readQcow2(f)
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
	info.Specific = &formatSpecific{"cow", cowInfo{
		Dialect: h.Dialect.String(), MTime: int64(h.MTime), BackingSize: h.Size, SectorSize: h.SectorSize, Alignment: h.Alignment,
		BitmapOffset: l.BitmapOffset, BitmapLength: l.BitmapLength, DataOffset: l.DataOffset,
	}}
	return info, nil
}

// readQcow2 adds what the header of a qcow2 image says.
func (i *imageInfo) readQcow2(f *os.File) error {
	b := make([]byte, 2<<20) // the largest cluster: the header is within the first
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return err
	}
	h, err := qcow2.DecodeHeader(b[:n])
	if err != nil {
		return err
	}
	i.Format, i.VirtualSize, i.ClusterSize, i.Dirty = "qcow2", wholeSectors(h.Size), h.ClusterSize, h.Dirty
	i.Backing, i.FullBacking, i.BackingFormat = h.Backing, h.Backing, h.BackingFormat
	if h.Backing != "" {
		if i.FullBacking, err = qcow2.BackingPath(i.Filename, h.Backing); err == nil {
			var below *os.File
			if below, err = openLook(i.FullBacking); err == nil {
				below.Close()
			}
		}
		if err != nil {
			i.BackingProblem = withoutPath(err).Error()
		}
	}
	compat := "1.1"
	if h.Version == 2 {
		compat = "0.10"
	}
	i.Specific = &formatSpecific{"qcow2", qcow2Info{compat, h.Compression, h.LazyRefcounts, h.RefcountBits, h.ExtendedL2}}
	return nil
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
		quoted(i.Filename), i.Format, sizeText(i.VirtualSize), i.VirtualSize, sizeText(i.ApparentSize), i.ApparentSize, sizeText(i.ActualSize), i.ActualSize)
	if i.Backing != "" {
		fmt.Fprintf(&b, "backing file: %s\n", quoted(i.Backing))
	}
	if i.BackingProblem != "" {
		fmt.Fprintf(&b, "backing file problem: %s\n", i.BackingProblem)
	}
	switch d := i.details().(type) {
	case cowInfo:
		fmt.Fprintf(&b, "header: %s\nbacking file changed: %s\nbitmap: %d bytes at %d\ndata: at %d\n",
			d.Dialect, time.Unix(d.MTime, 0).UTC().Format(time.RFC3339), d.BitmapLength, d.BitmapOffset, d.DataOffset)
	case qcow2Info:
		fmt.Fprintf(&b, "cluster size: %d\ncompat: %s\ncompression type: %s\nlazy refcounts: %t\nrefcount bits: %d\nextended l2: %t\n",
			i.ClusterSize, d.Compat, d.Compression, d.LazyRefcounts, d.RefcountBits, d.ExtendedL2)
	}
	if i.Partition != nil {
		i.Partition.print(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (i imageInfo) details() any {
	if i.Specific == nil {
		return nil
	}
	return i.Specific.Data
}
