package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

func dfCommand() *cli.Command {
	return &cli.Command{
		Name: "df", Usage: "show how full the filesystems of images are", Category: imageFiles, ArgsUsage: "IMAGE[#N]...",
		Description: `umlimg df -h disk.img
umlimg df --inodes disk.img disk.img#2`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "human-readable", Aliases: []string{"h"}, Usage: "sizes with K, M, G"},
			&cli.BoolFlag{Name: "inodes", Aliases: []string{"i"}, Usage: "files in place of space"},
			&cli.BoolFlag{Name: "json", Usage: "print an array of both"},
		},
		Action: func(c *cli.Context) error {
			return readVerb(c, 1, true, func(s *volumes, places []place) error { return df(c, s, places) })
		},
	}
}

// dfInfo is a filesystem in --json. Sizes are bytes.
type dfInfo struct {
	Image     string `json:"image"`
	Type      string `json:"type"`
	Label     string `json:"label,omitempty"`
	BlockSize int64  `json:"block_size"`
	Size      int64  `json:"size"`
	Used      int64  `json:"used"`
	Available int64  `json:"available"` // without what is reserved for root
	Inodes    uint64 `json:"inodes"`
	InodeUsed uint64 `json:"inodes_used"`
	InodeFree uint64 `json:"inodes_free"`
}

func df(c *cli.Context, s *volumes, places []place) error {
	infos := []dfInfo{}
	for _, p := range places {
		v, err := s.get(p)
		if err != nil {
			return err
		}
		u, err := v.Usage()
		if err != nil {
			return p.at(err)
		}
		infos = append(infos, dfInfo{
			Image: p.image(), Type: u.Type, Label: u.Label, BlockSize: u.BlockSize,
			Size: int64(u.Blocks) * u.BlockSize, Used: int64(u.Blocks-u.Free) * u.BlockSize, Available: int64(u.Avail) * u.BlockSize,
			Inodes: u.Files, InodeUsed: u.Files - u.FilesFree, InodeFree: u.FilesFree,
		})
	}
	if c.Bool("json") {
		return printJSON(c, infos)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	size := func(n int64) string {
		if c.Bool("human-readable") {
			return sizeText(n)
		}
		return fmt.Sprint((n + 1023) / 1024)
	}
	switch {
	case c.Bool("inodes"):
		fmt.Fprintln(t, "Image\tType\tInodes\tIUsed\tIFree\tIUse%")
	case c.Bool("human-readable"):
		fmt.Fprintln(t, "Image\tType\tSize\tUsed\tAvail\tUse%")
	default:
		fmt.Fprintln(t, "Image\tType\t1K-blocks\tUsed\tAvailable\tUse%")
	}
	for _, i := range infos {
		if c.Bool("inodes") {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%s\n", i.Image, i.Type, i.Inodes, i.InodeUsed, i.InodeFree, percent(int64(i.InodeUsed), int64(i.Inodes)))
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", i.Image, i.Type, size(i.Size), size(i.Used), size(i.Available), percent(i.Used, i.Used+i.Available))
	}
	return t.Flush()
}

// percent is rounded up, as df does it.
func percent(part, all int64) string {
	if all <= 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", (100*part+all-1)/all)
}
