package ext4fs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// nightly asks for the long form of tests.
var nightly = os.Getenv("UMLKIT_NIGHTLY") != ""

// TestPosix runs go-fuse's tests of what POSIX demands of a filesystem in the guest, but
// for FcntlFlockLocksFile: that wants a process's second lock to meet its first, where
// POSIX has it replace that, and go-fuse leaves it out too. It fails the same way on ext4
// of the host's kernel and in the guest.
func TestPosix(t *testing.T) {
	posix := filepath.Join(t.TempDir(), "posix")
	cmd := exec.Command("go", "build", "-o", posix, "./emulator/ext4fs/internal/posix")
	cmd.Dir = oracle.Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build posix: %v\n%s", err, out)
	}
	// Large values of attributes are in inodes of their own.
	image := imageWith(t, "200M", func(tree string) { oracle.Run(t, "cp", posix, tree) }, "-b", "4096", "-O", "ea_inode")
	out := ours(t, t.TempDir()).run(t, 2*time.Minute, image, nil, "exec", "/t", "/posix", "-test.v", "-test.skip=^FcntlFlockLocksFile$")
	passed, others := strings.Count(out, "--- PASS: "), strings.Count(out, "--- SKIP: ")+strings.Count(out, "--- FAIL: ")
	if passed < 31 || others > 0 {
		t.Errorf("%d tests passed, %d did not:\n%s", passed, others, out)
	}
	oracle.Fsck(t, image)

	const says = "FcntlFlock returned <nil>, expected EAGAIN"
	cmd = exec.Command(posix, "-test.run=^FcntlFlockLocksFile$")
	cmd.Env = append(os.Environ(), "POSIX_DIR="+oracle.Mount(t, newImage(t, "50M"), ""))
	host, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(host), says) {
		t.Errorf("FcntlFlockLocksFile on the host's ext4: %v\n%s", err, host)
	}
	argv := append(ours(t, t.TempDir()).argv, "con=null", "con0=null,fd:1", "quiet", "ubd0="+image, "root=/dev/ubda", "rw", "init=/fscheck", "--",
		"exec", "/t", "/posix", "-test.run=^FcntlFlockLocksFile$")
	if out, _ := guest.Output(t, time.Minute, argv...); !strings.Contains(out, says) {
		t.Errorf("FcntlFlockLocksFile in the guest:\n%s", out)
	}
}

// addProgram copies a program of Debian's and its libraries below tree.
func addProgram(t testing.TB, tree, name string) {
	t.Helper()
	path := oracle.Tool(t, name)
	files := []string{path}
	for _, line := range strings.Split(oracle.Run(t, "ldd", path), "\n") {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
	}
	for _, file := range files {
		to := filepath.Join(tree, file)
		if file == path {
			to = filepath.Join(tree, "bin", name)
		}
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, "cp", "-L", file, to)
	}
}

// TestStress runs stress-ng's filesystem stressors in the guest, all at once.
func TestStress(t *testing.T) {
	seconds := 4
	if nightly {
		seconds = 60
	}
	image := imageWith(t, "2G", func(tree string) { addProgram(t, tree, "stress-ng") })
	argv := []string{"exec", "/t/stress", "/bin/stress-ng", "--temp-path", "/t/stress", "--verify", "--metrics-brief", "--timeout", fmt.Sprint(seconds), "--hdd-bytes", "64m"}
	stressors := []string{"hdd", "dentry", "dir", "rename", "fallocate", "link", "symlink", "xattr", "seek", "aio", "mmapfork"}
	for _, s := range stressors {
		argv = append(argv, "--"+s, "1")
	}
	out := ours(t, t.TempDir()).run(t, 10*time.Minute, image, nil, argv...)
	if bad := regexp.MustCompile(`(?m)^stress-ng: (fail|error).*|.*skipped.*`).FindAllString(out, -1); bad != nil || !strings.Contains(out, "successful run completed") {
		t.Errorf("stress-ng: %q", bad)
	}
	for _, s := range stressors {
		if !regexp.MustCompile(`\] ` + s + ` +\d`).MatchString(out) {
			t.Errorf("stressor %s tells nothing", s)
		}
	}
	t.Log(out)
	oracle.Fsck(t, image)
}

// TestFio writes files in random order through a COW file, reads them back, and reads
// them again after a reboot: every block has the checksum that it was written with.
func TestFio(t *testing.T) {
	modes := []string{"data=ordered", "data=journal"}
	if nightly {
		modes = append(modes, "data=writeback")
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { fioOver(t, mode) })
	}
}

func fioOver(t *testing.T, mode string) {
	dir := t.TempDir()
	image := imageWith(t, "2G", func(tree string) { addProgram(t, tree, "fio") })
	cow := filepath.Join(dir, "disk.cow")
	size := "24m"
	if nightly {
		size = "200m"
	}
	fio := func(how ...string) {
		t.Helper()
		argv := []string{"exec", "/t/fio", "/bin/fio", "--directory=/t/fio", "--verify=crc32c", "--verify_fatal=1", "--size=" + size, "--minimal", "--allow_mounted_write=1"}
		for _, job := range []string{
			"--name=small --rw=randwrite --bs=4k --ioengine=psync --end_fsync=1",
			"--name=direct --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=8 --direct=1",
			"--name=mapped --rw=randwrite --bs=4k --ioengine=mmap --end_fsync=1",
			"--name=odd --rw=write --bs=3k --bs_unaligned=1 --ioengine=psync --fsync=100",
		} {
			argv = append(argv, strings.Fields(job)...)
		}
		out := ours(t, dir).run(t, 10*time.Minute, cow+","+image, []string{"rootflags=" + mode}, append(argv, how...)...)
		if n := strings.Count(out, "fio-3."); n != 4 {
			t.Fatalf("fio %q tells of %d jobs:\n%s", how, n, out)
		}
	}
	fio()
	fio("--verify_only=1")
	merged := filepath.Join(dir, "merged")
	oracle.Run(t, guest.Binary(t, "uml_moo"), cow, merged)
	oracle.Fsck(t, merged)
}
