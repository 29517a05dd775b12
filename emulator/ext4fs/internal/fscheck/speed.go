package main

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

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
