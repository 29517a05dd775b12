package cmdline

import (
	"fmt"
	"strings"
)

// Usage is the text of --help.
func Usage() string {
	var b strings.Builder
	b.WriteString("usage: linux [option]... [--] [argument of init]...\n\n" +
		"Boots a guest as an ordinary process. Unknown NAME=VALUE words go into the environment of\n" +
		"init, other unknown words and all after -- become its arguments.\n")
	for _, o := range Options {
		fmt.Fprintf(&b, "\n%s\n%s", o.Show, indent(o.Text, "    ", 78))
	}
	return b.String()
}

// indent breaks text into lines of at most width columns that begin with prefix.
func indent(text, prefix string, width int) string {
	var b strings.Builder
	col := 0
	for _, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case col == 0:
			b.WriteString(prefix)
			col = len(prefix)
		case col+1+n > width:
			b.WriteString("\n" + prefix)
			col = len(prefix)
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += n
	}
	b.WriteByte('\n')
	return b.String()
}

// Roff is the options part of linux(1), in the man macros: what stands in man/linux.1
// between RoffBegin and RoffEnd.
func Roff() string {
	escape := strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\&...`, "'", `\(aq`)
	var b strings.Builder
	for _, o := range Options {
		text := escape.Replace(o.Text)
		text = strings.ReplaceAll(text, ". ", ".\n")
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", escape.Replace(o.Show), text)
	}
	return b.String()
}

// RoffBegin and RoffEnd are the lines of man/linux.1 around what Roff makes.
const (
	RoffBegin = ".\\\" options: made from the table in emulator/cmdline; go test ./emulator/cmdline -update\n"
	RoffEnd   = ".\\\" end of options\n"
)
