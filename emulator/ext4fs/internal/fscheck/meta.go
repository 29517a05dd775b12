package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sort"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func modeCalls(d string) {
	f := d + "/f"
	write(f, "x")
	mode := func(p string) string { return fmt.Sprintf("%o", stat(p).Mode&0o7777) }
	for _, m := range []uint32{0, 0o777, 0o4755, 0o2755, 0o2745, 0o1644, 0o7777} {
		show(fmt.Sprintf("chmod %o", m), unix.Chmod(f, m), mode(f))
	}
	unix.Chmod(f, 0o6755)
	show("chown clears", unix.Chown(f, 1, 2), mode(f), stat(f).Uid, stat(f).Gid)
	unix.Chmod(f, 0o6745)
	show("chown keeps locking", unix.Chown(f, 1, 3), mode(f))
	show("chown nothing", unix.Chown(f, -1, -1), stat(f).Uid)
	unix.Chmod(f, 0o6755)
	fd := open(f, unix.O_WRONLY, 0)
	unix.Write(fd, []byte("y"))
	show("write by root keeps", mode(f))
	unix.Close(fd)
	must(os.Mkdir(d+"/sg", 0o755))
	must(unix.Chown(d+"/sg", 0, 42))
	must(unix.Chmod(d+"/sg", 0o2775))
	write(d+"/sg/f", "")
	must(os.Mkdir(d+"/sg/d", 0o755))
	must(os.Symlink("x", d+"/sg/l"))
	show("inherited group", stat(d+"/sg/f").Gid, mode(d+"/sg/f"), stat(d+"/sg/d").Gid, mode(d+"/sg/d"), stat(d+"/sg/l").Gid)
	fd = open(d+"/sg/x", unix.O_CREAT|unix.O_RDWR, 0o2775)
	show("created setgid", mode(d+"/sg/x"))
	unix.Close(fd)
	must(os.Symlink("f", d+"/l"))
	show("lchown", unix.Lchown(d+"/l", 5, 6), stat(d+"/l").Uid, stat(f).Uid)
	show("large ids", unix.Chown(f, 1<<31+5, 1<<30), stat(f).Uid, stat(f).Gid)
	show("access", unix.Access(f, unix.R_OK|unix.W_OK), unix.Access(d, unix.X_OK), unix.Access(d+"/no", unix.F_OK))
}

