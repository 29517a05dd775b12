package emulator_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/mconsole"
	"github.com/umlkit/umlkit/release"
)

// ask sends a command to a machine's management console.
func ask(t testing.TB, socket, command string) (int32, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var text strings.Builder
	code, err := mconsole.Client{Socket: socket}.Command(ctx, command, func(r mconsole.Reply) error {
		text.Write(r.Data)
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return code, text.String()
}

// TestManagement holds the replies of the management console.
func TestManagement(t *testing.T) {
	dir := t.TempDir()
	spare := disk(t, 1<<20)
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1", "mconsole=notify:"+filepath.Join(dir, "n"), "forever")
	m.Expect(limit, `mconsole \(version 2\) initialized on `)
	m.Expect(limit, "waiting")
	socket := filepath.Join(dir, "T", "mconsole")
	packet := make([]byte, mconsole.MaxPacket)
	_ = listener.SetReadDeadline(time.Now().Add(limit))
	n, err := listener.Read(packet)
	if err != nil {
		t.Fatal(err)
	}
	if note, err := mconsole.DecodeNotification(packet[:n]); err != nil || note.Type != mconsole.NotifySocket || string(note.Data) != socket {
		t.Errorf("notification %+v, %v", note, err)
	}
	for _, test := range []struct {
		command string
		code    int32
		pattern string
	}{
		{"version", 0, `^Linux \(none\) ` + regexp.QuoteMeta(release.Name) + ` #1 .* x86_64$`},
		{"help", 0, `^Commands: \n(    .*\n){14}$`},
		{"config ubd0", 0, `^$`},
		{"config ubd1=" + spare, 0, `^$`},
		{"config ubd1=" + spare, -16, `^Device is already configured$`},
		{"config ubd1", 0, `^` + regexp.QuoteMeta(spare) + `$`},
		{"proc partitions", 0, `^\nmajor minor  #blocks  name\n\n  98       16       1024 ubdb\n$`},
		{"remove ubd1", 0, `^$`},
		{"remove ubd1", -19, `^Device doesn't exist$`},
		{"config ubd1=/no/such", -2, `^Couldn't determine size of device's file$`},
		{"remove ubd", 1, `^Couldn't parse device number$`},
		{"remove ubdx", 1, `^Invalid device number - must be between 0 and 15$`},
		{"config con1", 0, `^null$`},
		{"config con99", 1, `^device number out of range$`},
		{"config con2=bogus", -1, `^failed to parse channel pair$`},
		{"config nosuch=1", 1, `^Bad configuration option$`},
		{"remove nosuch", 1, `^Bad remove option$`},
		{"proc uptime", 0, `^\n\d+\.\d\d \d+\.\d\d\n$`},
		{"proc nosuch", 1, `^Failed to open file$`},
		{"stack", 1, `^Please specify a pid$`},
		{"stack 99999", 1, `^Couldn't find that pid$`},
		{"stack 1", 0, `(?s)^task:init .* pid:1 .*RIP: [0-9a-f]{16} .*\nCall Trace:\n \[<[0-9a-f]{16}>\] .*/init\+0x.*\nStack:\n( [0-9a-f]{16}){4}\n`},
		{"sysrq h", 0, `^sysrq: HELP : loglevel\(0-9\) reboot\(b\)`},
		{"sysrq t", 0, `(?m)^task:init `},
		{"log a line", 0, `^$`},
		{"stop", 0, `^stopped$`},
		{"stop", 1, `^Already stopped$`},
		{"proc uptime", 0, `^\n`},
		{"stack 1", 0, `^task:init `},
		{"go", 0, `^$`},
		{"go", 1, `^Not stopped$`},
		{"nonsense", 1, `^Unknown command$`},
		{"", 1, `^Unknown command$`},
	} {
		code, text := ask(t, socket, test.command)
		if code != test.code || !regexp.MustCompile(test.pattern).MatchString(text) {
			t.Errorf("%s: %d %q; want %d %s", test.command, code, text, test.code, test.pattern)
		}
	}
	m.Expect(limit, "a line")
	before := m.PID()
	if code, _ := ask(t, socket, "reboot"); code != 0 {
		t.Errorf("reboot: %d", code)
	}
	m.Expect(limit, "reboot: Restarting system")
	m.Expect(limit, "waiting")
	if m.PID() != before || strings.TrimSpace(read(t, filepath.Join(dir, "T", "pid"))) == "" {
		t.Errorf("another process after a reboot")
	}
	ask(t, socket, "stop")
	if code, _ := ask(t, socket, "halt"); code != 0 {
		t.Errorf("halt: %d", code)
	}
	m.Expect(limit, "reboot: System halted")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if _, err := os.Stat(filepath.Join(dir, "T")); !os.IsNotExist(err) {
		t.Errorf("the directory is left behind: %v", err)
	}
}

// TestDebianClient holds that Debian's uml_mconsole is answered.
func TestDebianClient(t *testing.T) {
	dir := t.TempDir()
	m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1", "forever")
	m.Expect(limit, "waiting")
	out, status := guest.Output(t, limit, oracle.Tool(t, "uml_mconsole"), filepath.Join(dir, "T", "mconsole"), "version")
	if status != 0 || !strings.Contains(out, "OK Linux (none) "+release.Name) {
		t.Errorf("status %d: %s", status, out)
	}
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
}

// TestSysrqCrash holds that a crash is a panic that the notified socket hears of.
func TestSysrqCrash(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t), "mount:proc,/proc,proc", "write:/proc/sysrq-trigger,c", "forever")
	if status != 134 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "sysrq: Trigger a crash", "Kernel panic - not syncing: sysrq triggered crash")
}

