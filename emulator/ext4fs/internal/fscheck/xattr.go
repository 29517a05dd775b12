package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

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
