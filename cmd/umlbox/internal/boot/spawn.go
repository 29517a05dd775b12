package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// defaultPath is the PATH of init's children, unless the kernel was given another.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// start runs an entry as the leader of a session of its own, on its terminal.
// It returns 0 when that failed, after it said why.
//
// Not os/exec: its Wait and our reaping would take each other's children.
func (in *initd) start(ent *entry) int {
	path := "/dev/console"
	if ent.terminal != "" {
		path = filepath.Join("/dev", ent.terminal)
	}
	tty, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil && ent.terminal != "" {
		in.say("%s: %s", path, applet.Reason(err))
		return 0
	}
	if err == nil {
		defer unix.Close(tty)
	} else {
		tty = 0 // no console device: what the kernel gave us
	}
	argv := ent.argv
	if ent.action == "askfirst" {
		argv = []string{self, "sh", "-c", `printf '\nPlease press Enter to activate this console. '; read _ && exec "$0" "$@"`}
		argv = append(argv, ent.argv...)
		if name, dash := strings.CutPrefix(ent.argv[0], "-"); dash {
			argv = append(argv[:4], append([]string{name, "-l"}, ent.argv[1:]...)...)
		}
	}
	program, argv, err := resolve(argv)
	if err != nil {
		in.say("%v", err)
		return 0
	}
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   childEnv(),
		Files: []uintptr{uintptr(tty), uintptr(tty), uintptr(tty)},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: applet.IsTerminal(tty)},
	}
	pid, err := syscall.ForkExec(program, argv, attr)
	if err != nil && attr.Sys.Setctty {
		attr.Sys.Setctty = false // another session's, and we may not steal it
		pid, err = syscall.ForkExec(program, argv, attr)
	}
	if err != nil {
		in.say("%s: %s", program, applet.Reason(err))
		return 0
	}
	ent.pid, ent.begun = pid, time.Now()
	in.running[pid] = ent
	return pid
}

// resolve finds the program of a command and the name it is called by: an
// applet of ours, or a login shell when a dash stands before it.
func resolve(argv []string) (program string, names []string, err error) {
	if argv[0] == self {
		return self, argv[1:], nil
	}
	name := strings.TrimPrefix(argv[0], "-")
	if program, err = exec.LookPath(name); err != nil {
		return "", nil, err
	}
	if name != argv[0] {
		argv = append([]string{"-" + filepath.Base(name)}, argv[1:]...)
	}
	return program, argv, nil
}

func childEnv() []string {
	env := os.Environ()
	for _, d := range []string{"PATH=" + defaultPath, "HOME=/", "TERM=linux"} {
		name, _, _ := strings.Cut(d, "=")
		if os.Getenv(name) == "" {
			env = append(env, d)
		}
	}
	return env
}
