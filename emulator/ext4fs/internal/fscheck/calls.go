package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func calls(dir string) int {
	unix.Umask(0o022)
	for _, s := range []struct {
		name string
		f    func(string)
	}{
		{"create", createCalls},
		{"open", openCalls},
		{"rename", renameCalls},
		{"exchange", exchangeCalls},
		{"links", linkCalls},
		{"directories", directoryCalls},
		{"readdir", readdirCalls},
		{"data", dataCalls},
		{"append", appendCalls},
		{"truncate", truncateCalls},
		{"seek", seekCalls},
		{"fallocate", fallocateCalls},
		{"shift", shiftCalls},
		{"mmap", mmapCalls},
		{"mapcopies", mapCopyCalls},
		{"maptruncate", mapTruncateCalls},
		{"times", timeCalls},
		{"modes", modeCalls},
		{"xattrs", xattrCalls},
		{"acls", aclCalls},
		{"flags", flagCalls},
		{"nodes", nodeCalls},
		{"tmpfile", tmpfileCalls},
		{"locks", lockCalls},
		{"inotify", inotifyCalls},
		{"statfs", statfsCalls},
		{"exec", execCalls},
		{"deleted", deletedCalls},
		{"direct", directCalls},
	} {
		section(dir, s.name, s.f)
	}
	os.Chmod(dir, 0o777)
	section(dir, "user", func(d string) {
		os.Chmod(d, 0o777)
		prepareUser(d)
		self, err := os.ReadFile("/proc/self/exe")
		must(err)
		bin := d + "/fscheck"
		must(os.WriteFile(bin, self, 0o755))
		cmd := exec.Command(bin, "user", d)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{1000, 2000}}}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			show("as user", err)
		}
	})
	return 0
}

func createCalls(d string) {
	f := d + "/f"
	fd, err := unix.Open(f, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o666)
	show("create", err)
	unix.Close(fd)
	_, err = unix.Open(f, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o666)
	show("create again", err)
	show("mode", fmt.Sprintf("%o", stat(f).Mode))
	_, err = unix.Open(d+"/missing/f", unix.O_CREAT|unix.O_RDWR, 0o666)
	show("create below missing", err)
	_, err = unix.Open(f+"/f", unix.O_CREAT|unix.O_RDWR, 0o666)
	show("create below file", err)
	_, err = unix.Open(d+"/x/", unix.O_CREAT|unix.O_RDWR, 0o666)
	show("create with slash", err)
	_, err = unix.Open(d, unix.O_CREAT|unix.O_RDWR, 0o666)
	show("create over directory", err)
	long := strings.Repeat("n", 255)
	show("name of 255", os.WriteFile(d+"/"+long, nil, 0o644))
	show("name of 256", os.WriteFile(d+"/"+long+"n", nil, 0o644))
	show("open name of 256", func() error { _, err := unix.Open(d+"/"+long+"n", unix.O_RDONLY, 0); return err }())
	show("stat name of 256", unix.Lstat(d+"/"+long+"n", new(unix.Stat_t)))
	show("mkdir", unix.Mkdir(d+"/dir", 0o777), fmt.Sprintf("%o", stat(d+"/dir").Mode), stat(d+"/dir").Nlink)
	show("mkdir again", unix.Mkdir(d+"/dir", 0o777))
	show("mkdir with slash", unix.Mkdir(d+"/dir2/", 0o777))
	show("mkdir over file", unix.Mkdir(f, 0o777))
	show("mkdir dot", unix.Mkdir(d+"/.", 0o777), unix.Mkdir(d+"/..", 0o777))
	show("mkdir sticky", unix.Mkdir(d+"/sticky", 0o1777), fmt.Sprintf("%o", stat(d+"/sticky").Mode))
	show("mkdir setgid ignored", unix.Mkdir(d+"/sg", 0o2777), fmt.Sprintf("%o", stat(d+"/sg").Mode))
	show("links of parent", stat(d).Nlink)
	show("unlink directory", unix.Unlink(d+"/dir"))
	show("rmdir file", unix.Rmdir(f))
	show("rmdir dot", unix.Rmdir(d+"/dir/."))
	show("rmdir dot dot", unix.Rmdir(d+"/dir/.."))
	show("rmdir missing", unix.Rmdir(d+"/nothing"))
	write(d+"/dir/x", "")
	show("rmdir full", unix.Rmdir(d+"/dir"))
	show("unlink with slash", unix.Unlink(f+"/"))
	show("unlink missing", unix.Unlink(d+"/nothing"))
	show("unlink dot", unix.Unlink(d+"/."))
	show("unlink", unix.Unlink(f), unix.Lstat(f, new(unix.Stat_t)))
	unix.Umask(0o077)
	write(d+"/u", "")
	show("umask", fmt.Sprintf("%o", stat(d+"/u").Mode))
	unix.Umask(0o022)
	for i := range 200 {
		write(fmt.Sprintf("%s/many%d", d, i), "")
	}
	show("many", strings.Count(names(d), "many"))
}

