package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mayLack is must for what a filesystem that is not ext may lack.
func mayLack(err error) {
	if err != unix.EOPNOTSUPP {
		must(err)
	}
}

// prepareUser makes what userCalls runs into.
func prepareUser(d string) {
	write(d+"/root-file", "root's")
	must(os.Chmod(d+"/root-file", 0o640))
	must(os.Mkdir(d+"/root-dir", 0o755))
	write(d+"/root-dir/x", "x")
	must(os.Mkdir(d+"/private", 0o700))
	write(d+"/private/x", "x")
	must(os.Mkdir(d+"/sticky", 0o777))
	must(unix.Chmod(d+"/sticky", 0o1777))
	write(d+"/sticky/root", "x")
	write(d+"/group", "group")
	must(unix.Chown(d+"/group", 0, 2000))
	must(os.Chmod(d+"/group", 0o660))
	write(d+"/acl", "acl")
	must(os.Chmod(d+"/acl", 0o600))
	mayLack(unix.Lsetxattr(d+"/acl", "system.posix_acl_access", acl([3]uint32{1, 6, none}, [3]uint32{2, 4, 1000}, [3]uint32{4, 0, none}, [3]uint32{16, 7, none}, [3]uint32{32, 0, none}), 0))
	write(d+"/aclno", "acl")
	must(os.Chmod(d+"/aclno", 0o666))
	mayLack(unix.Lsetxattr(d+"/aclno", "system.posix_acl_access", acl([3]uint32{1, 6, none}, [3]uint32{2, 0, 1000}, [3]uint32{4, 6, none}, [3]uint32{16, 6, none}, [3]uint32{32, 6, none}), 0))
	write(d+"/suid", "x")
	must(os.Chmod(d+"/suid", 0o777))
	must(unix.Chmod(d+"/suid", 0o6777))
	must(os.Mkdir(d+"/sg", 0o777))
	must(unix.Chown(d+"/sg", 0, 3000))
	must(unix.Chmod(d+"/sg", 0o2777))
	mayLack(unix.Lsetxattr(d+"/root-dir/x", "trusted.t", []byte("t"), 0))
	must(unix.Lsetxattr(d+"/root-dir/x", "user.u", []byte("u"), 0))
	must(os.Symlink("private/x", d+"/link"))
	must(unix.Mknod(d+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Chmod(d+"/null", 0o666))
	self, err := os.ReadFile("/proc/self/exe")
	must(err)
	for _, name := range []string{"capbin", "suidbin", "sgidbin"} {
		must(os.WriteFile(d+"/"+name, self, 0o755))
	}
	must(unix.Chown(d+"/suidbin", 3, 4))
	must(unix.Chmod(d+"/suidbin", 0o4755))
	must(unix.Chown(d+"/sgidbin", 3, 4))
	must(unix.Chmod(d+"/sgidbin", 0o2755))
	// cap_net_raw, permitted and effective.
	mayLack(unix.Lsetxattr(d+"/capbin", "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
}

// whoami prints the identity that exec gave.
func whoami() int {
	show("exec gives", unix.Getuid(), unix.Geteuid(), unix.Getgid(), unix.Getegid())
	for _, line := range strings.Split(read("/proc/self/status"), "\n") {
		if strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "CapPrm") {
			fmt.Println(line)
		}
	}
	return 0
}

func userCalls(d string) int {
	unix.Umask(0o022)
	mode := func(p string) string { return fmt.Sprintf("%o", stat(p).Mode&0o7777) }
	show("ids", unix.Geteuid(), unix.Getegid())
	show("read root's", read(d+"/root-file"), read(d+"/root-dir/x"), read(d+"/private/x"), read(d+"/link"))
	show("write root's", os.WriteFile(d+"/root-dir/x", nil, 0), os.WriteFile(d+"/root-dir/y", nil, 0o644), unix.Mkdir(d+"/root-dir/z", 0o755))
	show("remove root's", unix.Unlink(d+"/root-dir/x"), unix.Unlink(d+"/sticky/root"), unix.Rename(d+"/sticky/root", d+"/sticky/mine"))
	show("list private", names(d+"/private"), unix.Access(d+"/private/x", unix.F_OK))
	show("sticky", os.WriteFile(d+"/sticky/own", nil, 0o644), unix.Unlink(d+"/sticky/own"))
	show("group", read(d+"/group"), os.WriteFile(d+"/group", []byte("changed"), 0))
	show("acl", read(d+"/acl"), os.WriteFile(d+"/acl", nil, 0), read(d+"/aclno"))
	show("chmod root's", unix.Chmod(d+"/root-file", 0o777), unix.Chown(d+"/root-file", 1000, 1000))
	show("times of root's", unix.UtimesNanoAt(-100, d+"/root-dir/x", nil, 0), unix.UtimesNanoAt(-100, d+"/suid", nil, 0), unix.UtimesNanoAt(-100, d+"/suid", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
	fd := open(d+"/suid", unix.O_RDWR, 0)
	unix.Write(fd, []byte("y"))
	show("write drops suid", mode(d+"/suid"))
	unix.Close(fd)
	write(d+"/mine", "mine")
	show("own", unix.Chmod(d+"/mine", 0o4755), mode(d+"/mine"), unix.Chown(d+"/mine", 0, -1), unix.Chown(d+"/mine", -1, 2000), mode(d+"/mine"), unix.Chown(d+"/mine", -1, 3000))
	show("own suid truncated", unix.Chmod(d+"/mine", 0o6755), unix.Truncate(d+"/mine", 1), mode(d+"/mine"))
	write(d+"/sg/f", "")
	show("setgid directory", stat(d+"/sg/f").Gid, unix.Chmod(d+"/sg/f", 0o2755), mode(d+"/sg/f"))
	must(os.Mkdir(d+"/sg/d", 0o755))
	show("setgid subdirectory", stat(d+"/sg/d").Gid, mode(d+"/sg/d"))
	fd, err := unix.Open(d+"/sg/x", unix.O_CREAT|unix.O_RDWR, 0o2775)
	show("create setgid", err, mode(d+"/sg/x"))
	unix.Close(fd)
	show("mknod", unix.Mknod(d+"/node", unix.S_IFCHR|0o666, 259), unix.Mkfifo(d+"/fifo", 0o644))
	show("xattr", unix.Lsetxattr(d+"/mine", "user.u", []byte("u"), 0), unix.Lsetxattr(d+"/mine", "trusted.t", []byte("u"), 0), unix.Lsetxattr(d+"/mine", "security.s", []byte("u"), 0))
	b := make([]byte, 1000)
	n, err := unix.Lgetxattr(d+"/root-dir/x", "trusted.t", b)
	show("trusted", n, err)
	n, err = unix.Lgetxattr(d+"/root-dir/x", "user.u", b)
	show("user", n, err)
	n, err = unix.Llistxattr(d+"/root-dir/x", b)
	show("list", b[:max(n, 0)], err)
	show("set of root's", unix.Lsetxattr(d+"/root-dir/x", "user.v", nil, 0), unix.Lremovexattr(d+"/root-dir/x", "user.u"))
	show("acl of root's", unix.Lsetxattr(d+"/suid", "system.posix_acl_access", acl([3]uint32{1, 6, none}, [3]uint32{4, 4, none}, [3]uint32{32, 0, none}), 0))
	fd = open(d+"/mine", unix.O_RDWR, 0)
	v := uint32(immutable)
	show("immutable", ioctlInt(fd, setFlags, &v))
	v = 0x40 | 0x80000
	show("nodump", ioctlInt(fd, setFlags, &v))
	var label [256]byte
	_, _, le := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x41009432, uintptr(unsafe.Pointer(&label)))
	show("label", le)
	unix.Close(fd)
	_, err = unix.Open(d+"/root-dir/x", unix.O_RDONLY|unix.O_NOATIME, 0)
	show("noatime of root's", err)
	show("link root's", unix.Link(d+"/root-file", d+"/hl"))
	must(os.Mkdir(d+"/own-dir", 0o755))
	show("rename root's directory", unix.Rename(d+"/root-dir", d+"/own-dir/r"))
	fd, err = unix.Open(d+"/null", unix.O_RDWR, 0)
	show("device", err)
	unix.Close(fd)
	must(os.Mkdir(d+"/noexec", 0o755))
	write(d+"/noexec/x", "x")
	must(os.Chmod(d+"/noexec", 0o600))
	show("no search", read(d+"/noexec/x"), names(d+"/noexec"), unix.Chdir(d+"/noexec"))
	must(os.Chmod(d+"/noexec", 0o300))
	show("no list", read(d+"/noexec/x"), names(d+"/noexec"))
	must(os.Chmod(d+"/noexec", 0o700))
	for _, name := range []string{"fscheck", "suidbin", "sgidbin", "capbin"} {
		cmd := exec.Command(d+"/"+name, "whoami", d)
		cmd.Stdout = os.Stdout
		show(name, cmd.Run())
	}
	return 0
}
