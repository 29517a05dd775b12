package emulator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/release"
)

// TestEnds holds the exit status and the last words of each way to end.
func TestEnds(t *testing.T) {
	rd := "initrd=" + initrd(t)
	none, xfs := filepath.Join(t.TempDir(), "none"), disk(t, 320<<20)
	oracle.Run(t, "mkfs.xfs", "-q", "-f", xfs)
	for _, test := range []struct {
		name   string
		words  []string
		status int
		want   []string
	}{
		{"power off", []string{rd}, 0, []string{"Linux version " + release.Name, "Run /init as init process", "reboot: Power down"}},
		{"halt", []string{rd, "halt"}, 0, []string{"reboot: System halted"}},
		{"restart under noreboot", []string{rd, "noreboot", "restart"}, 0, []string{"reboot: Restarting system"}},
		{"init exits", []string{rd, "exit:3"}, 134, []string{"Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300"}},
		{"init faults", []string{rd, "fault"}, 134, []string{"Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"}},
		{"init cannot be killed", []string{rd, "kill:9", "kill:19", "kill:20", "say:alive"}, 0, []string{"alive"}},
		{"no root", nil, 134, []string{"Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)"}},
		{"no such disk", []string{"ubd0=" + none}, 134, []string{
			"Failed to initialize ubd device 0 :Couldn't determine size of device's file",
			"Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)"}},
		{"empty disk", []string{"ubd0=" + disk(t, 1<<20), "root=/dev/ubd0"}, 134, []string{
			"EXT4-fs (ubda): VFS: Can't find ext4 filesystem, found an empty disk",
			"List of all bdev filesystems:", " ext4", " ext3", " ext2",
			"Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)"}},
		{"another filesystem, quiet", []string{"ubd0=" + xfs, "root=/dev/ubda", "quiet"}, 134, []string{
			"EXT4-fs (ubda): VFS: Can't find ext4 filesystem, found xfs",
			"List of all bdev filesystems:", " ext4", " ext3", " ext2"}},
		{"no such root type", []string{"ubd0=" + disk(t, 1<<20), "rootfstype=xfs"}, 134, []string{
			"Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)"}},
		{"no such rdinit", []string{rd, "rdinit=/x"}, 134, []string{"check access for rdinit=/x failed: -2, ignoring",
			"Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)"}},
		{"quiet", []string{rd, "quiet"}, 0, []string{"reboot: Power down"}},
		{"ptrace", []string{rd, "seccomp=off", "say:hello"}, 0, []string{"hello\n", "reboot: Power down"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, status := boot(t, test.words...)
			if status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			want(t, out, test.want...)
			if test.name == "quiet" && strings.Contains(out, "Linux version") {
				t.Errorf("quiet is not quiet:\n%s", out)
			}
		})
	}
}

