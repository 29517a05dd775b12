package main

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

func partitionCommand() *cli.Command {
	return &cli.Command{
		Name:      "partition",
		Usage:     "list and make the partitions of a disk image",
		UsageText: "umlimg partition COMMAND [OPTION]... IMAGE",
		Category:  "disks",
		Description: `umlimg partition list disk.img
umlimg partition create disk.img 512M:uefi rest`,
		Subcommands: []*cli.Command{
			{
				Name:      "list",
				Usage:     "show the partition table of a disk image",
				ArgsUsage: "IMAGE",
				Description: `umlimg partition list disk.img
umlimg partition list --json disk.img`,
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "json", Usage: "print the table as JSON, in the form of sfdisk --json"},
				},
				Action: func(c *cli.Context) error { return onImage(c, 1, listPartitions) },
			},
			{
				Name:      "create",
				Usage:     "make a partition table on an empty disk image",
				ArgsUsage: "IMAGE [SIZE[:TYPE[:NAME]]]...",
				Description: `umlimg partition create disk.img 512M:uefi 4G rest::data
umlimg partition create --table mbr --bootable 1 disk.img 1G rest:extended 2G 512M:swap`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "table", Value: "gpt", Usage: "`format` of the table: gpt or mbr"},
					&cli.IntFlag{Name: "bootable", Usage: "set the active flag of the partition with this `number` (mbr)"},
					&cli.StringFlag{Name: "uuid", Usage: "`UUID` of the disk, for mbr eight hexadecimal digits; else a random one. The partitions' follow from it"},
					&cli.BoolFlag{Name: "force", Usage: "give up what the disk holds"},
					&cli.BoolFlag{Name: "json", Usage: "print the table as JSON, in the form of sfdisk --json"},
				},
				Action: func(c *cli.Context) error { return onImage(c, -1, createPartitions) },
			},
		},
	}
}

// onImage calls f with a command's operands, of which the first is an image.
func onImage(c *cli.Context, most int, f func(c *cli.Context, args []string) error) error {
	args, err := operands(c, 1, most)
	if err != nil {
		return err
	}
	if err := f(c, args); err != nil {
		return fmt.Errorf("%s %s: %w", fullName(c), args[0], ofImage(args[0], err))
	}
	return nil
}

func listPartitions(c *cli.Context, args []string) error {
	dev, err := openImage(args[0], ubdfmt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	t, err := partition.Read(dev)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, jsonTable(args[0], t))
	}
	fmt.Fprintf(c.App.Writer, "%s: %s, %d bytes, %s\n", quoted(args[0]), t.Kind, dev.Size(), t.UUID)
	if t.Backup {
		fmt.Fprintln(c.App.Writer, "the table at the front is damaged: this is the backup at the end")
	}
	if len(t.Partitions) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "number\tstart\tsize\ttype\tflags\tname")
	for _, p := range t.Partitions {
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%s\n", p.Number, p.Start, p.Size, p.TypeText(), orDash(flagsOf(p)), orDash(p.Name))
	}
	return w.Flush()
}

// attributes are a GPT's, in the words of sfdisk; bits 48 to 63 belong to the type.
var attributes = map[int]string{0: "RequiredPartition", 1: "NoBlockIOProtocol", 2: "LegacyBIOSBootable"}

// flagsOf are a partition's flags in words.
func flagsOf(p partition.Partition) string {
	var words []string
	if p.Bootable {
		words = append(words, "bootable")
	}
	for bit := range 64 {
		if p.Attributes>>bit&1 == 0 {
			continue
		}
		name, ok := attributes[bit]
		if !ok {
			name = fmt.Sprintf("GUID:%d", bit)
		}
		words = append(words, name)
	}
	return strings.Join(words, " ")
}

// sfdiskTable is what sfdisk --json prints. Numbers are sectors.
type sfdiskTable struct {
	Table struct {
		Label      string            `json:"label"`
		ID         string            `json:"id"`
		Device     string            `json:"device"`
		Unit       string            `json:"unit"`
		FirstLBA   int64             `json:"firstlba,omitempty"`
		LastLBA    int64             `json:"lastlba,omitempty"`
		SectorSize int               `json:"sectorsize"`
		Partitions []sfdiskPartition `json:"partitions"`
	} `json:"partitiontable"`
}

type sfdiskPartition struct {
	// Node is an operand of umlimg: disk.img#1.
	Node     string `json:"node"`
	Start    int64  `json:"start"`
	Size     int64  `json:"size"`
	Type     string `json:"type"`
	UUID     string `json:"uuid"`
	Name     string `json:"name,omitempty"`
	Attrs    string `json:"attrs,omitempty"`
	Bootable bool   `json:"bootable,omitempty"`
}

