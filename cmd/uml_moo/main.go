// Uml_moo merges a COW file with its backing file: into a new image, or in place. Its
// command line is that of the historic uml_moo of uml-utilities.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/umlkit/umlkit/ubdfmt"
)

const usage = `usage: uml_moo [-b backing] [--no-sync] COW new
       uml_moo [-b backing] [--keep] -d COW
Merges a COW file with its backing file into a new image.
  -d         merges into the backing file instead, and empties the COW file; every other
             COW file over that backing file is good for nothing then
  --keep     leaves the COW file as it is, which no longer matches then
  -b         takes this backing file instead of the one that the COW file names
  --no-sync  does not wait until the new image is safe on the disk, as the historic
             uml_moo never did; keep the COW file until it is
for example
  uml_moo work.cow new.img        a new image of what the machine sees
  uml_moo -d work.cow             the same in base.img; go on with work.cow
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(status)
}

// run returns the exit status.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	c, err := parse(args)
	if err != nil {
		if !errors.Is(err, errHelp) {
			fmt.Fprintf(stderr, "uml_moo: %v\n", err)
		}
		fmt.Fprint(stderr, usage)
		return 1
	}
	o := ubdfmt.MergeOptions{Backing: c.backing, Keep: c.keep, NoSync: c.noSync, Others: func(cows []string) {
		for _, other := range cows {
			fmt.Fprintln(stderr, "uml_moo: "+ubdfmt.Printable(other)+" has the same backing file, and no longer matches it")
		}
		fmt.Fprintln(stderr, "uml_moo: COW files in other directories are not looked for")
	}}
	clear := showProgress(stderr, &o)
	if c.inPlace {
		err = ubdfmt.MergeInPlace(ctx, c.cow, o)
	} else {
		err = ubdfmt.Merge(ctx, c.cow, c.output, o)
	}
	clear()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled) && c.inPlace:
		fmt.Fprintln(stderr, "uml_moo: interrupted; run it again to finish the merge")
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "uml_moo: interrupted; no image was made")
	default:
		fmt.Fprintln(stderr, ubdfmt.Printable(err.Error()))
	}
	return 1
}

type command struct {
	inPlace, keep        bool
	noSync               bool
	backing, cow, output string
}

var errHelp = errors.New("help")

// parse takes options before, between and after the files, as getopt does.
func parse(args []string) (c command, err error) {
	var files []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--help" || arg == "-h":
			return c, errHelp
		case arg == "--keep":
			c.keep = true
		case arg == "--no-sync":
			c.noSync = true
		case arg == "--":
			files = append(files, args[i+1:]...)
			i = len(args)
		case len(arg) < 2 || arg[0] != '-':
			files = append(files, arg)
		default:
			for letters := arg[1:]; letters != ""; letters = letters[1:] {
				switch letters[0] {
				case 'd':
					c.inPlace = true
					continue
				case 'b':
					c.backing = letters[1:]
					if c.backing == "" {
						if i++; i == len(args) {
							return c, errors.New("option -b needs a backing file")
						}
						c.backing = args[i]
					}
					if c.backing == "" {
						return c, errors.New("option -b needs a backing file")
					}
				default:
					return c, fmt.Errorf("unknown option %s; there are -b, -d, --keep and --no-sync", strings.TrimSpace(arg))
				}
				break
			}
		}
	}
	switch {
	case len(files) == 0:
		return c, errHelp
	case c.keep && !c.inPlace:
		return c, errors.New("--keep goes with -d: else the COW file is kept anyway")
	case c.noSync && c.inPlace:
		return c, errors.New("--no-sync goes with a new file: what -d merges must be stable before the COW file is emptied")
	case c.inPlace && len(files) > 1:
		return c, fmt.Errorf("-d takes one COW file and no new file, not %q", files[1])
	case !c.inPlace && len(files) == 1:
		return c, errors.New("a new file is missing, or -d")
	case len(files) > 2:
		return c, fmt.Errorf("one file too many: %q", files[2])
	}
	c.cow = files[0]
	if !c.inPlace {
		c.output = files[1]
	}
	return c, nil
}

// showProgress draws a bar while the merge runs, on a terminal only, and returns what
// takes it away.
func showProgress(stderr io.Writer, o *ubdfmt.MergeOptions) (clear func()) {
	f, ok := stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	var bar *progressbar.ProgressBar
	o.Progress = func(done, total int64) {
		if bar == nil {
			bar = progressbar.NewOptions64(total,
				progressbar.OptionSetWriter(stderr),
				progressbar.OptionSetDescription("merging"),
				progressbar.OptionShowBytes(true),
				progressbar.OptionThrottle(100*time.Millisecond),
				progressbar.OptionClearOnFinish())
		}
		_ = bar.Set64(done)
	}
	return func() {
		if bar != nil {
			_ = bar.Clear()
		}
	}
}
