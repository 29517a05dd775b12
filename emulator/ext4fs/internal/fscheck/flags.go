package main

import (
	"bytes"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
