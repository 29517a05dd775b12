package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// speed measures a mounted hostfs and prints how long each kind of work takes.
func speed(d string) {
	const block, size = 1 << 20, 256 << 20
	buf := make([]byte, block)
	for i := range buf {
		buf[i] = byte(i)
	}
	timed := func(what string, units int, work func()) {
		start := time.Now()
		work()
		fmt.Printf("speed %s %d ns\n", what, time.Since(start).Nanoseconds()/int64(units))
	}
	f, err := os.Create(d + "/big")
	must(err)
	timed("write-1M", size/block, func() {
		for range size / block {
			_, err := f.Write(buf)
			must(err)
		}
	})
	timed("read-1M", size/block, func() {
		for i := range size / block {
			_, err := f.ReadAt(buf, int64(i)*block)
			must(err)
		}
	})
	timed("read-4K", 20000, func() {
		for i := range 20000 {
			_, err := f.ReadAt(buf[:4096], int64(i)*4096)
			must(err)
		}
	})
	f.Close()
	var st unix.Stat_t
	timed("stat", 20000, func() {
		for range 20000 {
			must(unix.Lstat(d+"/big", &st))
		}
	})
	timed("open-close", 5000, func() {
		for range 5000 {
			fd, err := unix.Open(d+"/big", unix.O_RDONLY, 0)
			must(err)
			unix.Close(fd)
		}
	})
	timed("create", 2000, func() {
		for i := range 2000 {
			fd, err := unix.Open(fmt.Sprintf("%s/f%d", d, i), unix.O_CREAT|unix.O_WRONLY, 0o644)
			must(err)
			unix.Close(fd)
		}
	})
	timed("readdir-2000", 20, func() {
		for range 20 {
			_, err := os.ReadDir(d)
			must(err)
		}
	})
	timed("unlink", 2000, func() {
		for i := range 2000 {
			must(unix.Unlink(fmt.Sprintf("%s/f%d", d, i)))
		}
	})
	must(os.Remove(d + "/big"))
}
