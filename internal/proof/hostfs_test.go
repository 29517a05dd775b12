package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestHostfsRoot boots a Debian from a directory, with the HOWTO's line in its fstab: as
// root, and then as the ordinary user who owns all of it, without the HOWTO's loop of
// chown. There it gets a user, su and packages, and keeps them.
func TestHostfsRoot(t *testing.T) {
	oracle.NeedsRoot(t)
	u := user{ordinary: true}
	dir := u.workdir(t)
	tree := filepath.Join(dir, "tree")
	oracle.Run(t, "cp", "-a", minbase.dir(t), tree)
	passwd := exec.Command("chroot", tree, "passwd")
	passwd.Stdin = strings.NewReader(password + "\n" + password + "\n")
	if out, err := passwd.CombinedOutput(); err != nil {
		t.Fatalf("chroot passwd: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(tree, "etc/fstab"), []byte("/dev/ubd/0 / hostfs defaults 1 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const limit = 2 * time.Minute

	m := user{}.boot(t, t.TempDir(), "ubd0="+tree, "hostfs="+tree)
	login(m)
	if got := m.Sh(limit, "grep ' / ' /proc/mounts; readlink /dev/ubd/0; su -s /bin/sh nobody -c id"); got !=
		"/dev/ubda / hostfs rw,relatime,/ 0 0\n../ubda\nuid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n" {
		t.Errorf("booted as root:\n%s", got)
	}
	powerOff(t, m)

	oracle.Run(t, "chown", "-hR", "65534:65534", tree)
	m = u.boot(t, dir, "ubd0="+tree, "rootflags=remember", "rw")
	login(m)
	m.Sh(limit, "chmod u+s /bin/su && useradd -m joe && passwd -d joe && passwd -d root && dpkg -i /root/debs/hello*.deb >/root/dpkg.log 2>&1")
	if got := m.Sh(limit, "hello; su joe -c 'id -un; touch ~/f; su -c id'; stat -c '%U:%G %a %n' /home/joe/f /etc/shadow /bin/su /root"); got !=
		"Hello, world!\njoe\nuid=0(root) gid=0(root) groups=0(root)\njoe:joe 644 /home/joe/f\nroot:root 640 /etc/shadow\nroot:root 4755 /bin/su\nroot:root 700 /root\n" {
		t.Errorf("booted as an ordinary user:\n%s", got)
	}
	powerOff(t, m)
	if found := oracle.Run(t, "find", tree, "(", "!", "-user", "65534", "-o", "!", "-group", "65534", "-o", "!", "-type", "d", "-perm", "/6000", ")"); found != "" {
		t.Errorf("on the host these are not the user's, or have bits that they must not:\n%s", found)
	}
	if !oracle.Nightly() {
		return // what is remembered is held in emulator/hostfs
	}
	m = u.boot(t, dir, "ubd0="+tree, "rootflags=remember", "rw")
	m.Login(limit, "joe", "")
	if got := m.Sh(limit, "id -un; su -c 'stat -c %U:%G /home/joe/f'; hello"); got != "joe\njoe:joe\nHello, world!\n" {
		t.Errorf("booted again:\n%s", got)
	}
	m.Type("su -c /sbin/poweroff\n")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}
