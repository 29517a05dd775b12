package mconsole

import (
	"errors"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/emulator/driver"
)

// help is the answer to help.
const help = `Commands: 
    version - Get kernel version
    help - Print this message
    halt - Halt UML
    reboot - Reboot UML
    config <dev>=<config> - Add a new device to UML;  same syntax as command line
    config <dev> - Query the configuration of a device
    remove <dev> - Remove a device from UML
    sysrq <letter> - Performs the SysRq action controlled by the letter
    cad - invoke the Ctrl-Alt-Del handler
    stop - pause the UML; it will do nothing until it receives a 'go'
    go - continue the UML after a 'stop'
    log <string> - make UML enter <string> into the kernel log
    proc <file> - returns the contents of the UML's /proc/<file>
    stack <pid> - returns the stack of the specified pid
`

// command answers one command with a status and a text. after, when not nil, is done
// once the answer is sent.
type command func(m Machine, args string) (code int32, text string, after func())

// commands are the commands by name.
var commands = map[string]command{
	"version": func(m Machine, _ string) (int32, string, func()) { return 0, m.Version(), nil },
	"help":    func(Machine, string) (int32, string, func()) { return 0, help, nil },
	"halt":    func(m Machine, _ string) (int32, string, func()) { return 0, "", m.Halt },
	"reboot":  func(m Machine, _ string) (int32, string, func()) { return 0, "", m.Reboot },
	"cad":     func(m Machine, _ string) (int32, string, func()) { return 0, "", m.CtrlAltDel },
	"config":  config,
	"remove":  remove,
	"sysrq": func(m Machine, args string) (int32, string, func()) {
		if args == "" {
			args = "h"
		}
		return 0, m.Sysrq(args[0]), nil
	},
	"stop": func(m Machine, _ string) (int32, string, func()) {
		if !m.Stop() {
			return 1, "Already stopped", nil
		}
		return 0, "stopped", nil
	},
	"go": func(m Machine, _ string) (int32, string, func()) {
		if !m.Go() {
			return 1, "Not stopped", nil
		}
		return 0, "", nil
	},
	"log": func(m Machine, args string) (int32, string, func()) {
		m.Log(args)
		return 0, "", nil
	},
	"proc": func(m Machine, args string) (int32, string, func()) {
		text, err := m.ReadProc(strings.TrimSpace(args))
		if errors.Is(err, ErrRead) {
			return 1, "Read of file failed", nil
		}
		if err != nil {
			return 1, "Failed to open file", nil
		}
		return 0, "\n" + string(text), nil
	},
	"stack": stack,
}

// Do answers a command.
func Do(m Machine, line string) (code int32, text string, after func()) {
	name, args := cut(line)
	do, ok := commands[name]
	if !ok {
		return 1, "Unknown command", nil
	}
	return do(m, args)
}

// device finds the driver that a device's name begins with, and the rest of the name.
func device(m Machine, name string) (driver.Driver, string) {
	// The longest name first: a family's name may begin with another's.
	for n := len(name); n > 0; n-- {
		if d := m.Driver(name[:n]); d != nil {
			return d, name[n:]
		}
	}
	return nil, ""
}

// config answers "config DEV" and "config DEV=SPEC".
func config(m Machine, args string) (int32, string, func()) {
	args = strings.TrimSpace(args)
	name, spec, set := strings.Cut(args, "=")
	d, unit := device(m, name)
	if d == nil {
		return 1, "Bad configuration option", nil
	}
	if !set {
		text, err := d.Describe(unit)
		code, why := driver.Status(err)
		if err != nil {
			return int32(code), why, nil
		}
		return 0, text, nil
	}
	code, why := driver.Status(d.Configure(unit, spec))
	return int32(code), why, nil
}

// remove answers "remove DEV".
func remove(m Machine, args string) (int32, string, func()) {
	d, unit := device(m, strings.TrimSpace(args))
	if d == nil {
		return 1, "Bad remove option", nil
	}
	code, why := driver.Status(d.Remove(unit))
	return int32(code), why, nil
}

// stack answers "stack PID".
func stack(m Machine, args string) (int32, string, func()) {
	pid, err := strconv.Atoi(strings.TrimSpace(args))
	if err != nil {
		return 1, "Please specify a pid", nil
	}
	text, err := m.Stack(pid)
	if err != nil {
		return 1, "Couldn't find that pid", nil
	}
	return 0, text, nil
}
