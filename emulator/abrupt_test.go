package emulator_test

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestAbruptEnds holds that halt and reboot of the management console, and b, o and c of
// sysrq, end at once: what was synced is on the disk, what was not is lost, and the next
// boot replays the journal.
func TestAbruptEnds(t *testing.T) {
	ends := map[string]int{"sysrq c": 134}
	for _, command := range []string{"halt", "stop\nhalt", "reboot", "sysrq b", "sysrq o", "sysrq c"} {
		t.Run(strings.ReplaceAll(command, "\n", " then "), func(t *testing.T) {
			img, dir := image(t), t.TempDir()
			argv := []string{guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + dir, "umid=T", "ubd0=" + img, "rw", "con0=null,fd:1", "noreboot"}
			m := guest.Start(t, append(argv, "write:/synced,text", "sync", "write:/lost,text", "forever")...)
			m.Expect(limit, "waiting")
			for _, c := range strings.Split(command, "\n") {
				if code, text := ask(t, filepath.Join(dir, "T", "mconsole"), c); code != 0 {
					t.Errorf("%s: %d %s", c, code, text)
				}
			}
			if status := m.Wait(limit); status != ends[command] {
				t.Errorf("exit status %d, want %d", status, ends[command])
			}
			if header := oracle.Run(t, "dumpe2fs", "-h", img); !strings.Contains(header, "needs_recovery") {
				t.Errorf("the journal was emptied:\n%s", header)
			}
			out, _ := boot(t, "ubd0="+img, "rw", "ls:/", "cat:/synced")
			want(t, out, "recovery complete", "== /synced\ntext", "\nsbin\n")
			if strings.Contains(out, "\nlost\n") {
				t.Errorf("the machine synced before it ended\n%s", out)
			}
			clean(t, img)
		})
	}
}

// TestRebootReplays holds that a reboot without a sync mounts its own journal again.
func TestRebootReplays(t *testing.T) {
	img, dir := image(t), t.TempDir()
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "ubd0="+img, "rw", "con0=null,fd:1", "write:/synced,text", "sync", "forever")
	for range 3 {
		m.Expect(limit, "waiting")
		ask(t, filepath.Join(dir, "T", "mconsole"), "reboot")
		m.Expect(limit, "recovery complete")
	}
	m.Expect(limit, "waiting")
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
	clean(t, img)
}
