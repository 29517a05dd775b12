package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ubdfmt"
)

func resizeCommand() *cli.Command {
	return &cli.Command{
		Name:      "resize",
		Usage:     "make a disk image and the file system in it larger or smaller",
		Category:  "disks",
		ArgsUsage: "IMAGE[#N] SIZE",
		Description: `umlimg resize disk.img +4G
umlimg resize --shrink disk.img 2G
umlimg resize --minimum disk.img
umlimg resize --disk-only partitioned.img +1G
umlimg resize 'partitioned.img#1' +1G`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "shrink", Usage: "allow a size that makes it smaller"},
			&cli.BoolFlag{Name: "disk-only", Usage: "leave what is on the disk as it is: partitions, or a file system that is to be resized later"},
			&cli.BoolFlag{Name: "minimum", Usage: "shrink to the smallest size that holds the files, without SIZE"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: func(c *cli.Context) error {
			path, size, err := resizeOperands(c)
			if err != nil {
				return err
			}
			do := resize
			if _, number := splitPartition(path); number > 0 {
				do = resizePartition
			}
			if err := do(c, path, size); err != nil {
				return fmt.Errorf("resize %s: %w", path, ofImage(path, err))
			}
			return nil
		},
	}
}

// resizeOperands are the image and the size, which --minimum replaces.
func resizeOperands(c *cli.Context) (path, size string, err error) {
	args := c.Args().Slice()
	for _, a := range args[min(1, len(args)):] {
		if strings.HasPrefix(a, "-") && (len(a) < 2 || a[1] < '0' || a[1] > '9') {
			return "", "", usagef("resize: options come before %s: %s", args[0], a)
		}
	}
	switch {
	case c.Bool("minimum") && c.Bool("disk-only"):
		return "", "", usagef("resize: --minimum is that of the file system, which --disk-only leaves alone")
	case c.Bool("minimum") && len(args) != 1:
		return "", "", usagef("resize: --minimum finds the size, name one image: umlimg resize --minimum IMAGE")
	case !c.Bool("minimum") && len(args) != 2:
		return "", "", usagef("resize: name an image and a size: umlimg resize IMAGE SIZE")
	}
	if args[0] == "" {
		return "", "", usagef("resize: the image's name is empty")
	}
	if len(args) == 2 {
		size = args[1]
	}
	return args[0], size, nil
}

// newSize is the size that text asks for, of a disk of have bytes: "4G", "+1G", "-512M".
func newSize(text string, have int64) (int64, error) {
	sign := text[:min(len(text), 1)]
	if sign != "+" && sign != "-" {
		return parseSize(text)
	}
	n, err := parseSize(text[1:])
	switch {
	case err != nil:
		return 0, err
	case sign == "+" && n > math.MaxInt64-have:
		return 0, errors.New("too large")
	case sign == "+":
		return have + n, nil
	case n >= have:
		return 0, fmt.Errorf("the disk has only %d bytes", have)
	}
	return have - n, nil
}

// resizeSummary is what --json prints. Sizes are bytes.
type resizeSummary struct {
	Image       string  `json:"image"`
	Before      int64   `json:"before"`
	Size        int64   `json:"size"`
	Allocated   int64   `json:"allocated"`
	BlockSize   int     `json:"block_size"` // 0, as what follows, with --disk-only
	Blocks      uint64  `json:"blocks"`
	Inodes      uint32  `json:"inodes"`
	MovedBlocks uint64  `json:"moved_blocks"`
	MovedInodes uint64  `json:"moved_inodes"`
	Seconds     float64 `json:"seconds"`
}

// resizable is what a file system lies in that is resized with it: a disk, or a partition.
type resizable interface {
	ubdfmt.Device
	ext4.Zeroer
	Resize(size int64) error
}

// disk is an image whose ranges become zeros without being written.
type disk struct{ *ubdfmt.Raw }

// Zero implements ext4.Zeroer.
func (d disk) Zero(off, n int64) error { return d.Trim(off, n) }

// openDisk opens a raw image in a regular file.
func openDisk(path string) (disk, error) {
	info, err := os.Stat(path)
	if err != nil {
		return disk{}, err
	}
	if !info.Mode().IsRegular() {
		return disk{}, errors.New("not a regular file")
	}
	dev, err := openWhole(path, ubdfmt.Options{})
	if err != nil {
		return disk{}, err
	}
	raw, ok := dev.(*ubdfmt.Raw)
	if !ok {
		dev.Close()
		return disk{}, errors.New("a COW file has the size of its backing file: merge the two with uml_moo, then resize the result")
	}
	return disk{raw}, nil
}

// logLength is the room that a file system without a journal borrows behind its end, so
// that a kill cannot leave a half-written change.
const logLength = 16 << 20

