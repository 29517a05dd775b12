package main

import (
	"errors"
	"flag"
	"strings"

	"github.com/urfave/cli/v2"
)

// badUsage says which option is wrong, and which would be right.
func badUsage(c *cli.Context, err error, _ bool) error {
	where := ""
	flags := c.App.Flags
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != c.App.Name {
		where, flags = fullName(c)+": ", c.Command.Flags
	}
	if errors.Is(err, flag.ErrHelp) { // -h, where no option has that letter
		if where == "" {
			return showAppHelp(c)
		}
		return showHelp(c, c.Command, c.Command.HelpName)
	}
	const unknown = "flag provided but not defined: "
	if name, ok := strings.CutPrefix(err.Error(), unknown); ok {
		name = dashed(c, name)
		return usagef("%sunknown option %s%s", where, name, didYouMean(cli.SuggestFlag(flags, strings.TrimLeft(name, "-"), false), name))
	}
	if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: "); ok {
		return usagef("%soption %s needs a value", where, dashed(c, name))
	}
	return usagef("%s%w", where, err)
}

// noCommand is the error for a command that does not exist, with the nearest that does.
func noCommand(of string, commands []*cli.Command, name string) error {
	// The library answers with a sentence that quotes it.
	_, rest, _ := strings.Cut(cli.SuggestCommand(commands, name), `"`)
	suggestion, _, _ := strings.Cut(rest, `"`)
	return usagef("%q is no command%s; %s --help names all", name, didYouMean(suggestion, name), of)
}

// dashed is an option as it is written: with one dash where it is a letter, or a test of
// find.
func dashed(c *cli.Context, name string) string {
	name = strings.TrimLeft(name, "-")
	if len(name) == 1 || c.Command != nil && c.Command.Name == "find" {
		return "-" + name
	}
	return "--" + name
}

// didYouMean names what may have been meant, where it is near enough to what was given.
func didYouMean(suggestion, given string) string {
	word := strings.TrimLeft(given, "-")
	if suggestion == "" || suggestion == given || distance(strings.TrimLeft(suggestion, "-"), word) > max(1, len(word)/2) {
		return ""
	}
	if strings.HasPrefix(given, "-") && !strings.HasPrefix(given, "--") && len(word) > 1 {
		suggestion = suggestion[1:]
	}
	return ", did you mean " + suggestion + "?"
}

// distance is how many letters are to be added, taken away or changed to make one word the
// other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		above := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := above
			if a[i] != b[j] {
				change++
			}
			above = row[j+1]
			row[j+1] = min(change, row[j]+1, above+1)
		}
	}
	return row[len(b)]
}
