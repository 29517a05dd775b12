// Package shell is sh: the interpreter of mvdan.cc/sh behind the options, the
// prompt and the signals of a Unix shell. It has no job control.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// defaultPath is searched when the environment has no PATH, as it is when the
// kernel starts a shell in place of init.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Shell is one running sh.
type Shell struct {
	env     *applet.Env
	runner  *interp.Runner
	parser  *syntax.Parser
	jobs    jobs
	execs   map[uint]bool // offsets of the exec commands that replace the shell
	cancel  atomic.Pointer[context.CancelFunc]
	killed  atomic.Bool                  // the last foreground program died by a signal
	modes   sync.Mutex                   // held while the terminal's modes change
	cooked  atomic.Pointer[unix.Termios] // the terminal's state, while a line is edited
	reading atomic.Bool                  // a line is read without the editor
	reader  *os.File                     // what the read builtin reads at a terminal
	editor  *editor                      // at a terminal
}

// options are the words of the command line.
type options struct {
	command     string
	hasCommand  bool
	interactive bool
	login       bool
	stdin       bool
	set         []string // the options that set takes too
	name        string
	params      []string
}

// Sh runs the shell.
func Sh(e *applet.Env, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	o.login = o.login || strings.HasPrefix(os.Args[0], "-")
	s := &Shell{env: e, parser: syntax.NewParser(), execs: map[uint]bool{}}
	return s.run(o)
}

func parse(args []string) (options, error) {
	o := options{name: "sh"}
	for len(args) > 0 {
		arg := args[0]
		if arg == "-" || arg == "--" {
			args = args[1:]
			break
		}
		if len(arg) < 2 || arg[0] != '-' && arg[0] != '+' {
			break
		}
		args = args[1:]
		if arg == "--login" {
			o.login = true
			continue
		}
		for _, c := range arg[1:] {
			switch {
			case c == 'c' && arg[0] == '-':
				o.hasCommand = true
			case c == 'i' && arg[0] == '-':
				o.interactive = true
			case c == 'l' && arg[0] == '-':
				o.login = true
			case c == 's' && arg[0] == '-':
				o.stdin = true
			case c == 'o':
				if len(args) == 0 {
					return o, applet.Usagef("option requires an argument -- 'o'")
				}
				o.set = append(o.set, arg[:1]+"o", args[0])
				args = args[1:]
			case strings.ContainsRune("aefnux", c):
				o.set = append(o.set, arg[:1]+string(c))
			default:
				return o, applet.Usagef("invalid option -- '%c'", c)
			}
		}
	}
	if o.hasCommand {
		if len(args) == 0 {
			return o, applet.Usagef("option requires an argument -- 'c'")
		}
		o.command, args = args[0], args[1:]
	}
	if len(args) > 0 && !o.stdin {
		o.name, args = args[0], args[1:]
	}
	o.params = args
	return o, nil
}

func (s *Shell) run(o options) error {
	script := !o.hasCommand && !o.stdin && o.name != "sh"
	terminal := applet.IsTerminal(0) && applet.IsTerminal(2)
	interactive := o.interactive || terminal && !script && !o.hasCommand

	var source io.Reader = s.env.Stdin
	if script {
		f, err := os.Open(o.name)
		if errors.Is(err, fs.ErrNotExist) {
			s.env.Warn(err)
			return applet.Status(127)
		} else if err != nil {
			s.env.Warn(err)
			return applet.Status(126)
		}
		defer f.Close()
		source = f
	}
	params := append(append(o.set, "--"), o.params...)
	home, err := os.Getwd()
	if err != nil {
		home = "/" // the directory we stand in was removed
	}
	s.reader = os.Stdin
	if interactive && terminal {
		s.reader = reopen()
	}
	s.runner, err = interp.New(
		interp.StdIO(s.reader, os.Stdout, os.Stderr),
		interp.Env(environment(interactive)),
		interp.Dir(home),
		interp.Params(params...),
		interp.Interactive(interactive),
		interp.CallHandler(s.call),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.exec }),
	)
	if err != nil {
		return applet.Usagef("%v", err)
	}
	s.runner.Run(context.Background(), &syntax.File{Name: o.name}) // for $0
	s.watchSignals(interactive)
	if o.login {
		s.profile("/etc/profile")
		s.profile(filepath.Join(os.Getenv("HOME"), ".profile"))
		if s.runner.Exited() {
			return s.finish(nil)
		}
	}
	switch {
	case o.hasCommand:
		return s.program(strings.NewReader(o.command), o.name)
	case interactive && terminal:
		return s.interact()
	case script:
		return s.program(source, o.name)
	}
	return s.stream(source)
}

