package mkfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestKernelWrites lets the host's kernel change a filesystem of ours in every place where it
// could trip over it.
func TestKernelWrites(t *testing.T) {
	oracle.NeedsRoot(t)
	for _, o := range []Options{{}, {BlockSize: 1024}, {Features: []string{"^metadata_csum"}}, {Features: []string{"uninit_bg", "^flex_bg"}},
		{NoJournal: true, InodeSize: 512}, {Features: []string{"^64bit", "^extent"}}, {InodeSize: 128},
		{InodeSize: 128, BlockSize: 1024, Features: []string{"none"}}, {InodeSize: 128, Features: []string{"none", "has_journal", "sparse_super", "filetype"}}} {
		t.Run(fmt.Sprintf("%d-%d%v", o.BlockSize, o.InodeSize, o.Features), func(t *testing.T) {
			m := &model{}
			m.dir("big")
			for i := range 3000 {
				m.file(fmt.Sprintf("big/some-longer-file-name-%d", i), int64(i%5000), uint64(i))
			}
			if o.InodeSize != 128 {
				m.add(item{path: "x", h: Header{Mode: format.ModeRegular | 0o644, Xattrs: map[string][]byte{"user.a": bytes.Repeat([]byte("x"), 500)}}})
				m.add(item{path: "y", h: Header{Mode: format.ModeRegular | 0o644, Xattrs: map[string][]byte{"user.a": bytes.Repeat([]byte("x"), 500)}}})
			}
			var regions []Region
			for i := range int64(1000) {
				regions = append(regions, Region{i * 8192, 4096})
			}
			m.add(item{path: "sparse", data: noise(1), regions: regions, h: Header{Mode: format.ModeRegular | 0o644, Size: 1000 * 8192}})
			path := image(t, 256<<20, o, m)
			dir := oracle.Mount(t, path, "")

			for i := range 5000 {
				if err := os.WriteFile(filepath.Join(dir, "big", fmt.Sprintf("new-file-%d", i)), []byte("new"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for i := 0; i < 3000; i += 2 {
				if err := os.Remove(filepath.Join(dir, "big", fmt.Sprintf("some-longer-file-name-%d", i))); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 100 {
				if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("d%d/e/f", i)), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "lost+found/x"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			// The holes of the sparse file, then half of it away.
			f, err := os.OpenFile(filepath.Join(dir, "sparse"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			for i := range int64(1000) {
				if _, err := f.WriteAt(make([]byte, 4096), i*8192+4096); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(f.Truncate(4<<20), f.Close()); err != nil {
				t.Fatal(err)
			}
			if o.InodeSize != 128 {
				for i, name := range []string{"x", "y", "big/new-file-1"} {
					if err := unix.Setxattr(filepath.Join(dir, name), "user.b", bytes.Repeat([]byte("b"), 100*i+1), 0); err != nil {
						t.Fatal(err)
					}
				}
				if err := unix.Removexattr(filepath.Join(dir, "y"), "user.a"); err != nil {
					t.Fatal(err)
				}
			}
			// Fill it up: every group is used then.
			full, err := os.Create(filepath.Join(dir, "full"))
			if err != nil {
				t.Fatal(err)
			}
			for block := make([]byte, 1<<20); ; {
				if _, err = full.Write(block); err != nil {
					break
				}
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Error(err)
			}
			if err := full.Close(); err != nil {
				t.Fatal(err)
			}
			oracle.Unmount(t, dir)
			oracle.Fsck(t, path)
			if log := header(t, path)["FS Error count"]; log != "" {
				t.Errorf("the kernel counted %s errors", log)
			}
		})
	}
}

// TestLargeDevices mounts the largest filesystems, and puts a file into one that spans groups with
// copies of the superblock.
func TestLargeDevices(t *testing.T) {
	for _, size := range []int64{1 << 30, 16 << 30, 129 << 30, 1 << 40} {
		t.Run(sizeString(size), func(t *testing.T) {
			m := &model{}
			if size == 1<<30 {
				m.file("large", 600<<20, 1)
			}
			m.file("small", 5<<20, 2)
			path := image(t, size, Options{}, m)
			if os.Geteuid() != 0 {
				return
			}
			dir := oracle.Mount(t, path, "")
			m.compare(t, dir)
			if err := os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "a/b/c/d"), make([]byte, 10<<20), 0o644); err != nil {
				t.Fatal(err)
			}
			oracle.Unmount(t, dir)
			oracle.Fsck(t, path)
		})
	}
}

// TestGrow lets resize2fs grow a filesystem of ours that is not mounted.
func TestGrow(t *testing.T) {
	for _, blockSize := range []int{1024, 4096} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			m := &model{}
			m.dir("d")
			for i := range 300 {
				m.file(fmt.Sprintf("d/%d", i), int64(i*100), uint64(i))
			}
			path := image(t, 96<<20, Options{BlockSize: blockSize}, m)
			if err := os.Truncate(path, 896<<20); err != nil {
				t.Fatal(err)
			}
			oracle.Run(t, "resize2fs", path)
			oracle.Fsck(t, path)
			if got, want := header(t, path)["Block count"], fmt.Sprint(896<<20/blockSize); got != want {
				t.Errorf("%s blocks, want %s", got, want)
			}
			oracle.Run(t, "resize2fs", "-M", path)
			oracle.Fsck(t, path)
			if os.Geteuid() == 0 {
				m.compare(t, oracle.Mount(t, path, "ro,noload"))
			}
		})
	}
}

// TestManySubdirectories passes the limit of 65,000 links.
func TestManySubdirectories(t *testing.T) {
	m := &model{}
	m.dir("d")
	for i := range 65100 {
		m.add(item{path: fmt.Sprintf("d/%d", i), h: Header{Mode: format.ModeDir | 0o700}})
	}
	o := Options{Inodes: 70000}
	path := image(t, 1<<30, o, m)
	out := oracle.Run(t, "debugfs", "-R", "stat /d", path)
	if !strings.Contains(out, "Links: 1 ") {
		t.Errorf("debugfs shows %s", out)
	}
	if os.Geteuid() == 0 {
		m.compare(t, oracle.Mount(t, path, "ro"))
	}

	b, err := NewBuilder(nil, Options{Features: []string{"^dir_nlink"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64997 { // and lost+found
		if _, err := b.Add(b.Root(), fmt.Sprint(i), Header{Mode: format.ModeDir}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Add(b.Root(), "one more", Header{Mode: format.ModeDir}); !errors.Is(err, unix.EMLINK) {
		t.Errorf("a directory with 65,001 links: %v", err)
	}
}

// TestDebugfsReads reads a tree without a mount.
func TestDebugfsReads(t *testing.T) {
	m := &model{}
	m.dir("d")
	for i := range 1000 {
		m.file(fmt.Sprintf("d/file %d", i), int64(i), uint64(i))
	}
	m.add(item{path: "link", h: Header{Mode: format.ModeSymlink | 0o777, Target: strings.Repeat("t", 100)}})
	m.add(item{path: "x", h: Header{Mode: format.ModeRegular | 0o640, UID: 70001, Btime: at(1<<32+5, 500), Xattrs: map[string][]byte{
		"user.short": []byte("in"), "user.long": []byte(strings.Repeat("o", 200))}}})
	path := image(t, 64<<20, fixed(), m)

	want := make([]byte, 777)
	noise(777)(0, want)
	if got := oracle.Run(t, "debugfs", "-R", `cat "/d/file 777"`, path); !strings.HasSuffix(got, string(want)) {
		t.Errorf("other bytes in /d/file 777")
	}
	for command, want := range map[string]string{
		"stat /link":              "Type: symlink",
		"stat /x":                 "User: 70001",
		"ea_list /x":              "user.long (200)",
		"htree_dump /d":           "Root node dump",
		"show_super_stats":        "Filesystem state:         clean",
		"stat <8>":                "Size: 4194304",
		"ncheck 12":               "/d",
		"stat /lost+found":        "Size: 16384",
		"testb 5 1":               "Block 5 marked in use",
		`dirsearch /d "file 999"`: "Entry found",
	} {
		if got := oracle.Run(t, "debugfs", "-R", command, path); !strings.Contains(got, want) {
			t.Errorf("debugfs %s: no %q in %s", command, want, got)
		}
	}
}

// guestTree begins a filesystem that the real kernel boots: Debian's busybox, and script as its
// init.
type guestTree struct {
	*Builder
	t    *testing.T
	path string
	dirs map[string]*Node
	args []string // more of the kernel's arguments
}

func newGuestTree(t *testing.T, size int64, o Options, script string) *guestTree {
	t.Helper()
	busybox, err := os.ReadFile(oracle.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	dev, path := newFile(t, size)
	b, err := NewBuilder(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	g := &guestTree{Builder: b, t: t, path: path, dirs: map[string]*Node{"/": b.Root()}}
	g.put("/bin/busybox", busybox)
	g.put("/init", []byte("#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n"+script+
		"/bin/busybox sync\n/bin/busybox mount -o remount,ro /\n/bin/busybox poweroff -f\n"))
	g.dir("/proc")
	g.dir("/tmp")
	for i, name := range []string{"console", "null", "ubda"} {
		h := []Header{{Mode: format.ModeChar | 0o600, Major: 5, Minor: 1}, {Mode: format.ModeChar | 0o666, Major: 1, Minor: 3},
			{Mode: format.ModeBlock | 0o600, Major: 98, Minor: 0}}[i]
		if _, err := b.Add(g.dir("/dev"), name, h); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// dir is a directory, made with those above it.
func (g *guestTree) dir(p string) *Node {
	g.t.Helper()
	if n := g.dirs[p]; n != nil {
		return n
	}
	n, err := g.Add(g.dir(path.Dir(p)), path.Base(p), Header{Mode: format.ModeDir | 0o755})
	if err != nil {
		g.t.Fatal(err)
	}
	g.dirs[p] = n
	return n
}

// put adds a program or file.
func (g *guestTree) put(p string, content []byte) {
	g.t.Helper()
	n, err := g.Add(g.dir(path.Dir(p)), path.Base(p), Header{Mode: format.ModeRegular | 0o755, Size: int64(len(content))})
	if err == nil {
		err = g.Data(n, bytes.NewReader(content))
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// boot runs the guest, whose console must show every one of want.
func (g *guestTree) boot(want ...string) {
	g.t.Helper()
	// The guest must leave a clean filesystem, which it checks at its next mount.
	cmd := exec.Command(oracle.RealUML(g.t), append([]string{"mem=128M", "ubd0=" + g.path, "root=/dev/ubda", "rootfstype=ext4", "rw", "init=/init",
		"con0=null,fd:1", "con=null", "uml_dir=" + g.t.TempDir(), "umid=mkfs"}, g.args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	watchdog := time.AfterFunc(2*time.Minute, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	err := cmd.Wait()
	watchdog.Stop()
	text := strings.ReplaceAll(out.String(), "\r", "")
	for _, w := range want {
		if !strings.Contains(text, w) {
			g.t.Errorf("the guest did not print %q", w)
		}
	}
	for _, bad := range []string{"EXT4-fs error", "EXT4-fs warning"} {
		if strings.Contains(text, bad) {
			g.t.Errorf("the guest printed %q", bad)
		}
	}
	if err != nil || g.t.Failed() {
		g.t.Errorf("%v\n%s", err, text)
	}
	oracle.Fsck(g.t, g.path)
}

// TestRealUMLBoots boots the real kernel from an image of ours.
func TestRealUMLBoots(t *testing.T) {
	g := newGuestTree(t, 64<<20, fixed(), "/bin/busybox cat /proc/mounts\n"+
		"/bin/busybox sha256sum /data\n"+
		"/bin/busybox mkdir -p /made/by/the/guest && /bin/busybox cp /data /made/by/the/guest/copy && /bin/busybox rm /data && echo copied\n"+
		"/bin/busybox ls /many | /bin/busybox wc -l\n")
	for i := range 1000 {
		g.put(fmt.Sprintf("/many/name-%d", i), nil)
	}
	data := make([]byte, 3<<20)
	noise(4)(0, data)
	g.put("/data", data)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.Fsck(t, g.path)
	g.boot("/ ext4 rw", fmt.Sprintf("%x", sha256.Sum256(data)), "copied", "\n1000\n")
}

// TestGrowOnline lets resize2fs in a guest of the real kernel grow the root filesystem that it
// runs from, far enough to use the blocks reserved for group descriptors.
func TestGrowOnline(t *testing.T) {
	for _, blockSize := range []int{1024, 4096} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			size := int64(64 << 20)
			bigger := size * 20
			g := newGuestTree(t, size, Options{BlockSize: blockSize}, "/usr/sbin/resize2fs -f /dev/ubda && echo grown\n/bin/busybox df -k /\n")
			resize2fs := oracle.Tool(t, "resize2fs")
			files := []string{resize2fs}
			for _, word := range strings.Fields(oracle.Run(t, "ldd", resize2fs)) {
				if strings.HasPrefix(word, "/") {
					files = append(files, word)
				}
			}
			for _, name := range files {
				content, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if name == resize2fs {
					name = "/usr/sbin/resize2fs"
				}
				g.put(name, content)
			}
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(g.path, bigger); err != nil {
				t.Fatal(err)
			}
			g.boot("grown")
			if got, want := header(t, g.path)["Block count"], fmt.Sprint(bigger/int64(blockSize)); got != want {
				t.Errorf("%s blocks, want %s", got, want)
			}
		})
	}
}
