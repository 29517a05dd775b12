// Command guest is the first program of the machines that the tests boot. Its
// arguments are commands, done in turn.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	for _, arg := range os.Args[1:] {
		name, value, _ := strings.Cut(arg, ":")
		do(name, value)
	}
	syscall.Sync()
	check("poweroff", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}

func check(what string, err error) {
	if err != nil {
		fmt.Printf("guest: %s: %v\n", what, err)
	}
}

func do(name, value string) {
	switch name {
	case "say":
		fmt.Println(value)
	case "end":
		os.Exit(0)
	case "exit":
		n, _ := strconv.Atoi(value)
		os.Exit(n)
	case "kill":
		n, _ := strconv.Atoi(value)
		check("kill", syscall.Kill(os.Getpid(), syscall.Signal(n)))
	case "fault":
		// Go's runtime handles the signal otherwise.
		var action [4]uint64
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGSEGV), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		*(*byte)(unsafe.Add(nil, len(os.Args))) = 0
	case "grow":
		grow(value)
	case "fill":
		fill(value)
	case "spawn":
		spawn(value)
	case "begin":
		begin(value)
	case "key":
		_, err := os.Stdin.Read(make([]byte, 1))
		check("key", err)
	case "echo":
		n, _ := strconv.Atoi(value)
		fmt.Println("echoing")
		for in := bufio.NewScanner(os.Stdin); n > 0 && in.Scan(); n-- {
			fmt.Printf("line %q\n", in.Text())
		}
	case "halt":
		check(name, syscall.Reboot(syscall.LINUX_REBOOT_CMD_HALT))
	case "restart":
		check(name, syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART))
	case "mount":
		f := strings.Split(value, ",")
		os.MkdirAll(f[1], 0o755)
		check(value, syscall.Mount(f[0], f[1], f[2], 0, strings.Join(f[3:], ",")))
	case "remount":
		f := strings.Split(value, ",")
		flags := uintptr(syscall.MS_REMOUNT)
		if f[1] == "ro" {
			flags |= syscall.MS_RDONLY
		}
		check(value, syscall.Mount("", f[0], "", flags, ""))
	case "sync":
		syscall.Sync()
	case "umount":
		check(value, syscall.Unmount(value, 0))
	case "cat":
		text, err := os.ReadFile(value)
		check(value, err)
		fmt.Printf("== %s\n%s", value, text)
	case "write":
		path, text, _ := strings.Cut(value, ",")
		check(value, os.WriteFile(path, []byte(text), 0o644))
	case "ls":
		entries, err := os.ReadDir(value)
		check(value, err)
		for _, e := range entries {
			fmt.Println(e.Name())
		}
	case "stat":
		var st syscall.Stat_t
		check(value, syscall.Lstat(value, &st))
		fmt.Printf("stat %s dev=%d:%d mode=%o rdev=%d:%d\n", value, st.Dev>>8&0xfff, st.Dev&0xff, st.Mode, st.Rdev>>8&0xfff, st.Rdev&0xff)
	case "uname":
		var u syscall.Utsname
		check(name, syscall.Uname(&u))
		fmt.Println("uname", text(u.Sysname[:]), text(u.Nodename[:]), text(u.Release[:]), text(u.Version[:]), text(u.Machine[:]))
	case "args":
		fmt.Printf("args %q\nenv %q\n", os.Args, os.Environ())
	case "cpus":
		fmt.Println("cpus", runtime.NumCPU())
	case "hostname":
		check(name, syscall.Sethostname([]byte(value)))
	case "settime":
		n, _ := strconv.ParseInt(value, 10, 64)
		check(name, syscall.Settimeofday(&syscall.Timeval{Sec: n}))
		fmt.Println("time", time.Now().Unix())
	case "beat":
		for n := 0; ; n++ {
			fmt.Println("beat", n, time.Now().UnixNano())
			time.Sleep(2 * time.Millisecond)
		}
	case "spin":
		fmt.Println("spinning")
		for {
		}
	case "walk":
		filepath.WalkDir(value, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				fmt.Println("file", path)
			}
			return nil
		})
		fmt.Println("walked")
	case "sleep":
		d, _ := time.ParseDuration(value)
		time.Sleep(d)
	case "forever":
		fmt.Println("waiting")
		time.Sleep(1 << 62)
	case "count":
		count(value)
	case "fallocate":
		fallocate(value)
	case "call":
		call(value)
	case "locksocket":
		lockSocket()
	case "ways":
		ways(value)
	case "modload":
		_, _, errno := syscall.Syscall(syscall.SYS_INIT_MODULE, 0, 0, uintptr(unsafe.Pointer(&[1]byte{})))
		fmt.Println("modload", errno)
	case "sigwait":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
		fmt.Println("waiting")
		fmt.Println("got", <-c)
	default:
		fmt.Println("guest: unknown command", name)
	}
}