func xattrCalls(d string) {
	f := d + "/f"
	write(f, "x")
	must(os.Symlink("f", d+"/l"))
	get := func(p, name string) {
		b := make([]byte, 70000)
		n, err := unix.Lgetxattr(p, name, b)
		if err != nil {
			show("get "+name, err)
			return
		}
		if n > 100 {
			show("get "+name, n)
		} else {
			show("get "+name, b[:n])
		}
	}
	list := func(p string) {
		b := make([]byte, 70000)
		n, err := unix.Llistxattr(p, b)
		if err != nil {
			show("list", err)
			return
		}
		l := strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00")
		sort.Strings(l)
		show("list", strings.Join(l, " "))
	}
	list(f)
	get(f, "user.none")
	show("set", unix.Lsetxattr(f, "user.a", []byte("value"), 0))
	get(f, "user.a")
	show("create existing", unix.Lsetxattr(f, "user.a", []byte("v"), unix.XATTR_CREATE))
	show("replace missing", unix.Lsetxattr(f, "user.b", []byte("v"), unix.XATTR_REPLACE))
	show("replace", unix.Lsetxattr(f, "user.a", []byte("longer value than before"), unix.XATTR_REPLACE))
	get(f, "user.a")
	show("empty value", unix.Lsetxattr(f, "user.empty", nil, 0))
	get(f, "user.empty")
	show("trusted", unix.Lsetxattr(f, "trusted.t", []byte("t"), 0))
	show("security", unix.Lsetxattr(f, "security.s", []byte("s"), 0))
	show("unknown", unix.Lsetxattr(f, "strange.s", []byte("s"), 0), unix.Lsetxattr(f, "user", []byte("s"), 0), unix.Lsetxattr(f, "user.", []byte("s"), 0), unix.Lsetxattr(f, "", []byte("s"), 0))
	list(f)
	for _, n := range []int{100, 1000, 3000} {
		show(fmt.Sprint("value of ", n), unix.Lsetxattr(f, "user.big", make([]byte, n), 0))
		get(f, "user.big")
	}
	// How much goes into one attribute, beside nothing and beside others.
	most := func(p string) int {
		n := 0
		for step := 4096; step > 0; step /= 2 {
			if unix.Lsetxattr(p, "user.most", make([]byte, n+step), 0) == nil {
				n += step
			}
		}
		return n
	}
	write(d+"/alone", "")
	show("most alone", most(d+"/alone"), unix.Lremovexattr(d+"/alone", "user.most"))
	for i := range 30 {
		unix.Lsetxattr(d+"/alone", fmt.Sprint("user.", i), make([]byte, 3*i), 0) // small blocks hold few
	}
	show("most beside others", most(d+"/alone"))
	for i := 0; i < 30; i += 2 {
		unix.Lremovexattr(d+"/alone", fmt.Sprint("user.", i))
	}
	list(d + "/alone")
	show("most with gaps", most(d+"/alone"))
	list(d + "/alone")
	count := 0
	for ; count < 5000 && unix.Lsetxattr(d+"/alone", fmt.Sprint("user.more", count), []byte("12345678"), 0) == nil; count++ {
	}
	show("more", count)
	show("value too big", unix.Lsetxattr(f, "user.big2", make([]byte, 65537), 0))
	n, err := unix.Lgetxattr(f, "user.a", make([]byte, 3))
	show("small buffer", n, err)
	n, err = unix.Lgetxattr(f, "user.a", nil)
	show("size", n, err)
	n, err = unix.Llistxattr(f, make([]byte, 3))
	show("small list", n, err)
	show("remove", unix.Lremovexattr(f, "user.a"), unix.Lremovexattr(f, "user.a"))
	list(f)
	show("on symlink", unix.Lsetxattr(d+"/l", "user.a", []byte("v"), 0), unix.Lsetxattr(d+"/l", "trusted.a", []byte("v"), 0))
	get(d+"/l", "user.a")
	get(d+"/l", "trusted.a")
	must(unix.Mkfifo(d+"/p", 0o644))
	show("on fifo", unix.Lsetxattr(d+"/p", "user.a", []byte("v"), 0), unix.Lsetxattr(d+"/p", "trusted.a", []byte("v"), 0))
	show("on directory", unix.Lsetxattr(d, "user.dir", []byte("v"), 0))
	get(d, "user.dir")
	must(unix.Link(f, d+"/hard"))
	get(d+"/hard", "trusted.t")
	must(os.Rename(f, d+"/g"))
	get(d+"/g", "trusted.t")
	// File capabilities go when the file is written.
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	show("capability", unix.Lsetxattr(d+"/g", "security.capability", caps, 0))
	get(d+"/g", "security.capability")
	show("malformed capability", unix.Lsetxattr(d+"/g", "security.capability", []byte("no"), 0))
	fd := open(d+"/g", unix.O_WRONLY, 0)
	unix.Write(fd, []byte("x"))
	unix.Close(fd)
	get(d+"/g", "security.capability")
	show("capability", unix.Lsetxattr(d+"/g", "security.capability", caps, 0), unix.Chown(d+"/g", 1, 1))
	get(d+"/g", "security.capability")
}

// acl builds the form that setxattr takes: tag, permissions, id.
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

const none = 0xffffffff

