package main

import (
	"errors"

	"github.com/urfave/cli/v2"
)

// appHelpTemplate is the help of umlimg itself; its Description is examples.
const appHelpTemplate = `{{.Name}} - {{.Usage}}

usage: {{.UsageText}}

commands:{{template "visibleCommandCategoryTemplate" .}}

options:{{range .VisibleFlags}}
   {{.}}{{end}}

examples:
   {{nindent 3 .Description | trim}}
`

// helpTemplate is the help of a command; its Description is examples.
const helpTemplate = `{{.HelpName}} - {{.Usage}}

usage: {{if .UsageText}}{{.UsageText}}{{else}}{{.HelpName}}{{if .VisibleFlags}} [OPTION]...{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}{{end}}
{{if .Subcommands}}
commands:{{range .VisibleCommands}}
   {{join .Names ", "}}{{"\t"}}{{.Usage}}{{end}}
{{end}}{{if .VisibleFlags}}
options:{{range .VisibleFlags}}
   {{.}}{{end}}
{{end}}{{if .Description}}
examples:
   {{nindent 3 .Description | trim}}
{{end}}`

// helpCommand is not the library's, which takes one word, and does not know the nearest to
// a wrong one.
func helpCommand() *cli.Command {
	return &cli.Command{
		Name:      "help",
		Usage:     "show the help of a command, as its --help does",
		Category:  "umlimg itself",
		ArgsUsage: "[COMMAND]...",
		Description: `umlimg help resize
umlimg help partition create`,
		BashComplete: func(c *cli.Context) {
			commands := c.App.Commands
			for _, word := range c.Args().Slice() {
				next := commandNamed(commands, word)
				if next == nil {
					return
				}
				commands = next.Subcommands
			}
			for _, command := range commands {
				_, _ = c.App.Writer.Write([]byte(command.Name + "\n"))
			}
		},
		Action: func(c *cli.Context) error {
			name, commands := "umlimg", c.App.Commands
			var command *cli.Command
			for _, word := range c.Args().Slice() {
				if command = commandNamed(commands, word); command == nil {
					if len(commands) == 0 {
						return usagef("%s has no commands: %s", name, quoted(word))
					}
					return noCommand(name, commands, word)
				}
				name, commands = name+" "+word, command.Subcommands
			}
			if command == nil {
				return showAppHelp(c)
			}
			return showHelp(c, command, name)
		},
	}
}

// errHelp ends a run whose command line asked for help.
var errHelp = errors.New("help was asked for")

// withHelp gives a command its --help, which is heeded whatever else the line says. The
// library's takes the first operand for a topic.
func withHelp(c *cli.Command) {
	c.Flags = append(c.Flags, helpFlag())
	c.Before = func(ctx *cli.Context) error {
		if ctx.Bool("help") {
			return showHelp(ctx, c, c.HelpName)
		}
		return nil
	}
}

func helpFlag() cli.Flag {
	return &cli.BoolFlag{Name: "help", Usage: "show help", DisableDefaultText: true}
}

// showHelp prints the help of a command with its whole name, and returns errHelp.
func showHelp(c *cli.Context, command *cli.Command, name string) error {
	command.HelpName = name
	cli.HelpPrinter(c.App.Writer, helpTemplate, command)
	return errHelp
}

func showAppHelp(c *cli.Context) error {
	cli.HelpPrinter(c.App.Writer, appHelpTemplate, c.App)
	return errHelp
}

func commandNamed(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.Name == name {
			return c
		}
	}
	return nil
}
