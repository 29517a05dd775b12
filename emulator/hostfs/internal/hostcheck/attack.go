package main

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// secret is what the files outside hold.
const secret = "SECRET"

var looks, found int

// look tries to read a file outside.
func look(how, path string) {
	looks++
	if text := read(path); strings.Contains(text, secret) {
		found++
		show("ESCAPED by "+how, path, text)
	}
}

// attack tries to get from d, a mounted hostfs, at files named secret above and beside the
// exported directory, whose path on the host is outside.
func attack(d, outside string) {
	up := ""
	for range 12 {
		up += "../"
		look("..", d+"/"+up+"secret")
		look("..", d+"/d/"+up+"secret")
		look(".. and the path", d+"/"+up+outside+"/secret")
	}
	look("path", outside+"/secret")
	for _, link := range []string{"abs", "rel", "d/rel", "magic", "dirabs/secret", "dirrel/secret", "root/secret", "root" + outside + "/secret", "cwd/../secret"} {
		look("symlink of the host", d+"/"+link)
		look("symlink of the host", d+"/d/../"+link)
	}
	for i, target := range []string{outside + "/secret", "../secret", "d/../../secret", "/proc/self/root/" + outside + "/secret", "/proc/1/cwd/../secret"} {
		link := fmt.Sprintf("%s/mine%d", d, i)
		os.Symlink(target, link)
		look("symlink of the guest", link)
	}
	// Made through a link, a file lands where the guest says, not the host.
	os.Symlink("../../made", d+"/d/maker")
	os.WriteFile(d+"/d/maker", []byte("x"), 0o644)
	os.Symlink(outside+"/made", d+"/maker")
	os.WriteFile(d+"/maker", []byte("x"), 0o644)

	for i, o := range []string{"/..", "/../", "/d/../..", "/../../../..", "/dirrel", "/dirabs", "/root", "/cwd", "/magic", "/d/../dirrel/..", outside, "hostfs=/..", "hostfs=..", "hostfs=../..", "uid=0,/..", "/d,/.."} {
		at := fmt.Sprintf("/m%d", i)
		os.Mkdir(at, 0o755)
		err := unix.Mount("none", at, "hostfs", 0, o)
		look("mount option "+o, at+"/secret")
		look("mount option "+o, at+"/../secret")
		look("mount option "+o, at+outside+"/secret")
		if err == nil {
			unix.Unmount(at, 0)
		}
	}
	os.Mkdir("/bound", 0o755)
	must(unix.Mount(d+"/d", "/bound", "", unix.MS_BIND, ""))
	look("bind mount", "/bound/../secret")
	look("bind mount", "/bound/../../secret")
	must(unix.Mount(d+"/d", d+"/d", "", unix.MS_BIND, ""))
	look("bind mount", d+"/d/../../secret")
	unix.Unmount(d+"/d", 0)
	if fd, err := unix.Open(d+"/d", unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		for _, p := range []string{"../../secret", "../" + outside + "/secret"} {
			look("descriptor", fmt.Sprintf("/proc/self/fd/%d/%s", fd, p))
		}
	}
	// Out of a chroot the guest gets to its own root.
	if fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
		here, _ := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(unix.Chroot(d + "/d"))
		must(unix.Fchdir(fd))
		for range 12 {
			look("chroot", "secret")
			look("chroot", "."+outside+"/secret")
			unix.Chdir("..")
		}
		must(unix.Fchdir(here))
		must(unix.Chroot("."))
	}
	race(d)
	moved(d)
	foreign(d)
	show("attack", looks > 100, found)
}

// race goes through a directory that is exchanged with a symlink, by the host all the time
// and by the guest too.
func race(d string) {
	must(os.MkdirAll("/raced", 0o755))
	tell(d + "/race?")
	await(d + "/racing")
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		for !stop.Load() {
			unix.Renameat2(unix.AT_FDCWD, d+"/gate2", unix.AT_FDCWD, d+"/gate2link", unix.RENAME_EXCHANGE)
		}
		close(ended)
	}()
	inside := 0
	for i := range 1500 {
		for _, gate := range []string{"/gate", "/gate2"} {
			look("race", d+gate+"/secret")
			if read(d+gate+"/inside") == "inside" {
				inside++
			}
			os.WriteFile(d+gate+"/made", []byte("x"), 0o644)
			if i%16 == 0 {
				at := d + gate + "/x"
				os.Mkdir(at, 0o755)
				os.Rename(at, at+"y")
				os.Remove(at + "y")
				if unix.Mount("none", "/raced", "hostfs", 0, gate) == nil {
					look("race of a mount", "/raced/secret")
					unix.Unmount("/raced", 0)
				}
			}
		}
	}
	stop.Store(true)
	<-ended
	tell(d + "/raced?")
	await(d + "/raced")
	show("race", inside > 10)
}

// moved stays in a directory that the host moves out.
func moved(d string) {
	must(os.Chdir(d + "/mover/below"))
	tell(d + "/move?")
	await(d + "/moved")
	for _, p := range []string{"../secret", "../../secret", "../../../secret"} {
		look("moved directory", p)
	}
	must(os.Chdir("/"))
}

// foreign meets what the host has behind nodes.
func foreign(d string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(err)
	show("host's socket", unix.Connect(fd, &unix.SockaddrUnix{Name: d + "/sock"}))
	show("through a link", unix.Connect(fd, &unix.SockaddrUnix{Name: d + "/socklink"}))
	abstract := unix.Connect(fd, &unix.SockaddrUnix{Name: "@umlkit-hostfs-test"})
	show("host's abstract socket", abstract)
	pipe, err := unix.Open(d+"/fifo", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	b := make([]byte, 10)
	n, rerr := unix.Read(pipe, b)
	show("host's fifo", err, max(n, 0), rerr)
	zero, err := os.Open(d + "/zero")
	if err == nil {
		n, err = zero.Read(b)
	}
	show("guest's device", n, err)
	_, err = unix.Open(d+"/hostdisk", unix.O_RDONLY, 0)
	show("host's disk", err)
}
