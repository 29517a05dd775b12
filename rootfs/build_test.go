package rootfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs"
	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/tarball"
)

// build makes an image of a source and holds it against e2fsck.
func build(t *testing.T, src rootfs.Source, size int64, o rootfs.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if _, err := create(path, src, size, o); err != nil {
		t.Fatal(err)
	}
	oracle.Fsck(t, path)
	return path
}

func create(path string, src rootfs.Source, size int64, o rootfs.Options) (*rootfs.Summary, error) {
	defer src.Close()
	image, err := rootfs.NewImage(path, size, false)
	if err != nil {
		return nil, err
	}
	defer image.Abort()
	sum, err := rootfs.Build(context.Background(), image, src, o)
	if err != nil {
		return nil, err
	}
	return sum, image.Commit()
}

func write(t *testing.T, path string, data []byte, perm os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, os.Chmod(path, perm))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// everything makes a tree of all that a file system can hold. What only root can make is
// left out for others.
func everything(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"a", "a/b", "empty", "many", "deep"} {
		must(t, os.Mkdir(at(d), 0o755))
	}
	must(t, os.Chmod(at("a/b"), os.ModeSticky|os.ModeSetgid|0o1777))
	pattern := make([]byte, 5<<20+123)
	for i := range pattern {
		pattern[i] = byte(i * 7 >> 3)
	}
	for _, size := range []int{0, 1, 4095, 4096, 4097, 512 << 10, 512<<10 + 1, 1 << 20, 3<<20 + 5, len(pattern)} {
		write(t, at(fmt.Sprintf("a/size-%d", size)), pattern[:size], 0o644)
	}
	for i := range 3000 {
		write(t, at(fmt.Sprintf("many/file-%04d", i)), pattern[i:i+i%50], 0o600)
	}
	write(t, at("setuid"), []byte("#!"), os.ModeSetuid|0o755)
	write(t, at("name with \n and \xff"), []byte("odd"), 0o644)
	write(t, at("a/"+strings.Repeat("n", 255)), []byte("long"), 0o644)
	deep := at("deep")
	for range 200 {
		deep = filepath.Join(deep, "0123456789")
	}
	must(t, os.MkdirAll(deep, 0o755))
	write(t, filepath.Join(deep, "bottom"), []byte("deep"), 0o644)

	sparse := func(name string, size int64, at ...int64) {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		defer f.Close()
		must(t, f.Truncate(size))
		for _, off := range at {
			_, err := f.WriteAt(pattern[100:8292], off)
			must(t, err)
		}
	}
	sparse("sparse-hole", 1<<20)
	sparse("sparse-begin", 4<<20, 0)
	sparse("sparse-middle", 16<<20, 1<<20, 2<<20, 3<<20+4096, 9<<20)
	sparse("sparse-end", 2<<20+10, 2<<20+10-8192)
	sparse("sparse-huge", 40<<30, 17<<30)
	sparse("sparse-small", 5000) // less than a record of tar stays dense there

	must(t, os.Link(at("a/size-4097"), at("hard")))
	must(t, os.Link(at("a/size-4097"), at("many/hard")))
	must(t, os.Symlink("a/size-1", at("link")))
	must(t, os.Symlink("/nowhere/at/all", at("dangling")))
	must(t, os.Symlink(strings.Repeat("t/", 900), at("long-link")))
	must(t, unix.Mkfifo(at("fifo"), 0o620))
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	must(t, os.Chdir(dir)) // a socket's name is short
	must(t, unix.Bind(sock, &unix.SockaddrUnix{Name: "socket"}))
	unix.Close(sock)
	must(t, os.Chdir("/"))

	must(t, unix.Setxattr(at("a/size-1"), "user.note", []byte("a value\x00with a NUL"), 0))
	must(t, unix.Setxattr(at("a"), "user.on-a-directory", bytes.Repeat([]byte("x"), 1500), 0))
	must(t, unix.Setxattr(at("hard"), "user.empty", nil, 0))
	oracle.Run(t, "setfacl", "-m", "u:12345:rw,g:4321:r", at("a/size-4096"))
	oracle.Run(t, "setfacl", "-d", "-m", "u:12345:rwx", at("a/b"))
	if os.Geteuid() == 0 {
		oracle.Run(t, "setcap", "cap_net_raw+ep", at("setuid"))
		must(t, unix.Setxattr(at("a/size-1"), "trusted.secret", []byte("t"), 0))
		must(t, unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 300))))
		must(t, unix.Mknod(at("char"), unix.S_IFCHR|0o666, int(unix.Mkdev(300, 70000))))
		must(t, os.Lchown(at("a/size-4095"), 70000, 4000000000))
		must(t, os.Lchown(at("link"), 3, 4))
		must(t, os.Chmod(at("a/size-4095"), os.ModeSetuid|0o751))
	}
	// Times last, and those of directories after what is in them.
	times := []time.Time{time.Unix(1, 999999999), time.Unix(1700000000, 123456789), time.Unix(-1000, 5), time.Unix(5000000000, 1)}
	n := 0
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		must(t, err)
		n++
		ts := unix.NsecToTimespec(times[n%len(times)].UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}))
	for d := deep; len(d) >= len(dir); d = filepath.Dir(d) {
		ts := unix.NsecToTimespec(times[len(d)%len(times)].UnixNano())
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, d, []unix.Timespec{ts, ts}, 0))
	}
	return dir
}

