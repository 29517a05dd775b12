// Command hostcheck is the first program of the machines that the tests of hostfs boot. Its
// arguments are commands, separated by "then". What it and the test outside do in turn is
// agreed upon by files: both wait for those that the other makes, which is itself a test
// that changes of the host are seen.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		run(os.Args[1:])
		return
	}
	unix.Mkdir("/proc", 0o755)
	unix.Mount("proc", "/proc", "proc", 0, "")
	args := os.Args[1:]
	for len(args) > 0 {
		n := 0
		for n < len(args) && args[n] != "then" {
			n++
		}
		run(args[:n])
		args = args[min(n+1, len(args)):]
	}
	fmt.Println("hostcheck: done")
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run(args []string) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Printf("hostcheck: %q: %v\n%s", args, r, debug.Stack())
		}
	}()
	switch args[0] {
	case "mount":
		flags := uintptr(0)
		if len(args) > 4 {
			flags = unix.MS_RDONLY
		}
		os.MkdirAll(args[2], 0o755)
		show("mount "+args[3], unix.Mount(args[1], args[2], "hostfs", flags, args[3]))
	case "namespace":
		show("in a namespace", inNamespace(1000, "/init", "namespaced", args[1]))
	case "namespaced":
		show("hostfs", unix.Mount("none", args[1], "hostfs", 0, "/"))
		show("ext4", unix.Mount("/dev/ubdb", args[1], "ext4", 0, ""))
		show("tmpfs", unix.Mount("none", args[1], "tmpfs", 0, ""))
	case "newmount":
		newMount(args[1], args[2], args[3])
	case "restart":
		restart(args[1])
	case "remount":
		show("remount "+args[2], unix.Mount("none", args[1], "", unix.MS_REMOUNT, args[2]))
	case "cat":
		text, err := os.ReadFile(args[1])
		show("cat "+args[1], string(text), err)
	case "run":
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		show("run", cmd.Run())
	case "exhaust":
		exhaust(args[1])
	case "attack":
		attack(args[1], args[2])
	case "fresh":
		fresh(args[1])
	case "grow":
		grow(args[1])
	case "growmore":
		growMore(args[1])
	case "maps":
		maps(args[1])
	case "own":
		own(args[1])
	case "owned":
		owned(args[1])
	case "plain":
		plain(args[1])
	case "emergency":
		emergency(args[1])
	case "readonly":
		readonly(args[1])
	case "speed":
		speed(args[1])
	default:
		panic("unknown command")
	}
}

