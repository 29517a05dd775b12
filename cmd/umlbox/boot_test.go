package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

func needsRoot(t *testing.T) { oracle.NeedsRoot(t) }

// plant fills dir with the built-in userland and files besides.
func plant(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for _, d := range []string{"bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "root", "mnt"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(guest.Binary(t, "umlbox"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/umlbox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range applets {
		if err := os.Symlink("umlbox", filepath.Join(dir, "bin", applets[i].Name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../bin/umlbox", filepath.Join(dir, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"etc/hostname": "testbox\n", "etc/fstab": "/dev/ubda / ext4 errors=remount-ro 0 1\ntmpfs /tmp tmpfs size=4m,nodev 0 0\n"}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// image makes an ext4 image of the built-in userland.
func image(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	plant(t, filepath.Join(dir, "root"), files)
	img := filepath.Join(dir, "img")
	oracle.Run(t, oracle.Tool(t, "mke2fs"), "-q", "-t", "ext4", "-d", filepath.Join(dir, "root"), img, "40M")
	return img
}

// realArgs is a real kernel's command line for an image with its console on
// the test's terminal.
func realArgs(t *testing.T, img string, more ...string) []string {
	t.Helper()
	return append([]string{oracle.RealUML(t), "mem=128M", "ubd0=" + img, "root=/dev/ubda", "con=null", "con0=fd:0,fd:1", "quiet",
		"uml_dir=" + t.TempDir()}, more...)
}

const bootTime = 60 * time.Second

func TestRealKernelBoot(t *testing.T) {
	t.Parallel()
	img := image(t, nil)
	m := guest.Start(t, realArgs(t, img)...)
	m.Expect(bootTime, `testbox: Linux \S+ x86_64, umlbox`)
	m.Expect(bootTime, `no job control`)
	m.Expect(bootTime, `/ # $`)
	m.Quiet()
	for command, want := range map[string]string{
		"hostname":                    `^testbox\n$`,
		"mount":                       `(?s)on / type ext4 \(rw.*proc on /proc.*sysfs on /sys.*devpts on /dev/pts.*tmpfs on /run.*tmpfs on /tmp type tmpfs \(rw,nodev.*size=4096k`,
		"ps -o pid,comm | head -n 2":  `PID COMMAND\s+1 (exe|init)`,
		"echo $$; tty":                `^\d+\n/dev/(console|tty0)\n$`,
		"df /":                        `/dev/\S+ +\d+ +\d+ +\d+ +\d+% /\n`,
		"free | head -n 2":            `Mem: +\d+`,
		"dmesg | head -n 1":           `Linux version`,
		"cat /sys/class/net/lo/flags": `^0x9\n$`,
		"uptime":                      `load average`,
		"fstrim -v /":                 `/: .* trimmed`,
		"(sleep 0.1 &); sleep 1; ps -o stat | grep -c Z; true": `^0\n$`,
	} {
		if out := m.Sh(30*time.Second, command); !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s: %q, want %s", command, out, want)
		}
	}
	m.Sh(30*time.Second, "echo kept >/root/file && cp -a /bin/ls /root/copy")
	m.Type("poweroff\n")
	m.Expect(30*time.Second, `going down`)
	m.Expect(30*time.Second, `reboot: Power down`)
	if code := m.Wait(30 * time.Second); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
	oracle.Fsck(t, img)
	out := oracle.Run(t, oracle.Tool(t, "debugfs"), "-R", "cat /root/file", img)
	if !strings.Contains(string(out), "kept") {
		t.Errorf("the file did not reach the disk: %s", out)
	}
}

// init -c runs one command and powers off; any program can be init.
func TestRealKernelCommand(t *testing.T) {
	t.Parallel()
	img := image(t, nil)
	for _, args := range [][]string{
		{"rw", "--", "-c", `"echo hi from $(uname -s); mount | grep -c proc; touch /root/was-here"`},
		{"rw", "init=/bin/sh", "--", "-c", `"echo hi from $(uname -s); touch /root/was-here; sync; poweroff -f"`},
		{"rw", "init=/bin/umlbox", "--", "sh", "-c", `"echo hi from Linux; touch /root/was-here; sync; mount -o remount,ro /; halt -f"`},
	} {
		out, code := guest.Output(t, bootTime, realArgs(t, img, args...)...)
		if code != 0 || !strings.Contains(out, "hi from Linux") {
			t.Errorf("%q: exit status %d\n%s", args, code, out)
		}
	}
}

func TestRealKernelLogin(t *testing.T) {
	t.Parallel()
	hash := func(form string) string {
		return strings.TrimSpace(string(oracle.Run(t, oracle.Tool(t, "perl"), "-e", `print crypt("secret word", $ARGV[0])`, form)))
	}
	img := image(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:100:A User:/tmp:/bin/sh\nlocked:x:1001:100::/:/bin/sh\n",
		"etc/group":  "root:x:0:\nusers:x:100:\nextra:x:200:user\n",
		"etc/shadow": "root:" + hash("$y$j9T$abcdefgh$") + ":19000:0:99999:7:::\nuser:" + hash("$6$saltsalt$") + ":19000::::::\nlocked:!" + hash("$6$s$") + ":19000::::::\n",
		"etc/issue":  "Welcome to \\n on \\l\n\n",
		"etc/inittab": "::sysinit:/bin/echo sysinit ran\n# a comment\n::wait:echo waited; sleep 0.2; echo waited on\n" +
			"nonsense\n::respawn:/bin/getty -L console 115200 vt100\n::shutdown:/bin/echo shutdown ran\n",
		"etc/motd": "message of the day\n",
	})
	m := guest.Start(t, realArgs(t, img)...)
	m.Expect(bootTime, `inittab: line 4: "nonsense" is not`)
	m.Expect(bootTime, `(?s)sysinit ran.*waited\r\nwaited on\r\n.*Welcome to testbox on console`)
	m.Expect(bootTime, `testbox login: `)
	m.Type("root\n")
	m.Expect(bootTime, `Password: `)
	m.Type("wrong\n")
	m.Expect(bootTime, `Login incorrect`)
	m.Expect(bootTime, `login: `)
	m.Type("locked\n")
	m.Expect(bootTime, `Password: `)
	m.Type("secret word\n")
	m.Expect(bootTime, `Login incorrect`)
	m.Expect(bootTime, `login: `)
	m.Type("user\n")
	m.Expect(bootTime, `Password: `)
	m.Type("secret word\n")
	m.Expect(bootTime, `(?s)message of the day.*~ \$ $`)
	m.Quiet()
	if out := m.Sh(bootTime, "id; echo $HOME $USER $SHELL $TERM; tty; stat -c %U /dev/console"); out !=
		"uid=1000(user) gid=100(users) groups=100(users),200(extra)\n/tmp user /bin/sh vt100\n/dev/console\nuser\n" {
		t.Errorf("the session of user: %q", out)
	}
	m.Type("exit\n")
	m.Login(bootTime, "root", "secret word")
	if out := m.Sh(bootTime, "pwd; id -u; su user -c 'id -un'; printf 'new pass\\n' | passwd; grep -c '^root:.6' /etc/shadow"); !strings.HasPrefix(out, "/root\n0\nuser\n") || !strings.HasSuffix(out, "\n1\n") {
		t.Errorf("the session of root: %q", out)
	}
	m.Type("reboot\n")
	m.Expect(bootTime, `(?s)shutdown ran.*going down.*reboot: Restarting system`)
	m.Login(bootTime, "root", "new pass")
	m.Type("halt\n")
	m.Expect(bootTime, `reboot: System halted`)
	if code := m.Wait(bootTime); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
	oracle.Fsck(t, img)
}

// contained starts init in a PID namespace of its own, on a RAM disk.
func contained(t *testing.T, files map[string]string, args ...string) *guest.Machine {
	t.Helper()
	needsRoot(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	files["etc/fstab"] = "" // the host's disks are none of ours
	plant(t, tree, files)
	box := guest.Binary(t, "umlbox")
	// Within: the tree on a tmpfs, a /dev with this terminal as console, and
	// the host's file systems out of reach.
	script := fmt.Sprintf(`set -e
r=%[1]s/mnt; mkdir $r; B=%[2]s
$B mount -t tmpfs -o mode=755 tmpfs $r
cp -a %[3]s/. $r/
$B mount -t tmpfs -o mode=755 dev $r/dev
mkdir $r/dev/pts $r/dev/shm $r/old
mknod $r/dev/null c 1 3; mknod $r/dev/tty c 5 0; touch $r/dev/console
$B mount --bind $(tty) $r/dev/console
cd $r
$B pivot_root . old
exec chroot . /bin/sh -ec 'umount -l /old; rmdir /old; exec /sbin/init "$@"' init "$@"
`, dir, box, tree)
	argv := append([]string{"--mount", "--pid", "--uts", "--ipc", "--fork", "--propagation", "private", "/bin/bash", "-c", script, "bash"}, args...)
	return guest.StartCmd(t, exec.Command(oracle.Tool(t, "unshare"), argv...))
}

// In a PID namespace reboot(2) ends the namespace by SIGINT for a halt or
// power-off, by SIGHUP for a restart.
const (
	haltStatus    = 128 + int(syscall.SIGINT)
	restartStatus = 128 + int(syscall.SIGHUP)
)

func TestInitContained(t *testing.T) {
	t.Parallel()
	m := contained(t, map[string]string{})
	m.Expect(bootTime, `testbox: Linux`)
	m.Expect(bootTime, `/ # $`)
	m.Quiet()
	if out := m.Sh(bootTime, "ps -o pid,ppid,comm | head -n 3; mount | cut -d ' ' -f 3 | grep '^/[a-z]' | sort | tr '\\n' ' '"); !regexp.MustCompile(
		`1 +0 (init|exe)[^/]*/dev /dev/console /dev/pts /dev/shm /proc /run /sys`).MatchString(out) {
		t.Errorf("processes and mounts: %s", out)
	}
	// Orphans do not stay as zombies.
	if out := m.Sh(bootTime, "for i in 1 2 3 4 5; do sh -c 'sleep 0.1 & exit'; done; sleep 1; ps -o stat,comm | grep -c '^Z'; true"); out != "0\n" {
		t.Errorf("zombies: %s", out)
	}
	// What would kill another process does not kill process 1.
	m.Sh(bootTime, "for s in PIPE ALRM QUIT ABRT SEGV BUS FPE ILL TRAP SYS VTALRM PROF XCPU TSTP TTIN USR1x HUP; do kill -$s 1 2>/dev/null; done; sleep 0.3; kill -0 1")
	// A shell that ends comes back.
	m.Type("stty echo; exit\n")
	m.Expect(bootTime, `/ # $`)
	m.Type("init 6\r")
	m.Expect(bootTime, `going down`)
	if code := m.Wait(bootTime); code != restartStatus {
		t.Errorf("status %d after a reboot, want %d", code, restartStatus)
	}
}

func TestInitTables(t *testing.T) {
	t.Parallel()
	m := contained(t, map[string]string{"etc/inittab": "::sysinit:echo one >/order\n::once:sleep 1000\n::wait:echo two >>/order\n" +
		"::respawn:/bin/false\n::askfirst:-/bin/sh\n::shutdown:cat /order\n"})
	// The question may come later than /bin/false has ended as often as is borne.
	m.Expect(bootTime, `(?s)press Enter.*/bin/false ends again and again|/bin/false ends again and again.*press Enter`)
	m.Type("\r")
	m.Expect(bootTime, `# $`)
	m.Quiet()
	if out := m.Sh(bootTime, "cat /order; ps -o args | grep -c '^sleep 1000'"); out != "one\ntwo\n1\n" {
		t.Errorf("the table ran as %q", out)
	}
	// A new table: what it lacks ends, what it adds begins.
	m.Sh(bootTime, "echo '::respawn:sleep 2000' >/etc/inittab; echo '::askfirst:-/bin/sh' >>/etc/inittab; echo '::shutdown:echo bye' >>/etc/inittab; init q; sleep 1; ps -o args | grep -c '^sleep 2000'; ps -o args | grep '^sleep 1000' && false || true")
	m.Type("poweroff\n")
	m.Expect(bootTime, `(?s)bye.*going down`)
	if code := m.Wait(bootTime); code != haltStatus {
		t.Errorf("status %d after a power-off, want %d", code, haltStatus)
	}
}

// A process that ignores SIGTERM is killed, and does not hold the way down.
func TestInitKillsTheStubborn(t *testing.T) {
	t.Parallel()
	m := contained(t, map[string]string{}, "-c", "nohup setsid sh -c 'while :; do sleep 0.1; done' >/dev/null 2>&1 & echo begun")
	m.Expect(bootTime, `begun`)
	m.Expect(bootTime, `going down`)
	if code := m.Wait(20 * time.Second); code != haltStatus {
		t.Errorf("status %d, want %d", code, haltStatus)
	}
}

// An idle system costs nothing: nobody wakes up by himself.
func TestInitIdle(t *testing.T) {
	m := contained(t, map[string]string{})
	m.Expect(bootTime, `/ # $`)
	pid := initOf(t, m.PID())
	switches := func() int {
		n := 0
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("no threads of process %d: %v", pid, err)
		}
		if len(tasks) > 8 {
			t.Errorf("init has %d threads", len(tasks))
		}
		for _, path := range tasks {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
					k, _ := strconv.Atoi(strings.TrimSpace(v))
					n += k
				}
			}
		}
		return n
	}
	time.Sleep(2 * time.Second) // the runtime settles
	before := switches()
	time.Sleep(5 * time.Second)
	if n := switches() - before; n > 2 {
		t.Errorf("init woke up %d times in 5 s", n)
	}
	if kb := anonymous(t, pid); kb > 3<<10 {
		t.Errorf("init holds %d KiB of its own", kb)
	}
	m.Type("poweroff -f\r")
	if code := m.Wait(bootTime); code != haltStatus {
		t.Errorf("status %d, want %d", code, haltStatus)
	}
}

// anonymous is the memory that a process shares with nobody, in KiB.
func anonymous(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^Pss_Anon: +(\d+) kB$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no Pss_Anon in %s", b)
	}
	kb, _ := strconv.Atoi(string(m[1]))
	t.Logf("process %d: %d KiB anonymous", pid, kb)
	return kb
}

// initOf finds the child of unshare.
func initOf(t *testing.T, parent int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatalf("children of %d: %q", parent, b)
	}
	return pid
}
