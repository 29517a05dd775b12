// Package applet is the frame every command of umlbox runs in: what it reads
// and writes, how its options are read, and how its errors become messages
// and an exit status. Messages follow the wording of the coreutils, so that
// scripts and people find what they expect.
package applet

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// An Applet is one command of the multi-call program.
type Applet struct {
	Name  string // the name it is called by
	Usage string // its synopsis, without the name
	Help  string // what it does, in one line
	// Run executes the command. args excludes the command's name. An error is
	// reported on standard error behind the name; a Status is not reported
	// and becomes the exit status.
	Run func(e *Env, args []string) error
	// Trouble is the exit status of a command that failed; 0 means 1. grep and
	// cmp use 2, because 1 is an answer of theirs.
	Trouble int
	// Catches says that Run handles signals. For others the runtime's own
	// handlers are removed, so that SIGQUIT and the like end them plainly.
	Catches bool
}

// Env is what one run of an applet works with. It belongs to one goroutine.
type Env struct {
	Name   string
	Stdin  io.Reader
	Stdout *Writer
	Stderr io.Writer

	failed bool
}

// Status is an error that only sets the exit status.
type Status int

func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// UsageError is a wrong option or operand. The frame adds the usage line.
type UsageError struct{ Reason string }

func (u *UsageError) Error() string { return u.Reason }

// Usagef returns a UsageError.
func Usagef(format string, a ...any) error {
	return &UsageError{fmt.Sprintf(format, a...)}
}

// Warn reports err on standard error and lets the run end with a failure,
// but go on until then. It does nothing for a nil error.
func (e *Env) Warn(err error) {
	if err == nil {
		return
	}
	e.Warnf("%s", Message(err))
}

// Warnf is Warn with a message.
func (e *Env) Warnf(format string, a ...any) {
	e.failed = true
	e.Stdout.Flush() // keep the order of what a terminal shows
	fmt.Fprintf(e.Stderr, "%s: %s\n", e.Name, fmt.Sprintf(format, a...))
}

// Fail lets the run end with a failure without a message.
func (e *Env) Fail() { e.failed = true }

// Failed says whether something was reported with Warn.
func (e *Env) Failed() bool { return e.failed }

// Execute runs a with args and returns the exit status.
func (a *Applet) Execute(e *Env, args []string) int {
	trouble := max(a.Trouble, 1)
	err := a.Run(e, args)
	if ferr := e.Stdout.Flush(); ferr != nil && err == nil {
		err = fmt.Errorf("write error: %s", Reason(ferr))
	}
	var usage *UsageError
	var status Status
	switch {
	case err == nil:
	case errors.Is(err, errHelp):
		fmt.Fprintf(e.Stdout, "usage: %s %s\n%s\n", a.Name, a.Usage, a.Help)
		e.Stdout.Flush()
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage):
		fmt.Fprintf(e.Stderr, "%s: %s\nusage: %s %s\n", e.Name, usage.Reason, a.Name, a.Usage)
		return trouble
	default:
		fmt.Fprintf(e.Stderr, "%s: %s\n", e.Name, Message(err))
		return trouble
	}
	if e.failed {
		return trouble
	}
	return 0
}

// Reason is the cause of err alone, without what was attempted on what: the
// text of its errno if it has one, capitalised as strerror(3) does.
func Reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return capital(errno.Error())
	}
	return err.Error()
}

// Message words err as a command reports it: "file: Reason" when it is about
// a file.
func Message(err error) string {
	switch e := err.(type) {
	case *fs.PathError:
		return e.Path + ": " + Reason(e.Err)
	case *os.LinkError:
		return e.Old + " -> " + e.New + ": " + Reason(e.Err)
	case *os.SyscallError:
		return e.Syscall + ": " + Reason(e.Err)
	case syscall.Errno:
		return capital(e.Error())
	}
	return err.Error()
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}
