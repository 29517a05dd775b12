package emulator

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	sentrylog "gvisor.dev/gvisor/pkg/log"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/strace"
	"github.com/umlkit/umlkit/emulator/syscalls"
)

// newLog begins the kernel log of a boot with the lines that every log begins with.
func (m *Machine) newLog() *klog.Log {
	start := time.Now()
	l := klog.New(klog.Options{
		ConsoleLevel: max(m.config.LogLevel, 1),
		EveryMessage: m.config.EveryMessage,
		Now:          func() time.Duration { return time.Since(start) },
	})
	l.Printf(klog.Notice, "%s", strings.TrimSuffix(syscalls.ProcVersion(), "\n"))
	l.Printf(klog.Notice, "Kernel command line: %s", m.config)
	l.Printf(klog.Info, "Memory: %dK/%dK available", m.config.Memory>>10, m.config.Memory>>10)
	if m.caughtBy != "" {
		// A first boot has yet to find out.
		l.Printf(klog.Info, "seccomp=%s: system calls are caught by %s", m.config.Intercept, m.caughtBy)
	}
	for _, note := range m.config.Notes {
		l.Printf(klog.Warning, "%s", note)
	}
	if len(m.config.Unknown) > 0 {
		// Arguments come before the environment, as Linux names them.
		unknown := slices.Clone(m.config.Unknown)
		slices.SortStableFunc(unknown, func(a, b string) int {
			return int(flag(strings.Contains(a, "=")) - flag(strings.Contains(b, "=")))
		})
		l.Printf(klog.Notice, "Unknown kernel command line parameters \"%s\", will be passed to user space.",
			strings.Join(unknown, " "))
	}
	// What the Sentry says about itself is for those who look for its faults.
	sentrylog.SetTarget(m.strace.Emitter(l.Emitter()))
	sentrylog.SetLevel(m.strace.Level())
	redirectFirst()
	return l
}

// firstLog is the Sentry's log as its packages found it: some of them keep it, and it
// writes to this program's stderr.
var firstLog = sentrylog.Log()

// redirectFirst leads firstLog to the log of the boot that runs.
var redirectFirst = sync.OnceFunc(func() {
	firstLog.SetLevel(sentrylog.Warning)
	firstLog.Emitter = currentLog{}
})

// currentLog emits to the target that is set last.
type currentLog struct{}

// Emit implements log.Emitter.Emit.
func (currentLog) Emit(depth int, level sentrylog.Level, timestamp time.Time, format string, args ...any) {
	sentrylog.Log().Emit(depth+1, level, timestamp, format, args...)
}

// logf is the kernel log for drivers, which outlast a boot.
func (m *Machine) logf(format string, args ...any) {
	m.log.Load().Infof(format, args...)
}

// printk logs one message of the kernel's own.
func (m *Machine) printk(level klog.Level, format string, args ...any) {
	m.log.Load().Printf(level, format, args...)
}

// openStrace reads what strace= and strace.file= say.
func (m *Machine) openStrace() error {
	m.strace = strace.New(func(format string, args ...any) { m.printk(klog.Debug, format, args...) })
	if name := m.config.StraceFile; name != "" {
		if m.config.Strace == "" {
			return fmt.Errorf("strace.file=%s: strace= has to say what is traced", name)
		}
		if err := m.strace.SetFile(name); err != nil {
			return fmt.Errorf("strace.file=%s: %w", name, err)
		}
	}
	if m.config.Strace == "" {
		return nil
	}
	// The table forgets what is traced when ours are put into it.
	syscalls.Install()
	if err := m.strace.Configure("", m.config.Strace); err != nil {
		return fmt.Errorf("strace=%s: %w", m.config.Strace, err)
	}
	return nil
}
