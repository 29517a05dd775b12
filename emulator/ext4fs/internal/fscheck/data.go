package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pattern is n bytes that tell where they belong.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i*7) ^ byte(seed)
	}
	return b
}

func dataCalls(d string) {
	f := d + "/f"
	fd := open(f, unix.O_CREAT|unix.O_RDWR, 0o644)
	for _, c := range []struct{ off, n int }{{0, 1}, {1, 4095}, {4096, 4096}, {100, 10000}, {50000, 1}, {65536, 1 << 20}, {4095, 2}, {1<<20 - 7, 1000003}} {
		n, err := unix.Pwrite(fd, pattern(c.n, c.off), int64(c.off))
		got := make([]byte, c.n)
		m, rerr := unix.Pread(fd, got, int64(c.off))
		show(fmt.Sprintf("write %d at %d", c.n, c.off), n, err, m, rerr, bytes.Equal(got, pattern(c.n, c.off)), stat(f).Size)
	}
	got := make([]byte, 65536-50001)
	unix.Pread(fd, got, 50001)
	show("gap", bytes.Equal(got, make([]byte, len(got))))
	n, err := unix.Pread(fd, make([]byte, 10), stat(f).Size)
	show("read at end", n, err)
	n, err = unix.Pread(fd, make([]byte, 10), stat(f).Size-3)
	show("read over end", n, err)
	_, err = unix.Pread(fd, make([]byte, 10), -1)
	show("read before start", err)
	n, err = unix.Pwrite(fd, nil, 1<<40)
	show("write nothing", n, err, stat(f).Size < 1<<30)
	_, err = unix.Pwrite(fd, []byte("x"), 1<<62)
	show("write beyond limit", err)
	n, err = unix.Pwrite(fd, []byte("x"), 1<<43)
	show("write far", n, err, stat(f).Size)
	show("truncate beyond limit", unix.Ftruncate(fd, 1<<62))
	show("cut", unix.Ftruncate(fd, 100))
	vec := [][]byte{[]byte("ab"), {}, []byte("cdefg"), bytes.Repeat([]byte("z"), 9000)}
	n, err = unix.Writev(fd, vec)
	show("writev", n, err)
	in := [][]byte{make([]byte, 3), make([]byte, 100), make([]byte, 5)}
	n, err = unix.Preadv(fd, in, 1)
	show("preadv", n, err, in[0], in[2])
	// Memory that is there only in part.
	page := 4096
	mem, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(err)
	must(unix.Mprotect(mem[page:], unix.PROT_NONE))
	n, err = unix.Pread(fd, unsafe.Slice(&mem[page-10], 20), 0)
	show("read into hole", n, err)
	n, err = unix.Pwrite(fd, unsafe.Slice(&mem[page], 20), 0)
	show("write from hole", n, err)
	unix.Munmap(mem)
	show("fsync", unix.Fsync(fd), unix.Fdatasync(fd))
	unix.Close(fd)
	for _, flag := range []int{unix.O_SYNC, unix.O_DSYNC} {
		fd = open(f, unix.O_RDWR|flag, 0)
		n, err = unix.Pwrite(fd, []byte("sync"), 5000)
		show("synchronous write", n, err)
		unix.Close(fd)
	}
	unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	src := open(f, unix.O_RDONLY, 0)
	dst := open(d+"/copy", unix.O_CREAT|unix.O_RDWR, 0o644)
	var total int
	for {
		n, err := unix.Sendfile(dst, src, nil, 1<<20)
		if n <= 0 {
			show("sendfile", err)
			break
		}
		total += n
	}
	show("copied", total, read(f) == read(d+"/copy"))
	unix.Close(src)
	unix.Close(dst)
}

func appendCalls(d string) {
	f := d + "/f"
	write(f, "start")
	a := open(f, unix.O_WRONLY|unix.O_APPEND, 0)
	b := open(f, unix.O_WRONLY|unix.O_APPEND, 0)
	unix.Write(a, []byte("-a"))
	unix.Write(b, []byte("-b"))
	unix.Seek(a, 0, 0)
	unix.Write(a, []byte("-c"))
	n, err := unix.Pwrite(b, []byte("-d"), 0)
	show("append", n, err, read(f))
	pos, _ := unix.Seek(a, 0, 1)
	show("position", pos)
	unix.Close(a)
	unix.Close(b)
	// Many writers, no line lost.
	must(os.WriteFile(f, nil, 0o644))
	done := make(chan bool)
	for w := range 4 {
		go func() {
			fd := open(f, unix.O_WRONLY|unix.O_APPEND, 0)
			for range 200 {
				unix.Write(fd, bytes.Repeat([]byte{'a' + byte(w)}, 37))
			}
			unix.Close(fd)
			done <- true
		}()
	}
	for range 4 {
		<-done
	}
	content := []byte(read(f))
	whole := len(content) == 4*200*37
	for i := 0; whole && i < len(content); i += 37 {
		whole = bytes.Count(content[i:i+37], content[i:i+1]) == 37
	}
	show("lines whole", whole)
}

