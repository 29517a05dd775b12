package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// freeze mounts a device, freezes it and sees that changes wait for the thaw. With stay
// it leaves it frozen.
func freeze(device, d string, stay bool) int {
	must(os.MkdirAll(d, 0o755))
	must(unix.Mount(device, d, "ext4", 0, ""))
	request := func(req uint) error {
		fd := open(d, unix.O_RDONLY, 0)
		defer unix.Close(fd)
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), 0)
		if e != 0 {
			return e
		}
		return nil
	}
	write(d+"/written", "before")
	write(d+"/renamed", "before")
	stored(d + "/stored")
	m := open(d+"/mapped", unix.O_CREAT|unix.O_RDWR, 0o644)
	must(unix.Ftruncate(m, 8192))
	mem, err := unix.Mmap(m, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	mem[0] = 1
	removed := open(d+"/removed", unix.O_CREAT|unix.O_RDWR, 0o644)
	if stay {
		unix.Unlink(d + "/removed")
		unix.Close(removed)
		show("freeze", request(fiFreeze))
		fmt.Println("frozen")
		time.Sleep(time.Hour)
	}
	show("thaw of what is not frozen", request(fiThaw))
	show("freeze", request(fiFreeze))
	show("freeze again", request(fiFreeze))
	show("remount frozen", unix.Mount("", d, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	over := open(d+"/renamed", unix.O_RDWR, 0)
	var done atomic.Int32
	changes := []func(){
		func() { must(os.WriteFile(d+"/new", []byte("new"), 0o644)) },
		func() { must(unix.Mkdir(d+"/dir", 0o755)) },
		func() { _, err := unix.Pwrite(over, []byte("behind"), 0); must(err) },
		func() { must(os.Rename(d+"/renamed", d+"/renamed2")) },
		func() { must(os.Chmod(d+"/stored", 0o600)) },
		func() { _, err := unix.Pwrite(m, []byte("over"), 4096); must(err) },
		func() { must(unix.Setxattr(d+"/stored", "user.x", []byte("x"), 0)) },
		func() { must(unix.Truncate(d+"/written", 3)) },
		func() { must(unix.Unlink(d + "/removed")) },
		func() { must(unix.Fallocate(m, 0, 0, 1<<16)) },
	}
	for _, change := range changes {
		go func() {
			change()
			done.Add(1)
		}()
	}
	time.Sleep(500 * time.Millisecond)
	show("changes made", done.Load())
	show("still read", read(d+"/written"), read(d+"/renamed"), names(d), mem[0])
	show("sync", func() error { unix.Sync(); return nil }())
	show("thaw", request(fiThaw))
	for range 600 {
		if int(done.Load()) == len(changes) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	show("changes made", done.Load(), names(d), read(d+"/written"), read(d+"/new"), read(d+"/renamed2"))
	unix.Close(over)
	show("thaw again", request(fiThaw))
	show("freeze and unmount", request(fiFreeze), request(fiThaw))
	must(unix.Munmap(mem))
	unix.Close(m)
	unix.Close(removed)
	return 0
}
