package tty_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
	"github.com/umlkit/umlkit/internal/guest"
)

// limit is how long a guest may take for what it does at once.
const limit = 30 * time.Second

// shellInit runs a shell of Debian's on a terminal, with a session of its own.
const shellInit = `mount -t proc proc /proc
[ -n "$TERMINAL" ] || TERMINAL=tty0
setsid bash -c "exec bash --norc --noediting -i <>/dev/$TERMINAL >&0 2>&1"
poweroff -f
`

// shell boots to a shell.
func shell(t *testing.T, words ...string) *guest.Machine {
	t.Helper()
	argv := []string{guest.Binary(t, "linux"), "mem=128M", "quiet", "initrd=" + borrowed.Initrd(t, shellInit, []string{"bash"}, nil)}
	m := guest.Start(t, append(argv, words...)...)
	m.Expect(limit, `bash-[0-9.]+# $`)
	return m
}

func TestJobControl(t *testing.T) {
	m := shell(t)
	const prompt = `bash-[0-9.]+# $`
	m.Type("tty\n")
	m.Expect(limit, `\n/dev/tty0\r\n`)
	m.Expect(limit, prompt)
	m.Type("sleep 1000\n")
	m.Expect(limit, `1000\r\n`)
	time.Sleep(200 * time.Millisecond)
	m.Type("\x03")
	m.Expect(limit, `\^C\r\n`+prompt)
	m.Type("echo status=$?\n")
	m.Expect(limit, `\nstatus=130\r\n`)
	m.Expect(limit, prompt)
	m.Type("sleep 1000\n")
	m.Expect(limit, `1000\r\n`)
	time.Sleep(200 * time.Millisecond)
	m.Type("\x1a")
	m.Expect(limit, `\^Z\r\n\[1\]\+  Stopped +sleep 1000\r\n`+prompt)
	m.Type("jobs\n")
	m.Expect(limit, `\n\[1\]\+  Stopped +sleep 1000\r\n`+prompt)
	m.Type("fg\n")
	m.Expect(limit, `\nsleep 1000\r\n`)
	time.Sleep(200 * time.Millisecond)
	m.Type("\x1c")
	m.Expect(limit, `\^\\Quit\r\n`+prompt)
	// One that reads in the background is stopped, one that writes is not, but for tostop.
	m.Type("cat &\n")
	m.Expect(limit, prompt)
	m.Type("sleep 0.3; jobs; kill %1\n")
	m.Expect(limit, `\[1\]\+  Stopped +cat\r\n`)
	m.Type("wait; clear; stty tostop; echo hidden &\n")
	m.Expect(limit, prompt)
	m.Type("sleep 0.3; jobs; stty -tostop\n")
	m.Expect(limit, `Stopped +echo hidden\r\n`)
	m.Type("exit\n")
	m.Type("exit\n")
	if code := m.Wait(limit); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestWindowSize(t *testing.T) {
	m := shell(t)
	m.Quiet()
	if got := m.Sh(limit, "stty size"); got != "40 132\n" {
		t.Errorf("the size is %q, want that of the host's window", got)
	}
	m.Sh(limit, `trap 'echo "now $(stty size)"' WINCH`)
	m.Resize(50, 100)
	time.Sleep(200 * time.Millisecond)
	m.Type("\n")
	m.Expect(limit, `now 50 100\r\n`)
}

func TestTerminalAsProgramsSeeIt(t *testing.T) {
	m := shell(t)
	m.Quiet()
	for _, test := range []struct{ command, want string }{
		{"cut -d' ' -f7 /proc/$$/stat", "1024\n"},
		{"test -t 0 && echo yes", "yes\n"},
		{"stat -L -c '%t:%T' /proc/self/fd/0 /dev/console /dev/tty /dev/tty15 /dev/ttyS0", "4:0\n5:1\n5:0\n4:f\n4:40\n"},
		{"echo to tty >/dev/tty", "to tty\n"},
		{"(exec setsid bash -c 'echo none >/dev/tty') 2>&1 | grep -o 'No such device.*'", "No such device or address\n"},
		{"echo to console >/dev/console", "to console\n"},
		{"echo swallowed >/dev/tty7; echo $?", "0\n"},
		{"stty tab3; printf 'a\\tb\\n'; stty tab0", "a       b\n"},
	} {
		if got, _ := m.Try(limit, test.command); got != test.want {
			t.Errorf("%s: %q, want %q", test.command, got, test.want)
		}
	}
	m.Type("stty -icanon min 0 time 2; dd bs=1 count=1 2>/dev/null | wc -c; stty icanon\n")
	m.Expect(limit, `^0\r\n`)
}

// TestLogin logs in, out and in again; what the first session left behind has no
// terminal any more.
func TestLogin(t *testing.T) {
	rd := borrowed.Initrd(t, "", []string{"bash", "agetty"}, map[string]string{
		"etc/inittab": "::sysinit:/bin/mount -t proc proc /proc\ntty1::respawn:/bin/agetty -L tty1 linux\n",
	})
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=128M", "quiet", "initrd="+rd, "rdinit=/bin/init", "con=null", "con1=fd:0,fd:1")
	m.Login(limit, "root", "")
	if got := m.Sh(limit, "tty"); got != "/dev/tty1\n" {
		t.Errorf("tty says %q", got)
	}
	m.Sh(limit, "sleep 12345 & disown; (trap 'touch /tmp/hangup' HUP; while :; do sleep 0.1; done) & echo")
	m.Type("exit\n")
	m.Login(limit, "root", "")
	if got, _ := m.Try(limit, `for p in /proc/[0-9]*; do grep -qs 12345 $p/cmdline && cut -d' ' -f7 $p/stat; done`); got != "0\n" {
		t.Errorf("the first session's process has terminal %q", got)
	}
	if got := m.Sh(limit, "cut -d' ' -f7 /proc/$$/stat"); got != "1025\n" {
		t.Errorf("the second session has terminal %q", got)
	}
	m.Type("poweroff -f\n")
	if code := m.Wait(limit); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// TestHowtoConsoles is the HOWTO's line: boot messages on descriptor 2, a terminal on 0
// and 1.
func TestHowtoConsoles(t *testing.T) {
	messages, err := os.Create(filepath.Join(t.TempDir(), "messages"))
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Close()
	rd := borrowed.Initrd(t, shellInit, []string{"bash"}, nil)
	cmd := exec.Command("sh", "-c", `exec "$@" 2>&3`, "sh", guest.Binary(t, "linux"), "mem=128M", "initrd="+rd,
		"con=null", "con0=null,fd:2", "con1=fd:0,fd:1", "TERMINAL=tty1")
	cmd.ExtraFiles = []*os.File{messages}
	m := guest.StartCmd(t, cmd)
	m.Expect(limit, `# $`)
	before := m.Terminal()
	if strings.Contains(before, "Linux version") {
		t.Errorf("boot messages on the terminal: %q", before)
	}
	m.Quiet()
	m.Sh(limit, "echo to the console >/dev/console")
	m.Type("exit\n")
	if code := m.Wait(limit); code != 0 {
		t.Errorf("exit status %d", code)
	}
	text, err := os.ReadFile(messages.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`^Linux version `, `(?m)^Run /init as init process\n`, `(?m)^to the console\r\n`, `(?m)^reboot: Power down\n`} {
		if !regexp.MustCompile(want).Match(text) {
			t.Errorf("the messages lack %s:\n%s", want, text)
		}
	}
}

// TestAllOutputIsShownBeforeTheEnd: what the guest wrote before poweroff comes out.
func TestAllOutputIsShownBeforeTheEnd(t *testing.T) {
	rd := borrowed.Initrd(t, "dd if=/dev/zero bs=1000 count=3000 2>/dev/null | tr '\\0' x; echo the end; poweroff -f\n", nil, nil)
	cmd := exec.Command(guest.Binary(t, "linux"), "mem=128M", "quiet", "initrd="+rd)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(out.Bytes(), []byte("x")); n != 3_000_000 || !bytes.Contains(out.Bytes(), []byte("the end")) {
		t.Errorf("%d bytes of 3000000 and %q came out", n, out.Bytes()[max(0, out.Len()-100):])
	}
}

// TestReaderGone: `linux | head` does not hang.
func TestReaderGone(t *testing.T) {
	rd := borrowed.Initrd(t, "dd if=/dev/zero bs=1000 count=3000; poweroff -f\n", nil, nil)
	cmd := exec.Command("sh", "-c", `"$@" | head -c 100 >/dev/null`, "sh", guest.Binary(t, "linux"), "mem=128M", "quiet", "initrd="+rd)
	done := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(limit):
		cmd.Process.Kill()
		t.Fatal("the machine hangs on a reader that is gone")
	}
}
