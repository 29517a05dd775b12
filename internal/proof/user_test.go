package proof

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestOrdinaryUser goes the whole way without root, capabilities and new privileges,
// from a tar.
func TestOrdinaryUser(t *testing.T) {
	u := user{ordinary: true}
	dir := u.workdir(t)
	source := filepath.Join(dir, "debian.tar")
	copyFile(t, minbase.tar(t), source)
	image := filepath.Join(dir, "disk.img")
	u.run(t, guest.Binary(t, "umlimg"), "create", "--from", source, "--size", "16G",
		"--hostname", "proof", "--root-password", password, image)
	oracle.Fsck(t, image)
	if os.Geteuid() == 0 {
		t.Run("equals its source", func(t *testing.T) {
			mnt := oracle.Mount(t, image, "ro")
			sameTrees(t, timeless(describe(t, minbase.dir(t), edited...), ".", "etc", "lib", "usr/lib"),
				timeless(describe(t, mnt, edited...), ".", "etc", "lib", "usr/lib"))
		})
	}
	wholeWay(t, u, dir, image)
}

// TestFileCapabilities: a linux that carries capabilities for its network devices,
// started by an ordinary user, must not hand them to the guest's code.
func TestFileCapabilities(t *testing.T) {
	oracle.NeedsRoot(t)
	u := user{ordinary: true}
	dir := u.workdir(t)
	image := filepath.Join(dir, "disk.img")
	u.run(t, guest.Binary(t, "umlimg"), "create", "--size", "64M", "--umlbox", guest.Binary(t, "umlbox"), image)
	linux := filepath.Join(dir, "linux")
	oracle.Run(t, "cp", guest.Binary(t, "linux"), linux)
	oracle.Run(t, "setcap", "cap_net_raw,cap_net_admin+ep", linux)
	// No bounding set and no no_new_privs here: the file's capabilities must arrive.
	argv := []string{oracle.Tool(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", linux,
		"mem=256M", "uml_dir=" + dir, "ubd0=" + image, "root=/dev/ubda", "rw"}
	m := guest.Start(t, argv...)
	m.Expect(time.Minute, `[#$] $`)
	held := 0
	for _, pid := range family(t, m.PID()) {
		tasks, _ := filepath.Glob("/proc/" + pid + "/task/*/status")
		for _, task := range tasks {
			data, err := os.ReadFile(task)
			if err != nil {
				continue
			}
			held++
			for _, line := range strings.Split(string(data), "\n") {
				for _, set := range []string{"CapInh:", "CapPrm:", "CapEff:", "CapAmb:"} {
					if strings.HasPrefix(line, set) && strings.Trim(line[len(set):], "\t 0") != "" {
						t.Errorf("%s has %s", task, line)
					}
				}
			}
		}
	}
	if held < 3 {
		t.Errorf("only %d threads were looked at", held)
	}
	m.Type("poweroff\n")
	if code := m.Wait(time.Minute); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
	oracle.Fsck(t, image)
}

// family is a process and all that descend from it.
func family(t testing.TB, pid int) []string {
	t.Helper()
	return strings.Fields(strings.TrimSpace(oracle.Run(t, "/bin/sh", "-c",
		`walk() { echo $1; for c in $(cat /proc/$1/task/*/children 2>/dev/null); do walk $c; done; }; walk `+itoa(pid))))
}
