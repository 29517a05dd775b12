package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlResizeFS is EXT4_IOC_RESIZE_FS.
const ioctlResizeFS = 0x40086610

// resizeFS makes the filesystem that holds dir one of so many blocks.
func resizeFS(dir string, blocks string) error {
	n, err := strconv.ParseUint(blocks, 10, 64)
	must(err)
	fd := open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	defer unix.Close(fd)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlResizeFS, uintptr(unsafe.Pointer(&n))); e != 0 {
		return e
	}
	return nil
}

// grow makes the filesystem one of each number of blocks in turn, as a user at last.
func grow(dir string, sizes []string) int {
	for _, blocks := range sizes {
		err := resizeFS(dir, blocks)
		var st unix.Statfs_t
		must(unix.Statfs(dir, &st))
		show("grow to "+blocks, err, st.Blocks, st.Bfree, st.Files, st.Ffree)
	}
	if os.Getuid() != 0 {
		return 0
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"grow", dir}, sizes[len(sizes)-1])...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	show("as a user", err, out)
	return 0
}

// growBusy grows the filesystem in steps while files are made, read and removed in it.
func growBusy(dir string, sizes []string) int {
	must(os.MkdirAll(dir, 0o755))
	var stop atomic.Bool
	done := make(chan int)
	for w := range 3 {
		go func() {
			made := 0
			for i := 0; !stop.Load() || i < 20; i++ {
				name := fmt.Sprintf("%s/busy-%d-%d", dir, w, i%50)
				want := bytes.Repeat([]byte{byte(w), byte(i), 3}, 1+i*997%60000)
				must(os.WriteFile(name, want, 0o644))
				if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
					panic(fmt.Sprintf("%s: other content, %v", name, err))
				}
				if i%3 == 0 {
					must(os.Remove(name))
				}
				made++
			}
			done <- made
		}()
	}
	for _, blocks := range sizes {
		show("grow to "+blocks, resizeFS(dir, blocks))
	}
	stop.Store(true)
	made := 0
	for range 3 {
		made += <-done
	}
	show("made at least 60 files", made >= 60)
	return 0
}
