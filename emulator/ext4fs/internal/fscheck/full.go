package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// full fills a disk to the last block, as a user and as root, and looks at what still
// works then.
func full(d string) int {
	must(os.MkdirAll(d, 0o777))
	must(unix.Chmod(d, 0o777))
	self, err := os.ReadFile("/proc/self/exe")
	must(err)
	must(os.WriteFile(d+"/fscheck", self, 0o755))
	cmd := exec.Command(d+"/fscheck", "fullas", d)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	show("as user", cmd.Run())
	fullas(d + "/root")
	return 0
}

// fullas fills the disk as whoever it is.
func fullas(d string) int {
	os.Mkdir(d, 0o755)
	who := fmt.Sprint("uid ", unix.Geteuid())
	fd := open(d+"/big", unix.O_CREAT|unix.O_RDWR, 0o644)
	buf := make([]byte, 1<<20)
	var err error
	for n := len(buf); n > 0; {
		if n, err = unix.Write(fd, buf); n < 0 {
			break
		}
	}
	show(who+" fills", err)
	var s unix.Statfs_t
	must(unix.Statfs(d, &s))
	// In whole pages: a kernel that writes by pages leaves what is less than one.
	show(who+" leaves", s.Bavail*uint64(s.Bsize)/4096)
	_, err = unix.Pwrite(fd, buf[:4096], 0)
	show(who+" overwrites", err)
	show(who+" allocates", unix.Fallocate(fd, 0, 1<<31, 1<<20))
	sparse := open(d+"/sparse", unix.O_CREAT|unix.O_RDWR, 0o644)
	show(who+" makes a hole", unix.Ftruncate(sparse, 1<<20))
	_, err = unix.Pwrite(sparse, buf[:4096], 1<<19)
	show(who+" writes into it", err)
	if unix.Geteuid() == 0 {
		m, err := unix.Mmap(sparse, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(err)
		show(who+" stores into it", faults(m, 8192))
		unix.Munmap(m)
		show("fsync", unix.Fsync(fd), unix.Fsync(sparse))
		show("remove", unix.Unlink(d+"/big"))
		unix.Close(fd)
		unix.Sync()
		_, err = unix.Pwrite(sparse, buf[:4096], 1<<19)
		show("writes again", err)
	}
	return 0
}

// faults stores to m[i] and says whether that raised SIGBUS.
func faults(m []byte, i int) (fault bool) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() { fault = recover() != nil }()
	m[i] = 1
	return false
}
