package main

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// damage mounts a device whose files are damaged, each in a way that its name tells, and
// says with which error each use of them fails.
func damage(device, dir string) int {
	must(os.MkdirAll(dir, 0o755))
	err := unix.Mount(device, dir, "ext4", 0, "errors=continue")
	show("mount", err)
	if err != nil {
		return 0
	}
	use := func(what string, err error) {
		var no unix.Errno
		if errors.As(err, &no) {
			err = no
		}
		show(what, err)
	}
	for _, name := range []string{"inode", "sum", "extents", "mapped", "attribute"} {
		path := dir + "/" + name
		var st unix.Stat_t
		use("stat "+name, unix.Lstat(path, &st))
		f, err := os.Open(path)
		use("open "+name, err)
		if err == nil {
			_, err = io.Copy(io.Discard, f)
			use("read "+name, err)
			f.Close()
		}
		_, err = unix.Getxattr(path, "user.large", make([]byte, 5000))
		use("getxattr "+name, err)
		_, err = unix.Listxattr(path, make([]byte, 5000))
		use("listxattr "+name, err)
		use("setxattr "+name, unix.Setxattr(path, "user.large", make([]byte, 800), 0))
	}
	_, err = os.ReadDir(dir + "/directory")
	use("list directory", err)
	var st unix.Stat_t
	use("lookup in directory", unix.Lstat(dir+"/directory/file", &st))
	use("lookup of nothing in directory", unix.Lstat(dir+"/directory/nothing", &st))
	use("create in directory", unix.Mkdir(dir+"/directory/new", 0o755))
	use("rmdir directory", unix.Rmdir(dir+"/directory"))
	show("unmount", unix.Unmount(dir, 0))
	return 0
}
