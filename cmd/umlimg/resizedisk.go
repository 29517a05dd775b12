package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

// mayShrink refuses, without --shrink, a size that is less than that of the file system,
// or that would cut off anything but a hole behind it. What a killed resize left there is
// one.
func mayShrink(c *cli.Context, d resizable, size, filesystem int64) error {
	if c.Bool("shrink") || size >= d.Size() {
		return nil
	}
	end := filesystem
	if size >= end {
		err := d.Extents(size, d.Size()-size, func(e ubdfmt.Extent) bool {
			if e.File != nil {
				end = max(end, e.Offset+e.Length)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	if size < end {
		return usagef("size %d is less than the %d bytes that are in use: --shrink allows that", size, end)
	}
	return nil
}

// resizeDiskOnly makes the disk longer or shorter whatever is on it. What is known to need
// its place is not cut off. A GPT is told of its disk's new end: behind that it may name
// nothing, and its copy lies before it.
func resizeDiskOnly(c *cli.Context, d disk, size int64, sum *resizeSummary) error {
	shorter := size < d.Size()
	if shorter && !c.Bool("shrink") {
		return usagef("size %d is less than the disk's %d: --shrink allows that", size, d.Size())
	}
	t, err := partition.Read(d)
	var damaged *partition.Error
	if errors.Is(err, partition.ErrNone) || errors.As(err, &damaged) && !shorter {
		t, err = partition.Table{}, nil
	}
	if err != nil {
		return err
	}
	if shorter {
		if err := mayCut(d, t, size); err != nil {
			return err
		}
	} else if err := d.Resize(size); err != nil {
		return err
	}
	if t.Kind == partition.GPT {
		if err := partition.Write(partition.NewSection(d, 0, size), t); err != nil {
			return err
		}
	}
	sum.Size = size
	return d.Resize(size)
}

// mayCut refuses to cut off a part of a file system or of a partition.
func mayCut(d disk, t partition.Table, size int64) error {
	info, err := filesystemInfo(d)
	var other *ext4.NotExtError
	if err != nil && !errors.As(err, &other) {
		return err
	}
	if n := int64(info.Blocks) * int64(info.BlockSize); n > size {
		return fmt.Errorf("the file system has %d bytes and would be cut off: resize it without --disk-only", n)
	}
	for _, p := range t.Partitions {
		if end := p.Start + p.Size; end > size {
			return fmt.Errorf("partition %d ends at %d and would be cut off", p.Number, end)
		}
	}
	return nil
}

func filesystemInfo(d ubdfmt.Device) (ext4.Info, error) {
	look, err := ext4.Open(d, ext4.Options{ReadOnly: true, NoWrite: true})
	if err != nil {
		return ext4.Info{}, err
	}
	info := look.Info()
	return info, look.Close()
}

// withDiskOnly names the way out for a disk that holds something else.
func withDiskOnly(err error, path string) error {
	var other *ext4.NotExtError
	switch {
	case !errors.As(err, &other):
		return err
	case strings.Contains(other.Found, "partition table"):
		return fmt.Errorf("%w: --disk-only resizes the disk alone, and %s#1 is a partition", err, quoted(path))
	}
	return fmt.Errorf("%w: --disk-only resizes the disk alone", err)
}