func aclCalls(d string) {
	f := d + "/f"
	write(f, "x")
	const access, def = "system.posix_acl_access", "system.posix_acl_default"
	get := func(p, name string) {
		b := make([]byte, 1000)
		n, err := unix.Lgetxattr(p, name, b)
		if err != nil {
			show("get "+name, err)
			return
		}
		show("get "+name, fmt.Sprintf("%x", b[:n]))
	}
	mode := func(p string) string { return fmt.Sprintf("%o", stat(p).Mode) }
	get(f, access)
	show("minimal", unix.Lsetxattr(f, access, acl([3]uint32{1, 6, none}, [3]uint32{4, 4, none}, [3]uint32{32, 0, none}), 0), mode(f))
	get(f, access)
	full := acl([3]uint32{1, 6, none}, [3]uint32{2, 6, 1000}, [3]uint32{4, 4, none}, [3]uint32{16, 4, none}, [3]uint32{32, 0, none})
	show("extended", unix.Lsetxattr(f, access, full, 0), mode(f))
	get(f, access)
	show("chmod", unix.Chmod(f, 0o777), mode(f))
	get(f, access)
	show("remove", unix.Lremovexattr(f, access), mode(f))
	get(f, access)
	show("bad version", unix.Lsetxattr(f, access, []byte{9, 0, 0, 0}, 0))
	show("without mask", unix.Lsetxattr(f, access, acl([3]uint32{1, 6, none}, [3]uint32{2, 6, 1000}, [3]uint32{4, 4, none}, [3]uint32{32, 0, none}), 0))
	show("default on file", unix.Lsetxattr(f, def, full, 0))
	must(os.Mkdir(d+"/dir", 0o755))
	dflt := acl([3]uint32{1, 7, none}, [3]uint32{2, 5, 1000}, [3]uint32{4, 5, none}, [3]uint32{16, 5, none}, [3]uint32{32, 0, none})
	show("default", unix.Lsetxattr(d+"/dir", def, dflt, 0), mode(d+"/dir"))
	get(d+"/dir", def)
	unix.Umask(0)
	write(d+"/dir/f", "")
	must(os.Mkdir(d+"/dir/d", 0o777))
	unix.Umask(0o022)
	show("inherited", mode(d+"/dir/f"), mode(d+"/dir/d"))
	get(d+"/dir/f", access)
	get(d+"/dir/d", access)
	get(d+"/dir/d", def)
	show("drop default", unix.Lremovexattr(d+"/dir", def))
	get(d+"/dir", def)
	must(os.Symlink("x", d+"/l"))
	show("on symlink", unix.Lsetxattr(d+"/l", access, full, 0))
}

func ioctlInt(fd int, req uint, arg *uint32) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(arg)))
	if e != 0 {
		return e
	}
	return nil
}

const (
	getFlags  = 0x80086601
	setFlags  = 0x40086602
	immutable = 0x10
	appendFl  = 0x20
)

func flagCalls(d string) {
	f := d + "/f"
	write(f, "content")
	fd := open(f, unix.O_RDWR, 0)
	var flags uint32
	show("get", ioctlInt(fd, getFlags, &flags), fmt.Sprintf("%x", flags))
	set := func(v uint32) error { return ioctlInt(fd, setFlags, &v) }
	base := flags
	show("nodump noatime", set(base|0x40|0x80), ioctlInt(fd, getFlags, &flags), fmt.Sprintf("%x", flags))
	show("immutable", set(base|immutable))
	_, err := unix.Open(f, unix.O_RDWR, 0)
	show("open writable", err)
	show("read", read(f))
	show("others", unix.Unlink(f), unix.Rename(f, d+"/g"), unix.Link(f, d+"/g"), unix.Chmod(f, 0), unix.Chown(f, 1, 1), unix.Truncate(f, 0))
	show("times", unix.UtimesNanoAt(-100, f, nil, 0), unix.UtimesNanoAt(-100, f, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
	show("xattr", unix.Setxattr(f, "user.x", nil, 0), unix.Access(f, unix.W_OK))
	var sx unix.Statx_t
	unix.Statx(-100, f, 0, unix.STATX_ALL, &sx)
	show("statx", sx.Attributes&unix.STATX_ATTR_IMMUTABLE != 0)
	show("append-only", set(base|appendFl))
	_, err = unix.Open(f, unix.O_RDWR, 0)
	show("open writable", err)
	_, err = unix.Open(f, unix.O_WRONLY|unix.O_APPEND|unix.O_TRUNC, 0)
	show("open truncating", err)
	a, err := unix.Open(f, unix.O_WRONLY|unix.O_APPEND, 0)
	show("open appending", err)
	unix.Write(a, []byte("+"))
	show("appended", read(f), unix.Ftruncate(a, 0), unix.Unlink(f))
	unix.Close(a)
	show("none", set(base), unix.Unlink(f))
	unix.Close(fd)

	must(os.Mkdir(d+"/dir", 0o755))
	write(d+"/dir/in", "")
	fd = open(d+"/dir", unix.O_RDONLY, 0)
	ioctlInt(fd, getFlags, &flags)
	show("directory", fmt.Sprintf("%x", flags&^0x1000))
	base = flags
	show("immutable", set(base|immutable), os.WriteFile(d+"/dir/new", nil, 0o644), unix.Unlink(d+"/dir/in"), unix.Rename(d+"/dir/in", d+"/x"))
	show("append-only", set(base|appendFl), os.WriteFile(d+"/dir/new", nil, 0o644), unix.Unlink(d+"/dir/in"))
	show("none", set(base), unix.Unlink(d+"/dir/in"))
	var v uint32
	show("block size", ioctlInt(fd, 2, &v), v)
	show("unknown", ioctlInt(fd, 0x12345, &v))
	unix.Close(fd)
	write(d+"/n", "0123456789")
	fd = open(d+"/n", unix.O_RDWR, 0)
	unix.Seek(fd, 3, 0)
	show("FIONREAD", ioctlInt(fd, 0x541b, &v), v)
	show("version", ioctlInt(fd, 0x80087601, &v))
	var fsx [7]uint32
	show("fsgetxattr", ioctlInt(fd, 0x801c581f, &fsx[0]), fsx[0], fsx[3])
	_, _, ce := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FICLONE, uintptr(fd))
	show("clone", ce)
	unix.Close(fd)
	fd = open(d, unix.O_RDONLY, 0)
	for _, l := range []string{"seventeen letters", "of sixteen chars", "", "short"} {
		var set, get [256]byte
		copy(set[:], l)
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x41009432, uintptr(unsafe.Pointer(&set)))
		_, _, e2 := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x81009431, uintptr(unsafe.Pointer(&get)))
		show("label", e, e2, bytes.TrimRight(get[:], "\x00"))
	}
	trim := [3]uint64{0, 1 << 62, 0}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0xc0185879, uintptr(unsafe.Pointer(&trim)))
	show("trim", e == 0 || e == unix.EOPNOTSUPP)
	trim = [3]uint64{1 << 60, 10, 0}
	_, _, e = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0xc0185879, uintptr(unsafe.Pointer(&trim)))
	show("trim past end", e == unix.EINVAL || e == unix.EOPNOTSUPP)
	unix.Close(fd)
}

