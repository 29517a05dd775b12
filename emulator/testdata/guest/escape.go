package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// ways tries every way by which a guest could name something of the host: a path, a
// socket, a program, a filter. In outside, a directory of the host, there are the file
// secret, the program prog, which makes the file ran, and the socket sock; "@umlkit-ways"
// is a socket too, and the host listens at the port. It prints what it got.
func ways(value string) {
	outside, port, _ := strings.Cut(value, ",")
	os.MkdirAll("/w", 0o755)
	waysOfMounting(outside)
	waysOfNewMounts(outside)
	waysOfNodes()
	waysOfFlashing(outside)
	waysOfPaths(outside)
	waysOfPrograms(outside)
	waysOfSockets(outside, port)
	families := ""
	for f := range 64 {
		for _, kind := range []int{syscall.SOCK_STREAM, syscall.SOCK_DGRAM, syscall.SOCK_RAW, syscall.SOCK_SEQPACKET} {
			if fd, err := syscall.Socket(f, kind, 0); err == nil {
				families += fmt.Sprint(f, " ")
				syscall.Close(fd)
				break
			}
		}
	}
	fmt.Printf("ways families %s\n", families)
	fmt.Println("ways done")
}

// leaked tells if a path leads to the host's secret.
func leaked(how, path string) {
	// Some of what is tried is a terminal.
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	text := make([]byte, 100)
	if n, err := syscall.Read(fd, text); err == nil && bytes.Contains(text[:n], []byte("SECRET")) {
		fmt.Printf("ways LEAK %s: %s\n", how, path)
	}
}

// waysOfMounting mounts with every type and option that takes a path or a descriptor.
func waysOfMounting(outside string) {
	null, _ := syscall.Open("/dev/null", syscall.O_RDWR, 0)
	fds := []string{
		fmt.Sprintf("trans=fd,rfdno=%d,wfdno=%d", null, null), "trans=unix", "trans=fd,rfdno=0,wfdno=0", "trans=virtio",
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", null), "source=" + outside, "root=" + outside, "dir=" + outside,
		"lowerdir=" + outside, "lowerdir=" + outside + ",upperdir=/w/u,workdir=/w/k", "upperdir=" + outside, "loop", "loop=/dev/loop0", "",
		outside, "hostfs=" + outside, "hostfs=/../../.." + outside, "/..", "release_agent=" + outside + "/prog",
	}
	os.MkdirAll("/w/u", 0o755)
	os.MkdirAll("/w/k", 0o755)
	text, _ := os.ReadFile("/proc/filesystems")
	types := []string{"9p", "virtiofs", "nfs", "cifs", "gofer", "host", "erofs", "bind", "none", "binfmt_misc", "configfs", "bpf"}
	for _, l := range strings.Split(string(text), "\n") {
		if f := strings.Fields(l); len(f) > 0 {
			types = append(types, f[len(f)-1])
		}
	}
	for _, typ := range types {
		for _, source := range []string{"none", outside, outside + "/secret", "/proc/self/root" + outside} {
			for _, data := range fds {
				if syscall.Mount(source, "/w", typ, 0, data) != nil {
					continue
				}
				for _, p := range []string{"/w/secret", "/w" + outside + "/secret", "/w/root" + outside + "/secret", "/w/self/root" + outside + "/secret", "/w/1/root" + outside + "/secret"} {
					leaked("mount -t "+typ+" -o "+data+" "+source, p)
				}
				if strings.HasPrefix(data, "release_agent=") {
					releaseAgent("/w")
				}
				syscall.Unmount("/w", syscall.MNT_DETACH)
			}
		}
	}
	for _, flags := range []uintptr{syscall.MS_BIND, syscall.MS_BIND | syscall.MS_REC, syscall.MS_MOVE} {
		if syscall.Mount(outside, "/w", "", flags, "") == nil {
			leaked("bind", "/w/secret")
		}
	}
}