func resize(c *cli.Context, path, text string) error {
	start := time.Now()
	d, err := openDisk(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if !c.Bool("disk-only") {
		if err := finishKilled(d); err != nil {
			return err
		}
	}
	sum := resizeSummary{Image: path, Before: d.Size()}
	size, err := askedSize(text, d.Size())
	switch {
	case err != nil:
		return err
	case c.Bool("disk-only"):
		err = resizeDiskOnly(c, d, size, &sum)
	default:
		err = withDiskOnly(resizeFull(c, d, size, &sum), path)
	}
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	return printResized(c, sum, path, start)
}

// askedSize is the size that text asks for, 0 for the least.
func askedSize(text string, have int64) (int64, error) {
	if text == "" {
		return 0, nil
	}
	size, err := newSize(text, have)
	if err != nil {
		return 0, usagef("size %q: %w", text, err)
	}
	return size, nil
}

func printResized(c *cli.Context, sum resizeSummary, path string, start time.Time) (err error) {
	if !c.Bool("json") {
		return nil
	}
	if sum.Allocated, err = allocated(path); err != nil {
		return err
	}
	sum.Seconds = time.Since(start).Seconds()
	return printJSON(c, sum)
}

// finishKilled replays the log that a resize left that was killed, and takes it away.
func finishKilled(d resizable) error {
	log, found, err := ext4.FindLog(d, logLength)
	if err != nil || !found {
		return err
	}
	fs, err := ext4.Open(d, ext4.Options{Log: log})
	if err != nil {
		return err
	}
	if err := fs.Close(); err != nil {
		return err
	}
	return d.Resize(log.Off)
}

// resizeFull makes a disk or partition one of size bytes, 0 for the least, and the file
// system as large. It is made longer first and shorter last: whatever happens, it holds all
// of the file system.
func resizeFull(c *cli.Context, d resizable, size int64, sum *resizeSummary) (err error) {
	before := d.Size()
	info, err := filesystemInfo(d)
	if err != nil {
		return err
	}
	if size != 0 {
		if err := mayShrink(c, d, size, int64(info.Blocks)*int64(info.BlockSize)); err != nil {
			return err
		}
	}
	o := ext4.Options{}
	long := max(before, size)
	if !info.Journal {
		const align = 4096 // a multiple of every block size
		o.Log = ext4.Log{Off: (long + align - 1) / align * align, Len: logLength}
		long = o.Log.Off + o.Log.Len
	}
	if err := d.Resize(long); err != nil {
		if long > max(before, size) {
			return fmt.Errorf("without a journal a log of %dM is needed behind the file system while it is resized: %w", logLength>>20, err)
		}
		return err
	}
	fs, err := ext4.Open(d, o)
	if err != nil {
		return errors.Join(err, d.Resize(before))
	}
	moved, err := resizeFilesystem(c, fs, &size)
	info = fs.Info()
	if cerr := fs.Close(); cerr != nil {
		return errors.Join(err, cerr) // a log can be needed still: the file stays long
	}
	if err != nil {
		return errors.Join(err, d.Resize(max(before, int64(info.Blocks)*int64(info.BlockSize))))
	}
	sum.Size, sum.BlockSize, sum.Blocks, sum.Inodes = size, info.BlockSize, info.Blocks, info.Inodes
	sum.MovedBlocks, sum.MovedInodes = moved.Blocks, moved.Inodes
	if err := d.Sync(); err != nil {
		return err
	}
	return d.Resize(size)
}

// resizeFilesystem makes the file system one that fills size bytes, and sets the least
// size where that is 0.
func resizeFilesystem(c *cli.Context, fs *ext4.FS, size *int64) (moved ext4.Moved, err error) {
	info := fs.Info()
	least := *size == 0
	if least {
		n, err := fs.Least()
		if err != nil {
			return moved, err
		}
		*size = int64(n) * int64(info.BlockSize)
	}
	blocks := uint64(*size) / uint64(info.BlockSize)
	if blocks >= info.Blocks && !least {
		return moved, fs.Grow(blocks)
	}
	for {
		moved, err = fs.Shrink(c.Context, min(blocks, info.Blocks))
		var small *ext4.TooSmallError
		if !errors.As(err, &small) {
			break
		}
		if !least || small.Least <= blocks {
			return moved, fmt.Errorf("%d bytes are too few: the files need %d, %dK would do, and so does --minimum",
				*size, small.Least*uint64(info.BlockSize), small.Least*uint64(info.BlockSize)>>10)
		}
		// Maps grew beyond the estimate: a little more does.
		blocks = min(blocks+max(blocks/50, 64), small.Least)
	}
	if least {
		*size = int64(fs.Info().Blocks) * int64(info.BlockSize)
	}
	return moved, err
}
