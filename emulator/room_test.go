package emulator_test

import (
	"strings"
	"testing"

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
