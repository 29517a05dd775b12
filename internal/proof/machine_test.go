package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

const password = "open sesame"

// consoles is the HOWTO's own choice: boot messages on stderr, the first virtual
// terminal on this one.
var consoles = []string{"con=null", "con0=null,fd:2", "con1=fd:0,fd:1"}

// user runs commands as an ordinary user without any capability.
type user struct{ ordinary bool }

// command is argv, as the user runs it.
func (u user) command(t testing.TB, argv ...string) *exec.Cmd {
	t.Helper()
	if u.ordinary && os.Geteuid() == 0 {
		argv = append([]string{oracle.Tool(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups",
			"--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	if u.ordinary {
		cmd.Env = append(os.Environ(), "HOME=/nonexistent")
	}
	return cmd
}

// run runs a command of the user's to its successful end.
func (u user) run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := u.command(t, argv...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// workdir is a directory that the user may write and others may enter.
func (u user) workdir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			break
		}
	}
	if u.ordinary && os.Geteuid() == 0 {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// boot starts our machine on a pty with a umid directory of its own.
func (u user) boot(t testing.TB, dir string, args ...string) *guest.Machine {
	t.Helper()
	argv := append([]string{guest.Binary(t, "linux"), "mem=768M", "uml_dir=" + filepath.Join(dir, "uml")}, consoles...)
	return guest.StartCmd(t, u.command(t, append(argv, args...)...))
}

// bootReal starts a real kernel with the same consoles. Its devtmpfs has no /dev/ubd0,
// which the HOWTO's fstab names: fastboot keeps Debian's checkfs from looking for it.
func bootReal(t testing.TB, dir string, args ...string) *guest.Machine {
	t.Helper()
	argv := append([]string{oracle.RealUML(t), "mem=768M", "uml_dir=" + filepath.Join(dir, "uml-real") + "/", "fastboot"}, consoles...)
	return guest.Start(t, append(argv, args...)...)
}

// login logs root in; a Debian system takes some seconds to reach its prompt.
func login(m *guest.Machine) { m.Login(2*time.Minute, "root", password) }

// powerOff ends a machine from within and holds it to exit status 0.
func powerOff(t testing.TB, m *guest.Machine) {
	t.Helper()
	m.Type("poweroff\n")
	if code := m.Wait(2 * time.Minute); code != 0 {
		t.Fatalf("after poweroff the machine's exit status is %d, want 0", code)
	}
}
