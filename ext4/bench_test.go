package ext4

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

func benchFS(b *testing.B, size int64) *FS {
	image := makeImage(b, size, "-t", "ext4", "-b", "4096")
	fs, err := Open(openDevice(b, image), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { fs.Close(); fsck(b, image) })
	return fs
}

// BenchmarkCreate makes 5,000 empty files in one directory and removes them.
func BenchmarkCreate(b *testing.B) {
	fs := benchFS(b, 256<<20)
	root := must(fs.Root())
	defer root.Put()
	names := make([]string, 5000)
	for i := range names {
		names[i] = fmt.Sprintf("file-number-%d", i)
	}
	b.ResetTimer()
	for range b.N {
		d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
		for _, name := range names {
			must(d.Create(name, NewInode{Mode: format.ModeRegular | 0o644})).Put()
		}
		check(b, fs.Sync())
		b.StopTimer()
		removeAll(b, d)
		check(b, d.Put())
		check(b, root.Rmdir("d"))
		check(b, fs.Sync())
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/5000, "ns/file")
}

// BenchmarkUnlink removes 5,000 files.
func BenchmarkUnlink(b *testing.B) {
	fs := benchFS(b, 256<<20)
	root := must(fs.Root())
	defer root.Put()
	for range b.N {
		b.StopTimer()
		d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
		for i := range 5000 {
			must(d.Create(fmt.Sprintf("file-number-%d", i), NewInode{Mode: format.ModeRegular | 0o644})).Put()
		}
		check(b, fs.Sync())
		b.StartTimer()
		for i := range 5000 {
			check(b, d.Unlink(fmt.Sprintf("file-number-%d", i)))
		}
		check(b, fs.Sync())
		b.StopTimer()
		check(b, d.Put())
		check(b, root.Rmdir("d"))
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/5000, "ns/file")
}

// BenchmarkLookup finds names in a directory of 20,000.
func BenchmarkLookup(b *testing.B) {
	fs := benchFS(b, 512<<20)
	root := must(fs.Root())
	defer root.Put()
	for i := range 20000 {
		must(root.Create(fmt.Sprintf("file-number-%d", i), NewInode{Mode: format.ModeRegular | 0o644})).Put()
	}
	b.ResetTimer()
	for i := range b.N {
		must(root.Lookup(fmt.Sprintf("file-number-%d", i%20000))).Put()
	}
}

// BenchmarkLookupAbsent looks in a directory of 20,000 for names that are not there, as
// searches along a path do.
func BenchmarkLookupAbsent(b *testing.B) {
	fs := benchFS(b, 512<<20)
	root := must(fs.Root())
	defer root.Put()
	for i := range 20000 {
		must(root.Create(fmt.Sprintf("file-number-%d", i), NewInode{Mode: format.ModeRegular | 0o644})).Put()
	}
	b.ResetTimer()
	for i := range b.N {
		if _, err := root.Lookup(fmt.Sprintf("absent-number-%d", i%20000)); !errors.Is(err, unix.ENOENT) {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite appends to one file, 1 MiB at a time, through to the image; the same
// written to a plain host file is the peer.
func BenchmarkWrite(b *testing.B) {
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(i)
	}
	const total = 512
	b.Run("engine", func(b *testing.B) {
		fs := benchFS(b, 1<<30)
		root := must(fs.Root())
		defer root.Put()
		b.SetBytes(total << 20)
		for range b.N {
			f := must(root.Create("f", NewInode{Mode: format.ModeRegular | 0o644}))
			for i := range int64(total) {
				must(f.WriteAt(p, i<<20))
			}
			check(b, f.Sync(false))
			b.StopTimer()
			check(b, f.Put())
			check(b, root.Unlink("f"))
			check(b, fs.Sync())
			b.StartTimer()
		}
	})
	b.Run("host", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "f")
		b.SetBytes(total << 20)
		for range b.N {
			f := must(os.Create(path))
			for i := range int64(total) {
				must(f.WriteAt(p, i<<20))
			}
			check(b, f.Close())
		}
	})
}

// BenchmarkAppend grows a file by 4 KiB at a time.
func BenchmarkAppend(b *testing.B) {
	fs := benchFS(b, 1<<30)
	root := must(fs.Root())
	defer root.Put()
	f := must(root.Create("f", NewInode{Mode: format.ModeRegular | 0o644}))
	defer f.Put()
	p := make([]byte, 4096)
	b.SetBytes(4096)
	for i := range b.N {
		must(f.WriteAt(p, int64(i%100000)*4096))
		if i%100000 == 99999 {
			check(b, f.Truncate(0))
		}
	}
}

// BenchmarkFsync writes a block and makes it stable.
func BenchmarkFsync(b *testing.B) {
	fs := benchFS(b, 256<<20)
	root := must(fs.Root())
	defer root.Put()
	f := must(root.Create("f", NewInode{Mode: format.ModeRegular | 0o644}))
	defer f.Put()
	p := make([]byte, 4096)
	for i := range b.N {
		must(f.WriteAt(p, int64(i%10000)*4096))
		check(b, f.Sync(false))
	}
}

// BenchmarkReadDir lists a directory of 100,000.
func BenchmarkReadDir(b *testing.B) {
	fs := benchFS(b, 1<<30)
	root := must(fs.Root())
	defer root.Put()
	d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
	defer d.Put()
	for i := range 60000 {
		must(d.Create(fmt.Sprintf("file-number-%d", i), NewInode{Mode: format.ModeRegular | 0o644})).Put()
	}
	b.ResetTimer()
	for range b.N {
		count := 0
		check(b, d.ReadDir(0, func(DirEntry) bool { count++; return true }))
		if count != 60002 {
			b.Fatal(count)
		}
	}
}