func nodeCalls(d string) {
	show("fifo", unix.Mkfifo(d+"/p", 0o644), fmt.Sprintf("%o", stat(d+"/p").Mode))
	_, err := unix.Open(d+"/p", unix.O_WRONLY|unix.O_NONBLOCK, 0)
	show("fifo without reader", err)
	r := open(d+"/p", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	w := open(d+"/p", unix.O_WRONLY, 0)
	unix.Write(w, []byte("through"))
	b := make([]byte, 20)
	n, err := unix.Read(r, b)
	show("through fifo", n, err, b[:max(n, 0)])
	unix.Close(r)
	unix.Close(w)
	show("null", unix.Mknod(d+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), fmt.Sprintf("%o", stat(d+"/null").Mode), stat(d+"/null").Rdev)
	fd, err := unix.Open(d+"/null", unix.O_RDWR, 0)
	show("open null", err)
	n, err = unix.Write(fd, []byte("gone"))
	m, err2 := unix.Read(fd, b)
	show("null", n, err, m, err2)
	unix.Close(fd)
	show("zero", unix.Mknod(d+"/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	fd, err = unix.Open(d+"/zero", unix.O_RDONLY, 0)
	n, _ = unix.Read(fd, b)
	show("zeros", err, b[:n])
	unix.Close(fd)
	show("block", unix.Mknod(d+"/blk", unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))), stat(d+"/blk").Rdev)
	_, err = unix.Open(d+"/blk", unix.O_RDONLY, 0)
	show("open no device", err)
	show("mknod file", unix.Mknod(d+"/reg", 0o644, 0), unix.Mknod(d+"/reg", 0o644, 0), unix.Mknod(d+"/dir", unix.S_IFDIR|0o644, 0))
	l, err := net.Listen("unix", d+"/sock")
	show("bind", err, fmt.Sprintf("%o", stat(d+"/sock").Mode))
	_, err = net.Listen("unix", d+"/sock")
	show("bind again", err != nil)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	must(os.Rename(d+"/sock", d+"/moved"))
	must(os.Link(d+"/moved", d+"/hard"))
	c, err := net.Dial("unix", d+"/hard")
	show("connect", err)
	if err == nil {
		k, _ := c.Read(b)
		show("heard", b[:k])
		c.Close()
	}
	_, err = unix.Open(d+"/moved", unix.O_RDONLY, 0)
	show("open socket", err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	_, err = net.Dial("unix", d+"/moved")
	show("connect closed", errName(err))
	_, err = net.Dial("unix", d+"/reg")
	show("connect file", errName(err))
	show("unlink", unix.Unlink(d+"/moved"), unix.Unlink(d+"/p"), unix.Unlink(d+"/null"))
}

func tmpfileCalls(d string) {
	fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	show("open", err)
	var st unix.Stat_t
	unix.Fstat(fd, &st)
	show("stat", st.Nlink, fmt.Sprintf("%o", st.Mode), names(d))
	unix.Write(fd, []byte("content"))
	show("link", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/f", unix.AT_SYMLINK_FOLLOW), read(d+"/f"))
	unix.Fstat(fd, &st)
	show("links", st.Nlink, st.Ino == stat(d+"/f").Ino)
	unix.Close(fd)
	fd, err = unix.Open(d, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
	show("exclusive", err, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/g", unix.AT_SYMLINK_FOLLOW))
	unix.Close(fd)
	_, err = unix.Open(d, unix.O_TMPFILE|unix.O_RDONLY, 0o640)
	show("read-only", err)
	_, err = unix.Open(d+"/f", unix.O_TMPFILE|unix.O_RDWR, 0o640)
	show("on file", err)
	for range 50 {
		fd := open(d, unix.O_TMPFILE|unix.O_RDWR, 0o600)
		unix.Write(fd, make([]byte, 10000))
		unix.Close(fd)
	}
	show("left", names(d))
}

// locker holds a lock until its input ends.
func locker(d string) int {
	fd := open(d+"/lock", unix.O_CREAT|unix.O_RDWR, 0o644)
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
	must(unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &l))
	must(unix.Flock(fd, unix.LOCK_SH))
	os.Stdout.Write([]byte("."))
	os.Stdin.Read(make([]byte, 1))
	return 0
}

func lockCalls(d string) {
	cmd := exec.Command("/proc/self/exe", "locker", d)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	must(cmd.Start())
	out.Read(make([]byte, 1))
	fd := open(d+"/lock", unix.O_RDWR, 0)
	lock := func(typ int16, start, n int64, cmd int) error {
		l := unix.Flock_t{Type: typ, Start: start, Len: n}
		return unix.FcntlFlock(uintptr(fd), cmd, &l)
	}
	show("overlapping", lock(unix.F_WRLCK, 15, 10, unix.F_SETLK))
	show("beside", lock(unix.F_WRLCK, 20, 10, unix.F_SETLK))
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: 0, Len: 0}
	show("test", unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &l), l.Type, l.Start, l.Len, int(l.Pid) == cmd.Process.Pid)
	show("flock exclusive", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB))
	show("flock shared", unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB))
	must(unix.Link(d+"/lock", d+"/link"))
	other := open(d+"/link", unix.O_RDWR, 0)
	l = unix.Flock_t{Type: unix.F_WRLCK, Start: 15, Len: 1}
	show("by another link", unix.FcntlFlock(uintptr(other), unix.F_SETLK, &l))
	in.Close()
	show("holder ends", cmd.Wait())
	show("free", lock(unix.F_WRLCK, 15, 10, unix.F_SETLK), unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB))
	show("ofd", lock(unix.F_WRLCK, 100, 1, 37))
	l = unix.Flock_t{Type: unix.F_WRLCK, Start: 100, Len: 1}
	show("ofd of other", unix.FcntlFlock(uintptr(other), 37, &l) != nil)
	unix.Close(other)
	unix.Close(fd)
}