// describe is a line for every entry, with all that must arrive.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(dir, path)
		if rel == "lost+found" {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		line := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += fmt.Sprintf(" %d bytes, %d links with %s, %s", st.Size, st.Nlink, first[st.Ino], content(t, path, st.Size))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			line += " -> " + target
		case unix.S_IFBLK, unix.S_IFCHR:
			line += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		out[rel] = line + xattrs(t, path)
		return nil
	}))
	return out
}

// content is where a file has data, and a sum of it.
func content(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var b strings.Builder
	for end := int64(0); end < size; {
		data, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		must(t, err)
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		must(t, err)
		buf := make([]byte, hole-data)
		_, err = f.ReadAt(buf, data)
		must(t, err)
		sum := uint64(14695981039346656037)
		for _, c := range buf {
			sum = (sum ^ uint64(c)) * 1099511628211
		}
		fmt.Fprintf(&b, "[%d,%d)=%x", data, hole, sum)
		end = hole
	}
	return b.String()
}

func xattrs(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	var all []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name != "" {
			value := make([]byte, 64<<10)
			n, err := unix.Lgetxattr(path, name, value)
			must(t, err)
			all = append(all, fmt.Sprintf(" %s=%x", name, value[:n]))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	wrong := 0
	for path, w := range want {
		if g := got[path]; g != w && wrong < 20 {
			wrong++
			t.Errorf("%q:\n have %s\n want %s", path, g, w)
		}
	}
	for path := range got {
		if want[path] == "" && wrong < 20 {
			wrong++
			t.Errorf("%q was not in the source", path)
		}
	}
	if len(want) < 3000 {
		t.Errorf("only %d entries were compared", len(want))
	}
}

// A directory and tar archives of it arrive in every attribute, as the host's kernel
// sees it.
func TestEverythingArrives(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := everything(t)
	want := describe(t, dir)
	t.Run("directory", func(t *testing.T) {
		image := build(t, &hostdir.Source{Path: dir}, 1<<30, rootfs.Options{})
		compare(t, want, describe(t, oracle.Mount(t, image, "ro")))
	})
	// A tar has no sockets.
	delete(want, "socket")
	must(t, os.Remove(filepath.Join(dir, "socket")))
	want["."] = describe(t, dir)["."]
	for _, pack := range []string{"", "gzip", "xz", "zstd", "bzip2"} {
		t.Run("tar "+pack, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "archive") // no name to go by
			args := []string{"--format=pax", "--sparse", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-cf", archive, "-C", dir, "."}
			oracle.Run(t, "tar", args...)
			if pack != "" {
				packed, err := exec.Command(oracle.Tool(t, pack), "-c", archive).Output()
				must(t, err)
				must(t, os.WriteFile(archive, packed, 0o644))
			}
			image := build(t, &tarball.Source{Path: archive}, 1<<30, rootfs.Options{})
			compare(t, want, describe(t, oracle.Mount(t, image, "ro")))
		})
	}
}

