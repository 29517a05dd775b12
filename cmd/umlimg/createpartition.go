package main

import (
	"crypto/sha256"
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/rootfs"
)

// partition lays out the table that --partition asks for: one partition over all of the
// disk. What in it is to be unique follows from the file system's UUID.
func (p *buildPlan) partition(c *cli.Context) error {
	if !c.IsSet("partition") {
		return nil
	}
	kind := partition.Kind(c.String("partition"))
	if kind != partition.GPT && kind != partition.MBR {
		return usagef("--partition %q: gpt or mbr", kind)
	}
	size, err := parseSize(c.String("size"))
	if err != nil {
		return usagef("--size %q: %w", c.String("size"), err)
	}
	if kind == partition.MBR && size > 2<<40 {
		return usagef("--partition mbr: an MBR reaches no farther than 2 TiB, --partition gpt does")
	}
	s := partition.Spec{}
	if kind == partition.GPT {
		s.Name = "root"
	}
	p.table, err = partition.New(kind, size, diskID(p.options.Filesystem.UUID), []partition.Spec{s})
	if err != nil {
		return usagef("--size %s: %w", c.String("size"), err)
	}
	return nil
}

// diskID is the identity of a disk that holds a file system, as far as it is not the file
// system's own.
func diskID(filesystem [16]byte) (id [16]byte) {
	sum := sha256.Sum256(append([]byte("umlkit disk of "), filesystem[:]...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// device is the root's name in the guest, "" for the first disk.
func (p *buildPlan) device() string {
	if p.table.Kind == "" {
		return ""
	}
	return "/dev/ubda1"
}

// disk is where the file system goes: the image, or partition 1 of the table that it gets.
func (p *buildPlan) disk(image *rootfs.Image) (rootfs.Disk, error) {
	if p.table.Kind == "" {
		return image, nil
	}
	if err := partition.Write(unsynced{image}, p.table); err != nil {
		return nil, err
	}
	root := p.table.Partitions[0]
	return image.Part(root.Start, root.Size), nil
}

// unsynced is an image, whose Commit makes all of it stable at once.
type unsynced struct{ *rootfs.Image }

func (unsynced) Sync() error { return nil }

// withTable counts the table among what a disk needs.
func (p *buildPlan) withTable(err error, size int64) error {
	var small *rootfs.SizeError
	if p.table.Kind != "" && errors.As(err, &small) {
		const around = 2 << 20 // what lies before the partition, and the backup behind it
		small.Have, small.Need = size, small.Need+around
	}
	return err
}