func jsonTable(path string, t partition.Table) sfdiskTable {
	const sector = ubdfmt.SectorSize
	var s sfdiskTable
	s.Table.Label, s.Table.ID, s.Table.Device, s.Table.Unit, s.Table.SectorSize = "dos", t.UUID, path, "sectors", sector
	s.Table.Partitions = []sfdiskPartition{}
	if t.Kind == partition.GPT {
		s.Table.Label, s.Table.FirstLBA, s.Table.LastLBA = "gpt", t.First, t.Last
	}
	for _, p := range t.Partitions {
		q := sfdiskPartition{Node: fmt.Sprintf("%s#%d", path, p.Number), Start: p.Start / sector, Size: p.Size / sector,
			Type: p.Type, UUID: p.UUID, Name: p.Name, Bootable: p.Bootable}
		p.Bootable = false
		q.Attrs = flagsOf(p)
		s.Table.Partitions = append(s.Table.Partitions, q)
	}
	return s
}

func createPartitions(c *cli.Context, args []string) error {
	kind := partition.Kind(c.String("table"))
	if kind != partition.GPT && kind != partition.MBR {
		return usagef("--table %q: gpt or mbr", kind)
	}
	id, err := tableID(c, kind)
	if err != nil {
		return err
	}
	specs, err := parseSpecs(kind, args[1:])
	if err != nil {
		return err
	}
	dev, err := openImage(args[0], ubdfmt.Options{})
	if err != nil {
		return err
	}
	defer dev.Close()
	if _, part := dev.(*partition.Section); part {
		return usagef("a partition holds no table: name the disk, %s", strings.TrimRight(strings.TrimRight(args[0], "0123456789"), "#"))
	}
	t, err := partition.New(kind, dev.Size(), id, specs)
	if err != nil {
		return usageError{err}
	}
	if err := setBootable(c, &t); err != nil {
		return err
	}
	if !c.Bool("force") {
		what, err := contentOf(c.Context, dev)
		if err != nil {
			return err
		}
		if what != "" {
			// A run that was killed is done again.
			if again, err := onlyTable(c.Context, dev, t); err != nil {
				return err
			} else if again {
				what = ""
			}
		}
		if what != "" {
			return fmt.Errorf("the disk holds %s: --force gives it up", what)
		}
	}
	if err := partition.Wipe(dev); err != nil {
		return err
	}
	if err := partition.Write(dev, t); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, jsonTable(args[0], t))
	}
	return nil
}

// setBootable does what --bootable asks for.
func setBootable(c *cli.Context, t *partition.Table) error {
	if !c.IsSet("bootable") {
		return nil
	}
	if t.Kind != partition.MBR {
		return usagef("--bootable is for --table mbr: a GPT has types in its place")
	}
	for i := range t.Partitions {
		if p := &t.Partitions[i]; p.Number == c.Int("bootable") && p.Number <= 4 && !p.Extended {
			p.Bootable = true
			return nil
		}
	}
	return usagef("--bootable %d: there is no such primary partition", c.Int("bootable"))
}

// tableID is the disk's identity: that of --uuid, or a random one.
func tableID(c *cli.Context, kind partition.Kind) (id [16]byte, err error) {
	text := c.String("uuid")
	switch {
	case !c.IsSet("uuid"):
		return randomUUID(), nil
	case kind == partition.MBR:
		n, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32)
		if err != nil || len(strings.TrimPrefix(text, "0x")) != 8 || n == 0 {
			return id, usagef("--uuid %q: an MBR's is eight hexadecimal digits, as in 6ba7b810, and not all zero", text)
		}
		binary.BigEndian.PutUint32(id[:], uint32(n))
		return id, nil
	}
	if id, err = parseUUID(text); err != nil {
		return id, usagef("--uuid %q: %w", text, err)
	}
	return id, nil
}

// parseSpecs reads SIZE[:TYPE[:NAME]], where SIZE can be "rest".
func parseSpecs(kind partition.Kind, texts []string) ([]partition.Spec, error) {
	var specs []partition.Spec
	for _, text := range texts {
		parts := append(strings.SplitN(text, ":", 3), "", "")
		s := partition.Spec{Name: parts[2]}
		var err error
		if parts[0] != "rest" {
			if s.Size, err = parseSize(parts[0]); err != nil {
				return nil, usagef("partition %q: size %q: %w, or rest", text, parts[0], err)
			}
		}
		if parts[1] != "" {
			if s.Type, err = partition.ParseType(kind, parts[1]); err != nil {
				return nil, usagef("partition %q: %w", text, err)
			}
		}
		specs = append(specs, s)
	}
	return specs, nil
}