// show prints what happened, errors by their names.
func show(what string, values ...any) {
	var out []string
	for _, v := range values {
		var errno unix.Errno
		switch e := v.(type) {
		case nil:
			out = append(out, "ok")
		case error:
			if errors.As(e, &errno) {
				out = append(out, unix.ErrnoName(errno))
			} else {
				out = append(out, e.Error())
			}
		case string:
			out = append(out, fmt.Sprintf("%q", e))
		default:
			out = append(out, fmt.Sprint(v))
		}
	}
	fmt.Println(what+":", strings.Join(out, " "))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// await waits until the test outside has made a file.
func await(path string) {
	for range 6000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	panic("the test did not make " + path)
}

// tell makes a file that the test outside waits for.
func tell(path string) { must(os.WriteFile(path, nil, 0o644)) }

func read(path string) string {
	b, err := os.ReadFile(path)
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return string(bytes.TrimSpace(b))
}

// newMount mounts by the calls of newer mount(8): a directory, and uid=.
func newMount(at, dir, uid string) {
	os.MkdirAll(at, 0o755)
	fs, err := unix.Fsopen("hostfs", 0)
	must(err)
	show("directory", unix.FsconfigSetFlag(fs, dir))
	show("uid", unix.FsconfigSetString(fs, "uid", uid))
	show("create", unix.FsconfigCreate(fs))
	mnt, err := unix.Fsmount(fs, 0, 0)
	must(err)
	show("newmount", unix.MoveMount(mnt, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// restart boots the machine again until the test outside has seen five boots.
func restart(d string) {
	unix.Mmap(must2(unix.Open(d+"/map", unix.O_RDWR, 0)), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	boots := len(read(d + "/boots"))
	must(os.WriteFile(d+"/boots", bytes.Repeat([]byte("x"), boots+1), 0o644))
	tell(d + "/booted?")
	await(d + "/go")
	must(os.Remove(d + "/go"))
	if boots < 4 {
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

func must2(fd int, err error) int {
	must(err)
	return fd
}

// fresh holds what a guest sees of changes on the host.
func fresh(d string) {
	f, err := os.Open(d + "/file")
	must(err)
	show("before", read(d+"/file"), names(d+"/dir"))
	tell(d + "/changed?")
	await(d + "/changed")
	st, err := os.Stat(d + "/file")
	must(err)
	show("changed", read(d+"/file"), st.Size(), st.Mode().String(), st.ModTime().Unix())
	show("directory", names(d+"/dir"))
	tell(d + "/replaced?")
	await(d + "/replaced")
	show("replaced", read(d+"/file"))
	old := make([]byte, 100)
	n, err := f.ReadAt(old, 0)
	show("old one", string(old[:n]), err)
	show("became a directory", names(d+"/other"))
	show("gone", read(d+"/gone"), read(d+"/moved"))
	// A mount stands on a directory until the host takes that away.
	must(os.Mkdir(d+"/point", 0o755))
	must(unix.Mount("x", d+"/point", "tmpfs", 0, ""))
	must(os.WriteFile(d+"/point/inside", []byte("x"), 0o644))
	tell(d + "/point?")
	await(d + "/pointless")
	show("mount point", read(d+"/point/inside"), !strings.Contains(read("/proc/mounts"), "/point"))
}

func names(d string) string {
	entries, err := os.ReadDir(d)
	if err != nil {
		return fmt.Sprint(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

// exhaust opens files until the machine gives out no more, and then some again.
func exhaust(d string) {
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 10000, Max: 10000})
	var fds []int
	var err error
	for i := 0; err == nil && i < 5000; i++ {
		var fd int
		if fd, err = unix.Open(fmt.Sprintf("%s/f%d", d, i), unix.O_CREAT|unix.O_RDWR, 0o644); err == nil {
			fds = append(fds, fd)
		}
	}
	show("exhausted", err, len(fds) > 20)
	show("look on", read(d+"/file"))
	for _, fd := range fds {
		unix.Close(fd)
	}
	show("again", read(d+"/file"), len(strings.Fields(names(d))) == len(fds)+1)
	paths := 0
	for i := range 2000 {
		if fd, err := unix.Open(fmt.Sprintf("%s/f%d", d, i%len(fds)), unix.O_PATH, 0); err == nil {
			paths++
			defer unix.Close(fd)
		}
	}
	show("by path", paths == 2000)
}

// maps holds that a shared mapping and the host's file are the same bytes, and that one
// that the host shortens faults.
func maps(d string) {
	f, err := os.OpenFile(d+"/map", os.O_RDWR, 0)
	must(err)
	b, err := unix.Mmap(int(f.Fd()), 0, 4*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	ro, err := os.Open(d + "/map")
	must(err)
	r, err := unix.Mmap(int(ro.Fd()), 0, 4*4096, unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	private, err := unix.Mmap(int(ro.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	must(err)
	show("mapped", string(b[:5]), string(r[:5]), string(private[:5]))
	copy(b, "guest")
	private[1] = 'P'
	show("stored", string(r[:5]), read(d + "/map")[:5])
	tell(d + "/stored?")
	await(d + "/stored")
	show("host's", string(b[4096:4100]), string(r[4096:4100]))
	tell(d + "/short?")
	await(d + "/short")
	show("shortened", fault(func() byte { return b[2*4096] }), fault(func() byte { b[3*4096] = 1; return 0 }), fault(func() byte { return b[10] }))
	// The kernel itself meets the hole in a mapping.
	_, err = unix.Pwrite(int(f.Fd()), b[2*4096:3*4096], 0)
	show("write from behind the end", err)
}

// fault says whether touch faulted.
func fault(touch func() byte) (faulted bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { faulted = recover() != nil }()
	runtime.KeepAlive(touch())
	return false
}
