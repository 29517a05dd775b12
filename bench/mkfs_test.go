package bench

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/internal/oracle"
)

// disk is a raw image for mkfs.
type disk struct {
	*os.File
	size int64
}

func (d disk) Size() int64 { return d.size }

func newDisk(b *testing.B, path string, size int64) disk {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	return disk{f, size}
}

// BenchmarkMkfs makes an image of a Debian tree with mkfs alone (a plain walk, two goroutines
// that read and write) and with mke2fs -d, which is the floor that umlimg create is held to.
func BenchmarkMkfs(b *testing.B) {
	oracle.NeedsRoot(b) // to read all of the tree
	tree := b.TempDir()
	oracle.Run(b, "tar", "-C", tree, "--xattrs", "--numeric-owner", "-xpf", debianTar(b))
	image := filepath.Join(b.TempDir(), "disk.img")
	ours, theirs := math.Inf(1), math.Inf(1)
	for range max(b.N, 5) {
		os.Remove(image)
		start := time.Now()
		d := newDisk(b, image, 16<<30)
		if err := fromDir(d, tree); err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
		ours = min(ours, time.Since(start).Seconds())
		oracle.Fsck(b, image)

		os.Remove(image)
		start = time.Now()
		oracle.Run(b, "mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image, "16G")
		theirs = min(theirs, time.Since(start).Seconds())
	}
	report(b, "Debian tree", ours, theirs)
}

// BenchmarkMkfsManyNames makes a directory of 20,000 empty files.
func BenchmarkMkfsManyNames(b *testing.B) {
	tree := b.TempDir()
	for i := range 20000 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("file-%d", i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	image := filepath.Join(b.TempDir(), "disk.img")
	ours := math.Inf(1)
	for range max(b.N, 3) {
		os.Remove(image)
		start := time.Now()
		d := newDisk(b, image, 1<<30)
		if err := fromDir(d, tree); err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
		ours = min(ours, time.Since(start).Seconds())
		oracle.Fsck(b, image)
	}
	os.Remove(image)
	start := time.Now()
	oracle.Run(b, "mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image, "1G")
	report(b, "20,000 names", ours, time.Since(start).Seconds())
}

func report(b *testing.B, what string, ours, theirs float64) {
	b.Helper()
	b.ReportMetric(ours, "s/image")
	b.ReportMetric(theirs, "mke2fs-s/image")
	b.ReportMetric(ours/theirs, "ratio")
	b.Logf("%s: %.3f s, mke2fs -d %.3f s, ratio %.2f", what, ours, theirs, ours/theirs)
}

// job is a file that is placed and not copied yet.
type job struct {
	path string
	ext  []mkfs.Extent
}

// fromDir builds the tree below root: one walk that adds and places, two goroutines that copy.
func fromDir(d disk, root string) error {
	b, err := mkfs.NewBuilder(d, mkfs.Options{})
	if err != nil {
		return err
	}
	jobs := make(chan []job, 64)
	var failure error
	var once sync.Once
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			if err := copyFiles(d, jobs); err != nil {
				once.Do(func() { failure = err })
				for range jobs {
				}
			}
		})
	}
	walkErr := walk(b, root, jobs)
	close(jobs)
	workers.Wait()
	if walkErr != nil {
		return walkErr
	}
	if failure != nil {
		return failure
	}
	return b.Close()
}

func walk(b *mkfs.Builder, root string, jobs chan<- []job) error {
	dirs := map[string]*mkfs.Node{root: b.Root()}
	links := map[uint64]*mkfs.Node{}
	var batch []job
	size := int64(0)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		parent, name := dirs[filepath.Dir(path)], filepath.Base(path)
		if n := links[st.Ino]; n != nil {
			return b.Link(parent, name, n)
		}
		t := func(s syscall.Timespec) mkfs.Time { return mkfs.Time{Sec: s.Sec, Nsec: uint32(s.Nsec)} }
		h := mkfs.Header{Mode: uint16(st.Mode), UID: st.Uid, GID: st.Gid, Size: st.Size,
			Major: uint32(st.Rdev >> 8 & 0xFFF), Minor: uint32(st.Rdev & 0xFF), Atime: t(st.Atim), Mtime: t(st.Mtim), Ctime: t(st.Ctim)}
		if st.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			if h.Target, err = os.Readlink(path); err != nil {
				return err
			}
		} else if _, err := syscall.Listxattr(path, nil); err != nil && err != syscall.ENOTSUP {
			return err
		}
		n, err := b.Add(parent, name, h)
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			dirs[path] = n
			return nil
		case st.Nlink > 1:
			links[st.Ino] = n
		}
		if !e.Type().IsRegular() || st.Size == 0 {
			return nil
		}
		ext, err := b.Place(n, nil)
		if err != nil {
			return err
		}
		batch = append(batch, job{path, ext})
		if size += st.Size; size > 1<<20 {
			jobs <- batch
			batch, size = nil, 0
		}
		return nil
	})
	jobs <- batch
	return err
}

// copyFiles copies batches of files, small neighbours together.
func copyFiles(d disk, jobs <-chan []job) error {
	buf := make([]byte, 0, 2<<20)
	at := int64(0) // of buf on the disk
	flush := func() error {
		_, err := d.WriteAt(buf, at)
		buf = buf[:0]
		return err
	}
	for batch := range jobs {
		for _, j := range batch {
			f, err := os.Open(j.path)
			if err != nil {
				return err
			}
			for _, e := range j.ext {
				for e.Length > 0 {
					gap := e.Disk - at - int64(len(buf))
					if len(buf) > 0 && (gap < 0 || gap > 4095 || len(buf)+int(gap)+4096 > cap(buf)) {
						if err := flush(); err != nil {
							return err
						}
					}
					if len(buf) == 0 {
						at, gap = e.Disk, 0
					}
					from := len(buf) + int(gap)
					clear(buf[len(buf):from])
					k := min(int(e.Length), cap(buf)-from)
					buf = buf[:from+k]
					if _, err := io.ReadFull(f, buf[from:]); err != nil {
						return err
					}
					e.Length, e.Disk = e.Length-int64(k), e.Disk+int64(k)
				}
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
		if len(buf) > 0 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