// environment is what the shell inherits, with what every shell sets.
func environment(interactive bool) expand.Environ {
	env := os.Environ()
	if os.Getenv("PATH") == "" {
		env = append(env, "PATH="+defaultPath)
	}
	if interactive && os.Getenv("PS1") == "" {
		env = append(env, `PS1=\w \$ `)
	}
	return expand.ListEnviron(env...)
}

// program runs a whole script.
func (s *Shell) program(r io.Reader, name string) error {
	file, err := s.parser.Parse(r, name)
	if err != nil {
		return s.syntaxError(err)
	}
	s.prepare(file)
	return s.finish(s.evaluate(file))
}

// stream runs commands from r one by one, so that a command sees the effects
// of those before, and may itself read what follows from the same descriptor.
func (s *Shell) stream(r io.Reader) error {
	var last error
	for stmts, err := range s.parser.InteractiveSeq(&byteReader{r}) {
		if err != nil {
			return s.syntaxError(err)
		}
		if s.parser.Incomplete() {
			continue
		}
		for _, stmt := range stmts {
			s.prepare(stmt)
			last = s.evaluate(stmt)
			if s.runner.Exited() {
				return s.finish(last)
			}
		}
	}
	return s.finish(last)
}

// byteReader reads one byte at a time: what it does not take stays for the
// commands that share the descriptor.
type byteReader struct{ r io.Reader }

func (b *byteReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return b.r.Read(p[:1])
}

// profile runs a file in this shell, if there is one.
func (s *Shell) profile(path string) {
	f, err := os.Open(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.env.Warn(err)
		}
		return
	}
	defer f.Close()
	file, err := s.parser.Parse(f, path)
	if err != nil {
		s.env.Warn(err)
		return
	}
	for _, stmt := range file.Stmts {
		s.prepare(stmt)
		s.evaluate(stmt)
		if s.runner.Exited() {
			return
		}
	}
}

func (s *Shell) syntaxError(err error) error {
	s.env.Warn(err)
	return applet.Status(2)
}

// evaluate runs a node until it ends or is interrupted. Its context is not
// ended with it, for background commands go on.
func (s *Shell) evaluate(node syntax.Node) error {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel.Store(&cancel)
	err := s.runner.Run(ctx, node)
	s.cancel.Store(nil)
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// errInterrupted ends what was run by ^C.
var errInterrupted error = interp.ExitStatus(128 + uint8(unix.SIGINT))

// finish turns the result of the last command into the shell's own.
func (s *Shell) finish(err error) error {
	s.jobs.settle()
	if err == errInterrupted && s.editor == nil {
		s.die(unix.SIGINT) // whoever started the script shall know
	}
	var status interp.ExitStatus
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status):
		return applet.Status(status)
	}
	fmt.Fprintf(os.Stderr, "sh: %v\n", err)
	return applet.Status(1)
}

// watchSignals lets ^C end the command that runs instead of the shell. At a
// terminal it also gives that back before a signal ends the shell; a script
// just dies.
func (s *Shell) watchSignals(interactive bool) {
	caught := []os.Signal{unix.SIGINT}
	if interactive {
		caught = append(caught, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	} else {
		applet.DefaultSignals()
	}
	signals := make(chan os.Signal, 4)
	for _, sig := range caught {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	go func() {
		for sig := range signals {
			switch sig {
			case unix.SIGINT:
				// A program in the foreground got it too, and how that ends
				// decides; only the shell's own work is ended here.
				if s.reading.Load() {
					s.reader.SetReadDeadline(time.Now())
				} else if s.jobs.foreground.Load() == 0 {
					if cancel := s.cancel.Load(); cancel != nil {
						(*cancel)()
					}
				}
			case unix.SIGQUIT:
			default:
				s.die(sig.(unix.Signal))
			}
		}
	}()
}

// die ends the shell by sig, with the terminal as it was found. It keeps modes, so
// that no line begins to be edited meanwhile.
func (s *Shell) die(sig unix.Signal) {
	s.modes.Lock()
	s.restore()
	signal.Reset(sig)
	unix.Kill(os.Getpid(), sig)
	select {} // until it arrives
}
