package emulator_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
)

// TestTerminatedEarly holds that a machine that has begun to make its things on the host
// obeys and takes them away.
func TestTerminatedEarly(t *testing.T) {
	for range 5 {
		dir := t.TempDir()
		m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=early", "initrd="+initrd(t), "con0=null,fd:1", "forever")
		pid := filepath.Join(dir, "early", "pid")
		for deadline := time.Now().Add(limit); ; {
			if _, err := os.Stat(pid); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the machine made no directory")
			}
			time.Sleep(100 * time.Microsecond)
		}
		m.Signal(unix.SIGTERM)
		if status := m.Wait(limit); status != 1 {
			t.Fatalf("exit status %d, want 1", status)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("left behind: %v (%v)", left, err)
		}
	}
}

// TestRestartsLeaveNothing holds that a machine that panics and boots again for ever
// does not grow, and still obeys.
func TestRestartsLeaveNothing(t *testing.T) {
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+t.TempDir(), "ubd0="+image(t), "rw",
		"con0=null,fd:1", "init=/no/such", "panic=-1")
	const boots = 25
	for range boots {
		m.Expect(limit, regexp.QuoteMeta("Requested init /no/such failed"))
	}
	// One kernel's memory file alone is mapped with 1 GiB, which goes in the background.
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		size := statusOf(t, m.PID(), "VmSize") >> 20
		if size <= 10 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d boots and more the machine has mapped %d GiB", boots, size)
		}
	}
	m.Signal(unix.SIGTERM)
	if status := m.Wait(limit); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
}

// TestEndedWhileWaiting holds that a machine that waits before it boots, or before it boots
// again, or unpacks an archive without end, ends when it is told to, by a signal or by the
// management console.
func TestEndedWhileWaiting(t *testing.T) {
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	_, _ = z.Write(make([]byte, 4))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	endless := filepath.Join(t.TempDir(), "endless")
	if err := os.WriteFile(endless, bytes.Repeat(member.Bytes(), 300_000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ word, waits string }{
		{"panic=600", "Rebooting in 600 seconds.."}, {"rootdelay=600", "Waiting 600 sec before mounting root device..."},
		{"rootwait", "Waiting for root device "}, {"initrd=" + endless, "Trying to unpack rootfs image as initramfs..."},
	} {
		for _, how := range []string{"SIGTERM", "halt", "reboot"} {
			if how == "reboot" && test.word != "panic=600" {
				continue
			}
			dir := t.TempDir()
			m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "con0=null,fd:1", test.word)
			m.Expect(limit, regexp.QuoteMeta(test.waits))
			status := 0
			switch how {
			case "SIGTERM":
				m.Signal(unix.SIGTERM)
				status = 1
			case "halt":
				ask(t, filepath.Join(dir, "T/mconsole"), "halt")
			case "reboot":
				ask(t, filepath.Join(dir, "T/mconsole"), "reboot")
				m.Expect(limit, "reboot: Restarting system")
				m.Expect(limit, regexp.QuoteMeta(test.waits))
				m.Signal(unix.SIGINT)
				status = 1
			}
			if got := m.Wait(limit); got != status {
				t.Errorf("%s, %s: exit status %d, want %d", test.word, how, got, status)
			}
			text := m.Terminal()
			if _, text, _ = strings.Cut(text, test.waits); how != "reboot" && test.word != "panic=600" && strings.Contains(text, "panic") {
				t.Errorf("%s, %s: it went on: %s", test.word, how, text)
			}
			if how == "halt" && !strings.Contains(text, "reboot: System halted") {
				t.Errorf("%s, %s: %s", test.word, how, text)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%s, %s: left behind: %v (%v)", test.word, how, left, err)
			}
		}
	}
}

// statusOf is a number of /proc/PID/status.
func statusOf(t testing.TB, pid int, key string) int {
	t.Helper()
	for _, line := range strings.Split(read(t, fmt.Sprintf("/proc/%d/status", pid)), "\n") {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s", key)
	return 0
}
