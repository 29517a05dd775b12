package emulator_test

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFirstRoot holds what becomes of archives: several behind each other, and those that
// fail, which give way to the root that root= names.
func TestFirstRoot(t *testing.T) {
	img := image(t)
	write := func(parts ...[]byte) string {
		name := filepath.Join(t.TempDir(), "initrd")
		if err := os.WriteFile(name, bytes.Join(parts, nil), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	pack := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(data)
		_ = w.Close()
		return b.Bytes()
	}
	program := cpio(file{"dev", 0o40755, nil}, file{"init", 0o100755, guestProgram(t)}, file{"x", 0o100644, []byte("first\n")})
	through := cpio(file{"l", 0o120777, []byte("real")}, file{"real", 0o40711, nil}, file{"l/file", 0o104755, []byte("x")}, file{"loop", 0o120777, []byte("loop")})
	second := cpio(file{"x", 0o100644, []byte("second\n")})
	for _, test := range []struct {
		name string
		rd   string
		add  []string
		want []string
	}{
		{"packed and not", write(make([]byte, 512), pack(program), make([]byte, 8), second), nil, []string{"Trying to unpack rootfs image as initramfs...", "== /x\nsecond\n"}},
		{"not and packed", write(second, pack(program)), nil, []string{"== /x\nfirst\n"}},
		{"junk behind it", write(program, []byte("junk")), nil, []string{`Initramfs unpacking failed: `, `invalid magic at start of compressed archive: "junk"`, "== /x\nfirst\n"}},
		{"rdinit=", write(cpio(file{"a", 0o40755, nil}, file{"a/b", 0o100755, guestProgram(t)}, file{"dev", 0o40755, nil}, file{"x", 0o100644, []byte("b\n")})), []string{"rdinit=/a/b"},
			[]string{"Run /a/b as init process", "== /x\nb\n"}},
		{"no program", write(second), []string{"ubd0=" + img}, []string{"check access for rdinit=/init failed: -2, ignoring", "VFS: Mounted root (ext4 filesystem) readonly on device 98:0.", "Run /sbin/init as init process"}},
		{"no archive", "/no/such", []string{"ubd0=" + img}, []string{`Couldn't open initrd "/no/such": open /no/such: no such file or directory`, "Run /sbin/init as init process"}},
		{"not executable", write(cpio(file{"init", 0o100644, guestProgram(t)})), []string{"ubd0=" + img}, []string{"check access for rdinit=/init failed: -13, ignoring", "Run /sbin/init as init process"}},
		{"a program that is none", write(program, cpio(file{"init", 0o100755, []byte("none")}, file{"bin", 0o40755, nil}, file{"bin/sh", 0o100755, guestProgram(t)})), nil,
			[]string{"Failed to execute /init (error -8)", "Run /bin/sh as init process", "== /x\nfirst\n"}},
		{"leads upwards", write(program, cpio(file{"../../etc/passwd", 0o100644, nil})), nil, []string{`name "../../etc/passwd" leads upwards`, "== /x\nfirst\n"}},
		{"through a link", write(through, program), []string{"stat:/real/file", "stat:/real", "stat:/l"}, []string{"stat /real/file dev=0:", "mode=104755", "mode=40711", "mode=120777"}},
		{"through a loop", write(program, through, cpio(file{"loop/x", 0o100644, nil})), nil, []string{"Initramfs unpacking failed: ", "too many symbolic links encountered", "== /x\nfirst\n"}},
		{"a bomb", write(program, pack(cpio(file{"bomb", 0o100644, make([]byte, 65<<20)}))), nil, []string{"bomb: unpacks to more than 67108864 bytes: mem= is too small for it", "== /x\nfirst\n"}},
	} {
		out, status := boot(t, append([]string{"initrd=" + test.rd, "cat:/x"}, test.add...)...)
		if status != 0 {
			t.Errorf("%s: exit status %d", test.name, status)
		}
		want(t, out, test.want...)
	}
}

// TestDiskAsInit holds that init=/dev/ubdd runs the program that a disk begins with.
func TestDiskAsInit(t *testing.T) {
	img := image(t)
	write := func(data []byte) string {
		name := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(name, append(data, make([]byte, -len(data)&511)...), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	elf := write(guestProgram(t))
	out, status := boot(t, "ubd0="+img, "ubddr="+elf, "init=/dev/ubdd", "args", "say:alive")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "Run /dev/ubdd as init process", `args ["/dev/ubdd" "args" "say:alive"]`, "alive\n")

	// The interpreter is the guest, to which the script's name is a command it lacks.
	script := write([]byte("#!/sbin/init say:script\n"))
	out, status = boot(t, "ubd0="+img, "ubddr="+script, "init=/dev/ubdd")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "script\n", "guest: unknown command /dev/ubdd")

	for disk, reason := range map[string]string{write([]byte("no program")): "-8", write(make([]byte, 33<<20)): "-12"} {
		out, status = boot(t, "ubd0="+img, "ubddr="+disk, "init=/dev/ubdd")
		if status != 134 {
			t.Errorf("exit status %d", status)
		}
		want(t, out, "Kernel panic - not syncing: Requested init /dev/ubdd failed (error "+reason+").")
	}
	out, _ = boot(t, "ubd0="+img, "init=/dev/null")
	want(t, out, "Kernel panic - not syncing: Requested init /dev/null failed (error -13).")
}

// TestParameters holds who gets which word: options, parameters of other kernels and of
// modules the log, what is left init.
func TestParameters(t *testing.T) {
	rd := initrd(t)
	out, status := boot(t, "initrd="+rd, "single", "FOO=bar", "audit=0", "mitigations=off", "net.ifnames=0", "foo.bar=1", "mod.flag", "isolcpus=1", "nokaslr", "no-kvmapf", "quux",
		"systemd.unit=rescue.target", "fake_ide", "elevator=noop", "ssl-non-raw", "args", "mount:proc,/proc,proc", "cat:/proc/cmdline", "--", "audit=1", "say:end")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, `args ["/init" "single" "quux" "args" "mount:proc,/proc,proc" "cat:/proc/cmdline" "audit=1" "say:end"]`,
		`env ["HOME=/" "TERM=linux" "FOO=bar"]`,
		"Unknown kernel command line parameters \"single quux args mount:proc,/proc,proc cat:/proc/cmdline FOO=bar\", will be passed to user space.",
		"audit=0: a Linux parameter that does not apply to this kernel", "mitigations=off: a Linux", "isolcpus=1: a Linux", "nokaslr: a Linux", "no-kvmapf: a Linux",
		"net.ifnames=0: a parameter of a module or of a program", "foo.bar=1: a parameter of a module", "mod.flag: a parameter of a module",
		"fake_ide: obsolete", "elevator=noop: obsolete", "ssl-non-raw: without effect",
		" single FOO=bar audit=0 mitigations=off ", " cat:/proc/cmdline console=tty0 -- audit=1 say:end\n")
	if strings.Contains(out, "systemd.unit=rescue.target:") {
		t.Errorf("what systemd reads is said to be without effect")
	}
}

