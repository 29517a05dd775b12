package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/umlkit/umlkit/mconsole"
)

// list prints this user's machines, as a table or as JSON.
func list(ctx context.Context, client mconsole.Client, asJSON bool, out io.Writer) error {
	machines := mconsole.Discover(dirs()...)
	client.Ask(ctx, machines)
	if err := ctx.Err(); err != nil {
		return err
	}
	if asJSON {
		if machines == nil {
			machines = []mconsole.Machine{}
		}
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(machines)
	}
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "UMID\tPID\tSTATE\tDIRECTORY\tVERSION")
	for _, m := range machines {
		pid := "-"
		if m.PID != 0 {
			pid = strconv.Itoa(m.PID)
		}
		fields := []string{m.UMID, pid, string(m.State), m.Directory, m.Version}
		for i, f := range fields {
			fields[i] = oneField(f)
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(fields, "\t"), "\t"))
	}
	return t.Flush()
}

// oneField is text that others wrote, fit for a column of a table.
func oneField(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
