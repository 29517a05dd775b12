package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// about is owner, mode and device of a file.
func about(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Sprint(err)
	}
	s := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode)
	if st.Mode&unix.S_IFMT == unix.S_IFCHR || st.Mode&unix.S_IFMT == unix.S_IFBLK {
		s += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return s
}

// as does something as another user.
func as(uid uint32, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// inNamespace is as, with the user as root of a user namespace.
func inNamespace(uid uint32, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(uid), Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, Unshareflags: syscall.CLONE_NEWNS, UidMappings: id, GidMappings: id,
		Credential: &syscall.Credential{NoSetGroups: true}}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// files are what own makes, in the order in which owned tells of them.
var files = []string{"given", "suid", "null", "disk", "fifo", "socket", "link", "mylink", "theirs", "theirs/file", "sgid", "sgid/file", "locked", "hard"}

// own makes files with owners, modes and kinds that an ordinary user cannot.
func own(d string) {
	unix.Umask(0)
	must(os.MkdirAll(d, 0o755))
	must(os.WriteFile(d+"/given", []byte("given"), 0o640))
	show("chown", unix.Chown(d+"/given", 5, 6))
	must(os.WriteFile(d+"/suid", nil, 0o755))
	show("chmod", unix.Chmod(d+"/suid", 0o4755))
	show("mknod", unix.Mknod(d+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	show("mknod", unix.Mknod(d+"/disk", unix.S_IFBLK|0o660, int(unix.Mkdev(98, 16))))
	show("mkfifo", unix.Mkfifo(d+"/fifo", 0o644))
	show("chown fifo", unix.Chown(d+"/fifo", 5, 6))
	must(unix.Mknod(d+"/socket", unix.S_IFSOCK|0o600, 0))
	must(os.Symlink("given", d+"/link"))
	show("lchown", unix.Lchown(d+"/link", 5, 6))
	must(os.Symlink("given", d+"/mylink"))
	must(os.Mkdir(d+"/theirs", 0o755))
	show("chown directory", unix.Chown(d+"/theirs", 1000, 1000))
	must(os.Mkdir(d+"/sgid", 0o755))
	show("chown directory", unix.Chown(d+"/sgid", 0, 7), unix.Chmod(d+"/sgid", 0o2775))
	must(os.WriteFile(d+"/sgid/file", nil, 0o644))
	must(os.WriteFile(d+"/locked", []byte("locked"), 0o644))
	show("chmod 0", unix.Chmod(d+"/locked", 0))
	show("read by root", read(d+"/locked"))
	must(os.Link(d+"/given", d+"/hard"))
	os.Chmod(d, 0o755)
	show("user", as(1000, "/init", "plain", d))
	n, err := 0, error(nil)
	if f, e := os.OpenFile(d+"/null", os.O_RDWR, 0); e != nil {
		err = e
	} else {
		n, err = f.Write([]byte("away"))
	}
	show("null", n, err)
	show("own attribute", unix.Setxattr(d+"/given", "user.umlkit.owner", []byte("0 0 104755"), 0))
	_, err = unix.Getxattr(d+"/given", "user.umlkit.owner", nil)
	show("hidden", err)
	owned(d)
}

// owned tells what the files are.
func owned(d string) {
	for _, f := range files {
		show(f, about(d+"/"+f))
	}
	show("targets", read(d+"/link"), readlink(d+"/link"), readlink(d+"/mylink"))
	kinds := ""
	entries, _ := os.ReadDir(d)
	for _, e := range entries {
		kinds += fmt.Sprintf("%s=%v ", e.Name(), e.Type())
	}
	show("kinds", kinds)
}

func readlink(p string) string {
	s, err := os.Readlink(p)
	if err != nil {
		return err.Error()
	}
	return s
}

// plain is what an ordinary user of the guest does.
func plain(d string) {
	unix.Umask(0o022)
	show("user reads", read(d+"/given"), read(d+"/locked"))
	show("user writes", os.WriteFile(d+"/new", nil, 0o644), os.WriteFile(d+"/theirs/file", []byte("x"), 0o644))
	show("user's link", os.Symlink("x", d+"/theirs/l"), about(d+"/theirs/l"), os.Remove(d+"/theirs/l"))
	show("user chowns", unix.Chown(d+"/theirs/file", 0, 0), unix.Chown(d+"/given", 1000, 1000))
	show("user's mknod", unix.Mknod(d+"/theirs/dev", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
}

// grow holds what may be done where files may only grow.
func grow(d string) {
	must(os.WriteFile(d+"/new", []byte("new"), 0o644))
	f, err := os.OpenFile(d+"/file", os.O_RDWR, 0)
	must(err)
	_, err = f.WriteAt([]byte("X"), 0)
	show("write at the beginning", err, read(d+"/file"))
	_, err = f.Write([]byte("Y"))
	show("write", err, read(d+"/file"))
	f.Close()
	f, err = os.OpenFile(d+"/file", os.O_RDWR|os.O_TRUNC, 0)
	show("truncating open", err, read(d+"/file"))
	show("ftruncate", f.Truncate(1), read(d+"/file"))
	show("truncate", os.Truncate(d+"/file", 0), read(d+"/file"))
	show("unlink", unix.Unlink(d+"/file"))
	show("mkdir", unix.Mkdir(d+"/dir", 0o755), unix.Rmdir(d+"/dir"))
	show("rename", unix.Rename(d+"/new", d+"/renamed"))
	f.Close()
}

// growMore are the ways that a real kernel leaves open.
func growMore(d string) {
	f, err := os.OpenFile(d+"/file", os.O_RDWR, 0)
	must(err)
	show("rename over", unix.Rename(d+"/renamed", d+"/file"), read(d+"/file"))
	_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	show("shared mapping", err)
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	show("mapping to read", err, unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE))
	show("punch", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
	show("zero", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 0, 2))
	show("allocate", unix.Fallocate(int(f.Fd()), 0, 0, 100))
	f.Close()
}

// emergency has the kernel make everything read-only while a file is open for writing.
func emergency(d string) {
	f, err := os.OpenFile(d+"/file", os.O_RDWR, 0)
	must(err)
	_, err = f.WriteString("before")
	show("before", err)
	must(os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0))
	for range 1000 {
		if _, err = f.WriteAt([]byte("after!"), 0); err != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	show("after", err, os.Remove(d+"/file"), unix.Fallocate(int(f.Fd()), 0, 0, 100))
	unix.Sync()
}

// readonly tries to change what is mounted read-only.
func readonly(d string) {
	_, err := os.OpenFile(d+"/file", os.O_RDWR, 0)
	show("open", err, read(d+"/file"))
	show("create", os.WriteFile(d+"/new", nil, 0o644), os.Mkdir(d+"/newdir", 0o755), os.Symlink("x", d+"/newlink"))
	show("change", os.Chmod(d+"/file", 0o600), os.Truncate(d+"/file", 0), unix.Lchown(d+"/file", 1, 1))
	show("names", os.Remove(d+"/file"), os.Rename(d+"/file", d+"/x"), os.Link(d+"/file", d+"/y"))
	show("attributes", unix.Setxattr(d+"/file", "user.a", []byte("x"), 0), unix.UtimesNanoAt(unix.AT_FDCWD, d+"/file", []unix.Timespec{{}, {}}, 0))
}
