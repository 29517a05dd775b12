// A guest has no control groups to take its number of processors from:
// without these the runtime opens five files at every start.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Umlbox is the built-in userland of umlkit: the commands of a small Linux
// system in one static program. It runs the command that it is called as, or
// that its first argument names.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

func main() {
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

func run(argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	name := "umlbox"
	if len(argv) > 0 {
		name = strings.TrimPrefix(filepath.Base(argv[0]), "-") // a dash marks a login shell
		argv = argv[1:]
	}
	a := find(name)
	if a == nil {
		switch {
		case len(argv) == 0 && os.Getpid() == 1:
			name = "init" // init=/bin/umlbox
		case len(argv) == 0 || argv[0] == "--help":
			usage(stdout)
			return 0
		case argv[0] == "--list":
			for i := range applets {
				fmt.Fprintln(stdout, applets[i].Name)
			}
			return 0
		default:
			name, argv = argv[0], argv[1:]
		}
		if a = find(name); a == nil {
			fmt.Fprintf(stderr, "umlbox: no applet %s; umlbox --list names them all\n", applet.Quote(name))
			return 127
		}
	}
	if !a.Catches {
		applet.DefaultSignals()
	}
	e := &applet.Env{Name: name, Stdin: stdin, Stdout: applet.NewWriter(stdout), Stderr: stderr}
	return a.Execute(e, argv)
}

// find looks an applet up in the table, which is sorted.
func find(name string) *applet.Applet {
	lo, hi := 0, len(applets)
	for lo < hi {
		mid := (lo + hi) / 2
		if applets[mid].Name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(applets) && applets[lo].Name == name {
		return &applets[lo]
	}
	return nil
}

func usage(w io.Writer) {
	fmt.Fprint(w, `usage: umlbox APPLET [ARGUMENT]...
       umlbox --list
The built-in userland of umlkit. Linked to the name of an applet, it is that
applet. APPLET --help tells the usage of one. Applets:
`)
	line := ""
	for i := range applets {
		if len(line)+len(applets[i].Name) > 76 {
			fmt.Fprintln(w, line)
			line = ""
		}
		line += " " + applets[i].Name
	}
	fmt.Fprintln(w, line)
}
