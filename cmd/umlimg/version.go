package main

import (
	"fmt"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/release"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "say which umlimg this is, and which kernel it makes images for",
		Category:    "umlimg itself",
		Description: "umlimg version",
		Action: func(c *cli.Context) error {
			version := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
				version = info.Main.Version
			}
			_, err := fmt.Fprintf(c.App.Writer, "umlimg %s, kernel %s\n", version, release.Name)
			return err
		},
	}
}
