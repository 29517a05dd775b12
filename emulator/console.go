package emulator

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/umlkit/umlkit/emulator/cmdline"
	"github.com/umlkit/umlkit/emulator/guard"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/line"
	"github.com/umlkit/umlkit/emulator/tty"
)

// drainPatience is how long the last output may wait for a host that takes none.
const drainPatience = 2 * time.Second

// wireTerminals reads what con=, ssl= and xterm= say, before anything is opened.
func (m *Machine) wireTerminals() error {
	m.terminals = tty.Options{
		Host:    m.host,
		Console: m.config.Console,
		Logf:    m.logf,
		Con:     tty.Wiring{Units: make(map[int]string)},
		Ssl:     tty.Wiring{Units: make(map[int]string)},
		Changed: m.terminalChanged,
	}
	if os.Getenv("DISPLAY") != "" {
		m.terminals.Fallback = "xterm"
	}
	m.host.Emulator = line.DefaultEmulator
	if m.config.Xterm != "" {
		var err error
		if m.host.Emulator, err = line.ParseEmulator(m.config.Xterm); err != nil {
			return fmt.Errorf("xterm=%s: %w", m.config.Xterm, err)
		}
	}
	m.host.Emulator.Join = []string{"/proc/" + strconv.Itoa(os.Getpid()) + "/exe", cmdline.JoinOption}
	m.host.Guard = m.guardTerminal
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
		if count := tty.Count(setting.Driver); err != nil || unit >= count {
			return fmt.Errorf("%s: device number out of range: they are 0 to %d", setting.Word, count-1)
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

// guardTerminal is guardTerminals for a terminal that is opened by its path.
func (m *Machine) guardTerminal(fd int) (dismiss func()) {
	g, err := guard.Start(fd)
	if err != nil {
		// The log may be writing to the terminal that is being opened.
		go m.printk(klog.Warning, "consoles: %v", err)
	}
	return g.Dismiss
}

// openTerminals gives the kernel its terminals, and the log its console.
func (s *sentry) openTerminals() error {
	options := s.m.terminals
	if s.m.umid != nil {
		options.Machine = s.m.umid.name
	}
	options.Sysrq = func(key byte) { s.keyPressed(key) }
	terminals, err := tty.New(s.ctx, options)
	if err != nil {
		return fmt.Errorf("make the terminals: %w", err)
	}
	s.terminals = terminals
	s.m.printk(klog.Info, "Initialized stdio console driver")
	s.m.printk(klog.Info, "printk: console [%s] enabled", terminals.Console())
	if s.m.config.PrintTime {
		s.Log().SetConsole(terminals)
	} else {
		s.Log().SetConsole(untimed{terminals})
	}
	return nil
}

// terminalChanged makes or removes the node of a terminal that was configured or removed
// while the guest runs, and tells udev.
func (m *Machine) terminalChanged(n tty.Node, present bool) {
	s := m.current()
	if s == nil {
		return
	}
	s.deviceNode(n.Name, n.Major, n.Minor, linux.S_IFCHR|tty.NodeMode, "", present)
	e := terminalEvent(terminal{n.Name, n.Major, n.Minor})
	e.Action = "remove"
	if present {
		e.Action = "add"
	}
	s.uevents.Send(e)
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