func truncateCalls(d string) {
	f := d + "/f"
	write(f, string(pattern(10000, 1)))
	for _, n := range []int64{9999, 8192, 8191, 4097, 4096, 5000, 1, 0, 70000, 20000, 100000000, 3} {
		err := unix.Truncate(f, n)
		got := []byte{}
		if n < 1<<20 {
			got = []byte(read(f))
		}
		sum := 0
		for _, c := range got {
			sum += int(c)
		}
		show(fmt.Sprint("truncate to ", n), err, stat(f).Size, sum)
	}
	show("blocks", stat(f).Blocks)
	show("negative", unix.Truncate(f, -1))
	show("missing", unix.Truncate(d+"/no", 1))
	show("directory", unix.Truncate(d, 1))
	must(unix.Mkfifo(d+"/p", 0o644))
	show("fifo", unix.Truncate(d+"/p", 1))
}

func seekCalls(d string) {
	f := d + "/f"
	fd := open(f, unix.O_CREAT|unix.O_RDWR, 0o644)
	unix.Pwrite(fd, pattern(4096, 0), 0)
	unix.Pwrite(fd, pattern(4096, 0), 65536)
	unix.Pwrite(fd, pattern(100, 0), 1<<20)
	unix.Ftruncate(fd, 2<<20)
	unix.Fsync(fd)
	seek := func(off int64, whence int) {
		pos, err := unix.Seek(fd, off, whence)
		show(fmt.Sprintf("seek %d %d", off, whence), pos, err)
	}
	for _, off := range []int64{0, 1, 4095, 4096, 65535, 65536, 70000, 1 << 20, 1<<20 + 4095, 1<<20 + 4096, 2<<20 - 1, 2 << 20, 3 << 20, -1} {
		seek(off, unix.SEEK_DATA)
		seek(off, unix.SEEK_HOLE)
	}
	seek(5, 0)
	seek(-2, 1)
	seek(-10, 1)
	seek(-1, 2)
	seek(10, 2)
	seek(0, 1)
	seek(0, 9)
	unix.Close(fd)
}

