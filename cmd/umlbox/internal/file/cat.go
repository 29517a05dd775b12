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
	line := 0
	return EachInput(e, files, func(r io.Reader) error {
		if !number && !numberFilled && !ends {
			_, err := e.Stdout.ReadFrom(r)
			return err
		}
		return catLines(e.Stdout, r, &line, number && !numberFilled, numberFilled, ends)
	})
}

func catLines(w *applet.Writer, r io.Reader, line *int, all, filled, ends bool) error {
	b := bufio.NewReader(r)
	for {
		s, err := b.ReadSlice('\n')
		full := err == bufio.ErrBufferFull
		if len(s) > 0 {
			if all || filled && s[0] != '\n' {
				*line++
				writePadded(w, *line, 6)
				w.WriteByte('\t')
			}
			for full { // a line longer than the buffer is numbered once
				w.Write(s)
				s, err = b.ReadSlice('\n')
				full = err == bufio.ErrBufferFull
			}
			if n := len(s); ends && n > 0 && s[n-1] == '\n' {
				w.Write(s[:n-1])
				w.WriteString("$\n")
			} else {
				w.Write(s)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
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
