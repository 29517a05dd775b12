package system

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
	"golang.org/x/sys/unix"
)

// replace makes this process the command. It returns only an error: with
// status 127 when there is no such command, 126 when it cannot run.
func replace(e *applet.Env, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err == nil || errors.Is(err, exec.ErrDot) {
		err = unix.Exec(path, argv, os.Environ())
	}
	return cannotRun(e, argv[0], err)
}

func cannotRun(e *applet.Env, name string, err error) error {
	status := applet.Status(126)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		status = 127
		err = unix.ENOENT
	}
	fmt.Fprintf(e.Stderr, "%s: %s: %s\n", e.Name, applet.Quote(name), applet.Reason(err))
	return status
}

// outcome is the exit status of a command that was waited for, as a shell
// gives it.
func outcome(e *applet.Env, name string, err error) error {
	var exit *exec.ExitError
	if err == nil {
		return nil
	}
	if !errors.As(err, &exit) {
		return cannotRun(e, name, err)
	}
	ws := exit.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return applet.Status(128 + int(ws.Signal()))
	}
	return applet.Status(ws.ExitStatus())
}

// Env runs a command in a changed environment, or shows the environment.
func Env(e *applet.Env, args []string) error {
	var ignore, zero bool
	var dir string
	var unset []string
	var o applet.Options
	o.InOrder = true
	o.Bool(&ignore, 'i', "ignore-environment")
	o.Bool(&zero, '0', "null")
	o.String(&dir, 'C', "chdir")
	o.Value('u', "unset", func(s string) error { unset = append(unset, s); return nil })
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) > 0 && operands[0] == "-" {
		ignore, operands = true, operands[1:]
	}
	search := os.Getenv("PATH")
	if ignore {
		os.Clearenv()
	}
	for _, name := range unset {
		os.Unsetenv(name)
	}
	for len(operands) > 0 {
		name, value, ok := strings.Cut(operands[0], "=")
		if !ok || name == "" {
			break
		}
		os.Setenv(name, value)
		operands = operands[1:]
	}
	if dir != "" {
		if err := os.Chdir(dir); err != nil {
			fmt.Fprintf(e.Stderr, "env: cannot change directory to %s: %s\n", applet.Quote(dir), applet.Reason(err))
			return applet.Status(125)
		}
	}
	if len(operands) > 0 {
		if _, set := os.LookupEnv("PATH"); !set {
			// The command is still found where it was.
			os.Setenv("PATH", search)
			path, err := exec.LookPath(operands[0])
			os.Unsetenv("PATH")
			if err == nil {
				err = unix.Exec(path, operands, os.Environ())
			}
			return cannotRun(e, operands[0], err)
		}
		return replace(e, operands)
	}
	for _, kv := range os.Environ() {
		if zero {
			e.Stdout.WriteString(kv + "\x00")
		} else {
			e.Stdout.WriteString(kv + "\n")
		}
	}
	return nil
}

// Printenv shows variables of the environment.
func Printenv(e *applet.Env, args []string) error {
	var o applet.Options
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return Env(e, nil)
	}
	for _, n := range names {
		if v, ok := os.LookupEnv(n); ok {
			e.Stdout.WriteString(v + "\n")
		} else {
			e.Fail()
		}
	}
	return nil
}

// Which finds commands in PATH.
func Which(e *applet.Env, args []string) error {
	var all bool
	var o applet.Options
	o.Bool(&all, 'a', "")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	runs := func(path string) bool {
		st, err := os.Stat(path)
		return err == nil && st.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
	}
	for _, name := range names {
		found := false
		if strings.Contains(name, "/") {
			if found = runs(name); found {
				e.Stdout.WriteString(name + "\n")
			}
		} else {
			for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
				if path := filepath.Join(dir, name); runs(path) {
					e.Stdout.WriteString(path + "\n")
					if found = true; !all {
						break
					}
				}
			}
		}
		if !found {
			e.Fail()
		}
	}
	return nil
}

