package emulator_test

import (
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestHostHasNoRoom holds that a guest that begins processes without end is refused them
// where the host has no more descriptors for them, that the machine lives, and that there
// are processes again when the others have ended.
func TestHostHasNoRoom(t *testing.T) {
	rd := shell(t, `sh -c 'i=0; while [ $i -lt 70 ]; do sleep 1000 & i=$((i+1)); done'
kill $(pidof sleep); while pidof sleep >/dev/null; do :; done
n=0; while [ $n -lt 12 ] && sleep 0; do n=$((n+1)); done; echo "begun again: $n"`)
	argv := []string{oracle.Tool(t, "prlimit"), "--nofile=48", guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + t.TempDir(), "initrd=" + rd, "con=null", "con0=null,fd:1"}
	out, status := guest.Output(t, limit, argv...)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	out = strings.ReplaceAll(out, "\r\n", "\n")
	want(t, out, "fork: a process of the guest cannot be begun: the host has no more descriptors (ulimit -n)\n", "begun again: 12\n")
	if n := strings.Count(out, "cannot be begun"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestLimitsOfTheProcess holds that limits which leave no room for a guest are named in one
// line, in place of a fault of the kernel's.
func TestLimitsOfTheProcess(t *testing.T) {
	prlimit, linux, rd, dir := oracle.Tool(t, "prlimit"), guest.Binary(t, "linux"), "initrd="+initrd(t), t.TempDir()
	for limits, want := range map[string]string{
		"--fsize=1024000":    "linux: ulimit -f allows 1000 KiB, and mem=64M takes 1048576",
		"--as=2048000000":    "linux: ulimit -v allows 2000000 KiB, and mem=64M takes 3932160",
		"--as=4294967296":    "hello",
		"--fsize=1073741824": "hello",
	} {
		out, status := guest.Output(t, time.Minute, prlimit, limits, linux, "mem=64M", "uml_dir="+dir, rd, "con=null", "con0=null,fd:1", "quiet", "say:hello")
		text := strings.TrimSpace(strings.ReplaceAll(out, "\r\n", "\n"))
		if want == "hello" && (status != 0 || !strings.Contains(text, "hello\n")) || want != "hello" && (status != 1 || text != want) {
			t.Errorf("%s: exit status %d: %s", limits, status, text)
		}
	}
}
