package text

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// Uniq drops lines that repeat the one before.
func Uniq(e *applet.Env, args []string) error {
	var count, repeated, unique, fold bool
	var fields, chars int
	width := -1
	end := byte('\n')
	var o applet.Options
	o.Bool(&count, 'c', "count")
	o.Bool(&repeated, 'd', "repeated")
	o.Bool(&unique, 'u', "unique")
	o.Bool(&fold, 'i', "ignore-case")
	o.Int(&fields, 'f', "skip-fields")
	o.Int(&chars, 's', "skip-chars")
	o.Int(&width, 'w', "check-chars")
	o.Func('z', "zero-terminated", func() { end = 0 })
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) > 2 {
		return applet.Usagef("extra operand %s", applet.Quote(names[2]))
	}
	in := e.Stdin
	if len(names) > 0 && names[0] != "-" {
		f, err := os.Open(names[0])
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	var out io.Writer = e.Stdout
	if len(names) == 2 && names[1] != "-" {
		f, err := os.Create(names[1])
		if err != nil {
			return err
		}
		defer f.Close()
		w := applet.NewWriter(f)
		defer w.Flush()
		out = w
	}
	compared := func(line []byte) []byte {
		for range fields {
			line = bytes.TrimLeft(line, " \t")
			if i := bytes.IndexAny(line, " \t"); i >= 0 {
				line = line[i:]
			} else {
				line = nil
			}
		}
		line = line[min(chars, len(line)):]
		if width >= 0 {
			line = line[:min(width, len(line))]
		}
		if fold {
			line = bytes.ToUpper(line)
		}
		return line
	}
	var held, heldKey []byte
	n := 0
	flush := func() {
		if n == 0 || repeated && n == 1 || unique && n > 1 {
			return
		}
		if count {
			fmt.Fprintf(out, "%7d ", n)
		}
		out.Write(append(held, end))
	}
	err = lines(in, end, func(line []byte, ended bool) bool {
		k := compared(line)
		if n > 0 && bytes.Equal(k, heldKey) {
			n++
			return true
		}
		flush()
		held = append(held[:0], line...)
		heldKey = bytes.Clone(k)
		n = 1
		return true
	})
	flush()
	return err
}