func inotifyCalls(d string) {
	must(os.Mkdir(d+"/w", 0o755))
	write(d+"/w/old", "x")
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	must(err)
	defer unix.Close(fd)
	dir, err := unix.InotifyAddWatch(fd, d+"/w", unix.IN_ALL_EVENTS)
	must(err)
	file, err := unix.InotifyAddWatch(fd, d+"/w/old", unix.IN_ALL_EVENTS)
	must(err)
	events := func(what string) {
		buf := make([]byte, 1<<16)
		n, _ := unix.Read(fd, buf)
		var out []string
		for b := buf[:max(n, 0)]; len(b) >= 16; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			name := strings.TrimRight(string(b[16:16+e.Len]), "\x00")
			who := "?"
			switch int(e.Wd) {
			case dir:
				who = "dir"
			case file:
				who = "file"
			}
			out = append(out, fmt.Sprintf("%s:%x:%s", who, e.Mask, name))
			b = b[16+e.Len:]
		}
		show(what, strings.Join(out, " "))
	}
	write(d+"/w/new", "content")
	events("write")
	read(d + "/w/old")
	events("read")
	unix.Chmod(d+"/w/old", 0o600)
	events("chmod")
	f := open(d+"/w/old", unix.O_RDWR, 0)
	unix.Fallocate(f, 0, 0, 8192)
	events("fallocate")
	unix.Fallocate(f, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 4096)
	events("punch hole")
	unix.Close(f)
	events("close")
	must(os.Rename(d+"/w/new", d+"/w/newer"))
	events("rename")
	must(os.Mkdir(d+"/w/dir", 0o755))
	events("mkdir")
	must(os.Remove(d + "/w/dir"))
	events("rmdir")
	must(os.Rename(d+"/w/newer", d+"/away"))
	events("away")
	must(os.Rename(d+"/away", d+"/w/old"))
	events("over")
	must(os.Remove(d + "/w/old"))
	events("remove")
	for i := range 300 {
		write(fmt.Sprintf("%s/w/f%d", d, i), "")
	}
	unix.Read(fd, make([]byte, 1<<16))
	for i := range 300 {
		os.Remove(fmt.Sprintf("%s/w/f%d", d, i))
	}
	for {
		if n, _ := unix.Read(fd, make([]byte, 1<<16)); n <= 0 {
			break
		}
	}
	must(os.Remove(d + "/w"))
	events("watched directory")
}

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

