// Package file holds the applets that work on files and directories.
package file

import (
	"bufio"
	"io"
	"os"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// Cat copies files to standard output.
func Cat(e *applet.Env, args []string) error {
	var number, numberFilled, ends bool
	var o applet.Options
	o.Bool(&number, 'n', "number")
	o.Bool(&numberFilled, 'b', "number-nonblank")
	o.Bool(&ends, 'E', "show-ends")
	o.Func('u', "", func() {}) // output never waits for more input anyway
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	c := &lineCat{w: e.Stdout, all: number && !numberFilled, filled: numberFilled, ends: ends, fresh: true}
	return EachInput(e, files, func(r io.Reader) error {
		if !number && !numberFilled && !ends {
			_, err := e.Stdout.ReadFrom(r)
			return err
		}
		return c.copy(r)
	})
}

// lineCat numbers and marks lines. Its state outlives a file: what follows a
// line without an end continues it.
type lineCat struct {
	w                 *applet.Writer
	all, filled, ends bool
	line              int
	fresh             bool // at the beginning of a line
}

func (c *lineCat) copy(r io.Reader) error {
	b := bufio.NewReader(r)
	for {
		s, err := b.ReadSlice('\n')
		if len(s) > 0 {
			if c.fresh && (c.all || c.filled && s[0] != '\n') {
				c.line++
				writePadded(c.w, c.line, 6)
				c.w.WriteByte('\t')
			}
			n := len(s)
			if c.fresh = s[n-1] == '\n'; c.fresh && c.ends {
				c.w.Write(s[:n-1])
				c.w.WriteString("$\n")
			} else {
				c.w.Write(s)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
	}
}

// EachInput calls f with every named file opened, with standard input for "-"
// and when there is none. What fails is reported, and the rest goes on.
func EachInput(e *applet.Env, names []string, f func(io.Reader) error) error {
	return EachNamed(e, names, func(_ string, r io.Reader) error { return f(r) })
}

// EachNamed is EachInput for those who also want the name.
func EachNamed(e *applet.Env, names []string, f func(string, io.Reader) error) error {
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		if name == "-" {
			if err := f(name, e.Stdin); err != nil {
				return err
			}
			continue
		}
		file, err := os.Open(name)
		if err != nil {
			e.Warn(err)
			continue
		}
		err = f(name, file)
		file.Close()
		if pe, ok := err.(*os.PathError); ok && pe.Path == name {
			e.Warn(err) // a directory, or an error of this disk: go on with the next
		} else if err != nil {
			return err
		}
	}
	return nil
}
