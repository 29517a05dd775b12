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
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return usagef("cow: %q is no command%s; there are create and rebase", name, didYouMean(suggestCommand(c.Command.Subcommands, name), name))
			}
			return usagef("cow: name a command: create or rebase")
		},
	}
}
