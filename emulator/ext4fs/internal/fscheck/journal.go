package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// journal overwrites a file that is mapped too and was synced before, and syncs half of
// what it wrote with a second file; then it waits to be killed. The machine's filesystem
// has commit=600. It says what the mount is, and what comes of asking for another data=.
func journal(d string) int {
	const size = 65536
	path := d + "/overwritten"
	fd := open(path, unix.O_CREAT|unix.O_RDWR, 0o644)
	write := func(fd, off int, s string) {
		p := bytes.Repeat([]byte(s), size/len(s)+1)[:size]
		if n, err := unix.Pwrite(fd, p, int64(off)); n != size || err != nil {
			must(fmt.Errorf("wrote %d: %v", n, err))
		}
	}
	write(fd, 0, "first")
	must(unix.Fsync(fd))
	m, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	var seen []string
	look := func() {
		got := make([]byte, size)
		_, err := unix.Pread(fd, got, 0)
		must(err)
		if !bytes.Equal(got, m) {
			seen = append(seen, "another content by read(2) than in the mapping")
		}
		seen = append(seen, string(m[:6]), string(m[size-size%6-6:size-size%6]))
	}
	look() // every page is mapped from the image now
	write(fd, 0, "second")
	look()
	must(unix.Fsync(fd))
	look()
	write(fd, 0, "third!")
	look()
	other := open(d+"/synced", unix.O_CREAT|unix.O_RDWR|unix.O_SYNC, 0o644)
	write(other, 0, "synced")
	write(fd, 0, "fourth") // after the last commit
	look()
	show("seen", seen)
	_, options, _ := strings.Cut(mountLine("/"), " ext4 ")
	show("mount", options)
	for _, mode := range []string{"ordered", "journal", "writeback"} {
		show("remount data="+mode, unix.Mount("", "/", "", unix.MS_REMOUNT, "data="+mode))
	}
	fmt.Println("overwritten")
	os.Stdout.Sync()
	time.Sleep(time.Hour)
	return 0
}
