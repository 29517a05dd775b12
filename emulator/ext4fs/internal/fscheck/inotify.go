package main

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
