package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/volume"
)

// partitionInfo is what info says of a partition. Sizes and places are bytes.
type partitionInfo struct {
	Number   int    `json:"number"`
	Table    string `json:"table"` // "gpt" or "mbr"
	Start    int64  `json:"start"`
	Size     int64  `json:"size"`
	Type     string `json:"type"`
	UUID     string `json:"uuid"`
	Name     string `json:"name,omitempty"`
	Attrs    string `json:"attrs,omitempty"`
	Bootable bool   `json:"bootable,omitempty"`
	Extended bool   `json:"extended,omitempty"`
	// Held is how much of it lies in the image's own file.
	Held int64 `json:"held"`
	// FileSystem is its name, as "ext4"; "" where none is found that is read.
	FileSystem string `json:"file-system,omitempty"`
	Label      string `json:"label,omitempty"`
	// Found is what else is found there.
	Found string `json:"found,omitempty"`

	entry partition.Partition
}

// inspectPartition looks at a partition, and takes no lock for it. What a machine changes
// meanwhile may be seen half: its file system is then one that is not recognised.
func inspectPartition(path string, number int) (*partitionInfo, error) {
	dev, err := openWhole(path, ubdfmt.Options{ReadOnly: true, Shared: true})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	t, err := partition.Read(dev)
	if err != nil {
		return nil, err
	}
	p, err := t.Find(number)
	if err != nil {
		return nil, err
	}
	info := &partitionInfo{
		Number: p.Number, Table: string(t.Kind), Start: p.Start, Size: p.Size, Type: p.Type, UUID: p.UUID,
		Name: p.Name, Bootable: p.Bootable, Extended: p.Extended, entry: p,
	}
	rest := p
	rest.Bootable = false
	info.Attrs = flagsOf(rest)
	err = dev.Extents(p.Start, p.Size, func(e ubdfmt.Extent) bool {
		if e.File != nil && e.Depth == 0 {
			info.Held += e.Length
		}
		return true
	})
	if err != nil || p.Extended {
		return info, err
	}
	v, err := volume.Open(partition.NewSection(dev, p.Start, p.Size), false)
	if err != nil {
		var other *volume.NoFilesystemError
		if errors.As(err, &other) {
			info.Found = other.Found
		}
		return info, nil
	}
	u, err := v.Usage()
	info.FileSystem, info.Label = u.Type, u.Label
	return info, errors.Join(err, v.Close())
}

// print writes what info shows beside what it says of the image.
func (p *partitionInfo) print(b *strings.Builder) {
	fmt.Fprintf(b, "partition: %d of %s, at %d, UUID %s\ntype: %s\n", p.Number, p.Table, p.Start, p.UUID, p.entry.TypeText())
	if p.Name != "" {
		fmt.Fprintf(b, "name: %s\n", quoted(p.Name))
	}
	if flags := flagsOf(p.entry); flags != "" {
		fmt.Fprintf(b, "flags: %s\n", flags)
	}
	fmt.Fprintf(b, "held: %s (%d bytes)\n", sizeText(p.Held), p.Held)
	switch {
	case p.FileSystem != "" && p.Label != "":
		fmt.Fprintf(b, "file system: %s, %s\n", p.FileSystem, quoted(p.Label))
	case p.FileSystem != "":
		fmt.Fprintf(b, "file system: %s\n", p.FileSystem)
	case p.Found != "":
		fmt.Fprintf(b, "content: %s\n", p.Found)
	}
}
