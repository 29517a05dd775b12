package system

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// signalArgument takes a signal from the beginning of args, in the forms -9,
// -KILL and -s KILL.
func signalArgument(args []string) (unix.Signal, []string, error) {
	if len(args) == 0 || len(args[0]) < 2 || args[0][0] != '-' || args[0] == "--" || args[0] == "--help" {
		return unix.SIGTERM, args, nil
	}
	name, rest := args[0][1:], args[1:]
	if name == "s" {
		if len(rest) == 0 {
			return 0, nil, applet.Usagef("option requires an argument -- 's'")
		}
		name, rest = rest[0], rest[1:]
	}
	sig, ok := applet.SignalNumber(name)
	if !ok {
		return 0, nil, applet.Usagef("unknown signal %s", applet.Quote(name))
	}
	return sig, rest, nil
}

// Kill sends a signal to processes.
func Kill(e *applet.Env, args []string) error {
	if len(args) > 0 && (args[0] == "-l" || args[0] == "-L") {
		return listSignals(e, args[1:])
	}
	sig, pids, err := signalArgument(args)
	if err != nil {
		return err
	}
	if len(pids) > 0 && pids[0] == "--help" {
		_, err := new(applet.Options).Parse(pids)
		return err
	}
	if len(pids) > 0 && pids[0] == "--" {
		pids = pids[1:]
	}
	if len(pids) == 0 {
		return applet.Usagef("no process ID given")
	}
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err != nil {
			e.Warnf("invalid process ID %s", applet.Quote(text))
			continue
		}
		if err := unix.Kill(pid, sig); err != nil {
			e.Warnf("(%s): %s", text, applet.Reason(err))
		}
	}
	return nil
}

func listSignals(e *applet.Env, which []string) error {
	if len(which) == 0 {
		var names []string
		for i := unix.Signal(1); i <= 31; i++ {
			names = append(names, applet.SignalName(i))
		}
		e.Stdout.WriteString(strings.Join(names, " ") + "\n")
		return nil
	}
	for _, w := range which {
		sig, ok := applet.SignalNumber(w)
		if n, err := strconv.Atoi(w); err == nil && n > 128 {
			sig, ok = unix.Signal(n-128), true // the status of a process it killed
		}
		switch {
		case !ok:
			e.Warnf("unknown signal %s", applet.Quote(w))
		case strings.Trim(w, "0123456789") == "":
			e.Stdout.WriteString(applet.SignalName(sig) + "\n")
		default:
			fmt.Fprintln(e.Stdout, int(sig))
		}
	}
	return nil
}

// named lists the processes with a name, but not our own.
func named(name string) ([]process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var found []process
	for _, p := range all {
		match := p.comm == name || len(name) > 15 && p.comm == name[:15] ||
			len(p.args) > 0 && filepath.Base(strings.TrimPrefix(p.args[0], "-")) == name
		if match && p.pid != os.Getpid() {
			found = append(found, p)
		}
	}
	return found, nil
}

// Killall sends a signal to the processes with a name.
func Killall(e *applet.Env, args []string) error {
	quiet := len(args) > 0 && args[0] == "-q"
	if quiet {
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "-l" {
		return listSignals(e, nil)
	}
	sig, names, err := signalArgument(args)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return applet.Usagef("no process name given")
	}
	for _, name := range names {
		found, err := named(name)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			if quiet {
				e.Fail()
			} else {
				e.Warnf("%s: no process found", name)
			}
		}
		for _, p := range found {
			if err := unix.Kill(p.pid, sig); err != nil && err != unix.ESRCH {
				e.Warnf("%s(%d): %s", name, p.pid, applet.Reason(err))
			}
		}
	}
	return nil
}

// Pidof lists the processes with a name.
func Pidof(e *applet.Env, args []string) error {
	var single bool
	var o applet.Options
	o.Bool(&single, 's', "")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	var pids []string
	for _, name := range names {
		found, err := named(name)
		if err != nil {
			return err
		}
		for i := len(found) - 1; i >= 0; i-- {
			pids = append(pids, strconv.Itoa(found[i].pid))
		}
	}
	if len(pids) == 0 {
		return applet.Status(1)
	}
	if single {
		pids = pids[:1]
	}
	e.Stdout.WriteString(strings.Join(pids, " ") + "\n")
	return nil
}