// Chroot runs a command with another root directory, and as another user. Users and
// groups are numbers, as the new root may lack their names.
func Chroot(e *applet.Env, args []string) error {
	var stay bool
	uid, gid := -1, -1
	var groups []int
	var o applet.Options
	o.InOrder = true
	o.Bool(&stay, 0, "skip-chdir")
	o.Value(0, "userspec", func(s string) (err error) {
		user, group, _ := strings.Cut(s, ":")
		if user != "" {
			uid, err = idNumber(user)
		}
		if group != "" && err == nil {
			gid, err = idNumber(group)
		}
		return err
	})
	o.Value(0, "groups", func(s string) error {
		groups = []int{}
		for _, g := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
			n, err := idNumber(g)
			if err != nil {
				return err
			}
			groups = append(groups, n)
		}
		return nil
	})
	operands, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	fail := func(format string, a ...any) error {
		fmt.Fprintf(e.Stderr, "chroot: "+format+"\n", a...)
		return applet.Status(125)
	}
	if stay && filepath.Clean(operands[0]) != "/" {
		return fail("--skip-chdir needs / as the new root")
	}
	err = unix.Chroot(operands[0])
	if err == nil && !stay {
		err = os.Chdir("/")
	}
	if err != nil {
		return fail("cannot change root directory to %s: %s", applet.Quote(operands[0]), applet.Reason(err))
	}
	if groups != nil || uid >= 0 {
		if err := syscall.Setgroups(groups); err != nil {
			return fail("failed to set supplementary groups: %s", applet.Reason(err))
		}
	}
	if gid >= 0 {
		if err := syscall.Setgid(gid); err != nil {
			return fail("failed to set group-ID: %s", applet.Reason(err))
		}
	}
	if uid >= 0 {
		if err := syscall.Setuid(uid); err != nil {
			return fail("failed to set user-ID: %s", applet.Reason(err))
		}
	}
	if len(operands) == 1 {
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		operands = append(operands, shell, "-i")
	}
	return replace(e, operands[1:])
}

// idNumber is the number of a user or group.
func idNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, applet.Usagef("%s is no number of a user or group", applet.Quote(s))
	}
	return int(n), nil
}

// Nohup runs a command that outlives the terminal.
func Nohup(e *applet.Env, args []string) error {
	if len(args) == 0 {
		return applet.Usagef("missing operand")
	}
	signal.Ignore(unix.SIGHUP)
	if applet.IsTerminal(1) {
		f, err := os.OpenFile("nohup.out", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		fmt.Fprintln(e.Stderr, "nohup: appending output to 'nohup.out'")
		if err := unix.Dup3(int(f.Fd()), 1, 0); err != nil {
			return err
		}
	}
	if applet.IsTerminal(2) {
		if err := unix.Dup3(1, 2, 0); err != nil {
			return err
		}
	}
	return replace(e, args)
}

// Setsid runs a command in a session of its own.
func Setsid(e *applet.Env, args []string) error {
	var control, wait bool
	var o applet.Options
	o.InOrder = true
	o.Bool(&control, 'c', "ctty")
	o.Bool(&wait, 'w', "wait")
	argv, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(argv) == 0 {
		return applet.Usagef("no command specified")
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: control}
	if unix.Getpgrp() != unix.Getpid() {
		// Not the leader of a group: this process can become the session's.
		if _, err := unix.Setsid(); err != nil {
			return err
		}
		if control {
			if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 1); err != nil {
				return fmt.Errorf("failed to set the controlling terminal: %s", applet.Reason(err))
			}
		}
		return replace(e, argv)
	}
	if err := cmd.Start(); err != nil {
		return cannotRun(e, argv[0], err)
	}
	if !wait {
		return nil
	}
	return outcome(e, argv[0], cmd.Wait())
}

// Nice runs a command with another priority.
func Nice(e *applet.Env, args []string) error {
	step := 10
	var o applet.Options
	o.InOrder = true
	o.Int(&step, 'n', "adjustment")
	argv, err := o.Parse(args)
	if err != nil {
		return err
	}
	now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	now = 20 - now // as the system call gives it
	if len(argv) == 0 {
		fmt.Fprintln(e.Stdout, now)
		return nil
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, now+step); err != nil {
		fmt.Fprintf(e.Stderr, "nice: cannot set niceness: %s\n", applet.Reason(err))
	}
	return replace(e, argv)
}