// Without a mount, debugfs tells what an ordinary user's image holds.
func TestDirectoryByDebugfs(t *testing.T) {
	dir := everything(t)
	image := build(t, &hostdir.Source{Path: dir}, 1<<30, rootfs.Options{Owners: rootfs.Owners{All: &rootfs.Owner{UID: 7, GID: 8}}})
	out := t.TempDir()
	for _, name := range []string{"a/size-5243003", "a/size-524289", "many/file-2999", "hard", "sparse-middle"} {
		copied := filepath.Join(out, "file")
		oracle.Run(t, "debugfs", "-R", fmt.Sprintf("dump /%s %s", name, copied), image)
		want, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		got, err := os.ReadFile(copied)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s arrives with other bytes", name)
		}
	}
	if stat := oracle.Run(t, "debugfs", "-R", "stat /hard", image); !strings.Contains(stat, "Links: 3") ||
		!strings.Contains(stat, "User:     7") || !strings.Contains(stat, "Group:     8") {
		t.Errorf("the inode of three names:\n%s", stat)
	}
	if stat := oracle.Run(t, "debugfs", "-R", "stat /sparse-huge", image); !strings.Contains(stat, "Size: 42949672960") {
		t.Errorf("the sparse file:\n%s", stat)
	}
}

// The number that an error names does, and a MiB less does not.
func TestSizeThatWouldDo(t *testing.T) {
	dir := t.TempDir()
	for i := range 40 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, i*30000), 0o644)
	}
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, f.Truncate(5<<30))
	must(t, f.Close())
	archive := filepath.Join(t.TempDir(), "a.tar")
	oracle.Run(t, "tar", "--sparse", "-cf", archive, "-C", dir, ".")
	oracle.Run(t, "gzip", "-k", archive)
	sources := map[string]func() rootfs.Source{
		"directory":  func() rootfs.Source { return &hostdir.Source{Path: dir} },
		"tar":        func() rootfs.Source { return &tarball.Source{Path: archive} },
		"packed tar": func() rootfs.Source { return &tarball.Source{Path: archive + ".gz"} },
	}
	needs := map[int64]bool{}
	for name, source := range sources {
		path := filepath.Join(t.TempDir(), "disk.img")
		_, err := create(path, source(), 10<<20, rootfs.Options{})
		var size *rootfs.SizeError
		if !errors.As(err, &size) || !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
			t.Errorf("%s: a failure leaves %v", name, left)
		}
		needs[size.Need] = true
		if _, err := create(path, source(), size.Need, rootfs.Options{}); err != nil {
			t.Errorf("%s: %d bytes would do, but %v", name, size.Need, err)
			continue
		}
		oracle.Fsck(t, path)
		if _, err := create(path+"2", source(), size.Need-1<<20, rootfs.Options{}); !errors.As(err, &size) {
			t.Errorf("%s: a MiB less does too: %v", name, err)
		}
	}
	if len(needs) != 1 {
		t.Errorf("one tree needs %v", needs)
	}
	// Of a disk that holds not even an empty file system the same is said.
	for _, have := range []int64{512, 100 << 10} {
		for name, source := range sources {
			_, err := create(filepath.Join(t.TempDir(), "disk.img"), source(), have, rootfs.Options{})
			var size *rootfs.SizeError
			if !errors.As(err, &size) || size.Have != have || !needs[size.Need] {
				t.Errorf("%s on a disk of %d bytes: %v", name, have, err)
			}
		}
	}
}