// waysOfNewMounts mounts with the calls fsopen, fsconfig and fsmount, and binds with open_tree.
func waysOfNewMounts(outside string) {
	const (
		sysOpenTree, sysMoveMount, sysFsopen, sysFsconfig, sysFsmount = 428, 429, 430, 431, 432
		setString, create, here, emptyPath                            = 1, 6, ^uintptr(99), 4
	)
	ptr := func(s string) uintptr {
		b, _ := syscall.BytePtrFromString(s)
		return uintptr(unsafe.Pointer(b))
	}
	for _, typ := range []string{"9p", "hostfs", "overlay", "ext4", "fuse", "erofs", "virtiofs"} {
		for _, option := range [][2]string{{"source", outside}, {"source", outside + "/secret"}, {"root", outside}, {"lowerdir", outside}, {"hostfs", outside}} {
			fs, _, errno := syscall.Syscall(sysFsopen, ptr(typ), 0, 0)
			if errno != 0 {
				continue
			}
			syscall.Syscall6(sysFsconfig, fs, setString, ptr(option[0]), ptr(option[1]), 0, 0)
			syscall.Syscall6(sysFsconfig, fs, create, 0, 0, 0, 0)
			if mnt, _, errno := syscall.Syscall(sysFsmount, fs, 0, 0); errno == 0 {
				if _, _, errno := syscall.Syscall6(sysMoveMount, mnt, ptr(""), here, ptr("/w"), emptyPath, 0); errno == 0 {
					for _, p := range []string{"/w/secret", "/w" + outside + "/secret"} {
						leaked("fsmount of "+typ+" with "+option[0]+"="+option[1], p)
					}
					syscall.Unmount("/w", syscall.MNT_DETACH)
				}
				syscall.Close(int(mnt))
			}
			syscall.Close(int(fs))
		}
	}
}

// waysOfNodes opens devices of the host by their numbers: memory, ports, disks, loop and
// control devices of every kind that a host has.
func waysOfNodes() {
	for _, node := range []struct {
		mode         uint32
		major, minor int
	}{
		{syscall.S_IFCHR, 1, 1}, {syscall.S_IFCHR, 1, 2}, {syscall.S_IFCHR, 1, 4}, {syscall.S_IFCHR, 10, 232}, {syscall.S_IFCHR, 10, 237}, {syscall.S_IFCHR, 21, 0},
		{syscall.S_IFBLK, 7, 0}, {syscall.S_IFBLK, 8, 0}, {syscall.S_IFBLK, 43, 0}, {syscall.S_IFBLK, 252, 0}, {syscall.S_IFBLK, 253, 0}, {syscall.S_IFBLK, 254, 0},
		{syscall.S_IFBLK, 259, 0}, {syscall.S_IFBLK, 98, 0},
	} {
		os.Remove("/w-node")
		if syscall.Mknod("/w-node", node.mode|0o600, node.major<<8|node.minor) != nil {
			continue
		}
		if fd, err := syscall.Open("/w-node", syscall.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
			fmt.Printf("ways LEAK device %o %d:%d opens\n", node.mode, node.major, node.minor)
			syscall.Close(fd)
		}
	}
}

// waysOfFlashing has a network device take a file as its filter or firmware, as bpfflash
// allows for vec devices alone.
func waysOfFlashing(outside string) {
	const (
		siocEthtool, flashDevice = 0x8946, 0x33
		device                   = "lo"
	)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	var flash struct {
		cmd, region uint32
		name        [128]byte
	}
	flash.cmd = flashDevice
	copy(flash.name[:], outside+"/secret")
	var request struct {
		name [16]byte
		data uintptr
		_    [16]byte
	}
	copy(request.name[:], device)
	request.data = uintptr(unsafe.Pointer(&flash))
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), siocEthtool, uintptr(unsafe.Pointer(&request))); errno == 0 {
		fmt.Println("ways LEAK a device took a file of the host")
	}
}

// releaseAgent empties a group of processes, at which a kernel of old runs a program.
func releaseAgent(at string) {
	group := at + "/g"
	if os.Mkdir(group, 0o755) != nil {
		return
	}
	os.WriteFile(group+"/notify_on_release", []byte("1"), 0)
	os.WriteFile(group+"/cgroup.procs", []byte("0"), 0)
	os.WriteFile(at+"/cgroup.procs", []byte("0"), 0)
	os.Remove(group)
}

