package system

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// The actions of syslog(2).
const (
	logReadAll      = 3
	logReadClear    = 4
	logClear        = 5
	logConsoleOff   = 6
	logConsoleOn    = 7
	logConsoleLevel = 8
	logSize         = 10
)

// Dmesg shows the kernel's log.
func Dmesg(e *applet.Env, args []string) error {
	var clear, readClear, raw, human, follow, off, on bool
	level := 0
	var o applet.Options
	o.Bool(&clear, 'C', "clear")
	o.Bool(&readClear, 'c', "read-clear")
	o.Bool(&raw, 'r', "raw")
	o.Bool(&human, 'T', "ctime")
	o.Bool(&follow, 'w', "follow")
	o.Bool(&off, 'D', "console-off")
	o.Bool(&on, 'E', "console-on")
	o.Int(&level, 'n', "console-level")
	if _, err := o.Parse(args); err != nil {
		return err
	}
	what := func(err error) error {
		if err != nil {
			return fmt.Errorf("klogctl failed: %s", applet.Reason(err))
		}
		return nil
	}
	switch {
	case clear:
		_, err := unix.Klogctl(logClear, nil)
		return what(err)
	case off:
		_, err := unix.Klogctl(logConsoleOff, nil)
		return what(err)
	case on:
		_, err := unix.Klogctl(logConsoleOn, nil)
		return what(err)
	case level > 0:
		_, _, errno := unix.Syscall(unix.SYS_SYSLOG, logConsoleLevel, 0, uintptr(level))
		if errno != 0 {
			return what(errno)
		}
		return nil
	case follow:
		return followLog(e, raw, human)
	}
	n, err := unix.Klogctl(logSize, nil)
	if err != nil {
		return what(err)
	}
	buf := make([]byte, max(n, 16<<10))
	action := logReadAll
	if readClear {
		action = logReadClear
	}
	if n, err = unix.Klogctl(action, buf); err != nil {
		return what(err)
	}
	for line := range bytes.Lines(buf[:n]) {
		writeLogLine(e, strings.TrimSuffix(string(line), "\n"), raw, human)
	}
	return nil
}

// writeLogLine shows one line <PRIORITY>[TIME] TEXT.
func writeLogLine(e *applet.Env, line string, raw, human bool) {
	if raw {
		e.Stdout.WriteString(line + "\n")
		return
	}
	if strings.HasPrefix(line, "<") {
		if i := strings.IndexByte(line, '>'); i > 0 {
			line = line[i+1:]
		}
	}
	if human && strings.HasPrefix(line, "[") {
		if i := strings.IndexByte(line, ']'); i > 0 {
			if sec, err := strconv.ParseFloat(strings.TrimSpace(line[1:i]), 64); err == nil {
				t := time.Now().Add(-uptime()).Add(time.Duration(sec * float64(time.Second)))
				line = "[" + t.Format("Mon Jan _2 15:04:05 2006") + line[i:]
			}
		}
	}
	e.Stdout.WriteString(line + "\n")
}

// followLog shows the log from /dev/kmsg, record by record, for ever.
func followLog(e *applet.Env, raw, human bool) error {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 8<<10)
	for {
		n, err := f.Read(buf)
		if err == io.EOF {
			return nil
		}
		if pe, ok := err.(*os.PathError); ok && pe.Err == unix.EPIPE {
			continue // records were lost meanwhile; the next read goes on
		}
		if err != nil {
			return err
		}
		head, text, ok := strings.Cut(strings.TrimSuffix(string(buf[:n]), "\n"), ";")
		f := strings.Split(head, ",")
		if !ok || len(f) < 3 {
			continue
		}
		text, _, _ = strings.Cut(text, "\n") // then come properties
		us, _ := strconv.ParseInt(f[2], 10, 64)
		writeLogLine(e, fmt.Sprintf("<%s>[%5d.%06d] %s", f[0], us/1e6, us%1e6, text), raw, human)
		if err := e.Stdout.Flush(); err != nil {
			return err
		}
	}
}

