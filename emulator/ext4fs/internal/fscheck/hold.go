package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hold maps a file in several ways, touches every page, compares what it sees with
// what read(2) gives, says so, and keeps the mappings for some seconds.
func hold(path string, seconds int) int {
	fd := open(path, unix.O_RDONLY, 0)
	var st unix.Stat_t
	must(unix.Fstat(fd, &st))
	if st.Size == 0 {
		panic(path + " is empty")
	}
	var maps [][]byte
	for _, how := range []struct{ prot, flags int }{
		{unix.PROT_READ, unix.MAP_SHARED},
		{unix.PROT_READ | unix.PROT_EXEC, unix.MAP_PRIVATE},
	} {
		m, err := unix.Mmap(fd, 0, int(st.Size), how.prot, how.flags)
		must(err)
		maps = append(maps, m)
	}
	buf := make([]byte, 1<<20)
	for off := 0; off < int(st.Size); {
		n, err := unix.Pread(fd, buf, int64(off))
		must(err)
		for k, m := range maps {
			if !bytes.Equal(m[off:off+n], buf[:n]) {
				fmt.Printf("mapping %d differs from the file within [%d, %d)\n", k, off, off+n)
				return 1
			}
		}
		off += n
	}
	fmt.Println("held")
	time.Sleep(time.Duration(seconds) * time.Second)
	return 0
}

// fill makes a file of n MiB with a content that tells its place.
func fill(path string, n int) int {
	buf := make([]byte, 1<<20)
	f, err := os.Create(path)
	must(err)
	for i := range n {
		for k := range buf {
			buf[k] = byte(k) ^ byte(k>>12) ^ byte(i)
		}
		_, err := f.Write(buf)
		must(err)
	}
	must(f.Sync())
	must(f.Close())
	return 0
}

// fragment makes a file of n pages of which every second is a hole, so that no two
// pages lie together, and looks at it through mappings.
func fragment(path string, n int) int {
	fd := open(path, unix.O_CREAT|unix.O_TRUNC|unix.O_RDWR, 0o644)
	page := make([]byte, 4096)
	for i := 0; i < n; i += 2 {
		page[0], page[1], page[4095] = byte(i), byte(i>>8), 1
		_, err := unix.Pwrite(fd, page, int64(i)*4096)
		must(err)
	}
	must(unix.Ftruncate(fd, int64(n)*4096))
	for _, prot := range []int{unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE} {
		m, err := unix.Mmap(fd, 0, n*4096, prot, unix.MAP_SHARED)
		must(err)
		for i := range n {
			want := [2]byte{}
			if i%2 == 0 {
				want = [2]byte{byte(i), byte(i >> 8)}
			}
			if got := [2]byte{m[i*4096], m[i*4096+1]}; got != want {
				fmt.Printf("page %d begins %v, should be %v\n", i, got, want)
				return 1
			}
		}
		if prot&unix.PROT_WRITE != 0 {
			for i := range n {
				m[i*4096+100] = byte(i)
			}
		}
		must(unix.Munmap(m))
	}
	must(unix.Fsync(fd))
	for i := range n {
		if _, err := unix.Pread(fd, page[:1], int64(i)*4096+100); err != nil || page[0] != byte(i) {
			fmt.Printf("store into page %d was lost: %v\n", i, err)
			return 1
		}
	}
	show("fragments", n)
	return 0
}