// What an archive that can be read only once says twice takes its place twice.
func TestSizeOfReplacedEntries(t *testing.T) {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	w := tar.NewWriter(gz)
	for i := range 1500 {
		size := 30000
		if i%2 == 0 { // many inodes of little
			size = 1
		}
		must(t, w.WriteHeader(&tar.Header{Name: "same", Size: int64(size), Mode: 0o644, Typeflag: tar.TypeReg}))
		_, err := w.Write(make([]byte, size))
		must(t, err)
	}
	must(t, w.Close())
	must(t, gz.Close())
	source := func() rootfs.Source { return &tarball.Source{Path: "-", Stdin: bytes.NewReader(b.Bytes())} }
	path := filepath.Join(t.TempDir(), "disk.img")
	for _, ratio := range []int64{0, 64 << 10} {
		o := rootfs.Options{Filesystem: mkfs.Options{InodeRatio: ratio}}
		_, err := create(path, source(), 12<<20, o)
		var size *rootfs.SizeError
		if !errors.As(err, &size) {
			t.Fatal(err)
		}
		if _, err := create(path, source(), size.Need, o); err != nil {
			t.Fatalf("%d bytes would do, but %v", size.Need, err)
		}
		oracle.Fsck(t, path)
		must(t, os.Remove(path))
	}
}

// Equal sources make equal images, however the host keeps their names.
func TestReproducible(t *testing.T) {
	o := rootfs.Options{Reproducible: true, Filesystem: mkfs.Options{UUID: [16]byte{1, 2, 3}, Time: time.Unix(1700000000, 0)}}
	image := func(order []int, compressed bool) []byte {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		for _, i := range order {
			write(t, filepath.Join(dir, "d", fmt.Sprintf("file-%d", i)), bytes.Repeat([]byte{byte(i)}, i*100), 0o644)
			ts := time.Unix(int64(i), 5)
			must(t, os.Chtimes(filepath.Join(dir, "d", fmt.Sprintf("file-%d", i)), time.Now(), ts))
		}
		must(t, os.Chtimes(filepath.Join(dir, "d"), time.Now(), time.Now()))
		must(t, os.Chtimes(dir, time.Now(), time.Unix(5, 6)))
		var src rootfs.Source = &hostdir.Source{Path: dir}
		if compressed {
			archive := filepath.Join(t.TempDir(), "a")
			oracle.Run(t, "tar", "--format=pax", "--sort=name", "--zstd", "-cf", archive, "-C", dir, ".")
			src = &tarball.Source{Path: archive}
		}
		data, err := os.ReadFile(build(t, src, 64<<20, o))
		must(t, err)
		return data
	}
	up, down := make([]int, 300), make([]int, 300)
	for i := range up {
		up[i], down[i] = i, len(up)-1-i
	}
	if !bytes.Equal(image(up, false), image(down, false)) {
		t.Error("the order of the host's directory entries changes the image")
	}
	if !bytes.Equal(image(up, true), image(up, true)) {
		t.Error("two images of one archive differ")
	}
}

// A host without room is named, with what the image takes there, and nothing stays.
func TestFullHost(t *testing.T) {
	oracle.NeedsRoot(t)
	small := t.TempDir()
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small)
	t.Cleanup(func() { oracle.Unmount(t, small) })
	dir := t.TempDir()
	write(t, filepath.Join(dir, "large"), bytes.Repeat([]byte("x"), 20<<20), 0o644)
	archive := filepath.Join(t.TempDir(), "a.gz")
	oracle.Run(t, "tar", "-czf", archive, "-C", dir, ".")
	for _, src := range []rootfs.Source{&hostdir.Source{Path: dir}, &tarball.Source{Path: archive}} {
		_, err := create(filepath.Join(small, "disk.img"), src, 64<<20, rootfs.Options{})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "the image takes about 2") {
			t.Errorf("%s: %v", src, err)
		}
		if left, _ := os.ReadDir(small); len(left) != 0 {
			t.Errorf("%s: %v is left", src, left)
		}
	}
}

