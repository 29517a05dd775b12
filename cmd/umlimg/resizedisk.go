package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ubdfmt"
)

// mayShrink refuses, without --shrink, a size that is less than that of the file system,
// or that would cut off anything but a hole behind it. What a killed resize left there is
// one.
func mayShrink(c *cli.Context, d disk, size, filesystem int64) error {
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
// its place is not cut off.
func resizeDiskOnly(c *cli.Context, d disk, size int64, sum *resizeSummary) error {
	if size < d.Size() && !c.Bool("shrink") {
		return usagef("size %d is less than the disk's %d: --shrink allows that", size, d.Size())
	}
	if size < d.Size() {
		if err := mayCut(d, size); err != nil {
			return err
		}
	}
	sum.Size = size
	return d.Resize(size)
}

// mayCut refuses to cut off a part of a file system or of a partition.
func mayCut(d disk, size int64) error {
	info, err := filesystemInfo(d)
	var other *ext4.NotExtError
	if err != nil && !errors.As(err, &other) {
		return err
	}
	if n := int64(info.Blocks) * int64(info.BlockSize); n > size {
		return fmt.Errorf("the file system has %d bytes and would be cut off: resize it without --disk-only", n)
	}
	what, end, err := lastPartition(d)
	if err == nil && end > size {
		err = fmt.Errorf("%s ends at %d and would be cut off", what, end)
	}
	return err
}

func filesystemInfo(d disk) (ext4.Info, error) {
	look, err := ext4.Open(d, ext4.Options{ReadOnly: true, NoWrite: true})
	if err != nil {
		return ext4.Info{}, err
	}
	info := look.Info()
	return info, look.Close()
}

// withDiskOnly names the way out for a disk that holds something else.
func withDiskOnly(err error) error {
	var other *ext4.NotExtError
	if errors.As(err, &other) {
		return fmt.Errorf("%w: --disk-only resizes the disk alone", err)
	}
	return err
}

const (
	// gptMost bounds the entries of a GPT that are looked at; tables have 128.
	gptMost = 1024
	sector  = ubdfmt.SectorSize
)

// lastPartition finds, in an MBR's primary partitions or a GPT, the one that ends last,
// and where it ends, in bytes. There may be none.
func lastPartition(d ubdfmt.Device) (what string, end int64, err error) {
	var b [2 * sector]byte
	if n, err := d.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return "", 0, err
	} else if n < len(b) || b[510] != 0x55 || b[511] != 0xaa {
		return "", 0, nil
	}
	le := binary.LittleEndian
	for i := range 4 {
		p := b[446+16*i:]
		if p[0]&0x7f != 0 { // no flag of an entry: this is the boot sector of a file system
			return "", 0, nil
		}
		first, n := int64(le.Uint32(p[8:])), int64(le.Uint32(p[12:]))
		if p[4] == 0xee {
			return lastOfGPT(d, b[sector:])
		}
		if p[4] != 0 && n > 0 && (first+n)*sector > end {
			what, end = fmt.Sprint("partition ", i+1), (first+n)*sector
		}
	}
	return what, end, nil
}

func lastOfGPT(d ubdfmt.Device, header []byte) (what string, end int64, err error) {
	le := binary.LittleEndian
	at, count, size := le.Uint64(header[72:]), le.Uint32(header[80:]), le.Uint32(header[84:])
	switch {
	case string(header[:8]) != "EFI PART":
		return "", 0, errors.New("GPT header: the signature is not there")
	case count > gptMost || size < 128 || size > 4096 || at < 2 || at > uint64(d.Size()/sector):
		return "", 0, fmt.Errorf("GPT header: %d entries of %d bytes at sector %d make no sense", count, size, at)
	}
	b := make([]byte, count*size)
	if _, err := d.ReadAt(b, int64(at)*sector); err != nil {
		return "", 0, fmt.Errorf("GPT entries: %w", err)
	}
	for i := range count {
		p := b[i*size:]
		last := le.Uint64(p[40:])
		if [16]byte(p) == [16]byte{} {
			continue
		}
		if last >= 1<<54 {
			return "", 0, fmt.Errorf("GPT entry %d: last sector %d makes no sense", i+1, last)
		}
		if e := int64(last+1) * sector; e > end {
			what, end = fmt.Sprint("partition ", i+1), e
		}
	}
	return what, end, nil
}
