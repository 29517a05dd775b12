// Command fscheck tries a filesystem from within: hundreds of small experiments with
// system calls, one line of output each. Nothing in the output depends on the machine
// or the moment, so that two filesystems that behave alike print the same lines. Tests
// run it on the guest's ext4 and on a real kernel's and compare.
//
//	fscheck calls DIR           the experiments
//	fscheck values DIR          large values of attributes
//	fscheck projects DIR        files of projects and of many owners
//	fscheck fsx DIR SEED N      random operations on one file against a model
//	fscheck stress DIR SEED N P random operations on a tree by P processes
//	fscheck speed DIR           sequential and metadata speed
//	fscheck mounts DEVICE DIR   mount(2) with options
//	fscheck defaults DEVICE DIR mount options over those of the superblock
//	fscheck struck DEVICE DIR   use a filesystem that is damaged
//	fscheck mounted DEVICE DIR COMMAND …  the command with the device mounted
//	fscheck modules FILE …      load modules into a kernel that takes them
//	fscheck panics DEVICE DIR   the same where the machine shall panic
//	fscheck overlay DIR         an overlay filesystem with its layers in DIR
//	fscheck exec DIR PROG …     run a program in DIR, with the environment of a login
//	fscheck fill FILE MIB       make a file
//	fscheck hold FILE SECONDS   map a file and keep it mapped
//	fscheck fragment FILE PAGES make a file in many pieces and map it
//	fscheck remove FILE         remove it
//	fscheck many DIR N          a directory of many files
//	fscheck crowd DIR N         N files in one directory, and N links of one file
//	fscheck readonly DIR        change files and remount the root read-only
//	fscheck freeze DEVICE DIR   freeze a filesystem, change it and thaw it
//	fscheck frozen DEVICE DIR   freeze a filesystem and wait to be killed
//	fscheck discard DIR MIB     write, remove, give the space back
//	fscheck full DIR            fill the disk
//	fscheck patch FILE SEED N   change a file in small pieces while it is mapped
//	fscheck leave DIR           leave a process behind with files in use
//	fscheck lose DIR SECONDS    make files, synced and not, and wait to be killed
//
// As process 1 it does the same and then powers the machine off; the line
// "fscheck: exit N" tells the status. Further commands follow after "then".
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	args := os.Args[1:]
	if os.Getpid() == 1 {
		os.Exit(initialise(args))
	}
	os.Exit(run(args))
}

// initialise is main as process 1.
func initialise(args []string) int {
	unix.Mkdir("/proc", 0o755)
	unix.Mount("proc", "/proc", "proc", 0, "")
	unix.Mount("", "/", "", unix.MS_REMOUNT, "")
	status := 0
	for len(args) > 0 {
		n := 0
		for n < len(args) && args[n] != "then" {
			n++
		}
		if s := runChild(args[:n]); s != 0 {
			status = s
		}
		args = args[min(n+1, len(args)):]
	}
	fmt.Printf("fscheck: exit %d\n", status)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	return status
}

// runChild runs a command as a process of its own, so that a crash of it is seen.
func runChild(args []string) int {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Printf("fscheck: %v\n", err)
	return 126
}

