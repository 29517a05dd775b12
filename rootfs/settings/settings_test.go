package settings

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/release"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// treeOf is a tree of some files. A name that ends in a slash is a directory, a text
// that begins with "->" a link.
func treeOf(t *testing.T, files map[string]string) *tree.Tree {
	t.Helper()
	tr := tree.New()
	for path, text := range files {
		var err error
		switch target, link := strings.CutPrefix(text, "->"); {
		case link:
			err = tr.Symlink(target, path)
		case strings.HasSuffix(path, "/"):
			_, err = tr.Mkdir(path)
		default:
			err = tr.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func text(t *testing.T, tr *tree.Tree, path string) string {
	t.Helper()
	data, err := tr.ReadFile(path, fileMax)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSetRoot(t *testing.T) {
	for _, c := range []struct{ name, old, want string }{
		{"none", "", rootLine(firstDisk) + "\n"},
		{"debootstrap's", "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n", rootLine(firstDisk) + "\n"},
		{"a root", "# static\nUUID=1 / ext3 defaults 0 1\nproc /proc proc\n", "# static\n" + rootLine(firstDisk) + "\nproc /proc proc\n"},
		{"two roots", "proc /proc proc\n/dev/a / ext4\n/dev/b\t/\txfs\n", "proc /proc proc\n" + rootLine(firstDisk) + "\n"},
		{"a root that is a comment", "#/dev/a / ext4\n/dev/b /home ext4", "#/dev/a / ext4\n" + rootLine(firstDisk) + "\n/dev/b /home ext4\n"},
		{"ours", rootLine(firstDisk) + "\n", rootLine(firstDisk) + "\n"},
		{"only comments", "# a\n\n", "# a\n\n" + rootLine(firstDisk) + "\n"},
	} {
		if got := string(setRoot([]byte(c.old), firstDisk)); got != c.want {
			t.Errorf("%s: %q becomes %q, want %q", c.name, c.old, got, c.want)
		}
	}
}

func TestNameDisk(t *testing.T) {
	const si = "si::sysinit:/etc/init.d/rcS\n"
	for _, c := range []struct{ name, old, want string }{
		{"debian's", "id:2:initdefault:\n" + si, "id:2:initdefault:\nub" + nameLine + "\n" + si},
		{"again", "ub" + nameLine + "\n" + si, "ub" + nameLine + "\n" + si},
		{"id taken", "ub:2:respawn:x\n" + si, "ub:2:respawn:x\ncub" + nameLine + "\n" + si},
		{"busybox", "::sysinit:/etc/rc\n", "::sysinit:/etc/rc\n"},
	} {
		if got := string(nameDisk([]byte(c.old))); got != c.want {
			t.Errorf("%s: %q becomes %q, want %q", c.name, c.old, got, c.want)
		}
	}
	tr := treeOf(t, map[string]string{"/lib/systemd/systemd": ""})
	if err := (Fstab{}).Apply(tr); err != nil {
		t.Fatal(err)
	}
	if got := text(t, tr, "/etc/tmpfiles.d/ubd.conf"); got != "L /dev/ubd0 - - - - ubda\n" {
		t.Errorf("tmpfiles.d has %q", got)
	}
}

func TestHostname(t *testing.T) {
	for _, c := range []struct {
		name        string
		files       map[string]string
		set         string
		host, hosts string
	}{
		{"new", nil, "box", "box\n", "127.0.0.1\tlocalhost\n127.0.1.1\tbox\n\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"},
		{"replaced", map[string]string{"/etc/hostname": "old\n", "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 other\n"},
			"new.example.org", "new.example.org\n", "127.0.0.1 localhost\n127.0.1.1\tnew.example.org new\n10.0.0.1 other\n"},
		{"kept", map[string]string{"/etc/hostname": "# mine\nkeep\n", "/etc/hosts": "10.0.0.1 other"}, "",
			"# mine\nkeep\n", "127.0.0.1\tlocalhost\n127.0.1.1\tkeep\n10.0.0.1 other\n"},
		{"default", map[string]string{"/etc/hosts": "127.0.1.1 x\n127.0.0.1 localhost # yes\n"}, "", "uml\n", "127.0.1.1\tuml\n127.0.0.1 localhost # yes\n"},
	} {
		tr := treeOf(t, c.files)
		if err := (Hostname{c.set}).Apply(tr); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := text(t, tr, "/etc/hostname"); got != c.host {
			t.Errorf("%s: hostname is %q, want %q", c.name, got, c.host)
		}
		if got := text(t, tr, "/etc/hosts"); got != c.hosts {
			t.Errorf("%s: hosts is %q, want %q", c.name, got, c.hosts)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "a..b", "a b", "a_b", "ü", strings.Repeat("a", 65), strings.Repeat("a", 64) + ".b"} {
		if CheckHostname(bad) == nil {
			t.Errorf("%q is a host name", bad)
		}
	}
}

// What we hash, openssl and libcrypt hash alike.
func TestHash(t *testing.T) {
	for _, password := range []string{"secret", "a", "ünïcode ☃", strings.Repeat("long ", 60), "$6$x"} {
		for _, salt := range []string{"abcdefghijklmnop", "./AZaz09"} {
			want := strings.TrimSpace(oracle.Run(t, "openssl", "passwd", "-6", "-salt", salt, password))
			if got := Hash(password, salt); len(password) < 256 && got != want {
				t.Errorf("Hash(%q, %q) = %s, openssl says %s", password, salt, got, want)
			}
			cmd := exec.Command(oracle.Tool(t, "perl"), "-e", `print crypt($ARGV[0], $ARGV[1])`, password, "$6$"+salt)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := Hash(password, salt); got != string(out) {
				t.Errorf("Hash(%q, %q) = %s, crypt(3) says %s", password, salt, got, out)
			}
		}
	}
	if a, b := salt(nil), salt(nil); a == b || len(a) != 16 {
		t.Errorf("salts %q and %q", a, b)
	}
	if a, b := salt([]byte("x")), salt([]byte("x")); a != b || len(a) != 16 {
		t.Errorf("salts of one seed: %q and %q", a, b)
	}
}

func TestRootPassword(t *testing.T) {
	at := time.Unix(86400*20000+5, 0)
	seed := []byte("seed")
	hash := Hash("pw", salt(seed))
	const passwd = "daemon:x:1:1::/:/bin/false\nroot:x:0:0:root:/root:/bin/bash\n"
	for _, c := range []struct {
		name           string
		files          map[string]string
		password       string
		passwd, shadow string
	}{
		{"debian's", map[string]string{"/etc/passwd": passwd, "/etc/shadow": "root:*:19000:0:99999:7:::\nx:!:1::::::\n"}, "pw",
			passwd, "root:" + hash + ":20000:0:99999:7:::\nx:!:1::::::\n"},
		{"expired", map[string]string{"/etc/passwd": passwd, "/etc/shadow": "x:!:1::::::\nroot:!:0:1:2:3:4:5:6\n"}, "pw",
			passwd, "x:!:1::::::\nroot:" + hash + ":20000:1:2:3:4::6\n"},
		{"no line in shadow", map[string]string{"/etc/passwd": passwd, "/etc/shadow": ""}, "pw",
			passwd, "root:" + hash + ":20000:0:99999:7:::\n"},
		{"in passwd", map[string]string{"/etc/passwd": "root:oldhash:0:0:root:/root:/bin/bash", "/etc/shadow": "root:!:::::::\n"}, "pw",
			"root:x:0:0:root:/root:/bin/bash\n", "root:" + hash + ":20000::::::\n"},
		{"no shadow", map[string]string{"/etc/passwd": passwd}, "pw", strings.Replace(passwd, "root:x", "root:"+hash, 1), ""},
		{"no password", map[string]string{"/etc/passwd": passwd, "/etc/shadow": "root:*:1:0:99999:7:::\n"}, "", passwd, "root::20000:0:99999:7:::\n"},
	} {
		tr := treeOf(t, c.files)
		if n, err := tr.Lookup("/etc/shadow", true); err == nil {
			n.Mode, n.UID, n.GID = unix.S_IFREG|0o640, 0, 42
		}
		if err := (RootPassword{Password: c.password, Changed: at, Seed: seed}).Apply(tr); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := text(t, tr, "/etc/passwd"); got != c.passwd {
			t.Errorf("%s: passwd is %q, want %q", c.name, got, c.passwd)
		}
		n, err := tr.Lookup("/etc/shadow", true)
		if c.shadow == "" {
			if err == nil {
				t.Errorf("%s: a shadow file came to be", c.name)
			}
			continue
		}
		if got := text(t, tr, "/etc/shadow"); got != c.shadow {
			t.Errorf("%s: shadow is %q, want %q", c.name, got, c.shadow)
		}
		if n.Mode != unix.S_IFREG|0o640 || n.GID != 42 {
			t.Errorf("%s: shadow is now %o of group %d", c.name, n.Mode, n.GID)
		}
	}
	for name, files := range map[string]map[string]string{
		"no passwd": nil, "no root": {"/etc/passwd": "a:x:1:1::/:\n"}, "short": {"/etc/passwd": "root:x:0\n"},
		"a directory": {"/etc/passwd/": ""},
	} {
		if err := (RootPassword{Password: "pw", Changed: at}).Apply(treeOf(t, files)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := (RootPassword{Password: "a\nb"}).Apply(treeOf(t, map[string]string{"/etc/passwd": passwd})); err == nil {
		t.Error("a password of two lines is taken")
	}
}

// tty0 is the line that a sysvinit table gets for the console.
var tty0 = fmt.Sprintf(sysvTTY0, "/sbin/getty")

func TestInittab(t *testing.T) {
	const head = "id:2:initdefault:\n"
	const tty1 = "1:2345:respawn:/sbin/getty --noclear 38400 tty1\n"
	for _, c := range []struct{ name, old, want string }{
		{"debian's", head + tty1 + "2:23:respawn:/sbin/getty 38400 tty2\n#T0:23:respawn:/sbin/getty ttyS0\n",
			head + tty1 + tty0 + "\n2:23:respawn:/sbin/getty 38400 tty2\n#T0:23:respawn:/sbin/getty ttyS0\n"},
		{"no tty1", head, head + tty0 + "\n" + tty1},
		{"commented", head + "#" + tty1, head + "#" + tty1 + tty0 + "\n" + tty1},
		{"console", head + tty1 + "co:2345:respawn:/sbin/getty 38400 console\n", head + tty1 + "co:2345:respawn:/sbin/getty 38400 console\n"},
		{"id taken", head + "0:2:respawn:/sbin/other\n" + tty1, head + "0:2:respawn:/sbin/other\n" + tty1 + "c" + tty0 + "\n"},
		{"busybox", "::sysinit:/etc/rc\n", "::sysinit:/etc/rc\nconsole::respawn:/sbin/getty 38400 console\n"},
		{"busybox served", "::sysinit:/etc/rc\n::askfirst:-/bin/sh\n", "::sysinit:/etc/rc\n::askfirst:-/bin/sh\n"},
		{"busybox tty1", "tty1::respawn:-/bin/sh", "tty1::respawn:-/bin/sh"},
	} {
		tr := treeOf(t, map[string]string{"/etc/inittab": c.old})
		if err := (Consoles{}).Apply(tr); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := text(t, tr, "/etc/inittab"); got != c.want {
			t.Errorf("%s: becomes\n%s, want\n%s", c.name, got, c.want)
		}
	}
	_, process, _ := strings.Cut(tty0, "respawn:")
	if len(process) > 127 {
		t.Errorf("sysvinit ignores a process of %d bytes", len(process))
	}
	if tr := treeOf(t, nil); (Consoles{}).Apply(tr) != nil || tr.Root.Len() != 0 {
		t.Error("a tree without init is edited")
	}
}

func TestSystemdConsoles(t *testing.T) {
	system := map[string]string{"/lib": "->usr/lib", "/usr/lib/systemd/systemd": "", "/usr/lib/systemd/system/getty@.service": "",
		"/usr/lib/systemd/system/console-getty.service": ""}
	tr := treeOf(t, system)
	for range 2 { // again changes nothing
		if err := (Consoles{}).Apply(tr); err != nil {
			t.Fatal(err)
		}
	}
	const wants = "/etc/systemd/system/getty.target.wants/"
	for name, unit := range map[string]string{"getty@tty1.service": "getty@.service", "console-getty.service": "console-getty.service"} {
		n, err := tr.Lookup(wants+name, false)
		if err != nil || n.Target != "/usr/lib/systemd/system/"+unit {
			t.Errorf("%s: %v %v", name, n, err)
		}
	}
	if got := text(t, tr, "/etc/systemd/system/console-getty.service.d/con0.conf"); got != consoleDropIn {
		t.Errorf("the drop-in is %q", got)
	}
	system["/etc/systemd/system/getty@tty1.service"] = "->/dev/null"
	tr = treeOf(t, system)
	if err := (Consoles{}).Apply(tr); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Lookup(wants+"getty@tty1.service", false); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a masked unit is enabled: %v", err)
	}
}

func TestInterfaces(t *testing.T) {
	const lo, vec0 = "auto lo\niface lo inet loopback\n", "allow-hotplug vec0\niface vec0 inet dhcp\n"
	for _, c := range []struct{ name, old, want string }{
		{"new", "", lo + "\n" + vec0},
		{"again", lo + "\n" + vec0, lo + "\n" + vec0},
		{"others stay", "# hand-made\nsource /etc/network/interfaces.d/*\nauto lo eth0\niface lo inet loopback\niface eth0 inet static\n\taddress 10.0.0.1/24\n",
			"# hand-made\nsource /etc/network/interfaces.d/*\nauto lo eth0\niface lo inet loopback\niface eth0 inet static\n\taddress 10.0.0.1/24\n\n" + vec0},
		{"its own goes", "auto vec0 lo\niface vec0 inet static\n\taddress 10.0.0.1\n\tgateway 10.0.0.2\n# loop\niface lo inet loopback\nauto vec0\n",
			"auto lo\n# loop\niface lo inet loopback\n\n" + vec0},
	} {
		if got := string(setDHCP([]byte(c.old), "vec0")); got != c.want {
			t.Errorf("%s: becomes\n%s, want\n%s", c.name, got, c.want)
		}
	}
	networkd := map[string]string{"/lib/systemd/systemd-networkd": "", "/lib/systemd/system/systemd-networkd.service": ""}
	tr := treeOf(t, networkd)
	if err := (Interfaces{DHCP: "eth0"}).Apply(tr); err != nil {
		t.Fatal(err)
	}
	if got := text(t, tr, "/etc/systemd/network/10-eth0.network"); !strings.Contains(got, "Name=eth0") || !strings.Contains(got, "RequiredForOnline=no") {
		t.Errorf("the network file is %q", got)
	}
	if _, err := tr.Lookup("/etc/systemd/system/multi-user.target.wants/systemd-networkd.service", false); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ name, text, path string }{
		{"my.network", "# x\n[Match]\nName=vec0\n", "/etc/systemd/network/my.network"},
		{"interfaces", "auto lo\n", "/etc/network/interfaces"},
	} {
		tr := treeOf(t, networkd)
		if err := (Interfaces{File: []byte(c.text), Name: c.name}).Apply(tr); err != nil {
			t.Error(err)
		} else if got := text(t, tr, c.path); got != c.text {
			t.Errorf("%s is %q", c.path, got)
		}
	}
	for _, bad := range []string{"", "..", "a b", "eth0/x", "0123456789abcdef", "a:b", "é"} {
		if CheckInterface(bad) == nil {
			t.Errorf("%q names a device", bad)
		}
	}
}

func TestOwnModulesKeepTheLink(t *testing.T) {
	tr := treeOf(t, map[string]string{"/lib": "->usr/lib", "/usr/lib/": ""})
	if err := (OwnModules{}).Apply(tr); err != nil {
		t.Fatal(err)
	}
	if n, err := tr.Lookup("/lib", false); err != nil || !n.IsSymlink() {
		t.Errorf("/lib: %v %v", n, err)
	}
	if !tr.Exists("/usr/lib/modules/" + release.Name + "/modules.builtin.bin") {
		t.Error("no modules.builtin.bin")
	}
}

// No text can break an editor, and to edit twice is to edit once.
func FuzzEditors(f *testing.F) {
	for _, s := range []string{"", "root:x:0:0::/:\n", "id:2:initdefault:\n1:2:respawn:getty tty1", "/dev/a / ext4\n#\n", "auto vec0\niface vec0 inet dhcp\n\taddress 1\n", "127.0.1.1\n127.0.0.1 localhost", "\x00:::\n::::", "a:b:respawn:tty0\n\n"} {
		f.Add([]byte(s))
	}
	tr := tree.New()
	f.Fuzz(func(t *testing.T, data []byte) {
		at := time.Unix(1e9, 0)
		editors := map[string]func([]byte) []byte{
			"fstab":  func(old []byte) []byte { return setRoot(old, firstDisk) },
			"device": nameDisk,
			"hosts":  func(b []byte) []byte { return setHost(b, "a.b") },
			"passwd": func(b []byte) []byte {
				out, err := setPasswd(b, "x")
				if err != nil {
					return b
				}
				return out
			},
			"shadow":     func(b []byte) []byte { return setShadow(b, "h", at) },
			"inittab":    func(b []byte) []byte { return setInittab(b, tr) },
			"interfaces": func(b []byte) []byte { return setDHCP(b, "vec0") },
		}
		for name, editor := range editors {
			once := editor(data)
			if twice := editor(once); string(twice) != string(once) {
				t.Errorf("%s: %q becomes %q and then %q", name, data, once, twice)
			}
		}
	})
}