// TestCtrlAltDel holds both forms of the keys.
func TestCtrlAltDel(t *testing.T) {
	dir := t.TempDir()
	m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1", "call:169,0xfee1dead,672274793,0", "sigwait")
	m.Expect(limit, "waiting")
	ask(t, filepath.Join(dir, "T", "mconsole"), "cad")
	m.Expect(limit, "got interrupt")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
	m = guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+dir, "umid=T", "noreboot", "initrd="+initrd(t), "con0=null,fd:1", "sigwait")
	m.Expect(limit, "waiting")
	ask(t, filepath.Join(dir, "T", "mconsole"), "cad")
	m.Expect(limit, "reboot: Restarting system")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// TestCalls holds the answers of system calls that the Sentry alone gives otherwise.
func TestCalls(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t),
		"call:169,1,2,3",                           // reboot without its magic numbers: EINVAL
		"call:169,0xfee1dead,672274793,7",          // nor a command: EINVAL
		"call:169,0xfee1dead,672274793,0x89abcdef", // ctrl-alt-del on
		"call:176,0,0",                             // delete_module: EPERM
		"call:167,0,0",                             // swapon: EINVAL
		"call:153",                                 // vhangup
		"call:103,10,0,0",                          // syslog: size of the buffer
		"call:227,1,0",                             // clock_settime of the monotonic clock: EINVAL
		"call:166,0,4",                             // umount2 with MNT_EXPIRE: EAGAIN
	)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "call 169,1,2,3: 22\n", "672274793,7: 22\n", "0x89abcdef: 0\n", "call 176,0,0: 1\n", "call 167,0,0: 22\n", "call 153: 0\n", "call 103,10,0,0: 0\n",
		"call 227,1,0: 22\n", "call 166,0,4: 11\n")
}

// TestRemount holds that a remount reaches the filesystem, and that fallocate(2) knows
// its modes on it.
func TestRemount(t *testing.T) {
	img := image(t)
	out, status := boot(t, "ubd0="+img, "write:/x,before", "remount:/,rw", "write:/x,after", "fallocate:/f,0,0,8192", "fallocate:/f,1,0,65536", "fallocate:/f,3,0,4096",
		"remount:/,ro", "write:/y,late", "mount:proc,/proc,proc", "cat:/proc/mounts")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "guest: /x,before: open /x: read-only file system", "fallocate /f,0,0,8192 <nil> size=8192", "fallocate /f,1,0,65536 <nil> size=8192 blocks=128", "fallocate /f,3,0,4096 <nil> size=8192 blocks=120",
		"guest: /y,late: open /y: read-only file system", "/dev/ubda / ext4 ro")
	clean(t, img)
	if got := oracle.Run(t, "debugfs", "-R", "cat /x", img); !strings.Contains(got, "after") {
		t.Errorf("what was written is not on the disk: %q", got)
	}
}

// TestEndsClean holds that a disk written to is clean after every end.
func TestEndsClean(t *testing.T) {
	for _, words := range [][]string{{}, {"halt"}, {"restart", "noreboot"}, {"exit:1"}, {"fault"}} {
		img := image(t)
		out, _ := boot(t, append([]string{"ubd0=" + img, "rw", "write:/x,text"}, words...)...)
		clean(t, img)
		if got := oracle.Run(t, "debugfs", "-R", "cat /x", img); !strings.Contains(got, "text") {
			t.Errorf("%v: what was written is not on the disk: %q\n%s", words, got, out)
		}
	}
}

// TestSys holds the disks in /sys.
func TestSys(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t), "ubd1r="+disk(t, 1<<20), "mount:sysfs,/sys,sysfs", "ls:/sys/block", "cat:/sys/class/block/ubdb/uevent", "cat:/sys/dev/block/98:16/size", "cat:/sys/block/ubdb/ro",
		"cat:/sys/class/tty/console/active", "ls:/sys/devices/system/cpu")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "\nubdb\n", "MAJOR=98\nMINOR=16\nDEVNAME=ubdb\nDEVTYPE=disk\n", "/size\n2048\n", "/ro\n1\n", "/active\ntty0\n", "online\n")
}
