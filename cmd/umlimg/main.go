// Umlimg makes, shows and changes disk images for User Mode Linux.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
)

func main() {
	lateCollection()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// lateCollection lets the heap grow to 32 MiB before it is collected for the first time,
// which is later than most images take; from then on it is collected as usual.
func lateCollection() {
	usual := debug.SetGCPercent(800) // of 4 MiB
	runtime.SetFinalizer(&struct{ _ [64]byte }{}, func(any) { debug.SetGCPercent(usual) })
}

// Exit statuses. An interrupted program's is what a shell would give it.
const (
	statusFailed      = 1
	statusUsage       = 2
	statusInterrupted = 130
)

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// verdict is an exit status of its own that a command's page gives a meaning, as "the
// disks differ". A nil error prints nothing.
type verdict struct {
	status int
	err    error
}

func (v verdict) Error() string {
	if v.err == nil {
		return ""
	}
	return v.err.Error()
}

func (v verdict) Unwrap() error { return v.err }

// run is the whole program but for its end.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if last := len(args) - 1; last > 0 && args[last] == "-h" {
		args = append(slices.Clone(args[:last]), "--help")
	}
	out := &checkedOutput{Writer: stdout}
	err := newApp(stdin, out, stderr).RunContext(ctx, args)
	if err == nil || errors.Is(err, errHelp) {
		err = out.err // the library prints help, and does not look whether it can
	}
	if err == nil {
		return 0
	}
	var own verdict
	if errors.As(err, &own) {
		if own.err != nil {
			fmt.Fprintf(stderr, "umlimg: %s\n", oneLine(err))
		}
		return own.status
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		// The cause names the signal.
		words := strings.NewReplacer(context.Cause(ctx).Error(), "interrupted", context.Canceled.Error(), "interrupted")
		err = errors.New(words.Replace(err.Error()))
		fmt.Fprintf(stderr, "umlimg: %s\n", oneLine(err))
		return statusInterrupted
	}
	fmt.Fprintf(stderr, "umlimg: %s\n", oneLine(err))
	var usage usageError
	if errors.As(err, &usage) {
		return statusUsage
	}
	return statusFailed
}

// oneLine is an error's text in one line: names may hold line ends.
func oneLine(err error) string { return printable(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// newApp is the command line: every command and option.
func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	// With others, -h is for sizes that people read; alone, or last, it asks for help: see run.
	cli.HelpFlag = nil // ours is withHelp's
	app := &cli.App{
		Name:      "umlimg",
		Usage:     "make, look into and change disk images for User Mode Linux",
		UsageText: "umlimg COMMAND [OPTION]... [ARGUMENT]...",
		Description: `umlimg create --size 1G disk.img
umlimg check disk.cow
umlimg cp -r ./site disk.img:/var/www
umlimg help resize`,
		HideVersion:               true,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true, // a value may hold commas
		UseShortOptionHandling:    false,
		Reader:                    stdin,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		ExitErrHandler:            func(*cli.Context, error) {}, // only main exits
		OnUsageError:              badUsage,
		Commands: []*cli.Command{
			benchCommand(),
			catCommand(),
			checkCommand(),
			chmodCommand(),
			chownCommand(),
			commitCommand(),
			compareCommand(),
			completionCommand(),
			convertCommand(),
			cowCommand(),
			cpCommand(),
			createCommand(),
			dfCommand(),
			diffCommand(),
			editCommand(),
			findCommand(),
			helpCommand(),
			infoCommand(),
			lnCommand(),
			lsCommand(),
			mapCommand(),
			measureCommand(),
			mkdirCommand(),
			partitionCommand(),
			putCommand(),
			resizeCommand(),
			rmCommand(),
			serveCommand(),
			sparsifyCommand(),
			statCommand(),
			tarInCommand(),
			tarOutCommand(),
			versionCommand(),
		},
		Flags: []cli.Flag{helpFlag()},
		Before: func(c *cli.Context) error {
			if c.Bool("help") {
				return showAppHelp(c)
			}
			return nil
		},
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return noCommand("umlimg", c.App.Commands, name)
			}
			return showAppHelp(c)
		},
	}
	prepare(app.Commands)
	return app
}

// prepare gives every command what all have in common.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = badUsage
		c.HideHelpCommand = true
		withHelp(c)
		prepare(c.Subcommands)
		if len(c.Subcommands) > 0 && c.Action == nil {
			c.Action = func(ctx *cli.Context) error {
				if name := ctx.Args().First(); name != "" {
					return noCommand("umlimg "+c.Name, c.Subcommands, name)
				}
				return showHelp(ctx, c, c.HelpName)
			}
		}
	}
}

// operands are a command's arguments, at least least and at most most of them; most < 0
// means any number. Options come before them.
func operands(c *cli.Context, least, most int) ([]string, error) {
	args := c.Args().Slice()
	for i, a := range args {
		switch {
		case a == "":
			return nil, usagef("%s: an empty name", fullName(c))
		case i > 0 && len(a) > 1 && a[0] == '-':
			return nil, usagef("%s: options come before %s: %s", fullName(c), args[0], a)
		}
	}
	if len(args) < least || most >= 0 && len(args) > most {
		return nil, usagef("%s: usage: %s %s", fullName(c), c.Command.HelpName, c.Command.ArgsUsage)
	}
	return args, nil
}

// fullName is a command's name with that of the command it belongs to: "partition list".
func fullName(c *cli.Context) string { return strings.TrimPrefix(c.Command.HelpName, "umlimg ") }

// printJSON prints what --json asks for.
func printJSON(c *cli.Context, v any) error {
	enc := json.NewEncoder(c.App.Writer)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// ofImage is an error of making an image, whose name the message has already: "write
// disk.img: no space left on device" becomes "no space left on device".
func ofImage(path string, err error) error {
	var perr *fs.PathError
	whole, _ := splitPartition(path)
	if errors.As(err, &perr) && (perr.Path == path || perr.Path == whole) {
		return imageError{err, strings.Replace(err.Error(), perr.Error(), perr.Err.Error(), 1)}
	}
	return err
}

type imageError struct {
	error
	text string
}

func (e imageError) Error() string { return e.text }
func (e imageError) Unwrap() error { return e.error }