func fallocateCalls(d string) {
	f := d + "/f"
	fd := open(f, unix.O_CREAT|unix.O_RDWR, 0o644)
	check := func(what string, mode uint32, off, n int64) {
		err := unix.Fallocate(fd, mode, off, n)
		sum := uint64(0)
		for i, c := range []byte(read(f)) {
			sum += uint64(c) * uint64(i+1)
		}
		var st unix.Stat_t
		if noExtents(fd) { // until it is synced a kernel has not counted the blocks of its map
			must(unix.Fsync(fd))
		}
		unix.Fstat(fd, &st)
		show(fmt.Sprintf("%s %d %d", what, off, n), err, st.Size, st.Blocks, sum)
	}
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE
	check("allocate", 0, 0, 10000)
	check("allocate keep", keep, 0, 100000)
	check("allocate nothing", 0, 0, 0)
	check("allocate before start", 0, -1, 10)
	check("punch without keep", unix.FALLOC_FL_PUNCH_HOLE, 0, 10)
	unix.Pwrite(fd, pattern(65536, 3), 0)
	check("punch page", punch, 4096, 4096)
	check("punch parts", punch, 10000, 10000)
	check("punch within page", punch, 40000, 100)
	check("punch over end", punch, 60000, 100000)
	check("punch past end", punch, 1<<20, 4096)
	check("zero", zero, 1000, 5000)
	check("zero keep", zero|keep, 60000, 20000)
	check("zero grow", zero, 60000, 20000)
	check("zero aligned", zero, 8192, 8192)
	unix.Pwrite(fd, pattern(65536, 4), 4096)
	check("after write", keep, 0, 4096)
	check("unknown mode", 0x80, 0, 4096)
	check("punch and zero", punch|zero, 0, 4096)
	// Coherent with a mapping.
	m, err := unix.Mmap(fd, 0, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	copy(m[20480:], pattern(20480, 9))
	check("punch under mapping", punch, 24576, 6000)
	show("mapping", bytes.Equal(m[24576:24576+6000], make([]byte, 6000)), m[24575] == pattern(20480, 9)[4095], m[24576+6000] == pattern(20480, 9)[4096+6000])
	m[25000] = 77
	b := make([]byte, 1)
	unix.Pread(fd, b, 25000)
	show("store in hole", b[0])
	unix.Munmap(m)
	unix.Close(fd)
	ro := open(f, unix.O_RDONLY, 0)
	show("read-only", unix.Fallocate(ro, 0, 0, 10))
	unix.Close(ro)
	dir := open(d, unix.O_RDONLY, 0)
	show("directory", unix.Fallocate(dir, 0, 0, 10))
	unix.Close(dir)
}

func mmapCalls(d string) {
	f := d + "/f"
	content := pattern(40000, 5)
	must(os.WriteFile(f, content, 0o644))
	fd := open(f, unix.O_RDWR, 0)
	shared, err := unix.Mmap(fd, 0, 40960, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	private, err := unix.Mmap(fd, 0, 40960, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	must(err)
	ro, err := unix.Mmap(fd, 4096, 8192, unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	show("mapped", bytes.Equal(shared[:40000], content), bytes.Equal(private[:40000], content), bytes.Equal(ro, content[4096:12288]))
	show("after end", bytes.Equal(shared[40000:], make([]byte, 960)), bytes.Equal(private[40000:], make([]byte, 960)))
	private[5000] = 1
	show("private store", shared[5000] == content[5000], read(f) == string(content))
	shared[5001] = 2
	b := make([]byte, 1)
	unix.Pread(fd, b, 5001)
	show("shared store read", b[0], ro[5001-4096], private[5001] == content[5001])
	unix.Pwrite(fd, []byte{3}, 5002)
	show("write seen", shared[5002], ro[5002-4096], private[5002] == content[5002])
	unix.Pwrite(fd, []byte{4}, 30000)
	show("write seen in clean page", shared[30000])
	show("msync", unix.Msync(shared, unix.MS_SYNC), unix.Msync(shared, unix.MS_ASYNC), unix.Msync(shared, unix.MS_INVALIDATE))
	shared[40001] = 9
	show("store after end", len(read(f)))
	unix.Ftruncate(fd, 45000)
	unix.Pread(fd, b, 40001)
	show("grown over it", b[0], shared[40001])
	unix.Pwrite(fd, []byte{7}, 44999)
	show("fsync", unix.Fsync(fd))
	must(unix.Munmap(shared))
	shared, err = unix.Mmap(fd, 0, 45056, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	show("mapped anew", shared[5001], shared[5002], shared[44999], shared[44998])
	// A write whose source is a mapping of the same file, overlapping.
	n, err := unix.Pwrite(fd, shared[:20000], 10000)
	got := make([]byte, 4096)
	unix.Pread(fd, got, 10000)
	show("write from mapping", n, err, bytes.Equal(got, shared[:4096]))
	n, err = unix.Pread(fd, shared[8192:16384], 0)
	show("read into mapping", n, err, bytes.Equal(shared[:4096], shared[8192:12288]))
	must(unix.Munmap(shared))
	must(unix.Munmap(private))
	must(unix.Munmap(ro))

	// Many windows of one file, as data bases make them.
	unix.Ftruncate(fd, 4<<20)
	var windows [][]byte
	for k := range 64 {
		m, err := unix.Mmap(fd, int64(k)*65536, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(err)
		m[k] = byte(k + 1)
		windows = append(windows, m)
	}
	right := true
	for k := range windows {
		unix.Pread(fd, b, int64(k)*65536+int64(k))
		right = right && b[0] == byte(k+1)
		must(unix.Munmap(windows[k]))
	}
	show("windows", right)
	unix.Close(fd)
	rd := open(f, unix.O_RDONLY, 0)
	_, err = unix.Mmap(rd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	show("shared writable of read-only", err)
	p, err := unix.Mmap(rd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	show("private writable of read-only", err)
	unix.Munmap(p)
	s, err := unix.Mmap(rd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	show("mprotect to writable", unix.Mprotect(s, unix.PROT_READ|unix.PROT_WRITE))
	unix.Munmap(s)
	unix.Close(rd)
	wr := open(f, unix.O_WRONLY, 0)
	_, err = unix.Mmap(wr, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	show("map write-only", err)
	unix.Close(wr)
	dir := open(d, unix.O_RDONLY, 0)
	_, err = unix.Mmap(dir, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	show("map directory", err)
	unix.Close(dir)
}

// mapCopyCalls maps what must not be mapped as it lies: holes, blocks never written,
// tails.
func mapCopyCalls(d string) {
	f := d + "/f"
	fd := open(f, unix.O_CREAT|unix.O_RDWR, 0o644)
	unix.Ftruncate(fd, 1<<20)
	unix.Fallocate(fd, 0, 65536, 65536)
	unix.Pwrite(fd, pattern(4096, 1), 131072)
	m, err := unix.Mmap(fd, 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	zero := make([]byte, 4096)
	show("hole", bytes.Equal(m[:4096], zero))
	show("unwritten", bytes.Equal(m[65536:69632], zero))
	show("written", bytes.Equal(m[131072:135168], pattern(4096, 1)))
	unix.Pwrite(fd, pattern(4096, 2), 0)
	unix.Pwrite(fd, pattern(4096, 3), 65536)
	unix.Pwrite(fd, pattern(4096, 4), 131072)
	show("after writes", bytes.Equal(m[:4096], pattern(4096, 2)), bytes.Equal(m[65536:69632], pattern(4096, 3)), bytes.Equal(m[131072:135168], pattern(4096, 4)))
	must(unix.Munmap(m))
	w, err := unix.Mmap(fd, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	copy(w[8192:], pattern(4096, 5))
	copy(w[73728:], pattern(4096, 6))
	copy(w[200000:], pattern(100000, 7))
	show("msync", unix.Msync(w, unix.MS_SYNC))
	must(unix.Munmap(w))
	show("fsync", unix.Fsync(fd))
	got := []byte(read(f))
	show("stored", bytes.Equal(got[8192:12288], pattern(4096, 5)), bytes.Equal(got[73728:77824], pattern(4096, 6)), bytes.Equal(got[200000:300000], pattern(100000, 7)))
	unix.Close(fd)
	show("shorter than a page", os.WriteFile(d+"/small", []byte("small"), 0o644))
	fd = open(d+"/small", unix.O_RDONLY, 0)
	m, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	must(err)
	show("its page", m[:6], m[4095])
	must(unix.Munmap(m))
	unix.Close(fd)
}

// touch reads m[i] and says whether that raised SIGBUS.
func touch(m []byte, i int) (fault bool) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if recover() != nil {
			fault = true
		}
	}()
	sink.Store(int32(m[i]))
	return false
}

// sink keeps loads from being left out.
var sink atomic.Int32

func mapTruncateCalls(d string) {
	f := d + "/f"
	must(os.WriteFile(f, pattern(65536, 1), 0o644))
	fd := open(f, unix.O_RDWR, 0)
	for _, writable := range []bool{false, true} {
		prot := unix.PROT_READ
		if writable {
			prot |= unix.PROT_WRITE
		}
		m, err := unix.Mmap(fd, 0, 131072, prot, unix.MAP_SHARED)
		must(err)
		p, err := unix.Mmap(fd, 0, 131072, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		must(err)
		show("inside", touch(m, 65535), touch(p, 65535))
		show("past end", touch(m, 65536), touch(p, 70000))
		p[50000] = 1
		must(unix.Ftruncate(fd, 10000))
		show("after truncation", touch(m, 9999), touch(m, 12287), touch(m, 12288), touch(m, 50000))
		show("private copies too", touch(p, 9999), touch(p, 50000))
		show("tail", m[10000] == 0)
		must(unix.Ftruncate(fd, 65536))
		show("grown again", touch(m, 50000), touch(p, 50000), m[50000], m[10000], m[9999] == pattern(65536, 1)[9999])
		unix.Pwrite(fd, pattern(65536, 1), 0)
		show("written again", m[50000] == pattern(65536, 1)[50000], p[50001] == pattern(65536, 1)[50001])
		must(unix.Munmap(m))
		must(unix.Munmap(p))
	}
	m, err := unix.Mmap(fd, 0, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	must(unix.Unlink(f))
	copy(m, "still here")
	unix.Close(fd)
	show("unlinked and closed", m[:10])
	must(unix.Munmap(m))
}

func deletedCalls(d string) {
	f := d + "/f"
	write(f, "content")
	fd := open(f, unix.O_RDWR, 0)
	must(unix.Unlink(f))
	show("gone", unix.Lstat(f, new(unix.Stat_t)))
	unix.Pwrite(fd, []byte("C"), 0)
	b := make([]byte, 7)
	n, err := unix.Pread(fd, b, 0)
	var st unix.Stat_t
	unix.Fstat(fd, &st)
	show("open", n, err, b, st.Nlink)
	link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	show("name", len(link) > 10 && link[len(link)-10:] == " (deleted)")
	show("changes", unix.Fchmod(fd, 0o600), unix.Ftruncate(fd, 100), unix.Fsync(fd))
	write(f, "another")
	unix.Fstat(fd, &st)
	show("another of the name", st.Ino != stat(f).Ino, read(f))
	unix.Close(fd)
	// Space comes back.
	var before, after unix.Statfs_t
	unix.Sync()
	unix.Statfs(d, &before)
	fd = open(d+"/big", unix.O_CREAT|unix.O_RDWR, 0o644)
	for range 8 {
		unix.Write(fd, make([]byte, 1<<20))
	}
	unix.Fsync(fd)
	unix.Unlink(d + "/big")
	unix.Statfs(d, &after)
	taken := before.Bfree - after.Bfree
	unix.Close(fd)
	unix.Sync()
	unix.Statfs(d, &after)
	show("space", taken >= 2048, before.Bfree-after.Bfree < 64)
	// The old name of a file in use is replaced.
	write(d+"/a", "a")
	write(d+"/b", "b")
	fd = open(d+"/b", unix.O_RDONLY, 0)
	must(unix.Rename(d+"/a", d+"/b"))
	n, _ = unix.Pread(fd, b, 0)
	show("replaced", b[:n], read(d+"/b"))
	unix.Close(fd)
}

func directCalls(d string) {
	f := d + "/f"
	fd, err := unix.Open(f, unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	show("open", err)
	mem, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(err)
	copy(mem, pattern(1<<20, 8))
	n, err := unix.Pwrite(fd, mem[:65536], 0)
	show("write", n, err)
	n, err = unix.Pwrite(fd, mem[:4096], 131072)
	show("write past end", n, err, stat(f).Size)
	n, err = unix.Pread(fd, mem[1<<19:1<<19+65536], 0)
	show("read", n, err, bytes.Equal(mem[:65536], mem[1<<19:1<<19+65536]))
	n, err = unix.Pread(fd, mem[:4096], 131072+4096)
	show("read at end", n, err)
	_, err = unix.Pread(fd, mem[1:513], 0)
	show("unaligned memory", err)
	_, err = unix.Pread(fd, mem[:512], 1)
	show("unaligned offset", err)
	_, err = unix.Pread(fd, mem[:100], 0)
	show("unaligned length", err)
	b := make([]byte, 65536)
	o := open(f, unix.O_RDWR, 0)
	n, err = unix.Pread(o, b, 0)
	show("seen by others", n, err, bytes.Equal(b, pattern(65536, 8)))
	flags, err := unix.FcntlInt(uintptr(o), unix.F_GETFL, 0)
	_, err2 := unix.FcntlInt(uintptr(o), unix.F_SETFL, flags|unix.O_DIRECT)
	show("set later", err, err2)
	unix.Close(o)
	unix.Munmap(mem)
	unix.Close(fd)
}

func execCalls(d string) {
	self, err := os.ReadFile("/proc/self/exe")
	must(err)
	must(os.WriteFile(d+"/prog", self, 0o755))
	for range 3 {
		cmd := exec.Command(d+"/prog", "exit", "7")
		err := cmd.Run()
		show("exec", cmd.ProcessState.ExitCode(), err != nil)
	}
	must(os.Chmod(d+"/prog", 0o644))
	show("not executable", unix.Access(d+"/prog", unix.X_OK))
	err = exec.Command(d+"/prog", "exit", "0").Run()
	show("exec of it", err)
	must(os.Chmod(d+"/prog", 0o755))
	write(d+"/script", "#!"+d+"/prog exit\n")
	must(os.Chmod(d+"/script", 0o755))
	cmd := exec.Command(d + "/script")
	cmd.Run()
	show("script", cmd.ProcessState != nil)
	// A program replaced while it runs.
	cmd = exec.Command(d+"/prog", "locker", d)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	must(cmd.Start())
	out.Read(make([]byte, 1))
	must(os.WriteFile(d+"/new", self, 0o755))
	show("replace", os.Rename(d+"/new", d+"/prog"))
	in.Close()
	show("old one goes on", cmd.Wait())
	show("new one", exec.Command(d+"/prog", "exit", "0").Run())
	// Appended to, it still runs.
	fd := open(d+"/prog", unix.O_WRONLY|unix.O_APPEND, 0)
	unix.Write(fd, []byte("tail"))
	unix.Close(fd)
	show("grown", exec.Command(d+"/prog", "exit", "0").Run())
}
