// Package strace logs system calls of guests, by the Sentry's own tracer: this package
// says which of them, and puts what the tracer prints as two lines, one when a call is
// entered and one when it returns, together as one.
package strace

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi"
	sentrylog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	calls "gvisor.dev/gvisor/pkg/sentry/strace"

	"github.com/umlkit/umlkit/emulator/driver"
)

// Tracer logs system calls. As a driver it is the family "strace": one unit without a
// number, whose specification is TASKS[:CALLS]. Its methods may be called by any number
// of goroutines at once.
type Tracer struct {
	spec atomic.Pointer[spec]
	// entered are the arguments that calls were entered with, by the task's prefix.
	entered sync.Map // string -> []any

	mu     sync.Mutex
	filter *filter
	sink   sink
	log    *bounded
}

var _ driver.Driver = (*Tracer)(nil)

// New makes a tracer that logs nothing yet. What it will log goes to logf, which is given
// a bounded number of lines a second.
func New(logf func(format string, args ...any)) *Tracer {
	t := &Tracer{log: &bounded{logf: logf, now: time.Now}}
	t.sink = t.log
	return t
}

// sink takes lines.
type sink interface {
	line(string)
	close() error
}

// SetFile has lines go to a file on the host, which is written anew.
func (t *Tracer) SetFile(name string) error {
	f, err := newFile(name, t.log.logf)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sink = f
	return nil
}

// Close ends the tracing, and writes out what the file has not got yet.
func (t *Tracer) Close() error {
	_ = t.set(nil)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sink.close()
}

// Configure says what to log, in place of what was said before.
func (t *Tracer) Configure(unit, text string) error {
	if unit != "" {
		return driver.Errorf(driver.Unparsed, "Bad configuration option")
	}
	s, err := parse(text)
	if err != nil {
		return driver.Errorf(driver.Invalid, "%w", err)
	}
	return t.set(s)
}

// Describe is what is logged, empty for nothing.
func (t *Tracer) Describe(unit string) (string, error) {
	if unit != "" {
		return "", driver.Errorf(driver.Unparsed, "Bad configuration option")
	}
	if s := t.spec.Load(); s != nil {
		return s.text, nil
	}
	return "", nil
}

// Remove ends the logging.
func (t *Tracer) Remove(unit string) error {
	if unit != "" {
		return driver.Errorf(driver.Unparsed, "Bad remove option")
	}
	if t.spec.Load() == nil {
		return driver.Errorf(driver.NoDevice, "Nothing is traced")
	}
	return t.set(nil)
}

// set puts the flags into the Sentry's table that make it call the tracer.
func (t *Tracer) set(s *spec) error {
	table, ok := kernel.LookupSyscallTable(abi.Linux, arch.Host)
	known, named := calls.Lookup(abi.Linux, arch.Host)
	if !ok || !named {
		return driver.Errorf(driver.Invalid, "System calls have no names on this architecture")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Tasks look at the tracer only while a flag is set.
	if t.filter == nil && s != nil {
		t.filter = &filter{Stracer: known, tracer: t}
		table.Stracer = t.filter
	}
	t.spec.Store(s)
	switch {
	case s == nil:
		t.entered.Clear()
		table.FeatureEnable.Enable(kernel.StraceEnableLog, nil, false)
	case s.numbers == nil:
		table.FeatureEnable.EnableAll(kernel.StraceEnableLog)
	default:
		table.FeatureEnable.Enable(kernel.StraceEnableLog, s.numbers, false)
	}
	sentrylog.SetLevel(t.Level())
	return nil
}

// Level is the level that the Sentry's log has to have for the tracer.
func (t *Tracer) Level() sentrylog.Level {
	if t.spec.Load() == nil {
		return sentrylog.Warning
	}
	return sentrylog.Info
}

// filter has the Sentry's tracer print the calls that are asked for.
type filter struct {
	kernel.Stracer
	tracer *Tracer
}

// SyscallEnter implements kernel.Stracer.SyscallEnter.
func (f *filter) SyscallEnter(t *kernel.Task, number uintptr, args arch.SyscallArguments, flags uint32) any {
	if !f.tracer.spec.Load().has(t, number) {
		return nil
	}
	return f.Stracer.SyscallEnter(t, number, args, flags)
}

// SyscallExit implements kernel.Stracer.SyscallExit.
func (f *filter) SyscallExit(context any, t *kernel.Task, number, result uintptr, err error) {
	if context != nil {
		f.Stracer.SyscallExit(context, t, number, result, err)
	}
}

// Emitter takes what the Sentry says: what its tracer prints, and of the rest warnings,
// which go to next.
func (t *Tracer) Emitter(next sentrylog.Emitter) sentrylog.Emitter { return emitter{t, next} }

type emitter struct {
	tracer *Tracer
	next   sentrylog.Emitter
}

// The formats of the Sentry's tracer behind the task's prefix, up to the arguments: the
// task's name, E or X, and the call's name. TestFormat fails when an upgrade changes them.
const (
	enterFormat = "%s E %s("
	exitFormat  = "%s X %s("
)

// Emit implements log.Emitter.Emit.
func (e emitter) Emit(depth int, level sentrylog.Level, timestamp time.Time, format string, args ...any) {
	if level == sentrylog.Warning {
		e.next.Emit(depth+1, level, timestamp, format, args...)
		return
	}
	if task, _, ok := strings.Cut(format, enterFormat); ok && len(args) >= 2 {
		e.tracer.enter(task, args)
	} else if task, _, ok := strings.Cut(format, exitFormat); ok && len(args) >= 3 {
		e.tracer.exit(task, args)
	}
}

// enter keeps the arguments of a call until it returns. What does not return is printed
// at once.
func (t *Tracer) enter(task string, args []any) {
	switch args[1] {
	case "exit", "exit_group":
		t.entered.Delete(task)
		t.print(task, args, "?")
	default:
		t.entered.Store(task, args)
	}
}

// exit prints a call. Data that it wrote was printed only when it was entered.
func (t *Tracer) exit(task string, args []any) {
	result := args[len(args)-1]
	args = args[:len(args)-1]
	if entered, ok := t.entered.LoadAndDelete(task); ok {
		if before := entered.([]any); len(before) == len(args) {
			for i, arg := range args {
				if arg == "..." {
					args[i] = before[i]
				}
			}
		}
	}
	t.print(task, args, result)
}

// print prints "[tgid:tid] name call(arguments) = result".
func (t *Tracer) print(task string, args []any, result any) {
	list := make([]string, len(args)-2)
	for i, arg := range args[2:] {
		list[i] = fmt.Sprint(arg)
	}
	text := fmt.Sprintf("%s%s %s(%s) = %v", task, args[0], args[1], strings.Join(list, ", "), result)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sink.line(printable(text))
}

// printable is a line without what would act on a terminal: a guest chose what is in it.
func printable(text string) string {
	if strings.IndexFunc(text, unprintable) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unprintable(r) {
			fmt.Fprintf(&b, "\\x%02x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' }