func openCalls(d string) {
	write(d+"/f", "content")
	must(os.Symlink("f", d+"/link"))
	must(os.Symlink("nowhere", d+"/dangling"))
	must(os.Symlink("loop2", d+"/loop1"))
	must(os.Symlink("loop1", d+"/loop2"))
	must(os.Mkdir(d+"/dir", 0o755))
	must(os.Symlink("dir", d+"/dirlink"))
	try := func(what, path string, flags int) {
		fd, err := unix.Open(d+"/"+path, flags, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		show("open "+what, err)
	}
	try("file", "f", unix.O_RDONLY)
	try("symlink", "link", unix.O_RDONLY)
	try("symlink nofollow", "link", unix.O_RDONLY|unix.O_NOFOLLOW)
	try("symlink path nofollow", "link", unix.O_PATH|unix.O_NOFOLLOW)
	try("dangling", "dangling", unix.O_RDONLY)
	try("dangling excl", "dangling", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	try("loop", "loop1", unix.O_RDONLY)
	try("directory for writing", "dir", unix.O_RDWR)
	try("file as directory", "f", unix.O_RDONLY|unix.O_DIRECTORY)
	try("directory", "dirlink", unix.O_RDONLY|unix.O_DIRECTORY)
	try("file slash", "f/", unix.O_RDONLY)
	try("file slash dot", "f/.", unix.O_RDONLY)
	try("creat through dangling", "dangling", unix.O_RDWR|unix.O_CREAT)
	show("made by it", names(d))
	try("excl existing symlink", "link", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	try("truncating", "f", unix.O_RDWR|unix.O_TRUNC)
	show("truncated", read(d+"/f"))
	try("directory direct", "dir", unix.O_RDONLY|unix.O_DIRECT)
	fd := open(d+"/f", unix.O_WRONLY, 0)
	_, err := unix.Read(fd, make([]byte, 1))
	show("read write-only", err)
	unix.Close(fd)
	fd = open(d+"/f", unix.O_RDONLY, 0)
	_, err = unix.Write(fd, []byte("x"))
	show("write read-only", err)
	show("ftruncate read-only", unix.Ftruncate(fd, 1))
	unix.Close(fd)
	fd = open(d+"/dir", unix.O_RDONLY, 0)
	_, err = unix.Read(fd, make([]byte, 1))
	show("read directory", err)
	show("truncate directory", unix.Truncate(d+"/dir", 0))
	unix.Close(fd)
	show("readlink", func() string { s, _ := os.Readlink(d + "/link"); return s }())
	_, err = unix.Readlink(d+"/f", make([]byte, 10))
	show("readlink file", err)
	for _, n := range []int{1, 59, 60, 61, 255, 4000, 4094, 4095} {
		target := strings.Repeat("t", n)
		err := os.Symlink(target, fmt.Sprintf("%s/s%d", d, n))
		got, rerr := os.Readlink(fmt.Sprintf("%s/s%d", d, n))
		show(fmt.Sprint("symlink of ", n), err, rerr, got == target)
		if err == nil {
			show("its size", stat(fmt.Sprintf("%s/s%d", d, n)).Size)
		}
	}
	show("empty symlink", unix.Symlink("", d+"/empty"))
}

func renameCalls(d string) {
	kinds := []string{"none", "file", "other", "link", "empty", "full", "symlink"}
	make1 := func(path, kind string) {
		os.RemoveAll(path)
		switch kind {
		case "file":
			write(path, "file")
		case "other":
			write(path, "other")
		case "link":
			must(os.Link(d+"/linked", path))
		case "empty":
			must(os.Mkdir(path, 0o755))
		case "full":
			must(os.Mkdir(path, 0o755))
			write(path+"/in", "in")
		case "symlink":
			must(os.Symlink("somewhere", path))
		}
	}
	for _, dirs := range [][2]string{{"a", "a"}, {"a", "b"}} {
		for _, from := range kinds {
			for _, to := range kinds {
				for _, flags := range []uint{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE} {
					os.RemoveAll(d + "/a")
					os.RemoveAll(d + "/b")
					must(os.Mkdir(d+"/a", 0o755))
					must(os.Mkdir(d+"/b", 0o755))
					write(d+"/linked", "linked")
					p, q := d+"/"+dirs[0]+"/p", d+"/"+dirs[1]+"/q"
					make1(p, from)
					make1(q, to)
					err := unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, q, flags)
					show(fmt.Sprintf("rename %s %s->%s %d", strings.Join(dirs[:], ""), from, to, flags), err,
						names(d+"/a"), names(d+"/b"), kindOf(p), kindOf(q), stat(d+"/a").Nlink, stat(d+"/b").Nlink)
				}
			}
		}
	}
	os.RemoveAll(d + "/a")
	must(os.MkdirAll(d+"/a/b/c", 0o755))
	show("below itself", unix.Rename(d+"/a", d+"/a/b/c/a"))
	show("onto itself", unix.Rename(d+"/a", d+"/a"))
	show("onto ancestor", unix.Rename(d+"/a/b/c", d+"/a"))
	show("exchange with ancestor", unix.Renameat2(-100, d+"/a/b/c", -100, d+"/a", unix.RENAME_EXCHANGE))
	show("dot", unix.Rename(d+"/a/.", d+"/z"), unix.Rename(d+"/a", d+"/a/.."))
	show("to dot noreplace", unix.Renameat2(-100, d+"/a", -100, d+"/a/.", unix.RENAME_NOREPLACE))
	show("both flags", unix.Renameat2(-100, d+"/a", -100, d+"/z", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE))
	show("unknown flag", unix.Renameat2(-100, d+"/a", -100, d+"/z", 8))
	show("directory moved up", unix.Rename(d+"/a/b/c", d+"/c"), stat(d+"/a/b").Nlink)
	write(d+"/f", "f")
	show("file with slash", unix.Rename(d+"/f/", d+"/g"), unix.Rename(d+"/f", d+"/g/"))
	show("directory with slash", unix.Rename(d+"/c/", d+"/e/"), kindOf(d+"/e"))
	long := strings.Repeat("n", 256)
	show("long name", unix.Rename(d+"/f", d+"/"+long))
	show("whiteout", unix.Renameat2(-100, d+"/f", -100, d+"/g", unix.RENAME_WHITEOUT), fmt.Sprintf("%o", stat(d+"/f").Mode), stat(d+"/f").Rdev, read(d+"/g"))
	show("across mounts", unix.Rename(d+"/g", "/proc/g"))
	must(os.Mkdir(d+"/w", 0o755))
	wd, err := os.Getwd()
	must(err)
	must(os.Chdir(d + "/w"))
	must(os.Rename(d+"/w", d+"/e/w2"))
	now, err := os.Getwd()
	show("working directory moved", err, strings.TrimPrefix(now, d))
	must(os.Chdir(wd))
}

func kindOf(path string) string {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return "-"
	case st.IsDir():
		return "dir:" + names(path)
	case st.Mode()&os.ModeSymlink != 0:
		s, _ := os.Readlink(path)
		return "->" + s
	case st.Mode().IsRegular():
		return read(path)
	}
	return st.Mode().String()
}

func exchangeCalls(d string) {
	must(os.MkdirAll(d+"/a/deep", 0o755))
	write(d+"/a/deep/x", "x")
	write(d+"/f", "f")
	for range 3 {
		show("exchange", unix.Renameat2(-100, d+"/a", -100, d+"/f", unix.RENAME_EXCHANGE), kindOf(d+"/a"), kindOf(d+"/f"))
	}
	must(os.MkdirAll(d+"/g/h", 0o755))
	write(d+"/g/h/y", "y")
	show("exchange trees", unix.Renameat2(-100, d+"/f/deep", -100, d+"/g", unix.RENAME_EXCHANGE), read(d+"/g/x"), read(d+"/f/deep/h/y"))
	show("parent of moved", read(d+"/g/../f/deep/h/y"))
}

func linkCalls(d string) {
	write(d+"/f", "one")
	show("link", unix.Link(d+"/f", d+"/g"), stat(d+"/f").Nlink, stat(d+"/f").Ino == stat(d+"/g").Ino)
	show("link over", unix.Link(d+"/f", d+"/g"))
	show("link missing", unix.Link(d+"/no", d+"/h"))
	must(os.Mkdir(d+"/dir", 0o755))
	show("link directory", unix.Link(d+"/dir", d+"/h"))
	must(os.Symlink("f", d+"/s"))
	show("link symlink", unix.Link(d+"/s", d+"/s2"), kindOf(d+"/s2"), stat(d+"/s").Nlink)
	show("link through symlink", unix.Linkat(-100, d+"/s", -100, d+"/t", unix.AT_SYMLINK_FOLLOW), kindOf(d+"/t"), stat(d+"/f").Nlink)
	show("link across mounts", unix.Link("/proc/self/stat", d+"/p"))

	// Pages of hard links are the same pages.
	a, b := open(d+"/f", unix.O_RDWR, 0), open(d+"/g", unix.O_RDWR, 0)
	m, err := unix.Mmap(a, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	n, err := unix.Mmap(b, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	copy(m, "two")
	show("map of other link", n[:3])
	buf := make([]byte, 3)
	unix.Pread(b, buf, 0)
	show("read of other link", buf)
	unix.Pwrite(b, []byte("six"), 0)
	show("map after write", m[:3], n[:3])
	unix.Munmap(m)
	unix.Munmap(n)
	unix.Close(a)
	show("unlink one", unix.Unlink(d+"/f"), read(d+"/g"))
	show("unlink other", unix.Unlink(d+"/g"), unix.Unlink(d+"/t"))
	var st unix.Stat_t
	unix.Fstat(b, &st)
	unix.Pread(b, buf, 0)
	show("open after", st.Nlink, buf)
	show("link deleted", unix.Linkat(-100, fmt.Sprintf("/proc/self/fd/%d", b), -100, d+"/back", unix.AT_SYMLINK_FOLLOW))
	unix.Close(b)
}

func directoryCalls(d string) {
	must(os.Mkdir(d+"/dir", 0o755))
	fd := open(d+"/dir", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(unix.Rmdir(d + "/dir"))
	_, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_RDWR, 0o644)
	show("create in removed", err)
	show("mkdir in removed", unix.Mkdirat(fd, "x", 0o755))
	show("rename into removed", unix.Renameat(-100, d, fd, "x"))
	var st unix.Stat_t
	show("stat removed", unix.Fstat(fd, &st), st.Nlink)
	show("dot dot of removed", unix.Fstatat(fd, "..", &st, 0), st.Ino == stat(d).Ino)
	n, err := unix.Getdents(fd, make([]byte, 4096))
	show("readdir removed", n, err)
	unix.Close(fd)

	must(os.Mkdir(d+"/wd", 0o755))
	old, err := os.Getwd()
	must(err)
	must(os.Chdir(d + "/wd"))
	must(unix.Rmdir(d + "/wd"))
	show("getcwd removed", func() error { _, err := unix.Getcwd(make([]byte, 4096)); return err }())
	show("create in removed cwd", os.WriteFile("f", nil, 0o644))
	must(os.Chdir(old))

	must(os.MkdirAll(d+"/deep/er", 0o755))
	show("rmdir below", unix.Rmdir(d+"/deep"), unix.Rmdir(d+"/deep/er"), unix.Rmdir(d+"/deep"))
	for i := range 100 {
		must(os.Mkdir(fmt.Sprintf("%s/n%d", d, i), 0o755))
	}
	show("links", stat(d).Nlink)
	for i := range 100 {
		must(os.Remove(fmt.Sprintf("%s/n%d", d, i)))
	}
	show("links", stat(d).Nlink)
}

func readdirCalls(d string) {
	const n = 3000
	for i := range n {
		write(fmt.Sprintf("%s/entry-number-%d", d, i), "")
	}
	f, err := os.Open(d)
	must(err)
	seen := map[string]int{}
	removed := 0
	for {
		entries, err := f.ReadDir(37)
		for _, e := range entries {
			seen[e.Name()]++
		}
		// Remove what was seen, and make others: the rest must still come once.
		for k, e := range entries {
			if k%3 == 0 {
				must(os.Remove(d + "/" + e.Name()))
				removed++
			}
		}
		write(fmt.Sprintf("%s/new-%d", d, len(seen)), "")
		if err != nil {
			break
		}
	}
	missing, twice := 0, 0
	for i := range n {
		switch seen[fmt.Sprintf("entry-number-%d", i)] {
		case 0:
			missing++
		case 1:
		default:
			twice++
		}
	}
	show("while removing", missing, twice, removed >= n/3)
	f.Seek(0, 0)
	all, err := f.ReadDir(-1)
	show("again", err, len(all) == strings.Count(names(d), " ")+1)
	f.Close()

	fd := open(d, unix.O_RDONLY, 0)
	_, err = unix.Getdents(fd, make([]byte, 10))
	show("small buffer", err)
	buf := make([]byte, 1<<20)
	k, err := unix.Getdents(fd, buf)
	show("large buffer", err)
	_, _, list := unix.ParseDirent(buf[:k], -1, nil)
	show("listed", len(list) == len(all))
	pos, err := unix.Seek(fd, 0, 1)
	k, err2 := unix.Getdents(fd, buf)
	show("at end", err, pos != 0, k, err2)
	unix.Close(fd)
	types := map[string]uint8{}
	must(os.Mkdir(d+"/types", 0o755))
	write(d+"/types/f", "")
	must(os.Mkdir(d+"/types/d", 0o755))
	must(os.Symlink("x", d+"/types/l"))
	must(unix.Mkfifo(d+"/types/p", 0o644))
	fd = open(d+"/types", unix.O_RDONLY, 0)
	k, _ = unix.Getdents(fd, buf)
	for b := buf[:k]; len(b) > 0; {
		l := int(b[16]) | int(b[17])<<8
		types[string(b[19:19+bytes.IndexByte(b[19:l], 0)])] = b[18]
		b = b[l:]
	}
	show("types", types["f"], types["d"], types["l"], types["p"], types["."], types[".."])
	unix.Close(fd)
}

func timeCalls(d string) {
	f := d + "/f"
	write(f, "x")
	set := []unix.Timespec{{Sec: 1000, Nsec: 123456789}, {Sec: 2000, Nsec: 999999999}}
	show("utimens", unix.UtimesNanoAt(-100, f, set, 0), stat(f).Atim, stat(f).Mtim)
	for _, sec := range []int64{-1, -2147483648, 2147483647, 2147483648, 4294967296, 15032385535, 1 << 33} {
		t := []unix.Timespec{{Sec: sec}, {Sec: sec, Nsec: 5}}
		show(fmt.Sprint("second ", sec), unix.UtimesNanoAt(-100, f, t, 0), stat(f).Mtim.Sec, stat(f).Mtim.Nsec)
	}
	now := func(sec int64) bool { return time.Since(time.Unix(sec, 0)) < time.Minute }
	omit := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
	unix.UtimesNanoAt(-100, f, set, 0)
	show("omit and now", unix.UtimesNanoAt(-100, f, omit, 0), stat(f).Atim, now(stat(f).Mtim.Sec))
	unix.UtimesNanoAt(-100, f, set, 0)
	fd := open(f, unix.O_RDWR, 0)
	unix.Write(fd, []byte("y"))
	show("write", now(stat(f).Mtim.Sec), now(stat(f).Ctim.Sec), stat(f).Atim.Sec)
	unix.UtimesNanoAt(-100, f, set, 0)
	unix.Ftruncate(fd, 0)
	show("truncate", now(stat(f).Mtim.Sec))
	unix.UtimesNanoAt(-100, f, set, 0)
	unix.Ftruncate(fd, 0)
	show("truncate to same", now(stat(f).Mtim.Sec))
	unix.UtimesNanoAt(-100, f, set, 0)
	unix.Chmod(f, 0o600)
	show("chmod", stat(f).Mtim.Sec, now(stat(f).Ctim.Sec))
	unix.Ftruncate(fd, 4096)
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	unix.UtimesNanoAt(-100, f, set, 0)
	unix.Msync(m, unix.MS_SYNC)
	m[0] = 1
	unix.Msync(m, unix.MS_SYNC)
	show("store", now(stat(f).Mtim.Sec))
	unix.UtimesNanoAt(-100, f, set, 0)
	unix.Munmap(m)
	unix.Fsync(fd)
	show("times kept by writeback", stat(f).Mtim)
	unix.Close(fd)
	unix.UtimesNanoAt(-100, d, set, 0)
	write(d+"/new", "")
	show("create in", now(stat(d).Mtim.Sec), now(stat(d).Ctim.Sec))
	unix.UtimesNanoAt(-100, d, set, 0)
	unix.Rename(d+"/new", d+"/newer")
	show("rename in", now(stat(d).Mtim.Sec))
	unix.UtimesNanoAt(-100, d, set, 0)
	unix.Unlink(d + "/newer")
	show("unlink in", now(stat(d).Mtim.Sec))
	unix.UtimesNanoAt(-100, f, set, 0)
	read(f)
	show("relatime", now(stat(f).Atim.Sec))
	unix.UtimesNanoAt(-100, f, []unix.Timespec{{Sec: time.Now().Unix() - 100}, {Sec: 2000}}, 0)
	a := stat(f).Atim
	unix.Chmod(f, 0o644) // the change time is newer again
	read(f)
	show("relatime after change", stat(f).Atim != a)
	b := stat(f).Atim
	time.Sleep(20 * time.Millisecond)
	read(f)
	show("relatime kept", stat(f).Atim == b)
	fd, err = unix.Open(f, unix.O_RDONLY|unix.O_NOATIME, 0)
	show("noatime", err)
	unix.Close(fd)
	must(os.Symlink("x", d+"/l"))
	show("symlink", unix.UtimesNanoAt(-100, d+"/l", set, unix.AT_SYMLINK_NOFOLLOW), stat(d+"/l").Mtim)
	var sx unix.Statx_t
	show("statx", unix.Statx(-100, f, 0, unix.STATX_ALL, &sx), sx.Mask&unix.STATX_BTIME != 0, now(sx.Btime.Sec), sx.Blksize)
	show("statx attributes", fmt.Sprintf("%x %x %x", sx.Mask, sx.Attributes, sx.Attributes_mask), sx.Dio_mem_align, sx.Dio_offset_align, sx.Dev_major, sx.Dev_minor)
	show("statx mount root", unix.Statx(-100, "/", 0, unix.STATX_ALL, &sx), fmt.Sprintf("%x", sx.Attributes))
}

func statfsCalls(d string) {
	var s unix.Statfs_t
	show("statfs", unix.Statfs(d, &s), s.Type, s.Bsize, s.Frsize, s.Namelen, s.Fsid.Val[0] != 0, s.Bfree >= s.Bavail, s.Files > s.Ffree)
	fd := open(d, unix.O_RDONLY, 0)
	var t unix.Statfs_t
	show("fstatfs", unix.Fstatfs(fd, &t), t == s)
	show("syncfs", unix.Syncfs(fd))
	show("fsync directory", unix.Fsync(fd), unix.Fdatasync(fd))
	unix.Close(fd)
	before := s.Bfree
	fd = open(d+"/big", unix.O_CREAT|unix.O_RDWR, 0o644)
	unix.Write(fd, make([]byte, 4<<20))
	unix.Fsync(fd)
	unix.Statfs(d, &s)
	show("blocks taken", before-s.Bfree >= 1024, before-s.Bfree < 1100, stat(d+"/big").Blocks)
	unix.Close(fd)
}