// speed prints how fast things go; it is not for comparing line by line.
func speed(d string) int {
	f := d + "/speed"
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	const total = 512
	timed := func(what string, count int, unit string, f func()) {
		t := time.Now()
		f()
		s := time.Since(t).Seconds()
		fmt.Printf("speed %s: %.0f %s/s (%.3f s)\n", what, float64(count)/s, unit, s)
	}
	for _, how := range []string{"write", "rewrite"} {
		timed(how, total, "MiB", func() {
			fd := open(f, unix.O_CREAT|unix.O_WRONLY, 0o644)
			for range total {
				if n, err := unix.Write(fd, buf); n != len(buf) {
					panic(err)
				}
			}
			must(unix.Fsync(fd))
			unix.Close(fd)
		})
	}
	for _, how := range []string{"read", "reread"} {
		timed(how, total, "MiB", func() {
			fd := open(f, unix.O_RDONLY, 0)
			for range total {
				unix.Read(fd, buf)
			}
			unix.Close(fd)
		})
	}
	timed("mapped read", total, "MiB", func() {
		fd := open(f, unix.O_RDONLY, 0)
		m, err := unix.Mmap(fd, 0, total<<20, unix.PROT_READ, unix.MAP_SHARED)
		must(err)
		for i := 0; i < len(m); i += 4096 {
			sink.Store(int32(m[i]))
		}
		unix.Munmap(m)
		unix.Close(fd)
	})
	timed("mapped write", 64, "MiB", func() {
		fd := open(f, unix.O_RDWR, 0)
		m, err := unix.Mmap(fd, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(err)
		for i := 0; i < len(m); i += 4096 {
			m[i]++
		}
		must(unix.Fsync(fd))
		unix.Munmap(m)
		unix.Close(fd)
	})
	must(unix.Unlink(f))
	const files = 5000
	timed("getppid", 20000, "calls", func() {
		for range 20000 {
			syscall.Getppid()
		}
	})
	timed("create", files, "files", func() {
		for i := range files {
			fd := open(fmt.Sprintf("%s/file%d", d, i), unix.O_CREAT|unix.O_WRONLY, 0o644)
			unix.Close(fd)
		}
	})
	timed("stat", files, "files", func() {
		for i := range files {
			stat(fmt.Sprintf("%s/file%d", d, i))
		}
	})
	timed("readdir", files, "files", func() { names(d) })
	timed("unlink", files, "files", func() {
		for i := range files {
			unix.Unlink(fmt.Sprintf("%s/file%d", d, i))
		}
	})
	timed("read 4k", 20000, "reads", func() {
		write(f, string(make([]byte, 1<<20)))
		fd := open(f, unix.O_RDONLY, 0)
		for i := range 20000 {
			unix.Pread(fd, buf[:4096], int64(i%256)*4096)
		}
		unix.Close(fd)
	})
	w := bufio.NewWriter(os.Stdout)
	w.Flush()
	return 0
}