// TestNoCore holds that a panic leaves no core file, and that the process really ends
// by SIGABRT.
func TestNoCore(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(guest.Binary(t, "linux"), "uml_dir="+dir)
	cmd.Dir = dir
	_ = cmd.Run()
	ws := cmd.ProcessState.Sys().(interface {
		Signaled() bool
		CoreDump() bool
	})
	if !ws.Signaled() || ws.CoreDump() {
		t.Errorf("state %v, want SIGABRT without a core", cmd.ProcessState)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestRefusedLine holds that a wrong command line is one line on stderr and status 1.
func TestRefusedLine(t *testing.T) {
	for _, word := range []string{"mem=lots", "con0=bogus", "con77=null", "con16=null", "ssl64=null", "con1=port:x", "xterm=konsole", "--join-window", "ncpus=0", "time-travel"} {
		out, status := boot(t, word)
		if status != 1 || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "linux: "+word) {
			t.Errorf("%s: status %d, output %q", word, status, out)
		}
	}
}

func TestHelp(t *testing.T) {
	if out, status := boot(t, "--help"); status != 0 || !strings.Contains(out, "ubdN[FLAGS]=FILE") {
		t.Errorf("--help: status %d, %q", status, out)
	}
	if out, status := boot(t, "--version"); status != 0 || out != release.Name+"\n" {
		t.Errorf("--version: status %d, %q", status, out)
	}
}

// TestShowConfig holds that --showconfig has the lines that scripts look for, each in the
// form of a kernel's configuration, and that what it says of files a guest finds so.
func TestShowConfig(t *testing.T) {
	out, status := boot(t, "--showconfig")
	if status != 0 {
		t.Errorf("--showconfig: status %d", status)
	}
	want(t, out, "CONFIG_MCONSOLE=y\n", "CONFIG_HOSTFS=y\n", "CONFIG_BLK_DEV_UBD=y\n", "CONFIG_SSL=y\n", "CONFIG_MAGIC_SYSRQ=y\n",
		"# CONFIG_MODULES is not set\n", "# kernel=gvisor.dev/gvisor v")
	form := regexp.MustCompile(`^(CONFIG_[A-Z0-9_]+=(y|"[^"]*")|# .*)\n$`)
	for line := range strings.Lines(out) {
		if !form.MatchString(line) {
			t.Errorf("--showconfig: the line %q", line)
		}
	}
	guest, _ := boot(t, "initrd="+initrd(t), "mount:proc,/proc,proc", "cat:/proc/filesystems", "ls:/proc/self/ns", "ls:/proc/sys", "cat:/proc/sys/kernel/modules_disabled", "cat:/proc/swaps", "ls:/proc/net")
	for option, text := range map[string]string{
		"HOSTFS": "\thostfs\n", "EXT4_FS": "\text4\n", "TMPFS": "\ttmpfs\n", "DEVTMPFS": "\tdevtmpfs\n", "PROC_FS": "\tproc\n", "SYSFS": "\tsysfs\n",
		"OVERLAY_FS": "\toverlay\n", "FUSE_FS": "\tfuse\n", "CGROUPS": "\tcgroup2\n", "EXT4_USE_FOR_EXT2": "\text2\n", "POSIX_MQUEUE": "\tmqueue\n", "UTS_NS": "\nuts\n",
		"IPC_NS": "\nipc\n", "USER_NS": "\nuser\n", "PID_NS": "\npid\n", "NET_NS": "\nnet\n", "PROC_SYSCTL": "\nkernel\n", "INET": "\ntcp\n", "UNIX": "\nunix\n",
		"PACKET": "\npacket\n", "IPV6": "\ntcp6\n",
	} {
		said, found := strings.Contains(out, "CONFIG_"+option+"=y\n"), strings.Contains(guest, text)
		if !said || !found {
			t.Errorf("CONFIG_%s: said %v, found in the guest %v", option, said, found)
		}
	}
	if t.Failed() {
		t.Log(guest)
	}
}

// TestIdentity holds what a guest sees of its kernel.
func TestIdentity(t *testing.T) {
	rd := initrd(t)
	out, status := boot(t, "initrd="+rd, "mem=128M", "FOO=bar", "hostname=me", "uname", "args", "cpus", "mount:proc,/proc,proc",
		"cat:/proc/version", "cat:/proc/cpuinfo", "cat:/proc/cmdline", "cat:/proc/meminfo", "cat:/proc/mounts", "cat:/proc/self/mountinfo", "cat:/proc/self/mountstats",
		"cat:/proc/filesystems", "cat:/proc/sys/kernel/osrelease", "cat:/proc/self/stat", "cat:/proc/devices", "cat:/proc/loadavg",
		"hostname:other", "cat:/proc/sys/kernel/hostname", "write:/proc/sys/kernel/hostname,third", "uname", "modload", "stat:/dev/console", "stat:/dev/tty0", "stat:/dev/null", "stat:/dev/kmsg")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out,
		"uname Linux me "+release.Name+" #1 ", " x86_64\n", "uname Linux third ",
		`"FOO=bar"`, `"HOME=/"`, `"TERM=linux"`, `args ["/init" "uname" "args"`,
		"cpus 1\n", "Linux version "+release.Name, "vendor_id\t: User Mode Linux", "mem=128M FOO=bar", "MemTotal:         131072 kB",
		"== /proc/mounts\nrootfs / rootfs rw", "devtmpfs /dev devtmpfs rw,relatime", "proc /proc proc rw,relatime 0 0\n",
		"device devtmpfs mounted on /dev with fstype devtmpfs", "\text4\n", "nodev\tproc\n", "== /proc/sys/kernel/osrelease\n"+release.Name+"\n",
		" 98 ubd\n", "== /proc/sys/kernel/hostname\nother\n", "modload operation not permitted",
		"mode=20600 rdev=5:1\n", "mode=20620 rdev=4:0\n", "mode=20666 rdev=1:3\n", "mode=20644 rdev=1:11\n")
	if strings.Contains(out, "gvisor") {
		t.Errorf("the guest sees what its kernel is made of:\n%s", out)
	}
	if out, _ := boot(t, "initrd="+rd, "ncpus=2", "cpus"); !strings.Contains(out, "cpus 2\n") {
		t.Errorf("ncpus=2:\n%s", out)
	}
}

