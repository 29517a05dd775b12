// Package boot brings the guest up and down, and lets people in: init, getty,
// login and their relatives.
package boot

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// self is the program every child of init is an applet of.
const self = "/proc/self/exe"

// An initd is the running process 1.
type initd struct {
	e       *applet.Env
	signals chan os.Signal
	table   []entry
	running map[int]*entry // children that the table asked for
}

// Init is process 1. Its arguments are the kernel's: single, s, S or 1 for a
// shell before everything else, -c COMMAND to run one command and power off;
// what it does not know, the kernel did not know either, and means nothing.
// For any other process it is telinit: 0 and 6 ask process 1 to go down.
func Init(e *applet.Env, args []string) error {
	if os.Getpid() != 1 {
		return telinit(args)
	}
	in := &initd{e: e, running: map[int]*entry{}, signals: make(chan os.Signal, 64)}
	in.catchSignals()
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // ctrl-alt-del comes as SIGINT, to go down in order
	in.prepare()
	for i, arg := range args {
		if arg == "-c" && i+1 < len(args) {
			return in.command(args[i+1])
		}
	}
	if slices.ContainsFunc(args, func(a string) bool {
		return a == "single" || a == "s" || a == "S" || a == "1" || a == "-s"
	}) {
		in.wait(in.start(&entry{argv: []string{self, "sh", "-l"}}))
	}
	table, err := loadInittab("/etc/inittab")
	in.e.Warn(err)
	in.table = table
	in.once("sysinit", true)
	in.once("wait", true)
	in.once("once", false)
	in.respawn()
	return in.serve()
}

func telinit(args []string) error {
	if len(args) == 1 {
		switch args[0] {
		case "0":
			return unix.Kill(1, unix.SIGUSR2)
		case "6":
			return unix.Kill(1, unix.SIGTERM)
		case "q", "Q":
			return unix.Kill(1, unix.SIGHUP)
		}
	}
	return applet.Usagef("only process 1 is init; for others 0, 6 and q tell it what to do")
}

// catchSignals takes every signal that would end the process: the death of
// process 1 is the kernel's panic.
func (in *initd) catchSignals() {
	signal.Notify(in.signals,
		unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGQUIT, unix.SIGABRT, unix.SIGALRM, unix.SIGPIPE, unix.SIGPWR, unix.SIGTSTP,
		unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGSYS)
}

// command runs one command on the console and powers off. Who asks for a way down
// meanwhile need not wait for the command's end.
func (in *initd) command(text string) error {
	done := make(chan int, 1)
	pid := in.start(&entry{argv: []string{self, "sh", "-c", text}})
	go func() { done <- in.wait(pid) }()
	status := 0
	for running := true; running; {
		select {
		case status = <-done:
			running = false
		case sig := <-in.signals:
			switch sig {
			case unix.SIGTERM, unix.SIGINT:
				return in.down(unix.LINUX_REBOOT_CMD_RESTART)
			case unix.SIGUSR1:
				return in.down(unix.LINUX_REBOOT_CMD_HALT)
			case unix.SIGUSR2, unix.SIGPWR:
				return in.down(unix.LINUX_REBOOT_CMD_POWER_OFF)
			}
		}
	}
	if status != 0 {
		in.say("%q ended with status %d", text, status)
	}
	return in.down(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func (in *initd) say(format string, a ...any) {
	fmt.Fprintf(in.e.Stderr, "init: "+format+"\n", a...)
}

// serve answers signals for ever.
func (in *initd) serve() error {
	retry := time.NewTimer(0)
	if !retry.Stop() {
		<-retry.C
	}
	for {
		select {
		case <-retry.C:
		case sig := <-in.signals:
			switch sig {
			case unix.SIGCHLD:
				in.reap()
			case unix.SIGTERM:
				return in.down(unix.LINUX_REBOOT_CMD_RESTART)
			case unix.SIGINT:
				in.once("ctrlaltdel", true)
				return in.down(unix.LINUX_REBOOT_CMD_RESTART)
			case unix.SIGUSR1:
				return in.down(unix.LINUX_REBOOT_CMD_HALT)
			case unix.SIGUSR2, unix.SIGPWR:
				return in.down(unix.LINUX_REBOOT_CMD_POWER_OFF)
			case unix.SIGHUP:
				in.reload()
			}
		}
		if wait := in.respawn(); wait > 0 {
			retry.Reset(wait)
		}
	}
}

// reload reads the table again. What the new one does not have ends.
func (in *initd) reload() {
	table, err := loadInittab("/etc/inittab")
	if err != nil {
		in.e.Warn(err)
		return
	}
	for i := range table {
		for _, old := range in.table {
			if old.same(table[i]) {
				table[i].pid, table[i].begun, table[i].quick = old.pid, old.begun, old.quick
				if old.pid > 0 {
					in.running[old.pid] = &table[i]
				}
			}
		}
	}
	for _, old := range in.table {
		if old.pid > 0 && !slices.ContainsFunc(table, old.same) {
			unix.Kill(old.pid, unix.SIGTERM)
			delete(in.running, old.pid)
		}
	}
	in.table = table
}

// reap collects every child that ended; orphans become ours when their
// parents end.
func (in *initd) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		in.ended(pid)
	}
}

func (in *initd) ended(pid int) {
	ent := in.running[pid]
	if ent == nil {
		return
	}
	delete(in.running, pid)
	ent.pid = 0
	if time.Since(ent.begun) < quickDeath {
		ent.quick++
	} else {
		ent.quick = 0
	}
}

// wait waits for one child, reaping all others that end meanwhile, and
// returns its status as a shell gives it. A way down that is asked for
// meanwhile is left in the channel for serve.
func (in *initd) wait(pid int) int {
	for pid > 0 {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 127
		case got == pid:
			in.ended(pid)
			if ws.Signaled() {
				return 128 + int(ws.Signal())
			}
			return ws.ExitStatus()
		default:
			in.ended(got)
		}
	}
	return 127
}

// once runs the entries of an action, one after the other when it waits.
func (in *initd) once(action string, wait bool) {
	for i := range in.table {
		if in.table[i].action == action {
			pid := in.start(&in.table[i])
			if wait {
				in.wait(pid)
			}
		}
	}
}

// A child that ends within quickDeath of its start died quickly. After
// quickLimit of them in a row its next start waits for respawnPause.
const (
	quickDeath   = 2 * time.Second
	quickLimit   = 5
	respawnPause = 30 * time.Second
)

// respawn starts what shall always run and does not. It returns how long to
// wait before the next try, 0 for never.
func (in *initd) respawn() time.Duration {
	var next time.Duration
	for i := range in.table {
		ent := &in.table[i]
		if ent.pid != 0 || ent.action != "respawn" && ent.action != "askfirst" {
			continue
		}
		if ent.quick >= quickLimit {
			if pause := time.Until(ent.begun.Add(respawnPause)); pause > 0 {
				if !ent.told {
					in.say("%s ends again and again: it is started every %v", strings.Join(ent.argv, " "), respawnPause)
					ent.told = true
				}
				if next == 0 || pause < next {
					next = pause
				}
				continue
			}
		}
		if in.start(ent) <= 0 {
			ent.quick = quickLimit
			ent.begun = time.Now()
			if next == 0 || respawnPause < next {
				next = respawnPause
			}
		}
	}
	return next
}
