package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// pinSelf keeps this process on processor 1, with one Go thread at work, until the
// benchmark ends.
func pinSelf(b *testing.B) {
	b.Helper()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		b.Fatal(err)
	}
	procs := runtime.GOMAXPROCS(1)
	set := func(to *unix.CPUSet) {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			b.Fatal(err)
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				b.Fatal(err)
			}
			if err := unix.SchedSetaffinity(tid, to); err != nil && err != unix.ESRCH {
				b.Fatal(err)
			}
		}
	}
	var one unix.CPUSet
	one.Set(1)
	set(&one)
	b.Cleanup(func() {
		set(&before)
		runtime.GOMAXPROCS(procs)
	})
}

// engineWork is the size of what BenchmarkEngine does.
const (
	engineFiles   = 5000
	engineWrites  = 20000
	engineSyncs   = 200
	engineEntries = 100000
)

// filesystem is what BenchmarkEngine asks of both sides. All files lie in one
// directory, the blocks in one file.
type filesystem interface {
	create(name string)
	unlink(name string)
	writeAt(p []byte, off int64)
	truncate()
	fsync()
	readdir() int
	sync()
}

// BenchmarkEngine measures the engine alone, without a machine around it, against the
// host kernel's ext4 on a loop device. Both are called from one thread of this process,
// pinned to one processor; the kernel's own threads are not. Each time is told up to
// when the last call has returned, and up to when all of it is stable: the kernel does
// most of its work then.
func BenchmarkEngine(b *testing.B) {
	oracle.NeedsRoot(b) // to mount
	dir := b.TempDir()
	image := func(name string) string {
		path := filepath.Join(dir, name)
		oracle.Run(b, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-N", "200000", path, "1G")
		return path
	}
	oursImage, hostImage := image("ours.img"), image("host.img")
	mount := oracle.Mount(b, hostImage, "")
	dev, err := ubdfmt.OpenRaw(oursImage, ubdfmt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		b.Fatal(err)
	}
	pinSelf(b)
	sides := [2]filesystem{newEngineSide(b, fs), newHostSide(b, mount)}

	names := func(n int) []string {
		list := []string{}
		for i := range n {
			list = append(list, fmt.Sprintf("file-number-%d", i))
		}
		return list
	}
	few, many := names(engineFiles), names(engineEntries)
	block := [4096]byte{1}
	type times struct{ returned, stable [2]float64 }
	best := map[string]times{}
	measure := func(name string, i int, work func()) {
		runtime.GC()
		start := time.Now()
		work()
		returned := time.Since(start).Seconds()
		sides[i].sync()
		stable := time.Since(start).Seconds()
		t, ok := best[name]
		if !ok {
			inf := [2]float64{math.Inf(1), math.Inf(1)}
			t = times{inf, inf}
		}
		t.returned[i], t.stable[i] = min(t.returned[i], returned), min(t.stable[i], stable)
		best[name] = t
	}
	for range max(b.N, 7) {
		for i, side := range sides {
			measure("create 5,000 files", i, func() {
				for _, name := range few {
					side.create(name)
				}
			})
			measure("delete 5,000 files", i, func() {
				for _, name := range few {
					side.unlink(name)
				}
			})
			side.truncate()
			side.sync()
			measure("append 4 KiB", i, func() {
				for n := range int64(engineWrites) {
					side.writeAt(block[:], n*4096)
				}
			})
			order := rand.New(rand.NewPCG(1, 2)).Perm(engineWrites)
			measure("overwrite 4 KiB at random", i, func() {
				for _, n := range order {
					side.writeAt(block[:], int64(n)*4096)
				}
			})
			measure("write 4 KiB and fsync", i, func() {
				for _, n := range order[:engineSyncs] {
					side.writeAt(block[:], int64(n)*4096)
					side.fsync()
				}
			})
		}
	}
	for _, side := range sides {
		for _, name := range many {
			side.create(name)
		}
		side.sync()
	}
	for range max(b.N, 7) {
		for i, side := range sides {
			measure("readdir of 100,000", i, func() {
				if n := side.readdir(); n != engineEntries+3 {
					b.Fatalf("side %d has %d entries", i, n)
				}
			})
		}
	}
	for _, w := range []struct {
		name  string
		count int
	}{
		{"create 5,000 files", engineFiles}, {"delete 5,000 files", engineFiles}, {"append 4 KiB", engineWrites},
		{"overwrite 4 KiB at random", engineWrites}, {"write 4 KiB and fsync", engineSyncs}, {"readdir of 100,000", engineEntries},
	} {
		for _, t := range []struct {
			when       string
			ours, host float64
		}{
			{"returned", best[w.name].returned[0], best[w.name].returned[1]},
			{"stable", best[w.name].stable[0], best[w.name].stable[1]},
		} {
			fmt.Printf("engine, %-26s %-8s %9.2f us each, host's kernel %9.2f us, ratio %.2f (wanted: at most 1.5)\n",
				w.name+":", t.when, t.ours/float64(w.count)*1e6, t.host/float64(w.count)*1e6, t.ours/t.host)
			b.ReportMetric(t.ours/t.host, t.when+"-"+w.name[:4])
		}
	}
	if err := fs.Close(); err != nil {
		b.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		b.Fatal(err)
	}
	oracle.Fsck(b, oursImage)
}

// engineSide is a directory and a file of an open engine.
type engineSide struct {
	b    *testing.B
	fs   *ext4.FS
	dir  *ext4.Inode
	file *ext4.Inode
}

func newEngineSide(b *testing.B, fs *ext4.FS) *engineSide {
	root, err := fs.Root()
	if err != nil {
		b.Fatal(err)
	}
	s := &engineSide{b: b, fs: fs}
	if s.dir, err = root.Create("d", ext4.NewInode{Mode: format.ModeDir | 0o755}); err != nil {
		b.Fatal(err)
	}
	if s.file, err = s.dir.Create("data", ext4.NewInode{Mode: format.ModeRegular | 0o644}); err != nil {
		b.Fatal(err)
	}
	s.check(root.Put())
	b.Cleanup(func() { // before the filesystem is closed nothing else needs them
		_ = s.file.Put()
		_ = s.dir.Put()
	})
	return s
}

func (s *engineSide) check(err error) {
	if err != nil {
		s.b.Helper()
		s.b.Fatal(err)
	}
}

func (s *engineSide) create(name string) {
	n, err := s.dir.Create(name, ext4.NewInode{Mode: format.ModeRegular | 0o644})
	s.check(err)
	s.check(n.Put())
}

func (s *engineSide) unlink(name string) { s.check(s.dir.Unlink(name)) }

func (s *engineSide) writeAt(p []byte, off int64) {
	_, err := s.file.WriteAt(p, off)
	s.check(err)
}

func (s *engineSide) truncate() { s.check(s.file.Truncate(0)) }
func (s *engineSide) fsync()    { s.check(s.file.Sync(false)) }
func (s *engineSide) sync()     { s.check(s.fs.Sync()) }

func (s *engineSide) readdir() int {
	count := 0
	s.check(s.dir.ReadDir(0, func(ext4.DirEntry) bool { count++; return true }))
	return count
}

// hostSide is a directory and a file of a mounted filesystem, reached by system calls.
type hostSide struct {
	b         *testing.B
	dir, file int
	buf       []byte
}

func newHostSide(b *testing.B, mount string) *hostSide {
	s := &hostSide{b: b, buf: make([]byte, 32<<10)}
	path := filepath.Join(mount, "d")
	s.check(os.Mkdir(path, 0o755))
	var err error
	s.dir, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	s.check(err)
	s.file, err = unix.Openat(s.dir, "data", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	s.check(err)
	b.Cleanup(func() {
		unix.Close(s.file)
		unix.Close(s.dir)
	})
	return s
}

func (s *hostSide) check(err error) {
	if err != nil {
		s.b.Helper()
		s.b.Fatal(err)
	}
}

func (s *hostSide) create(name string) {
	fd, err := unix.Openat(s.dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	s.check(err)
	s.check(unix.Close(fd))
}

func (s *hostSide) unlink(name string) { s.check(unix.Unlinkat(s.dir, name, 0)) }

func (s *hostSide) writeAt(p []byte, off int64) {
	_, err := unix.Pwrite(s.file, p, off)
	s.check(err)
}

func (s *hostSide) truncate() { s.check(unix.Ftruncate(s.file, 0)) }
func (s *hostSide) fsync()    { s.check(unix.Fsync(s.file)) }
func (s *hostSide) sync()     { s.check(unix.Syncfs(s.dir)) }

func (s *hostSide) readdir() int {
	_, err := unix.Seek(s.dir, 0, unix.SEEK_SET)
	s.check(err)
	count := 0
	for {
		n, err := unix.ReadDirent(s.dir, s.buf)
		s.check(err)
		if n == 0 {
			return count
		}
		for p := s.buf[:n]; len(p) > 0; count++ { // struct linux_dirent64: d_reclen at 16
			p = p[int(p[16])|int(p[17])<<8:]
		}
	}
}