func text(b []int8) string {
	var s []byte
	for _, c := range b {
		if c == 0 {
			break
		}
		s = append(s, byte(c))
	}
	return string(s)
}

// count adds one to the first byte of a disk, and lets the machine restart as long as
// the count is below the given one: "/dev/ubda,2".
func count(value string) {
	path, limit, _ := strings.Cut(value, ",")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(path, err)
	defer f.Close()
	var b [512]byte
	_, err = f.ReadAt(b[:], 0)
	check(path, err)
	b[0]++
	_, err = f.WriteAt(b[:], 0)
	check(path, err)
	check(path, f.Sync())
	fmt.Println("boot number", b[0])
	if n, _ := strconv.Atoi(limit); int(b[0]) >= n {
		check("poweroff", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
	}
}

// fallocate does fallocate(2): "path,mode,offset,length".
func fallocate(value string) {
	f := strings.Split(value, ",")
	var n [3]int64
	for i := range n {
		n[i], _ = strconv.ParseInt(f[i+1], 0, 64)
	}
	file, err := os.OpenFile(f[0], os.O_RDWR|os.O_CREATE, 0o644)
	check(f[0], err)
	defer file.Close()
	err = syscall.Fallocate(int(file.Fd()), uint32(n[0]), n[1], n[2])
	st, _ := file.Stat()
	fmt.Printf("fallocate %s %v size=%d blocks=%d\n", value, err, st.Size(), st.Sys().(*syscall.Stat_t).Blocks)
}

// call makes a system call of numbers: "169,1,2,3".
func call(value string) {
	var n [7]uintptr
	for i, f := range strings.Split(value, ",") {
		v, _ := strconv.ParseUint(f, 0, 64)
		n[i] = uintptr(v)
	}
	_, _, errno := syscall.Syscall6(n[0], n[1], n[2], n[3], n[4], n[5], n[6])
	fmt.Printf("call %s: %d\n", value, int(errno))
}

// lockSocket does what lockf(3) does on a socket: it locks from the position on, which
// sockets lack, and asks as another owner whether that is locked.
func lockSocket() {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	check("socketpair", err)
	const ofdGetLock = 36
	whole := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekCurrent}
	err = syscall.FcntlFlock(uintptr(pair[0]), syscall.F_SETLKW, &whole)
	found := whole
	testErr := syscall.FcntlFlock(uintptr(pair[0]), ofdGetLock, &found)
	fmt.Printf("locksocket %v, %v, found %d\n", err, testErr, found.Type)
	whole.Type = syscall.F_UNLCK
	check("unlock", syscall.FcntlFlock(uintptr(pair[0]), syscall.F_SETLK, &whole))
	whole.Type, found = syscall.F_WRLCK, syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekCurrent}
	testErr = syscall.FcntlFlock(uintptr(pair[0]), ofdGetLock, &found)
	fmt.Printf("unlocked socket: %v, found %d\n", testErr, found.Type)
	_, err = syscall.Seek(pair[0], 0, io.SeekCurrent)
	fmt.Println("seek in a socket:", err)
}

// grow touches so many MiB of memory, tells of each tenth, and goes on living with it.
func grow(value string) {
	n, _ := strconv.Atoi(value)
	b, err := syscall.Mmap(-1, 0, n<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	check("mmap", err)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	fmt.Println("grown by", value)
}

// spawn runs the guest itself with other commands, separated by "+", and says how that
// ends. Its end is not that of the machine.
func spawn(value string) {
	cmd := exec.Command("/proc/self/exe", append(strings.Split(value, "+"), "end")...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	fmt.Printf("spawn %s: %v\n", value, err)
}

// fill gets so many MiB of memory by read(2).
func fill(value string) {
	n, _ := strconv.Atoi(value)
	b, err := syscall.Mmap(-1, 0, n<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	check("mmap", err)
	zero, err := os.Open("/dev/zero")
	check("open", err)
	_, err = io.ReadFull(zero, b)
	check("read", err)
	fmt.Println("filled", value)
}

// begin is spawn that goes on once the program has said something.
func begin(value string) {
	cmd := exec.Command("/proc/self/exe", append(strings.Split(value, "+"), "end")...)
	out, err := cmd.StdoutPipe()
	check("pipe", err)
	check("begin", cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	check("begin", err)
	fmt.Print(line)
}