// Time runs a command and tells how long it took.
func Time(e *applet.Env, args []string) error {
	var posix bool
	var o applet.Options
	o.InOrder = true
	o.Bool(&posix, 'p', "portability")
	argv, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(argv) == 0 {
		return applet.Usagef("no command specified")
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// They are the command's. Caught, not ignored: the command would inherit that.
	catch := make(chan os.Signal, 1)
	signal.Notify(catch, unix.SIGINT, unix.SIGQUIT)
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	var user, system time.Duration
	if ps := cmd.ProcessState; ps != nil {
		user, system = ps.UserTime(), ps.SystemTime()
		form := "real\t%dm %.2fs\nuser\t%dm %.2fs\nsys\t%dm %.2fs\n"
		split := func(d time.Duration) (int, float64) { return int(d / time.Minute), (d % time.Minute).Seconds() }
		rm, rs := split(took)
		um, us := split(user)
		sm, ss := split(system)
		if posix {
			fmt.Fprintf(e.Stderr, "real %.2f\nuser %.2f\nsys %.2f\n", took.Seconds(), user.Seconds(), system.Seconds())
		} else {
			fmt.Fprintf(e.Stderr, form, rm, rs, um, us, sm, ss)
		}
	}
	return outcome(e, argv[0], err)
}

// Timeout runs a command for a limited time.
func Timeout(e *applet.Env, args []string) error {
	sig, grace := unix.SIGTERM, time.Duration(0)
	var preserve, foreground bool
	var o applet.Options
	o.InOrder = true
	o.Value('s', "signal", func(s string) error {
		var ok bool
		if sig, ok = applet.SignalNumber(s); !ok {
			return applet.Usagef("%s: invalid signal", applet.Quote(s))
		}
		return nil
	})
	o.Value('k', "kill-after", func(s string) (err error) { grace, err = clock.Duration(s); return err })
	o.Bool(&preserve, 0, "preserve-status")
	o.Bool(&foreground, 0, "foreground")
	operands, err := o.Parse(args)
	if err == nil && len(operands) < 2 {
		err = applet.Usagef("missing operand")
	}
	var limit time.Duration
	if err == nil {
		limit, err = clock.Duration(operands[0])
	}
	if err != nil {
		return err
	}
	argv := operands[1:]
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !foreground}
	if err := cmd.Start(); err != nil {
		return cannotRun(e, argv[0], err)
	}
	target := -cmd.Process.Pid
	if foreground {
		target = cmd.Process.Pid
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	alarm, expired := make(<-chan time.Time), false
	if limit > 0 {
		alarm = time.After(limit)
	}
	for {
		select {
		case err := <-ended:
			if expired && !preserve {
				if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == unix.SIGKILL {
					return applet.Status(137)
				}
				return applet.Status(124)
			}
			return outcome(e, argv[0], err)
		case s := <-signals:
			unix.Kill(target, s.(unix.Signal))
		case <-alarm:
			if expired {
				unix.Kill(target, unix.SIGKILL)
				continue
			}
			expired = true
			unix.Kill(target, sig)
			unix.Kill(target, unix.SIGCONT)
			if grace > 0 {
				alarm = time.After(grace)
			}
		}
	}
}

// Watch runs a command again and again and shows its output on a cleared screen.
func Watch(e *applet.Env, args []string) error {
	interval := 2 * time.Second
	var noTitle, direct, onError, onChange bool
	var o applet.Options
	o.InOrder = true
	o.Value('n', "interval", func(s string) (err error) { interval, err = clock.Duration(s); return err })
	o.Bool(&noTitle, 't', "no-title")
	o.Bool(&direct, 'x', "exec")
	o.Bool(&onError, 'e', "errexit")
	o.Bool(&onChange, 'g', "chgexit")
	argv, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(argv) == 0 {
		return applet.Usagef("no command specified")
	}
	title := strings.Join(argv, " ")
	if !direct {
		argv = []string{"sh", "-c", title}
	}
	var last []byte
	for first := true; ; first = false {
		cmd := exec.Command(argv[0], argv[1:]...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return cannotRun(e, argv[0], err)
		}
		lines := slices.Collect(strings.Lines(string(out)))
		e.Stdout.WriteString("\x1b[H\x1b[J")
		height := 1 << 30
		if ws, werr := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); werr == nil && ws.Row > 0 {
			height = int(ws.Row)
		}
		if !noTitle {
			fmt.Fprintf(e.Stdout, "Every %ss: %s    %s\n\n", strconv.FormatFloat(interval.Seconds(), 'f', 1, 64), title, time.Now().Format("Mon Jan _2 15:04:05 2006"))
			height -= 2
		}
		for _, l := range lines[:min(len(lines), max(height-1, 1))] {
			e.Stdout.WriteString(l)
		}
		if err := e.Stdout.Flush(); err != nil {
			return err
		}
		if onError && err != nil || onChange && !first && string(out) != string(last) {
			return outcome(e, argv[0], err)
		}
		last = out
		time.Sleep(interval)
	}
}
