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

	"github.com/umlkit/umlkit/internal/oracle"
)

// nightly asks for the long form of tests.
var nightly = os.Getenv("UMLKIT_NIGHTLY") != ""

// TestPosix runs go-fuse's tests of what POSIX demands of a filesystem in the guest.
func TestPosix(t *testing.T) {
	image := imageWith(t, "200M", func(tree string) {
		cmd := exec.Command("go", "build", "-o", filepath.Join(tree, "posix"), "./emulator/ext4fs/internal/posix")
		cmd.Dir = oracle.Root(t)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build posix: %v\n%s", err, out)
		}
	})
	out := ours(t, t.TempDir()).run(t, 2*time.Minute, image, nil, "exec", "/t", "/posix", "-test.v")
	// A value of 64 KiB needs the feature ea_inode, without which a real kernel's ext4
	// leaves that test out too.
	passed, skipped := strings.Count(out, "--- PASS: "), strings.Count(out, "--- SKIP: ")
	if passed < 30 || skipped > strings.Count(out, "--- SKIP: XAttrLarge ") {
		t.Errorf("%d tests passed, %d were left out:\n%s", passed, skipped, out)
	}
	oracle.Fsck(t, image)
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
	seconds := 6
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
	if !strings.Contains(out, "successful run completed") {
		t.Errorf("stress-ng:\n%s", out)
	}
	for _, s := range stressors {
		if !regexp.MustCompile(`(?m)\] ` + s + ` +[1-9]`).MatchString(out) {
			t.Errorf("stressor %s has done nothing:\n%s", s, out)
		}
	}
	t.Log(out)
	oracle.Fsck(t, image)
}
