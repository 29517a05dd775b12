package main

import (
	"bytes"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// values sets attributes with values up to the largest on files of all kinds.
func values(d string) int {
	value := func(seed, size int) []byte {
		v := make([]byte, size)
		for i := range v {
			v[i] = byte(i*7>>3 + seed)
		}
		return v
	}
	check := func(path, name string, want []byte) {
		got := make([]byte, 1<<17)
		n, err := unix.Lgetxattr(path, name, got)
		show("get "+path+" "+name, err, n, bytes.Equal(got[:max(n, 0)], want))
	}
	must(os.WriteFile(d+"/a", nil, 0o644))
	must(os.WriteFile(d+"/b", nil, 0o644))
	must(os.Symlink(string(bytes.Repeat([]byte("l"), 100)), d+"/link"))
	must(os.Mkdir(d+"/dir", 0o755))
	for i, size := range []int{0, 1, 100, 3900, 4000, 4096, 5000, 32768, 65535, 65536} {
		name := fmt.Sprint("user.v", size)
		show("set", size, unix.Setxattr(d+"/a", name, value(i, size), 0))
		check(d+"/a", name, value(i, size))
		show("set again", size, unix.Setxattr(d+"/b", name, value(i, size), 0)) // the same: it is shared
		show("set as the other", size, unix.Setxattr(d+"/b", name, value(i, size), unix.XATTR_CREATE))
		check(d+"/b", name, value(i, size))
	}
	show("too large", unix.Setxattr(d+"/a", "user.x", value(0, 65537), 0))
	show("on a directory", unix.Setxattr(d+"/dir", "user.x", value(1, 40000), 0))
	show("on a symlink", unix.Lsetxattr(d+"/link", "trusted.x", value(2, 40000), 0))
	check(d+"/dir", "user.x", value(1, 40000))
	check(d+"/link", "trusted.x", value(2, 40000))
	var st unix.Stat_t
	must(unix.Stat(d+"/a", &st))
	show("blocks", st.Blocks)
	list := make([]byte, 4096)
	n, err := unix.Listxattr(d+"/a", list)
	show("list", err, n)
	show("replace by a small one", unix.Setxattr(d+"/a", "user.v65536", []byte("small"), 0))
	check(d+"/a", "user.v65536", []byte("small"))
	check(d+"/b", "user.v65536", value(9, 65536))
	show("remove", unix.Removexattr(d+"/b", "user.v32768"), unix.Removexattr(d+"/b", "user.v32768"))
	check(d+"/a", "user.v32768", value(7, 32768))
	must(unix.Stat(d+"/a", &st))
	show("blocks", st.Blocks)
	show("unlink", unix.Unlink(d+"/a"))
	check(d+"/b", "user.v65535", value(8, 65535))
	show("rmdir", unix.Rmdir(d+"/dir"))
	return 0
}

// projects gives directories projects and moves files between them, with files of many
// owners.
func projects(d string) int {
	set := func(path string, project uint32) error {
		fd := open(path, unix.O_RDONLY, 0)
		defer unix.Close(fd)
		x := struct {
			flags, extsize, nextents, projid, cowextsize uint32
			pad                                          [8]byte
		}{flags: 0x200, projid: project}
		if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x401c5820, uintptr(unsafe.Pointer(&x))); no != 0 {
			return no
		}
		return nil
	}
	for i := range 3 {
		dir := fmt.Sprint(d, "/p", i)
		must(os.Mkdir(dir, 0o777))
		must(set(dir, uint32(i*1000)))
		for k := range 40 {
			name := fmt.Sprint(dir, "/", k)
			must(os.WriteFile(name, make([]byte, k*1000), 0o644))
			must(os.Chown(name, k*i*7, k))
		}
	}
	show("link", unix.Link(d+"/p0/1", d+"/p1/x"))
	show("rename", unix.Rename(d+"/p1/1", d+"/p2/x"))
	show("exchange", unix.Renameat2(unix.AT_FDCWD, d+"/p1/1", unix.AT_FDCWD, d+"/p2/1", unix.RENAME_EXCHANGE))
	show("rename out", unix.Rename(d+"/p1/1", d+"/out"))
	show("rename back", unix.Rename(d+"/out", d+"/p1/1"))
	show("remove", os.RemoveAll(d+"/p2"))
	return 0
}
