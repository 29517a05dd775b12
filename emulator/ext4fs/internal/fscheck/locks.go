package main

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

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