// TestRoot boots from a disk: read-only and not, by each name of the device.
func TestRoot(t *testing.T) {
	img := image(t)
	uuid := strings.TrimSpace(oracle.Run(t, "blkid", "-o", "value", "-s", "UUID", img))
	for _, root := range []string{"", "root=/dev/ubda", "root=/dev/ubd0", "root=/dev/ubd/0", "root=ubda", "root=98:0", "root=6200", "root=UUID=" + uuid, "root=/dev/root"} {
		words := []string{"ubd0=" + img, "mount:proc,/proc,proc", "cat:/proc/mounts", "cat:/proc/self/mountinfo", "cat:/proc/partitions", "stat:/sbin/init", "stat:/dev/ubda", "stat:/dev/ubd0", "stat:/dev/ubd/0"}
		if root != "" {
			words = append(words, root)
		}
		out, status := boot(t, words...)
		if status != 0 {
			t.Errorf("%s: exit status %d", root, status)
		}
		want(t, out, "VFS: Mounted root (ext4 filesystem) readonly on device 98:0.", "Run /sbin/init as init process",
			"/dev/ubda / ext4 ro", " 98:0 / / ro", "  98        0      32768 ubda\n",
			"stat /sbin/init dev=98:0", "mode=60660 rdev=98:0\nstat /dev/ubd0", "mode=60660 rdev=98:0\n", "stat /dev/ubd/0 dev=")
	}
	clean(t, img)
}

// TestInitSearch holds the order in which programs are tried.
func TestInitSearch(t *testing.T) {
	img := image(t, file{"bin/init", 0o644, []byte("no program")}, file{"bin/sh", 0o755, guestProgram(t)}, file{"not/elf", 0o755, []byte("no program")},
		file{"no/interpreter", 0o755, []byte("#!/no/such\n")})
	oracle.Run(t, "debugfs", "-w", "-R", "rm /sbin/init", img)
	out, status := boot(t, "ubd0="+img)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "Run /sbin/init as init process", "Starting init: /bin/init exists but couldn't execute it (error -13)", "Run /bin/sh as init process", "reboot: Power down")
	out, status = boot(t, "ubd0="+img, "init=/not/elf")
	if status != 134 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "Kernel panic - not syncing: Requested init /not/elf failed (error -8).")
	out, _ = boot(t, "ubd0="+img, "init=/no/interpreter")
	want(t, out, "Kernel panic - not syncing: Requested init /no/interpreter failed (error -2).")
}

// TestRestart holds that a restart boots again in the same process.
func TestRestart(t *testing.T) {
	m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+t.TempDir(), "initrd="+initrd(t), "ubd0="+disk(t, 1<<20), "count:/dev/ubda,3", "restart")
	for _, n := range []string{"1", "2", "3"} {
		m.Expect(limit, "Linux version ")
		m.Expect(limit, "boot number "+n)
		if n != "3" {
			m.Expect(limit, "reboot: Restarting system")
		}
	}
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// TestPanicReboots holds panic=-1 and panic=1.
func TestPanicReboots(t *testing.T) {
	for _, word := range []string{"panic=-1", "panic=1"} {
		out, status := boot(t, "initrd="+initrd(t), "ubd0="+disk(t, 1<<20), word, "count:/dev/ubda,2", "exit:1")
		if status != 0 || strings.Count(out, "Linux version") != 2 {
			t.Errorf("%s: status %d\n%s", word, status, out)
		}
		if (word == "panic=1") != strings.Contains(out, "Rebooting in 1 seconds..") {
			t.Errorf("%s:\n%s", word, out)
		}
	}
}

// TestTerminate holds SIGTERM and SIGINT: status 1, a clean disk, no directory left.
func TestTerminate(t *testing.T) {
	img := image(t)
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		dir := t.TempDir()
		m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+dir, "umid=T", "ubd0="+img, "con0=null,fd:1", "forever")
		m.Expect(limit, "waiting")
		if text, err := os.ReadFile(filepath.Join(dir, "T", "pid")); err != nil || strings.TrimSpace(string(text)) == "" {
			t.Errorf("pid file: %q, %v", text, err)
		}
		m.Signal(sig)
		if status := m.Wait(limit); status != 1 {
			t.Errorf("%v: exit status %d", sig, status)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%v: left behind: %v", sig, left)
		}
		clean(t, img)
	}
}

