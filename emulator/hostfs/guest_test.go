package hostfs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// limit is how long a machine may take on a host that does much else.
const limit = 2 * time.Minute

var built struct {
	sync.Mutex
	paths map[string]string
}

// program builds a program of the tests, once.
func program(t testing.TB, pkg string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if path, ok := built.paths[pkg]; ok {
		return path
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("umlkit-hostfs-%d", os.Geteuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = oracle.Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	if built.paths == nil {
		built.paths = map[string]string{}
	}
	built.paths[pkg] = path
	return path
}

const (
	hostcheck = "./emulator/hostfs/internal/hostcheck"
	fscheck   = "./emulator/ext4fs/internal/fscheck"
	posix     = "./emulator/ext4fs/internal/posix"
)

// newRoot makes a directory to boot from, with a program of the tests as /init.
func newRoot(t testing.TB, pkg string) string {
	t.Helper()
	dir := shared(t)
	for _, d := range []string{"dev", "proc", "sys", "tmp", "m"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, "cp", program(t, pkg), filepath.Join(dir, "init"))
	return dir
}

// shared is a directory that every user may read.
func shared(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ordinary starts a command as a user who is not root and has no capabilities.
const ordinary = 65534

func asOrdinary(t testing.TB, argv ...string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		return argv
	}
	id := fmt.Sprint(ordinary)
	return append([]string{oracle.Tool(t, "setpriv"), "--reuid=" + id, "--regid=" + id, "--clear-groups", "--bounding-set=-all", "--no-new-privs"}, argv...)
}

// linux is the command line of a machine that boots from root.
func linux(t testing.TB, root string, words ...string) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return append([]string{guest.Binary(t, "linux"), "mem=256M", "uml_dir=" + dir, "con=null", "con0=null,fd:1", "quiet",
		"ubd0=" + root, "rw", "init=/init"}, words...)
}

// output runs a machine to its end and returns what its first program printed.
func output(t testing.TB, argv []string, commands ...string) string {
	t.Helper()
	out, status := guest.Output(t, limit, append(append(argv, "--"), commands...)...)
	out = strings.ReplaceAll(out, "\r\n", "\n")
	if status != 0 {
		t.Fatalf("exit status %d:\n%s", status, out)
	}
	return out
}

// background runs a machine while work plays the host's part in what they do in turn.
func background(t testing.TB, argv, commands []string, work func()) string {
	t.Helper()
	var out string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		out = output(t, argv, commands...)
	}()
	work()
	<-ended
	return out
}

// await waits until the guest has made a file, and takes it away.
func await(t testing.TB, path string) {
	t.Helper()
	for range 12000 {
		if os.Remove(path) == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("the guest did not make %s", path)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantLines fails the test unless out holds each line.
func wantLines(t testing.TB, out string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+out, "\n"+l+"\n") {
			t.Errorf("no line %s", l)
		}
	}
	if !strings.Contains(out, "hostcheck: done\n") {
		t.Errorf("the guest did not come to its end")
	}
	if t.Failed() {
		t.Logf("output:\n%s", out)
	}
}