// Uname names the kernel and the machine.
func Uname(e *applet.Env, args []string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	fields := [...]struct {
		letter byte
		long   string
		text   string
		on     bool
	}{
		{letter: 's', long: "kernel-name", text: unix.ByteSliceToString(u.Sysname[:])},
		{letter: 'n', long: "nodename", text: unix.ByteSliceToString(u.Nodename[:])},
		{letter: 'r', long: "kernel-release", text: unix.ByteSliceToString(u.Release[:])},
		{letter: 'v', long: "kernel-version", text: unix.ByteSliceToString(u.Version[:])},
		{letter: 'm', long: "machine", text: unix.ByteSliceToString(u.Machine[:])},
		{letter: 'p', long: "processor", text: "unknown"},
		{letter: 'i', long: "hardware-platform", text: "unknown"},
		{letter: 'o', long: "operating-system", text: "GNU/Linux"},
	}
	var all bool
	var o applet.Options
	o.Bool(&all, 'a', "all")
	for i := range fields {
		o.Bool(&fields[i].on, fields[i].letter, fields[i].long)
	}
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) > 0 {
		return applet.Usagef("extra operand %s", applet.Quote(operands[0]))
	}
	var words []string
	for _, f := range fields {
		if f.on || all && f.text != "unknown" {
			words = append(words, f.text)
		}
	}
	if words == nil {
		words = []string{fields[0].text}
	}
	e.Stdout.WriteString(strings.Join(words, " ") + "\n")
	return nil
}

// Arch is uname -m.
func Arch(e *applet.Env, args []string) error { return Uname(e, append([]string{"-m"}, args...)) }

// Nproc counts the processors this process may use.
func Nproc(e *applet.Env, args []string) error {
	var all bool
	ignore := 0
	var o applet.Options
	o.Bool(&all, 0, "all")
	o.Int(&ignore, 0, "ignore")
	if _, err := o.Parse(args); err != nil {
		return err
	}
	n := runtime.NumCPU()
	if all {
		if list, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*"); err == nil && len(list) > 0 {
			n = len(list)
		}
	}
	fmt.Fprintln(e.Stdout, max(n-ignore, 1))
	return nil
}

// Sysctl shows and sets the kernel's parameters.
func Sysctl(e *applet.Env, args []string) error {
	var all, quiet, names, values, ignore, write bool
	file := ""
	load := false
	var o applet.Options
	o.Bool(&all, 'a', "all")
	o.Bool(&quiet, 'q', "quiet")
	o.Bool(&names, 'N', "names")
	o.Bool(&values, 'n', "values")
	o.Bool(&ignore, 'e', "ignore")
	o.Bool(&write, 'w', "write")
	o.Func('p', "load", func() { load = true })
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	show := func(path string) {
		name := strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")
		b, err := os.ReadFile(path)
		if err != nil {
			if !ignore && !all {
				e.Warnf("cannot read %s: %s", applet.Quote(name), applet.Reason(err))
			}
			return
		}
		switch {
		case names:
			e.Stdout.WriteString(name + "\n")
		case values:
			e.Stdout.Write(b)
		default:
			for line := range bytes.Lines(b) {
				fmt.Fprintf(e.Stdout, "%s = %s\n", name, bytes.TrimRight(line, "\n"))
			}
		}
	}
	set := func(assignment string) {
		name, value, _ := strings.Cut(assignment, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if err := os.WriteFile(sysctlPath(name), []byte(value+"\n"), 0); err != nil {
			if !ignore {
				e.Warnf("cannot set %s: %s", applet.Quote(name), applet.Reason(err))
			}
			return
		}
		if !quiet {
			fmt.Fprintf(e.Stdout, "%s = %s\n", name, value)
		}
	}
	switch {
	case load:
		if file = "/etc/sysctl.conf"; len(operands) > 0 {
			file = operands[0]
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			if line != "" && line[0] != '#' && line[0] != ';' {
				set(line)
			}
		}
		return nil
	case all:
		return filepath.WalkDir("/proc/sys", func(path string, ent os.DirEntry, err error) error {
			if err == nil && !ent.IsDir() {
				show(path)
			}
			return nil
		})
	case len(operands) == 0:
		return applet.Usagef("no variables specified")
	}
	for _, op := range operands {
		if strings.Contains(op, "=") {
			set(op)
			continue
		}
		if write {
			e.Warnf("%s must be of the form name=value", applet.Quote(op))
			continue
		}
		path := sysctlPath(op)
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			filepath.WalkDir(path, func(path string, ent os.DirEntry, err error) error {
				if err == nil && !ent.IsDir() {
					show(path)
				}
				return nil
			})
			continue
		}
		show(path)
	}
	return nil
}

// sysctlPath turns a.b/c into a path: dots and slashes change roles, so that a
// name may contain a dot.
func sysctlPath(name string) string {
	if strings.Contains(name, "/") && strings.IndexByte(name, '/') < strings.IndexByte(name+".", '.') {
		return "/proc/sys/" + name
	}
	return "/proc/sys/" + strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}
