package emulator

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/umlkit/umlkit/emulator/guard"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/line"
	"github.com/umlkit/umlkit/emulator/tty"
)

// drainPatience is how long the last output may wait for a host that takes none.
const drainPatience = 2 * time.Second

// wireTerminals reads what con= and ssl= say, before anything is opened.
func (m *Machine) wireTerminals() error {
	m.terminals = tty.Options{
		Host:    m.host,
		Console: m.config.Console,
		Logf:    m.logf,
		Con:     tty.Wiring{Units: make(map[int]string)},
		Ssl:     tty.Wiring{Units: make(map[int]string)},
	}
	for _, setting := range m.config.Settings {
		wiring := &m.terminals.Con
		switch setting.Driver {
		case "con":
		case "ssl":
			wiring = &m.terminals.Ssl
		default:
			continue
		}
		if _, err := line.Parse(setting.Spec); err != nil {
			return fmt.Errorf("%s: %w", setting.Word, err)
		}
		if setting.Unit == "" {
			wiring.Default = setting.Spec
			continue
		}
		unit, err := strconv.Atoi(setting.Unit)
		if err != nil || unit >= tty.Count {
			return fmt.Errorf("%s: device number out of range: they are 0 to %d", setting.Word, tty.Count-1)
		}
		wiring.Units[unit] = setting.Spec
	}
	return nil
}

// guardTerminals has the host's terminals restored if the process dies of a fault.
func (m *Machine) guardTerminals() error {
	specs := []string{"fd:0"}
	for _, setting := range m.config.Settings {
		if setting.Driver == "con" || setting.Driver == "ssl" {
			specs = append(specs, setting.Spec)
		}
	}
	var fds []int
	for _, spec := range specs {
		if pair, err := line.Parse(spec); err == nil && pair.In.Kind == line.FD {
			fds = append(fds, pair.In.Number)
		}
	}
	var err error
	m.guard, err = guard.Start(fds...)
	return err
}

// openTerminals gives the kernel its terminals, and the log its console.
func (s *sentry) openTerminals() error {
	terminals, err := tty.New(s.ctx, s.k.VFS(), s.m.terminals)
	if err != nil {
		return fmt.Errorf("make the terminals: %w", err)
	}
	s.terminals = terminals
	if s.m.config.PrintTime {
		s.Log().SetConsole(terminals)
	} else {
		s.Log().SetConsole(untimed{terminals})
	}
	return nil
}

// untimed is a console whose lines do not begin with the time, as real kernels write
// them. The log itself keeps the times.
type untimed struct{ w io.Writer }

// stamp is the time at the beginning of a line.
var stamp = regexp.MustCompile(`(?m)^\[ *\d+\.\d{6}\] `)

// Write implements io.Writer.
func (u untimed) Write(p []byte) (int, error) {
	if _, err := u.w.Write(stamp.ReplaceAll(p, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// closeTerminals lets the last output reach the host and gives the lines up.
func (s *sentry) closeTerminals() {
	if s.terminals == nil {
		return
	}
	if err := s.terminals.Drain(drainPatience); err != nil {
		s.m.printk(klog.Warning, "consoles: %v", err)
	}
	s.Log().SetConsole(nil)
	_ = s.terminals.Close()
}

// writeConsoles writes /proc/consoles: where the kernel's messages go.
func (m *Machine) writeConsoles(b *bytes.Buffer) {
	name := m.consoleName()
	minor := 0
	if n, err := strconv.Atoi(strings.TrimPrefix(name, "ttyS")); err == nil {
		minor = 64 + n
	} else if n, err := strconv.Atoi(strings.TrimPrefix(name, "tty")); err == nil {
		minor = n
	}
	fmt.Fprintf(b, "%-20s -W- (EC  p a)  %3d:%d\n", name, 4, minor)
}

// terminalOf is what /proc/PID/stat says of a task's terminal.
func terminalOf(t *kernel.Task) (number, foreground int32) {
	return tty.ProcStat(t.ThreadGroup(), t.PIDNamespace())
}

// consoleName is the terminal that the kernel's messages go to.
func (m *Machine) consoleName() string {
	if m.config.Console == "" {
		return "tty0"
	}
	return m.config.Console
}