func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), []byte("x"), 0o644)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	out := t.TempDir()
	image, err := rootfs.NewImage(filepath.Join(out, "disk.img"), 64<<20, false)
	must(t, err)
	_, err = rootfs.Build(ctx, image, &hostdir.Source{Path: dir}, rootfs.Options{})
	image.Abort()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context gives %v", err)
	}
	if left, _ := os.ReadDir(out); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}

func TestImageReplacesOnlyWhenForced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	must(t, os.WriteFile(path, []byte("precious"), 0o644))
	if _, err := rootfs.NewImage(path, 4096, false); !errors.Is(err, os.ErrExist) {
		t.Fatalf("an existing file gives %v", err)
	}
	image, err := rootfs.NewImage(path, 4096, true)
	must(t, err)
	if data, _ := os.ReadFile(path); string(data) != "precious" {
		t.Error("the old file is gone before the new one is whole")
	}
	must(t, image.Commit())
	image.Abort()
	if info, err := os.Stat(path); err != nil || info.Size() != 4096 {
		t.Errorf("the new image: %v %v", info, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
	// Someone else makes the file meanwhile.
	other := path + "2"
	image, err = rootfs.NewImage(other, 4096, false)
	must(t, err)
	must(t, os.WriteFile(other, []byte("theirs"), 0o644))
	if err := image.Commit(); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that came meanwhile gives %v", err)
	}
	if data, _ := os.ReadFile(other); string(data) != "theirs" {
		t.Error("a file that came meanwhile is overwritten")
	}
	if _, err := rootfs.NewImage("/dev/null", 4096, true); err == nil {
		t.Error("a device is overwritten")
	}
}

// A symbolic link at the image's name stays, whether the image is there yet or not, and
// the image lies where it leads.
func TestImageThroughLinks(t *testing.T) {
	dir, far := t.TempDir(), t.TempDir()
	must(t, os.Mkdir(filepath.Join(far, "sub"), 0o755))
	must(t, os.Symlink(filepath.Join(far, "sub"), filepath.Join(dir, "there")))
	must(t, os.Symlink("there/../second", filepath.Join(dir, "first"))) // through a link that ".." leaves
	must(t, os.Symlink("image", filepath.Join(far, "second")))
	for _, force := range []bool{false, true} {
		image, err := rootfs.NewImage(filepath.Join(dir, "first"), 4096, force)
		must(t, err)
		must(t, image.Commit())
		if info, err := os.Lstat(filepath.Join(far, "image")); err != nil || !info.Mode().IsRegular() || info.Size() != 4096 {
			t.Errorf("force %v: where the links lead is %v, %v", force, info, err)
		}
		if target, err := os.Readlink(filepath.Join(dir, "first")); err != nil || target != "there/../second" {
			t.Errorf("force %v: the link is now to %q, %v", force, target, err)
		}
		if left, _ := os.ReadDir(far); len(left) != 3 {
			t.Errorf("force %v: %v is left", force, left)
		}
		must(t, os.Remove(filepath.Join(far, "image")))
	}
	loop := filepath.Join(dir, "loop")
	must(t, os.Symlink("loop", loop))
	if _, err := rootfs.NewImage(loop, 4096, true); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link to itself: %v", err)
	}
}

// A name may be as long as the host takes.
func TestImageLongName(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", unix.NAME_MAX))
	for _, force := range []bool{false, true} {
		image, err := rootfs.NewImage(path, 4096, force)
		must(t, err)
		if err := image.Commit(); err != nil {
			t.Errorf("force %v: %v", force, err)
		}
	}
}
