// Package oracle finds what tests hold our work against: Debian's tools, a real User
// Mode Linux kernel, samples that others wrote. A test whose oracle is missing fails
// and names what would bring it; it never skips.
package oracle

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// packages names the Debian package of each tool whose package is not its own name.
var packages = map[string]string{
	"attr": "attr", "blkid": "util-linux", "busybox": "busybox-static", "capsh": "libcap2-bin",
	"debugfs": "e2fsprogs", "depmod": "kmod", "dumpe2fs": "e2fsprogs", "e2fsck": "e2fsprogs", "fallocate": "util-linux",
	"filefrag": "e2fsprogs", "ip": "iproute2", "fsck.ext4": "e2fsprogs", "getcap": "libcap2-bin", "getfattr": "attr",
	"losetup": "mount", "lsattr": "e2fsprogs", "mandoc": "mandoc", "mcopy": "mtools", "mkfifo": "coreutils", "mke2fs": "e2fsprogs",
	"mkfs.ext4": "e2fsprogs", "mkfs.vfat": "dosfstools", "mkfs.xfs": "xfsprogs", "mksquashfs": "squashfs-tools", "modprobe": "kmod",
	"nbdcopy": "libnbd-bin", "nbdinfo": "libnbd-bin",
	"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "qemu-nbd": "qemu-utils",
	"resize2fs": "e2fsprogs", "sfdisk": "fdisk", "sgdisk": "gdisk", "xorriso": "xorriso",
	"setcap": "libcap2-bin", "setfacl": "acl", "setfattr": "attr", "setpriv": "util-linux",
	"tune2fs": "e2fsprogs", "uml_mconsole": "uml-utilities", "uml_mkcow": "uml-utilities", "uml_switch": "uml-utilities",
	"uml_moo": "uml-utilities", "vim.tiny": "vim-tiny", "xz": "xz-utils",
}

// Tool is the path of a program of Debian's. sbin directories are searched too: an
// ordinary user's PATH leaves them out. The test fails when the program is missing.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		if abs, err := filepath.Abs(path); err == nil {
			return abs
		}
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	pkg := packages[name]
	if pkg == "" {
		pkg = name
	}
	t.Fatalf("%s is missing: this test compares with it (Debian package %s; make test installs it as root)", name, pkg)
	return ""
}

// Root is the top directory of the source tree.
func Root(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the source tree's place is unknown: built with -trimpath?")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Sources makes the cached result of a test depend on every source of the module. go test
// sees what a test opens, and not what a go command that the test runs opens: without
// this it would repeat the success of a program that has changed since.
func Sources(t testing.TB) {
	t.Helper()
	err := filepath.WalkDir(Root(t), func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "bin" || d.Name() == ".git"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go"), strings.HasSuffix(path, ".s"), d.Name() == "go.mod":
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Shared is the path of a file below the directory of samples and tools that stands
// beside the source tree; UMLKIT_SHARED names another place.
func Shared(t testing.TB, rel string) string {
	t.Helper()
	dir := os.Getenv("UMLKIT_SHARED")
	if dir == "" {
		dir = filepath.Join(Root(t), "..", "shared")
	}
	path := filepath.Join(dir, rel)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (samples and tools are looked for in ../shared, or in $UMLKIT_SHARED)", err)
	}
	return path
}

var realUML struct {
	once sync.Once
	path string
	err  error
	out  []byte
}

// RealUML is the path of a real User Mode Linux kernel that runs on this machine:
// $REAL_UML, or the one that ../shared/tools/real-uml installs on its first call.
func RealUML(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("REAL_UML"); path != "" {
		return path
	}
	tool := Shared(t, "tools/real-uml")
	realUML.once.Do(func() {
		cmd := exec.Command(tool, "--path")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		var out []byte
		out, realUML.err = cmd.Output()
		realUML.path = strings.TrimSpace(string(out))
		realUML.out = []byte(stderr.String())
	})
	if realUML.err != nil {
		t.Fatalf("%s --path: %v\n%s", tool, realUML.err, realUML.out)
	}
	return realUML.path
}

// Nightly says whether the random and repeated tests run for long: make nightly sets
// UMLKIT_NIGHTLY.
func Nightly() bool { return os.Getenv("UMLKIT_NIGHTLY") != "" }

// Seed is where a random test starts: always the same place in make test, so that what
// fails there fails again; another one each night. UMLKIT_SEED names one. It is logged.
func Seed(t testing.TB) int64 {
	t.Helper()
	seed := int64(1)
	if Nightly() {
		seed = time.Now().UnixNano() % 1_000_000
	}
	if s := os.Getenv("UMLKIT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatalf("UMLKIT_SEED: %v", err)
		}
	}
	t.Logf("seed %d (UMLKIT_SEED=%d repeats it)", seed, seed)
	return seed
}

// NeedsRoot leaves a test out for an ordinary user. Only what the host gives to root
// alone (loop mounts, namespaces, other users' files) may ask for it.
func NeedsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Fsck fails the test unless e2fsck -fn finds the image clean.
func Fsck(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command(Tool(t, "e2fsck"), "-fn", image).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck -fn %s: %v\n%s", image, err, tail(out, 4000))
	}
}

// Run runs a program and returns what it printed; a failure fails the test with it.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path := name
	if !strings.Contains(name, "/") {
		path = Tool(t, name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail(out, 4000))
	}
	return string(out)
}

// Mount loop-mounts an image and returns where; it is unmounted when the test ends.
func Mount(t testing.TB, image, options string) string {
	t.Helper()
	NeedsRoot(t)
	dir := t.TempDir()
	opts := "loop"
	if options != "" {
		opts += "," + options
	}
	Run(t, "mount", "-o", opts, image, dir)
	t.Cleanup(func() { Unmount(t, dir) })
	return dir
}

// Unmount unmounts what Mount mounted, before the test's end; twice does no harm. It
// returns when the host's kernel has let go of the image: a mount namespace that
// another test made meanwhile holds a copy of the mount for as long as it lives.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	device := ""
	for _, line := range strings.Split(string(data), "\n") {
		if words := strings.Fields(line); len(words) > 1 && words[1] == dir {
			device = words[0]
		}
	}
	if device == "" {
		return
	}
	Run(t, "umount", dir)
	loop := filepath.Join("/sys/block", filepath.Base(device), "loop")
	for range 600 {
		if _, err := os.Stat(loop); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s, which was mounted on %s, is still in use", device, dir)
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
