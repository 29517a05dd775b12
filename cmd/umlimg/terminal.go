package main

import (
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// checkedOutput keeps the first error of writing to stdout.
type checkedOutput struct {
	io.Writer
	err error
}

func (o *checkedOutput) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// unchecked is what is behind a checkedOutput.
func unchecked(w io.Writer) io.Writer {
	if o, ok := w.(*checkedOutput); ok {
		return o.Writer
	}
	return w
}

func isTerminal(w io.Writer) bool {
	f, ok := unchecked(w).(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// terminalWidth is how many columns a terminal has, 0 for what is no terminal.
func terminalWidth(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(unchecked(w).(*os.File).Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return 80
	}
	return int(size.Col)
}

// printable is a text with a ? for each character that a terminal obeys.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(name, "?"))
}

// shown is a name, as it is for a program that reads it and harmless for a terminal.
func shown(w io.Writer, name string) string {
	if isTerminal(w) {
		return printable(name)
	}
	return name
}

// quoted is a file's name fit for a terminal: one that holds what a terminal would obey,
// or no text, is quoted.
func quoted(path string) string {
	if utf8.ValidString(path) && !strings.ContainsFunc(path, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return path
	}
	return strconv.Quote(path)
}
