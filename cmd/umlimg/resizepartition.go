package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

// resizedPartition is a partition whose entry in the table goes along with its size.
type resizedPartition struct {
	*partition.Section
	number int
}

// Zero implements ext4.Zeroer.
func (p resizedPartition) Zero(off, n int64) error { return p.Trim(off, n) }

// Resize gives the partition another end. The table is stable when it returns.
func (p resizedPartition) Resize(size int64) error {
	if size == p.Size() {
		return nil
	}
	t, err := partition.Read(p.Disk())
	if err != nil {
		return err
	}
	most, err := t.Most(p.number, p.Disk().Size())
	if err != nil {
		return err
	}
	if size > most {
		return fmt.Errorf("a partition of %d bytes is too large: where it begins there is room for %d", size, most)
	}
	for i := range t.Partitions {
		if q := &t.Partitions[i]; q.Number == p.number {
			q.Size = size
		}
	}
	if err := partition.Write(p.Disk(), t); err != nil {
		return err
	}
	p.Section.Resize(size)
	return nil
}

// mendFront writes the table at the front again from the backup at the end, where a killed
// resize left it so: it had written that one first.
func mendFront(dev ubdfmt.Device) error {
	t, err := partition.Read(dev)
	if err != nil || !t.Backup {
		return err
	}
	return partition.Write(dev, t)
}

// resizePartition resizes a partition with the file system in it. The disk, which may be a
// COW file too, keeps its size.
func resizePartition(c *cli.Context, operand, text string) error {
	if c.Bool("disk-only") {
		return usagef("--disk-only is for a whole disk, and %s is a partition", quoted(operand))
	}
	start := time.Now()
	path, number := splitPartition(operand)
	dev, err := openWhole(path, ubdfmt.Options{})
	if err != nil {
		return err
	}
	defer dev.Close()
	s, err := partition.Open(dev, number)
	if err != nil {
		return err
	}
	if err := mendFront(dev); err != nil {
		return err
	}
	p := resizedPartition{s, number}
	if err := finishKilled(p); err != nil {
		return err
	}
	sum := resizeSummary{Image: operand, Before: p.Size()}
	size, err := askedSize(text, p.Size())
	if err != nil {
		return err
	}
	if err := resizeFull(c, p, size, &sum); err != nil {
		return err
	}
	if err := p.Sync(); err != nil {
		return err
	}
	return printResized(c, sum, path, start)
}
