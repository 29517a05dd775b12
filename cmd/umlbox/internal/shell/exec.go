package shell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
)

// external marks a command that the call handler wants from PATH although the
// interpreter has a builtin of its name.
const external = "umlbox-external:"

// call sees every command before it runs, and replaces those that the
// interpreter lacks or answers as no shell would.
func (s *Shell) call(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	switch args[0] {
	case jobCommand:
		return s.jobCall(ctx, args), nil
	case "fg", "bg", "jobs", "suspend":
		fmt.Fprintf(hc.Stderr, "sh: %s: no job control in this shell\n", args[0])
		return []string{"false"}, nil
	case "kill":
		out := []string{external + "kill"}
		for _, a := range args[1:] {
			out = append(out, s.jobs.processes(a)...)
		}
		return out, nil
	case "logout":
		return append([]string{"exit"}, args[1:]...), nil
	case "umask":
		return umask(hc, args[1:]), nil
	case "exec":
		if s.execs[hc.Pos.Offset()] && len(args) > 1 {
			return []string{"exit", strconv.Itoa(s.replace(hc, args[1:]))}, nil
		}
	}
	return args, nil
}

// umask shows or sets the file mode creation mask of the whole process.
func umask(hc interp.HandlerContext, args []string) []string {
	if len(args) == 0 {
		old := unix.Umask(0)
		unix.Umask(old)
		fmt.Fprintf(hc.Stdout, "%04o\n", old)
		return []string{"true"}
	}
	mask, err := strconv.ParseUint(args[0], 8, 12)
	if err != nil || len(args) > 1 || mask > 0o777 {
		fmt.Fprintf(hc.Stderr, "sh: umask: %s is not an octal mask\n", args[0])
		return []string{"false"}
	}
	unix.Umask(int(mask))
	return []string{"true"}
}

// lookup finds the program that name means, as POSIX searches PATH. On
// failure it returns the exit status.
func lookup(hc interp.HandlerContext, name string) (string, int, error) {
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(hc.Dir, path)
		}
		status, err := runnable(path)
		return path, status, err
	}
	status, failure := 127, errors.New("not found")
	for dir := range strings.SplitSeq(hc.Env.Get("PATH").String(), ":") {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(hc.Dir, dir)
		}
		path := dir + "/" + name
		st, err := runnable(path)
		if err == nil {
			return path, 0, nil
		}
		if st == 126 {
			status, failure = st, err
		}
	}
	return "", status, failure
}

func runnable(path string) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if err == unix.ENOENT || err == unix.ENOTDIR {
			return 127, errors.New("not found")
		}
		return 126, errors.New(applet.Reason(err))
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return 126, errors.New(applet.Reason(unix.EISDIR))
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return 126, errors.New(applet.Reason(err))
	}
	return 0, nil
}

// exported lists the variables for a command's environment.
func exported(env expand.Environ) []string {
	var list []string
	index := map[string]int{}
	for name, v := range env.Each {
		i, seen := index[name]
		keep := v.IsSet() && v.Exported && v.Kind == expand.String
		switch {
		case keep && seen:
			list[i] = name + "=" + v.String()
		case keep:
			index[name] = len(list)
			list = append(list, name+"="+v.String())
		case seen:
			list[i] = "" // unset, or no longer exported, in an inner scope
		}
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// exec runs an external command in a process of its own.
func (s *Shell) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	args = slices.Clone(args)
	args[0] = strings.TrimPrefix(args[0], external)
	path, status, err := lookup(hc, args[0])
	if err != nil {
		fmt.Fprintf(hc.Stderr, "sh: %s: %v\n", args[0], err)
		return interp.ExitStatus(status)
	}
	job := hc.Env.Get(jobVariable).String()
	cmd := s.command(hc, path, args, job != "")
	err = cmd.Start()
	if errors.Is(err, unix.ENOEXEC) {
		// A script without a #! line: another shell runs it.
		cmd = s.command(hc, "/proc/self/exe", append([]string{"sh", path}, args[1:]...), job != "")
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintf(hc.Stderr, "sh: %s: %s\n", args[0], applet.Reason(err))
		return interp.ExitStatus(126)
	}
	if job != "" {
		s.jobs.running(job, cmd.Process.Pid, true)
		defer s.jobs.running(job, cmd.Process.Pid, false)
	} else {
		s.jobs.foreground.Add(1)
		defer s.jobs.foreground.Add(-1)
	}
	return s.ended(hc, cmd.Wait(), job != "")
}

func (s *Shell) command(hc interp.HandlerContext, path string, args []string, background bool) *exec.Cmd {
	cmd := &exec.Cmd{
		Path: path, Args: args, Env: exported(hc.Env), Dir: hc.Dir,
		Stdin: hc.Stdin, Stdout: hc.Stdout, Stderr: hc.Stderr,
	}
	if hc.Stdin == nil || hc.Stdin == s.reader && background {
		cmd.Stdin = nil // the null device
	} else if hc.Stdin == s.reader {
		cmd.Stdin = os.Stdin
	}
	if background {
		// Out of reach of the terminal's ^C, which has no way to tell the
		// shell's jobs apart.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	return cmd
}

// ended turns what Wait says into an exit status.
func (s *Shell) ended(hc interp.HandlerContext, err error, background bool) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err != nil {
			fmt.Fprintf(hc.Stderr, "sh: %v\n", err)
			return interp.ExitStatus(126)
		}
		return nil
	}
	ws := exit.Sys().(syscall.WaitStatus)
	if !ws.Signaled() {
		return interp.ExitStatus(ws.ExitStatus())
	}
	sig := ws.Signal()
	switch {
	case sig == unix.SIGINT && !background:
		if cancel := s.cancel.Load(); cancel != nil {
			(*cancel)()
		}
	case sig != unix.SIGPIPE && sig != unix.SIGINT:
		core := ""
		if ws.CoreDump() {
			core = " (core dumped)"
		}
		fmt.Fprintf(hc.Stderr, "%s%s\n", applet.SignalText(sig), core)
	}
	if !background {
		s.killed.Store(true)
	}
	return interp.ExitStatus(128 + uint8(sig))
}

// replace makes this process the command, as exec means it. It returns only
// when that failed, with the exit status.
func (s *Shell) replace(hc interp.HandlerContext, args []string) int {
	path, status, err := lookup(hc, args[0])
	if err != nil {
		fmt.Fprintf(hc.Stderr, "sh: exec: %s: %v\n", args[0], err)
		return status
	}
	fail := func(err error) int {
		fmt.Fprintf(hc.Stderr, "sh: exec: %s: %s\n", args[0], applet.Reason(err))
		return 126
	}
	if err := os.Chdir(hc.Dir); err != nil {
		return fail(err)
	}
	for fd, stream := range []any{hc.Stdin, hc.Stdout, hc.Stderr} {
		f, ok := stream.(*os.File)
		switch {
		case !ok || f == nil:
			unix.Close(fd) // closed by the program, with <&- or >&-
		case f != s.reader && int(f.Fd()) != fd:
			if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
				return fail(err)
			}
		}
	}
	s.jobs.settle()
	s.giveBack()
	err = unix.Exec(path, args, exported(hc.Env))
	if err == unix.ENOEXEC {
		err = unix.Exec("/proc/self/exe", append([]string{"sh", path}, args[1:]...), exported(hc.Env))
	}
	return fail(err)
}