// TestUMID holds that a name is taken over from a dead machine and not from a living
// one.
func TestUMID(t *testing.T) {
	dir := t.TempDir()
	start := func() *guest.Machine {
		m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1", "forever")
		return m
	}
	first := start()
	first.Expect(limit, "waiting")
	second := start()
	second.Expect(limit, `umid "T" is already in use by pid `+regexp.QuoteMeta(strings.TrimSpace(read(t, filepath.Join(dir, "T", "pid")))))
	second.Expect(limit, "waiting")
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("directories: %v", entries)
	}
	second.Signal(unix.SIGTERM)
	second.Wait(limit)
	first.Signal(unix.SIGKILL)
	first.Wait(limit)
	third := start()
	third.Expect(limit, "waiting")
	if strings.Contains(third.Terminal(), "already in use") {
		t.Errorf("the name of a dead machine was not taken over")
	}
	third.Signal(unix.SIGTERM)
	third.Wait(limit)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestUMLDir holds that the tilde of uml_dir=, which shells leave there, is the home, and
// that a place where no directory can be made is named once.
func TestUMLDir(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	rd := "initrd=" + initrd(t)
	for word, at := range map[string]string{"": home + "/.uml/T/mconsole", "uml_dir=~/machines": home + "/machines/T/mconsole", "uml_dir=~": home + "/T/mconsole"} {
		words := []string{guest.Binary(t, "linux"), "umid=T", rd}
		if word != "" {
			words = append(words, word)
		}
		out, status := guest.Output(t, limit, words...)
		if status != 0 {
			t.Errorf("%s: exit status %d", word, status)
		}
		want(t, out, "mconsole (version 2) initialized on "+at)
	}
	t.Setenv("HOME", "")
	out, _ := guest.Output(t, limit, guest.Binary(t, "linux"), rd)
	want(t, out, "make_umid: no value in environment for $HOME", "reboot: Power down")
	out, _ = boot(t, "uml_dir=/proc/1", rd)
	if n := strings.Count(out, "mkdir /proc/1/"); n != 1 || !strings.Contains(out, "reboot: Power down") {
		t.Errorf("said %d times that there is no directory:\n%s", n, out)
	}
}

// TestClock holds that the guest sets its own clock.
func TestClock(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t), "settime:1000000000", "sleep:20ms", "mount:proc,/proc,proc", "cat:/proc/uptime", "restart", "noreboot")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "time 1000000000\n", "== /proc/uptime\n0.")
}

// TestMemoryPlace holds that a place without room for the guest's memory is passed
// over, with a line that says so.
func TestMemoryPlace(t *testing.T) {
	linux, rd, room := guest.Binary(t, "linux"), initrd(t), t.TempDir()
	t.Setenv("TMPDIR", "/proc")
	out, status := guest.Output(t, limit, linux, "uml_dir="+room, "initrd="+rd, "say:hello")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "memory file: not in /proc: ", "hello\r\n")
	t.Setenv("TMPDIR", room)
	out, status = guest.Output(t, limit, linux, "uml_dir="+room, "initrd="+rd, "mem=60000G", "say:hello")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "MiB wanted", "hello\r\n")
}

// TestIdle holds that an idle machine uses no processor time.
func TestIdle(t *testing.T) {
	m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+t.TempDir(), "initrd="+initrd(t), "con0=null,fd:1", "forever")
	m.Expect(limit, "waiting")
	time.Sleep(1500 * time.Millisecond)
	before := ticks(t, m.PID())
	time.Sleep(3 * time.Second)
	// A busy host may bill a tick for an interrupt that it served meanwhile; a machine
	// that polls takes many.
	if after := ticks(t, m.PID()); after > before+2 {
		t.Errorf("%d ticks in 3 s of idleness", after-before)
	}
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
}

// TestFirstLine holds that the console begins with the kernel's name, and that
// printk.time=1 puts the time before it.
func TestFirstLine(t *testing.T) {
	rd := "initrd=" + initrd(t)
	if out, _ := boot(t, rd); !strings.HasPrefix(out, "Linux version "+release.Name) {
		t.Errorf("the first line is not the version:\n%s", out)
	}
	if out, _ := boot(t, rd, "printk.time=1"); !regexp.MustCompile(`^\[ +0\.\d{6}\] Linux version `).MatchString(out) {
		t.Errorf("the first line has no time:\n%s", out)
	}
}