// mounts mounts a device in the ways that have rules, and says what came of it.
func mounts(device, dir string) int {
	must(os.MkdirAll(dir, 0o755))
	try := func(what string, flags uintptr, data string) {
		err := unix.Mount(device, dir, "ext4", flags, data)
		show("mount "+what, err)
		if err == nil {
			var s unix.Statfs_t
			must(unix.Statfs(dir, &s))
			show("writing", os.WriteFile(dir+"/f", nil, 0o644))
			unix.Unlink(dir + "/f")
			show("flags", fmt.Sprintf("%x", s.Flags&^unix.ST_NODIRATIME))
			line := ""
			for _, l := range bytes.Split([]byte(read("/proc/self/mounts")), []byte("\n")) {
				if bytes.Contains(l, []byte(" "+dir+" ")) {
					line = string(l)
				}
			}
			show("line", line)
			self, err := os.ReadFile("/proc/self/exe")
			must(err)
			if what == "plain" {
				must(os.WriteFile(dir+"/prog", self, 0o755))
				must(unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
			}
			_, err = os.ReadFile(dir + "/null")
			show("device", err)
			show("program", exec.Command(dir+"/prog", "exit", "0").Run())
			show("unmount", unix.Unmount(dir, 0))
		}
	}
	try("plain", 0, "")
	try("read-only", unix.MS_RDONLY, "")
	try("noatime", unix.MS_NOATIME, "")
	try("nodev nosuid noexec", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "")
	for _, data := range []string{"discard", "errors=remount-ro", "errors=panic", "errors=continue", "errors=x", "data=ordered", "data=journal", "data=writeback", "data=x",
		"commit=30", "commit=5", "commit=x", "barrier=0", "barrier=1", "nobarrier", "user_xattr", "acl", "grpid", "nogrpid", "minixdf", "bsddf",
		"nodelalloc", "delalloc", "noauto_da_alloc", "stripe=8", "inode_readahead_blks=16", "resuid=5,resgid=6", "init_itable=20", "noinit_itable",
		"unknown", "unknown=1", "discard,commit=15,errors=remount-ro", "journal_checksum", "max_batch_time=1", "min_batch_time=1", "dioread_lock",
		"block_validity", "noblock_validity", "data_err=abort", "data_err=x", "lazytime", "sb=1", "debug", "norecovery"} {
		try(data, 0, data)
	}
	must(unix.Mount(device, dir, "ext4", 0, ""))
	must(os.MkdirAll("/tmp/second", 0o755))
	show("second mount", unix.Mount(device, "/tmp/second", "ext4", 0, ""))
	write(dir+"/shared", "x")
	show("shared", read("/tmp/second/shared"))
	show("unmount first", unix.Unmount(dir, 0), read("/tmp/second/shared"))
	show("second as another type", unix.Mount(device, dir, "ext3", 0, ""))
	show("second with other flags", unix.Mount(device, dir, "ext4", unix.MS_RDONLY, ""))
	fd := open("/tmp/second/shared", unix.O_RDWR, 0)
	show("unmount busy", unix.Unmount("/tmp/second", 0))
	show("remount read-only busy", unix.Mount("", "/tmp/second", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	unix.Close(fd)
	show("remount read-only", unix.Mount("", "/tmp/second", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""), os.WriteFile("/tmp/second/x", nil, 0o644))
	show("second for writing", unix.Mount(device, dir, "ext4", 0, ""))
	show("remount", unix.Mount("", "/tmp/second", "", unix.MS_REMOUNT, "errors=remount-ro"), os.WriteFile("/tmp/second/x", nil, 0o644))
	for _, data := range []string{"data=ordered", "data=writeback", "data=journal"} {
		show("remount "+data, unix.Mount("", "/tmp/second", "", unix.MS_REMOUNT, data))
	}
	for _, flags := range []uintptr{unix.MS_STRICTATIME, 0, unix.MS_NOATIME, 0, unix.MS_RELATIME, unix.MS_SYNCHRONOUS, 0} {
		show("remount", fmt.Sprintf("%x", flags), unix.Mount("", "/tmp/second", "", unix.MS_REMOUNT|flags, ""))
		var s unix.Statfs_t
		must(unix.Statfs("/tmp/second", &s))
		show("flags", fmt.Sprintf("%x", s.Flags&^unix.ST_NODIRATIME), fmt.Sprint(accessed("/tmp/second/x")))
		_, super, _ := strings.Cut(read("/proc/self/mountinfo"), " - ext4 "+device+" ")
		super, _, _ = strings.Cut(super[strings.LastIndex(super, " - ext4 "+device+" ")+1:], "\n")
		show("super", super)
	}
	show("remount unknown", unix.Mount("", "/tmp/second", "", unix.MS_REMOUNT, "nonsense"))
	fd = open("/tmp/second/x", unix.O_RDONLY, 0)
	show("lazy unmount", unix.Unmount("/tmp/second", unix.MNT_DETACH))
	var s unix.Statfs_t
	show("still open", unix.Fstatfs(fd, &s), s.Type)
	unix.Close(fd)
	show("not a device", unix.Mount("/proc/version", dir, "ext4", 0, ""))
	show("no device", unix.Mount("/dev/none", dir, "ext4", 0, ""))
	show("no source", unix.Mount("", dir, "ext4", 0, ""))
	show("no filesystem on it", unix.Mount("/dev/ubdc", dir, "ext4", 0, ""))
	var st unix.Stat_t
	must(unix.Mount(device, dir, "ext4", 0, ""))
	must(unix.Stat(dir, &st))
	show("device number", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	show("over a mount point", unix.Rmdir(dir), unix.Rename(dir, dir+"2"))
	must(unix.Unmount(dir, 0))
	return 0
}

// accessed says of two reads of a file, after a change of it, which of them changed the
// time of access.
func accessed(path string) [2]bool {
	must(unix.UtimesNano(path, []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}))
	var changed [2]bool
	last := stat(path).Atim
	for k := range changed {
		time.Sleep(30 * time.Millisecond) // a kernel's times are those of its ticks
		read(path)
		now := stat(path).Atim
		changed[k], last = now != last, now
	}
	return changed
}

// many makes, finds, lists and removes more files than any cache of names holds.
func many(d string, n int) int {
	name := func(i int) string { return fmt.Sprintf("%s/%03d/file-number-%d", d, i%100, i) }
	for i := range 100 {
		must(os.MkdirAll(fmt.Sprintf("%s/%03d", d, i), 0o755))
	}
	for i := range n {
		fd := open(name(i), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
		unix.Close(fd)
	}
	for round := range 2 {
		for i := range n {
			if st := stat(name(i)); st.Nlink != 1 {
				fmt.Printf("round %d: %s has %d links\n", round, name(i), st.Nlink)
				return 1
			}
			if err := unix.Lstat(name(i)+"-not", new(unix.Stat_t)); err != unix.ENOENT {
				fmt.Printf("a name that is not there: %v\n", err)
				return 1
			}
		}
	}
	listed := 0
	for i := range 100 {
		entries, err := os.ReadDir(fmt.Sprintf("%s/%03d", d, i))
		must(err)
		listed += len(entries)
	}
	show("many", n, listed)
	must(os.RemoveAll(d))
	return 0
}

// crowd makes n files in one directory, finds, lists and removes them, and gives one
// file n names, up to the most there can be.
func crowd(d string, n int) int {
	name := func(i int) string { return fmt.Sprintf("%s/in-a-crowd-%d", d, i) }
	for i := range n {
		fd := open(name(i), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
		unix.Close(fd)
	}
	entries, err := os.ReadDir(d)
	must(err)
	found := 0
	for i := range n {
		if unix.Access(name(i), unix.F_OK) == nil {
			found++
		}
	}
	for i := range n {
		must(unix.Unlink(name(i)))
	}
	show("crowd", n, len(entries), found, names(d))
	write(d+"/f", "")
	links := 1
	for ; links < n; links++ {
		if err = unix.Link(d+"/f", name(links)); err != nil {
			break
		}
	}
	show("links", links, err, stat(d+"/f").Nlink)
	if err == unix.EMLINK {
		show("after one is gone", unix.Unlink(name(1)), unix.Link(d+"/f", name(1)), unix.Link(d+"/f", name(links)))
	}
	must(os.RemoveAll(d))
	return 0
}

// readonly changes files, remounts the root read-only, says so and waits to be killed.
func readonly(d string) int {
	write(d+"/file", "written")
	fd := open(d+"/stored", unix.O_CREAT|unix.O_RDWR, 0o644)
	must(unix.Ftruncate(fd, 65536))
	m, err := unix.Mmap(fd, 0, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	copy(m, bytes.Repeat([]byte("stored"), 65536/6+1))
	readOnly := func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "") }
	show("written to", readOnly(), os.WriteFile(d+"/new", nil, 0o644))
	unix.Munmap(m)
	unix.Close(fd)
	fd = open(d+"/removed", unix.O_CREAT|unix.O_RDONLY, 0o644)
	must(unix.Unlink(d + "/removed"))
	show("removed and open", readOnly(), os.WriteFile(d+"/new", nil, 0o644))
	unix.Close(fd)
	show("unknown option", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "nonsense"), os.WriteFile(d+"/new", nil, 0o644))
	show("remounted", readOnly(), os.WriteFile(d+"/new", nil, 0o644))
	fmt.Println("read-only")
	time.Sleep(time.Hour)
	return 0
}

// discard writes a file, removes it, and gives its space back with FITRIM, which with
// the option discard has been done before.
func discard(d string, mib int) int {
	must(os.MkdirAll(d, 0o755))
	fill(d+"/big", mib)
	must(unix.Unlink(d + "/big"))
	unix.Sync()
	fd := open(d, unix.O_RDONLY, 0)
	defer unix.Close(fd)
	trim := [3]uint64{0, 1 << 62, 0}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0xc0185879, uintptr(unsafe.Pointer(&trim)))
	show("trim", e == 0, trim[1] >= uint64(mib)<<20)
	return 0
}
