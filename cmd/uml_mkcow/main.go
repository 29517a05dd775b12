// Uml_mkcow makes a COW file over an image. Its command line is that of the historic
// uml_mkcow of uml-utilities.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/umlkit/umlkit/ubdfmt"
)

const usage = `uml_mkcow usage: 
	uml_mkcow [-f] <COW file> <backing file>
	-f forces overwrite of an existing COW file
for example
	uml_mkcow work.cow /srv/uml/debian.img
`

func main() {
	// What is done takes milliseconds, and is done whole: a signal amid it would leave a
	// temporary file where the host has no files without a name.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	os.Exit(run(os.Args[1:], os.Stderr))
}

// run returns the exit status: 1 for what did not work, 2 for wrong use. What it makes is
// the same file, byte for byte, as the historic one's.
func run(args []string, stderr io.Writer) int {
	c, ok := parse(args)
	if !ok {
		fmt.Fprint(stderr, usage)
		return 2
	}
	create := ubdfmt.CreateCOW
	if c.force {
		create = ubdfmt.ReplaceCOW
	}
	if err := create(c.cow, c.backing, ubdfmt.Options{Alignment: ubdfmt.KernelAlignment}); err != nil {
		fmt.Fprintln(stderr, message(err, c.cow))
		return 1
	}
	return 0
}

type command struct {
	force        bool
	cow, backing string
}

// parse takes -f before, between and behind the files, as getopt does.
func parse(args []string) (c command, ok bool) {
	var files []string
	for i, arg := range args {
		if arg == "--" {
			files = append(files, args[i+1:]...)
			break
		}
		switch {
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			files = append(files, arg)
		case strings.Trim(arg[1:], "f") == "":
			c.force = true
		default:
			return c, false
		}
	}
	if len(files) != 2 || files[0] == "" || files[1] == "" {
		return c, false
	}
	c.cow, c.backing = files[0], files[1]
	return c, true
}

// message is an error in one line, in the historic words where there were any: those for
// a COW file that cannot be made.
func message(err error, cow string) string {
	if err, ok := err.(*os.PathError); ok && errors.Is(err, os.ErrExist) {
		return "open COW file: File exists"
	}
	s := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) && (s == "create "+cow+": "+errno.Error() || s == "open "+cow+": "+errno.Error()) {
		text := errno.Error()
		return "open COW file: " + strings.ToUpper(text[:1]) + text[1:]
	}
	return "uml_mkcow: " + ubdfmt.Printable(s)
}