func run(args []string) (status int) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Printf("fscheck: %v\n%s", r, debug.Stack())
			status = 2
		}
	}()
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: fscheck calls|fsx|stress|speed DIR …")
		return 2
	}
	command, dir, args := args[0], args[1], args[2:]
	number := func(k int, def int) int {
		if k < len(args) {
			if n, err := strconv.Atoi(args[k]); err == nil {
				return n
			}
		}
		return def
	}
	switch command {
	case "exec":
		return execute(dir, args)
	case "mounts":
		return mounts(dir, args[0])
	case "defaults":
		return defaults(dir, args[0])
	case "options":
		list := func(s string) []string { return strings.Split(s, ";") }
		return options(list(dir), args[0], list(args[1]), list(args[2]))
	case "damage":
		return damage(dir, args[0])
	case "struck":
		return struck(dir, args[0])
	case "mounted":
		must(os.MkdirAll(args[0], 0o755))
		must(unix.Mount(dir, args[0], "ext4", 0, ""))
		status := run(args[1:])
		must(unix.Unmount(args[0], 0))
		return status
	case "modules":
		for _, path := range append([]string{dir}, args...) {
			must(unix.FinitModule(open(path, unix.O_RDONLY, 0), "", 0))
		}
		return 0
	case "panics":
		must(os.MkdirAll(args[0], 0o755))
		must(unix.Mount(dir, args[0], "ext4", 0, "errors=panic"))
		os.ReadDir(args[0] + "/bad")
		time.Sleep(time.Minute)
		return 1
	case "freeze", "frozen":
		return freeze(dir, args[0], command == "frozen")
	case "fill":
		return fill(dir, number(0, 1))
	case "hold":
		return hold(dir, number(0, 1))
	case "fragment":
		return fragment(dir, number(0, 1000))
	case "remove":
		must(os.Remove(dir))
		return 0
	case "full":
		return full(dir)
	case "fullas":
		return fullas(dir + "/user")
	case "hostile":
		return hostile(dir, args[0], int64(number(1, 4<<20)))
	case "grow":
		return grow(dir, strings.Split(args[0], ","))
	case "growbusy":
		return growBusy(dir, strings.Split(args[0], ","))
	case "patch":
		return patch(dir, int64(number(0, 1)), number(1, 1000))
	case "whoami":
		return whoami()
	case "exit":
		n, _ := strconv.Atoi(dir)
		return n
	}
	must(os.MkdirAll(dir, 0o755))
	switch command {
	case "calls":
		return calls(dir)
	case "values":
		return values(dir)
	case "projects":
		return projects(dir)
	case "overlay":
		return overlays(dir)
	case "user":
		return userCalls(dir)
	case "locker":
		return locker(dir)
	case "fsx":
		return fsx(dir, int64(number(0, 1)), number(1, 2000))
	case "stress":
		return stress(dir, int64(number(0, 1)), number(1, 1000), number(2, 4))
	case "worker":
		return worker(dir, int64(number(0, 1)), number(1, 1000), number(2, 0))
	case "speed":
		return speed(dir)
	case "many":
		return many(dir, number(0, 1000))
	case "crowd":
		return crowd(dir, number(0, 1000))
	case "readonly":
		return readonly(dir)
	case "discard":
		return discard(dir, number(0, 1))
	case "leave":
		return leave(dir)
	case "leaver":
		return leaver(dir)
	case "journal":
		return journal(dir)
	case "lose":
		return lose(dir, number(0, 0))
	}
	fmt.Fprintf(os.Stderr, "fscheck: unknown command %s\n", command)
	return 2
}

// execute runs a program in a directory, which is made.
func execute(dir string, argv []string) int {
	must(os.MkdirAll(dir, 0o755))
	unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, "")
	unix.Mount("sysfs", "/sys", "sysfs", 0, "")
	must(os.MkdirAll("/dev/shm", 0o1777))
	must(os.Setenv("PATH", "/bin:/usr/bin:/sbin:/usr/sbin"))
	must(os.Setenv("POSIX_DIR", dir))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Printf("fscheck: %v\n", err)
		return 126
	}
	if err != nil {
		fmt.Printf("fscheck: %s: %v\n", argv[0], err)
		return 1
	}
	return 0
}

// must stops everything: an experiment's preparation failed.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// show prints a line.
func show(what string, results ...any) {
	var b strings.Builder
	for _, r := range results {
		b.WriteByte(' ')
		switch r := r.(type) {
		case nil:
			b.WriteString("ok")
		case error:
			b.WriteString(errName(r))
		case []byte:
			fmt.Fprintf(&b, "%q", r)
		case string:
			fmt.Fprintf(&b, "%q", r)
		default:
			fmt.Fprint(&b, r)
		}
	}
	fmt.Printf("%s:%s\n", what, b.String())
}

// errName is an error's name in C.
func errName(err error) string {
	var e unix.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// names is the sorted content of a directory.
func names(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errName(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// write makes a file with content.
func write(path, content string) {
	must(os.WriteFile(path, []byte(content), 0o644))
}

// read is the content of a file, or the error's name.
func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return errName(err)
	}
	return string(b)
}

// open opens a file and must succeed.
func open(path string, flags int, mode uint32) int {
	fd, err := unix.Open(path, flags, mode)
	if err != nil {
		panic(fmt.Errorf("open %s: %w", path, err))
	}
	return fd
}

// stat is lstat(2), which must succeed.
func stat(path string) unix.Stat_t {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		panic(fmt.Errorf("stat %s: %w", path, err))
	}
	return st
}

// section gives an experiment a directory of its own.
func section(dir, name string, f func(dir string)) {
	d := dir + "/" + name
	must(os.RemoveAll(d))
	must(os.MkdirAll(d, 0o755))
	fmt.Printf("# %s\n", name)
	f(d)
	if err := os.RemoveAll(d); err != nil {
		show(name+" removed", err)
	}
}
