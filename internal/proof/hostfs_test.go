package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestHostfsRoot boots a Debian from a directory, with the HOWTO's line in its fstab: as
// root, and then as the ordinary user who owns all of it, without the HOWTO's loop of
// chown. There it gets a user, su, packages and an sshd that lets in whom it should, and
// keeps them.
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

	oracle.Run(t, "cp", "-r", debs(t, "openssh", openSSH), filepath.Join(tree, "root/openssh"))
	oracle.Run(t, "chown", "-hR", "65534:65534", tree)
	m = u.boot(t, dir, "ubd0="+tree, "rootflags=remember", "rw")
	login(m)
	m.Sh(limit, "chmod u+s /bin/su && useradd -m joe && passwd -d joe && passwd -d root && dpkg -i /root/debs/hello*.deb >/root/dpkg.log 2>&1")
	if got := m.Sh(limit, "hello; su joe -c 'id -un; touch ~/f; su -c id'; stat -c '%U:%G %a %n' /home/joe/f /etc/shadow /bin/su /root"); got !=
		"Hello, world!\njoe\nuid=0(root) gid=0(root) groups=0(root)\njoe:joe 644 /home/joe/f\nroot:root 640 /etc/shadow\nroot:root 4755 /bin/su\nroot:root 700 /root\n" {
		t.Errorf("booted as an ordinary user:\n%s", got)
	}
	sshLogin(t, m)
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
	// The daemon came with the boot; who has no key is asked, and gets a terminal.
	m.Type("stty echo; ssh -o StrictHostKeyChecking=accept-new ann@127.0.0.1\n")
	m.Expect(limit, "ann@127.0.0.1's password: ")
	m.Type("wrong\n")
	m.Expect(limit, "Permission denied, please try again")
	m.Expect(limit, "ann@127.0.0.1's password: ")
	m.Type(password + "\n")
	m.Expect(limit, `\$ $`)
	m.Type("id -un; tty; stat -c %U:%G $(tty); exit\n")
	m.Expect(limit, `ann\r\n/dev/pts/\d+\r\nann:tty\r\n`)
	m.Expect(limit, "Connection to 127.0.0.1 closed")
	m.Quiet()
	m.Type("su -c /sbin/poweroff\n")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// openSSH are Debian's sshd, ssh and what both need that minbase lacks.
var openSSH = []string{"openssh-server", "openssh-client", "openssh-sftp-server", "libbsd0", "libcbor0.8", "libedit2", "libfido2-1",
	"libgssapi-krb5-2", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "libncursesw6", "libnsl2", "libproc2-0", "libssl3",
	"libtirpc-common", "libtirpc3", "libwrap0", "lsb-base", "procps", "runit-helper", "sensible-utils", "ucf"}

// debs is a directory with packages of Debian's, downloaded once.
func debs(t *testing.T, name string, packages []string) string {
	t.Helper()
	dir := filepath.Join(cache(t), name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	tmp, err := os.MkdirTemp(cache(t), name)
	if err != nil {
		t.Fatal(err)
	}
	get := exec.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)...)
	get.Dir = tmp
	if out, err := get.CombinedOutput(); err != nil {
		t.Fatalf("apt-get download: %v\n%s", err, out)
	}
	if err := os.Rename(tmp, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sshLogin installs sshd in a guest, where joe is, and has root come in to joe by a key. What
// sshd looks at are owners and modes, users and groups that a process changes to, a chroot
// and a pty: a key that others may write lets nobody in.
func sshLogin(t *testing.T, m *guest.Machine) {
	const limit = 2 * time.Minute
	m.Sh(limit, "DEBIAN_FRONTEND=noninteractive dpkg -i /root/openssh/*.deb >/root/openssh.log 2>&1 || { cat /root/openssh.log; false; }")
	m.Sh(limit, `useradd -m -s /bin/bash ann && echo "ann:`+password+`" | chpasswd && /usr/sbin/sshd -t && ls /etc/ssh/ssh_host_ed25519_key /run/sshd.pid`)
	m.Sh(limit, `mkdir -m 700 -p ~joe/.ssh ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519`)
	m.Sh(limit, `cp ~/.ssh/id_ed25519.pub ~joe/.ssh/authorized_keys && chown -R joe: ~joe/.ssh`)
	const ssh = "ssh -n -o BatchMode=yes -o StrictHostKeyChecking=accept-new joe@127.0.0.1 "
	got := m.Sh(limit, ssh+`'id; echo "${SSH_CONNECTION%% *}"; stat -c "%U:%G %a" ~/.ssh/authorized_keys' 2>/dev/null; `+ssh+`-tt 'tty | tr -d 0-9; stat -c "%U:%G %a" $(tty)' 2>/dev/null`)
	if want := "uid=1000(joe) gid=1000(joe) groups=1000(joe)\n127.0.0.1\njoe:joe 644\n/dev/pts/\njoe:tty 620\n"; got != want {
		t.Errorf("by ssh:\n%s\nwant:\n%s", got, want)
	}
	if got, status := m.Try(limit, "chmod 666 ~joe/.ssh/authorized_keys; "+ssh+"id"); status != 255 || !strings.Contains(got, "Permission denied") {
		t.Errorf("a key that others may write: exit status %d\n%s", status, got)
	}
}
