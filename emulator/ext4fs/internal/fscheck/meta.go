package main

import (
	"fmt"
	"net"
	"os"

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