// TestSysctl holds that sysctl.* is set before init runs, and what is said of one that
// cannot be.
func TestSysctl(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t), "sysctl.kernel.hostname=by-sysctl", "sysctl/kernel/panic=7", "sysctl.kernel.sysrq=\"3\"", "sysctl.no.such=1", "sysctl.kernel.sysrq.x=1",
		"sysctl.kernel.pid_max=lots", "sysctl.kernel.osrelease=9", "sysctl.kernel.panic", "uname", "mount:proc,/proc,proc", "cat:/proc/sys/kernel/panic", "cat:/proc/sys/kernel/sysrq")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "uname Linux by-sysctl ", "== /proc/sys/kernel/panic\n7\n", "== /proc/sys/kernel/sysrq\n3\n",
		"Failed to set sysctl parameter 'no.such=1': parameter not found", "Failed to set sysctl parameter 'kernel.sysrq.x=1': parameter not found",
		"Failed to set sysctl parameter 'kernel.pid_max=lots': invalid value", "Failed to set sysctl parameter 'kernel.osrelease=9': permission denied",
		"sysctl.kernel.panic: not applied: write sysctl.NAME=VALUE")
	if strings.Contains(out, "Run /init as init process\nFailed to set") {
		t.Errorf("set after init was started:\n%s", out)
	}
}

// TestLevels holds which messages reach the console.
func TestLevels(t *testing.T) {
	rd := "initrd=" + initrd(t)
	for words, lines := range map[string]string{
		"": "i", "quiet": "", "debug": "di", "loglevel=7": "i", "loglevel=8": "di", "loglevel=0": "", "quiet loglevel=7": "i", "debug quiet": "", "quiet ignore_loglevel": "di",
	} {
		out, status := boot(t, append([]string{rd}, strings.Fields(words)...)...)
		got := ""
		if strings.Contains(out, "  with arguments:") { // of level debug
			got += "d"
		}
		if strings.Contains(out, "Run /init as init process") { // of level info
			got += "i"
		}
		if status != 0 || got != lines {
			t.Errorf("%s: status %d, levels %q, want %q\n%s", words, status, got, lines, out)
		}
	}
}
