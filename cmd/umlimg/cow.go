package main

import "github.com/urfave/cli/v2"

func cowCommand() *cli.Command {
	return &cli.Command{
		Name:      "cow",
		Usage:     "make copy-on-write files, and give them other backing files",
		Category:  "disks",
		UsageText: "umlimg cow COMMAND [OPTION]... [ARGUMENT]...",
		Description: `umlimg cow create disk.cow base.img
umlimg cow rebase --verify disk.cow`,
		Subcommands: []*cli.Command{
			cowCreateCommand(),
			cowRebaseCommand(),
		},
	}
}
