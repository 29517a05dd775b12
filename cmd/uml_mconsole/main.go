// Uml_mconsole talks to the management console of a running machine, as the historic
// program of uml-utilities does: one command from its arguments, or a prompt.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/umlkit/umlkit/mconsole"
)

const usage = `usage: uml_mconsole [--timeout SECONDS] UMID|SOCKET [command ...]
       uml_mconsole [--timeout SECONDS] --list [--json]
       uml_mconsole --completion bash|zsh|fish
Sends a command to a machine's management console, or reads commands at a prompt.
    --list - show this user's machines: running, silent, or stale
    --json - show them as JSON
    --timeout SECONDS - how long to wait for a machine, 10 if not said, 2 for --list
    --completion SHELL - print the completion script of a shell
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// listTimeout is how long --list waits for a machine.
const listTimeout = 2 * time.Second

// arguments are what the command line says.
type arguments struct {
	help, list, json bool
	timeout          time.Duration
	completion       string
	complete         *string
	rest             []string
}

// parse reads the options, which stand before the machine.
func parse(args []string) (a arguments, err error) {
	value := func(option string) (string, error) {
		if len(args) < 2 {
			return "", fmt.Errorf("%s: its value is missing", option)
		}
		args = args[1:]
		return args[0], nil
	}
	for ; len(args) > 0 && strings.HasPrefix(args[0], "-"); args = args[1:] {
		option, text := args[0], ""
		switch option {
		case "-h", "--help":
			a.help = true
		case "--list":
			a.list = true
		case "--json":
			a.json = true
		case "--timeout":
			if text, err = value(option); err != nil {
				return a, err
			}
			seconds, err := strconv.ParseFloat(text, 64)
			if err != nil || !(seconds > 0 && seconds <= 1e6) {
				return a, fmt.Errorf("--timeout %s: a number of seconds more than 0 is wanted", text)
			}
			a.timeout = time.Duration(seconds * float64(time.Second))
		case "--completion":
			if a.completion, err = value(option); err != nil {
				return a, err
			}
		case "--complete": // for the scripts of --completion
			if text, err = value(option); err != nil {
				return a, err
			}
			a.complete = &text
		default:
			return a, fmt.Errorf("there is no option %s", option)
		}
	}
	a.rest = args
	switch {
	case a.json && !a.list:
		return a, errors.New("--json goes with --list")
	case a.list && len(args) > 0:
		return a, fmt.Errorf("--list takes no machine: %s", args[0])
	}
	return a, nil
}

// run returns the exit status: what the command's reply says, 1 for other failures.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (status int) {
	fail := func(err error) int {
		fmt.Fprintln(stderr, "uml_mconsole:", err)
		return 1
	}
	a, err := parse(args)
	checked := &checkedOutput{Writer: stdout}
	defer func() {
		if status == 0 && checked.err != nil {
			status = fail(checked.err)
		}
	}()
	out := io.Writer(checked)
	if f, ok := stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		out = &printable{w: checked}
	}
	switch {
	case err != nil:
		fail(err)
		fmt.Fprint(stderr, usage)
		return 1
	case a.help:
		fmt.Fprint(out, usage, localHelp)
		return 0
	case a.completion != "":
		if err := completion(a.completion, out); err != nil {
			return fail(err)
		}
		return 0
	case a.complete != nil:
		for _, word := range completeArguments(*a.complete, dirs()) {
			fmt.Fprintln(out, oneField(word))
		}
		return 0
	case a.list:
		if a.timeout == 0 {
			a.timeout = listTimeout
		}
		if err := list(ctx, mconsole.Client{Timeout: a.timeout}, a.json, out); err != nil {
			return fail(err)
		}
		return 0
	case len(a.rest) == 0:
		fmt.Fprint(stderr, usage)
		return 1
	}
	s := &session{ctx: ctx, out: out, errs: stderr, dirs: dirs(), client: mconsole.Client{Timeout: a.timeout}}
	if err := s.switchTo(a.rest[0]); err != nil {
		return fail(err)
	}
	if len(a.rest) > 1 {
		status, err := s.do(strings.Join(a.rest[1:], " "))
		if err != nil && !errors.Is(err, errQuit) {
			return fail(err)
		}
		return status
	}
	if err := s.prompt(stdin); err != nil {
		return fail(err)
	}
	return 0
}

// dirs are where machines have their directories.
func dirs() []string {
	d := []string{"/tmp/uml"}
	if home, err := os.UserHomeDir(); err == nil {
		d = append([]string{filepath.Join(home, ".uml")}, d...)
	}
	return d
}

// prompt reads commands until the input ends or one of them quits. Errors of a command
// are told and do not end it.
func (s *session) prompt(stdin io.Reader) error {
	lines, restore, err := s.lineReader(stdin)
	if err != nil {
		return err
	}
	defer restore()
	for {
		line, err := lines()
		if errors.Is(err, io.EOF) {
			fmt.Fprintln(s.out)
			return nil
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		_, err = s.do(line)
		switch {
		case errors.Is(err, errQuit):
			return nil
		case s.ctx.Err() != nil:
			return errors.New("interrupted")
		case err != nil:
			fmt.Fprintln(s.errs, err)
		}
	}
}

// lineReader returns what reads a line: with editing and history from a terminal, and
// else as it comes, shown behind the prompt as if it had been typed.
func (s *session) lineReader(stdin io.Reader) (lines func() (string, error), restore func(), err error) {
	in, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		scan := bufio.NewScanner(stdin)
		return s.orInterrupted(func() (string, error) {
			fmt.Fprintf(s.out, "(%s) ", s.name)
			if !scan.Scan() {
				return "", errors.Join(scan.Err(), io.EOF)
			}
			fmt.Fprintln(s.out, scan.Text())
			return scan.Text(), nil
		}), func() {}, nil
	}
	fd := int(in.Fd())
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, os.Stdout}, "")
	t.AutoCompleteCallback = func(line string, pos int, key rune) (string, int, bool) {
		if key != '\t' {
			return "", 0, false
		}
		return s.tab(line, pos, t)
	}
	before, err := term.GetState(fd)
	if err != nil {
		return nil, nil, err
	}
	restore = func() { _ = term.Restore(fd, before) }
	return s.orInterrupted(func() (string, error) {
		if width, height, err := term.GetSize(fd); err == nil && width > 0 {
			_ = t.SetSize(width, height)
		}
		t.SetPrompt("(" + s.name + ") ")
		// Raw only while a line is typed: what a command prints, and ^C at it, are
		// the terminal's usual business.
		if _, err := term.MakeRaw(fd); err != nil {
			return "", err
		}
		defer restore()
		return t.ReadLine()
	}), restore, nil
}

// orInterrupted lets a signal end the wait for a line.
func (s *session) orInterrupted(read func() (string, error)) func() (string, error) {
	type result struct {
		line string
		err  error
	}
	results := make(chan result, 1)
	return func() (string, error) {
		go func() {
			line, err := read()
			results <- result{line, err}
		}()
		select {
		case r := <-results:
			return r.line, r.err
		case <-s.ctx.Done():
			return "", errors.New("interrupted")
		}
	}
}

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

// printable keeps what a guest says from steering the terminal: control characters but
// newline and tab are shown as ^X.
type printable struct{ w io.Writer }

func (p *printable) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		switch {
		case c == '\n' || c == '\t' || c >= 0x20 && c != 0x7f:
			out = append(out, c)
		default:
			out = append(out, '^', c^0x40)
		}
	}
	if _, err := p.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}
