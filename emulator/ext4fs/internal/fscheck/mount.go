package main

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// mountLine is the line of /proc/self/mounts for dir.
func mountLine(dir string) string {
	line := ""
	for _, l := range bytes.Split([]byte(read("/proc/self/mounts")), []byte("\n")) {
		if bytes.Contains(l, []byte(" "+dir+" ")) {
			line = string(l)
		}
	}
	return line
}

// defaults mounts a device whose superblock has mount options, and others over them.
func defaults(device, dir string) int {
	must(os.MkdirAll(dir, 0o755))
	for _, data := range []string{"", "barrier,acl,user_xattr", "nodiscard,nogrpid", "data=ordered,errors=continue", "data=journal", "delalloc", "commit=5,noblock_validity"} {
		err := unix.Mount(device, dir, "ext4", 0, data)
		show("mount "+device+" "+data, err)
		if err != nil {
			continue
		}
		show("line", mountLine(dir))
		show("remount commit=30,barrier", unix.Mount("", dir, "", unix.MS_REMOUNT, "commit=30,barrier"), mountLine(dir))
		show("remount read-only", unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "nobarrier"), mountLine(dir))
		show("remount", unix.Mount("", dir, "", unix.MS_REMOUNT, "commit=0"), mountLine(dir))
		show("unmount", unix.Unmount(dir, 0))
	}
	return 0
}

// struck uses a filesystem whose directory "bad" is damaged under each of errors=.
func struck(device, dir string) int {
	must(os.MkdirAll(dir, 0o755))
	for _, data := range []string{"errors=continue", "errors=remount-ro"} {
		must(unix.Mount(device, dir, "ext4", 0, data))
		show(data, mountLine(dir), os.WriteFile(dir+"/before", []byte("x"), 0o644))
		unix.Sync()
		_, err := os.ReadDir(dir + "/bad")
		show("read the directory", err != nil)
		show("line", mountLine(dir))
		var s unix.Statfs_t
		must(unix.Statfs(dir, &s))
		show("flags", s.Flags&unix.ST_RDONLY)
		show("read", read(dir+"/before"))
		show("access", unix.Access(dir+"/before", unix.W_OK))
		show("create", os.WriteFile(dir+"/after", nil, 0o644))
		show("mkdir", unix.Mkdir(dir+"/dir", 0o755), unix.Symlink("x", dir+"/link"))
		show("unlink", unix.Unlink(dir+"/before"))
		show("chmod", unix.Chmod(dir+"/before", 0o600))
		show("xattr", unix.Setxattr(dir, "user.x", []byte("x"), 0))
		fd, err := unix.Open(dir+"/before", unix.O_WRONLY, 0)
		show("open for writing", err)
		if err == nil {
			_, err = unix.Write(fd, []byte("y"))
			show("write", err)
			unix.Close(fd)
		}
		show("remount", unix.Mount("", dir, "", unix.MS_REMOUNT, ""), mountLine(dir))
		show("create", os.WriteFile(dir+"/after", nil, 0o644))
		show("remount read-only", unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""), mountLine(dir))
		show("unmount", unix.Unmount(dir, 0))
	}
	return 0
}

// options mounts devices as each of the given types with each of the given options alone.
func options(devices []string, dir string, types, all []string) int {
	must(os.MkdirAll(dir, 0o755))
	for _, device := range devices {
		for _, typ := range types {
			for _, data := range all {
				err := unix.Mount(device, dir, typ, 0, data)
				show("mount "+data, err)
				if err != nil {
					continue
				}
				show("line", mountLine(dir))
				must(unix.Unmount(dir, 0))
			}
		}
	}
	return 0
}
