package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// leave starts a process that has files open, mapped, changed and removed, and leaves
// it alone: the machine ends while it lives.
func leave(d string) int {
	cmd := exec.Command("/proc/self/exe", "leaver", d)
	out, err := cmd.StdoutPipe()
	must(err)
	must(cmd.Start())
	out.Read(make([]byte, 1))
	fmt.Println("left")
	return 0
}

// leaver makes d/stored by stores alone, d/written by writes, and d/gone, which it
// removes; it syncs nothing.
func leaver(d string) int {
	stored(d + "/stored")
	must(os.WriteFile(d+"/written", bytes.Repeat([]byte("written"), 10000), 0o644))
	fd := open(d+"/gone", unix.O_CREAT|unix.O_RDWR, 0o644)
	unix.Write(fd, make([]byte, 1<<20))
	must(unix.Unlink(d + "/gone"))
	open(d, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	os.Stdout.Write([]byte("."))
	time.Sleep(time.Hour)
	return 0
}

// stored makes a file of 64 KiB by way of a mapping, and keeps it mapped.
func stored(path string) {
	fd := open(path, unix.O_CREAT|unix.O_RDWR, 0o644)
	must(unix.Ftruncate(fd, 65536))
	m, err := unix.Mmap(fd, 0, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	for i := range m {
		m[i] = "stored"[i%6]
	}
}

// lose makes files of which the machine, soon to be killed, must keep some: stored
// and not synced, written and synced.
func lose(d string, seconds int) int {
	stored(d + "/stored")
	fd := open(d+"/synced", unix.O_CREAT|unix.O_RDWR, 0o644)
	unix.Write(fd, bytes.Repeat([]byte("synced"), 10000))
	must(unix.Fsync(fd))
	must(os.Mkdir(d+"/dir", 0o755))
	fd = open(d+"/dir/synced", unix.O_CREAT|unix.O_RDWR|unix.O_SYNC, 0o644)
	unix.Write(fd, bytes.Repeat([]byte("synced"), 10000))
	fd = open(d+"/mapped", unix.O_CREAT|unix.O_RDWR, 0o644)
	must(unix.Ftruncate(fd, 60000))
	m, err := unix.Mmap(fd, 0, 60000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	copy(m, bytes.Repeat([]byte("synced"), 10000))
	must(unix.Msync(m, unix.MS_SYNC))
	fmt.Println("synced")
	time.Sleep(time.Duration(seconds) * time.Second)
	fmt.Println("waited")
	time.Sleep(time.Hour)
	return 0
}