// waysOfPaths gives paths of the host to whatever takes a path.
func waysOfPaths(outside string) {
	os.MkdirAll("/proc", 0o755)
	secret := outside + "/secret"
	for _, p := range []string{
		secret, "/.." + secret, "/proc/self/root" + secret, "/proc/1/root" + secret, "/proc/self/cwd" + secret, "/proc/1/root/../.." + secret,
		"/proc/2/root" + secret, "/proc/self/task/1/root" + secret, "/dev/fd/3" + secret, "/sys/../" + secret, "/dev/root" + secret,
	} {
		leaked("path", p)
	}
	for fd := range 64 {
		leaked("descriptor", fmt.Sprintf("/proc/self/fd/%d", fd))
		leaked("descriptor", fmt.Sprintf("/proc/1/fd/%d/secret", fd))
		leaked("descriptor", fmt.Sprintf("/proc/1/fd/%d/../../..%s", fd, secret))
	}
	path, _ := syscall.BytePtrFromString(secret)
	for _, call := range []struct {
		name string
		args []uintptr
	}{
		{"swapon", []uintptr{syscall.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0}},
		{"acct", []uintptr{syscall.SYS_ACCT, uintptr(unsafe.Pointer(path)), 0}},
		{"uselib", []uintptr{syscall.SYS_USELIB, uintptr(unsafe.Pointer(path)), 0}},
		{"quotactl", []uintptr{syscall.SYS_QUOTACTL, 0x800002 << 8, uintptr(unsafe.Pointer(path))}},
		{"open_by_handle_at", []uintptr{304, ^uintptr(99), uintptr(unsafe.Pointer(&[40]byte{8, 0, 0, 0, 1, 0, 0, 0, 2}))}},
		{"pivot_root", []uintptr{syscall.SYS_PIVOT_ROOT, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(path))}},
		{"bpf object", []uintptr{321, 7, uintptr(unsafe.Pointer(&[2]uintptr{uintptr(unsafe.Pointer(path))})), 16}},
		{"open_tree", []uintptr{428, ^uintptr(99), uintptr(unsafe.Pointer(path)), 1}},
		{"kexec_file", []uintptr{320, 0, 0, 0, uintptr(unsafe.Pointer(path)), 0}},
	} {
		args := append(call.args, make([]uintptr, 7-len(call.args))...)
		if _, _, errno := syscall.Syscall6(args[0], args[1], args[2], args[3], args[4], args[5], args[6]); errno == 0 {
			fmt.Printf("ways LEAK %s took a path of the host\n", call.name)
		}
	}
}

// waysOfPrograms has the kernel run a program wherever one can be named.
func waysOfPrograms(outside string) {
	prog := outside + "/prog"
	for _, knob := range []string{
		"kernel/core_pattern", "kernel/modprobe", "kernel/poweroff_cmd", "kernel/hotplug", "kernel/usermodehelper/bset", "fs/binfmt_misc/register",
	} {
		for _, text := range []string{prog, "|" + prog, ":x:M::x::" + prog + ":F"} {
			os.WriteFile("/proc/sys/"+knob, []byte(text), 0o644)
		}
	}
	for _, file := range []string{"/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent", "/proc/sys/kernel/firmware_config"} {
		os.WriteFile(file, []byte(prog), 0o644)
	}
	for _, argv := range [][]string{{prog}, {"/bin/sh", "-c", prog}, {"/w/script"}, {"/proc/self/root" + prog}} {
		os.WriteFile("/w/script", []byte("#!"+prog+"\n"), 0o755)
		if _, err := os.StartProcess(argv[0], argv, &os.ProcAttr{}); err == nil {
			fmt.Printf("ways LEAK ran %s\n", argv[0])
		}
	}
	// One that dies with a core, and an unknown protocol, for modprobe.
	if p, err := os.StartProcess("/proc/self/exe", []string{"guest", "fault"}, &os.ProcAttr{}); err == nil {
		p.Wait()
	}
	syscall.Socket(44, syscall.SOCK_STREAM, 0)
}

// waysOfSockets connects to what listens on the host.
func waysOfSockets(outside, port string) {
	for _, name := range []string{outside + "/sock", "/proc/self/root" + outside + "/sock", "@umlkit-ways"} {
		for _, kind := range []int{syscall.SOCK_STREAM, syscall.SOCK_DGRAM, syscall.SOCK_SEQPACKET} {
			fd, err := syscall.Socket(syscall.AF_UNIX, kind, 0)
			if err != nil {
				continue
			}
			if syscall.Connect(fd, &syscall.SockaddrUnix{Name: name}) == nil {
				fmt.Printf("ways LEAK connected to %s\n", name)
			}
			syscall.Close(fd)
		}
	}
	// One that is bound must not appear on the host.
	if fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); err == nil {
		_ = syscall.Bind(fd, &syscall.SockaddrUnix{Name: outside + "/bound"})
		syscall.Close(fd)
	}
	var n int
	fmt.Sscan(port, &n)
	for _, addr := range [][4]byte{{127, 0, 0, 1}, {127, 0, 0, 2}, {0, 0, 0, 0}} {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err != nil {
			continue
		}
		syscall.SetNonblock(fd, true)
		if syscall.Connect(fd, &syscall.SockaddrInet4{Port: n, Addr: addr}) == nil {
			fmt.Printf("ways LEAK connected to %v\n", addr)
		}
		syscall.Close(fd)
	}
}
