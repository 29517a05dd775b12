package emulator_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
)

// TestStatCountsInterrupts holds that the line intr of /proc/stat tells what
// /proc/interrupts does: each number in its place, and their sum.
func TestStatCountsInterrupts(t *testing.T) {
	out, status := boot(t, "ubd0="+image(t), "initrd="+shell(t, `cat /dev/ubda >/dev/null
before=$(cat /proc/interrupts); stat=$(cat /proc/stat); after=$(cat /proc/interrupts)
echo "== before"; echo "$before"; echo "== stat"; echo "$stat" | grep ^intr; echo "== after"; echo "$after"; echo "=="`))
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	parts := regexp.MustCompile(`(?s)== before\n(.*)== stat\nintr (\d+) (.*)\n== after\n(.*)==\n`).FindStringSubmatch(out)
	if parts == nil {
		t.Fatal(out)
	}
	counts := func(text string) map[int]int {
		m := map[int]int{}
		for _, f := range regexp.MustCompile(`(?m)^ *(\d+): +(\d+) `).FindAllStringSubmatch(text, -1) {
			number, _ := strconv.Atoi(f[1])
			m[number], _ = strconv.Atoi(f[2])
		}
		return m
	}
	before, after := counts(parts[1]), counts(parts[4])
	if len(before) < 3 {
		t.Fatalf("interrupts: %s", parts[1])
	}
	sum, counted := 0, 0
	for number, text := range strings.Fields(parts[3]) {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if n < before[number] || n > after[number] {
			t.Errorf("number %d: %d, and %d before, %d after in /proc/interrupts", number, n, before[number], after[number])
		}
		if n > 0 {
			counted++
		}
		sum += n
	}
	if total, _ := strconv.Atoi(parts[2]); total != sum || counted < 2 {
		t.Errorf("intr begins with %d, and its %d numbers make %d", total, counted, sum)
	}
}

// TestMiscHasTheGenerator holds that /proc/misc names /dev/hwrng where there is one.
func TestMiscHasTheGenerator(t *testing.T) {
	rd := "initrd=" + initrd(t)
	for word, has := range map[string]bool{"hwrng=/dev/urandom": true, "quiet": false} {
		out, _ := boot(t, rd, word, "mount:proc,/proc,proc", "cat:/proc/misc")
		want(t, out, "200 net/tun\n229 fuse\n")
		if strings.Contains(out, "183 hw_random\n") != has {
			t.Errorf("%s: %s", word, out)
		}
	}
}

// TestHostfsAtTheEnd holds that a mounted hostfs is made read-only by sysrq u, and that a
// machine with files open on it halts, reboots and can be killed, with all on the host that
// was written.
func TestHostfsAtTheEnd(t *testing.T) {
	for _, end := range []string{"halt", "reboot", "sysrq o", "SIGTERM"} {
		dir, host := t.TempDir(), t.TempDir()
		m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "hostfs="+host, "con0=fd:0,fd:1", "initrd="+shell(t, `mount -t hostfs none /mnt
exec 3>>/mnt/log; echo first >&3; cd /mnt
echo ready; while read line; do eval "$line"; echo "done $?"; done`))
		m.Expect(limit, "ready")
		socket := filepath.Join(dir, "T/mconsole")
		if code, text := ask(t, socket, "sysrq s"); code != 0 {
			t.Errorf("sysrq s: %d %s", code, text)
		}
		m.Expect(limit, "Emergency Sync complete")
		m.Type("echo second >&3\n")
		m.Expect(limit, "done 0")
		if end == "halt" {
			ask(t, socket, "sysrq u")
			m.Expect(limit, "Emergency Remount complete")
			m.Type("echo third >/mnt/new\n")
			m.Expect(limit, "Read-only file system")
			if _, err := os.Stat(filepath.Join(host, "new")); err == nil {
				t.Error("written to the host after sysrq u")
			}
		}
		status := 0
		if end == "SIGTERM" {
			m.Signal(unix.SIGTERM)
			status = 1
		} else if code, text := ask(t, socket, end); code != 0 {
			t.Errorf("%s: %d %s", end, code, text)
		}
		if end == "reboot" {
			m.Expect(limit, "ready")
			m.Type("echo again >&3; poweroff -f\n")
		}
		if got := m.Wait(limit); got != status {
			t.Errorf("%s: exit status %d, want %d", end, got, status)
		}
		text := "first\nsecond\n"
		if end == "reboot" {
			text += "first\nagain\n"
		}
		if got := read(t, filepath.Join(host, "log")); got != text {
			t.Errorf("%s: the host has %q, want %q", end, got, text)
		}
	}
}
