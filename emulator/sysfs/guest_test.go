package sysfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
	"github.com/umlkit/umlkit/internal/guest"
)

// limit is how long a guest may take for what it does at once.
const limit = 60 * time.Second

// TestToolsOnSysfs looks at disks and terminals as Debian's tools do.
func TestToolsOnSysfs(t *testing.T) {
	dir := t.TempDir()
	disk := func(name string, size int64) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rd := borrowed.Initrd(t, `mount -t proc proc /proc
mount -t sysfs sysfs /sys
setsid bash -c "exec bash --norc --noediting -i <>/dev/tty0 >&0 2>&1"
poweroff -f
`, []string{"bash", "lsblk", "ls", "readlink", "stat", "find", "dd"}, nil)
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=256M", "quiet", "uml_dir="+dir, "umid=S", "initrd="+rd,
		"ubd0="+disk("a", 64<<20)+",,SER1", "ubd2rt="+disk("c", 1<<20))
	m.Expect(limit, `# $`)
	m.Quiet()
	for _, test := range []struct{ command, want string }{
		{"ls -1 /sys/block", "ubda\nubdc\n"},
		{"ls -1 /sys/class/block /sys/dev/block", "/sys/class/block:\nubda\nubdc\n\n/sys/dev/block:\n98:0\n98:32\n"},
		{"readlink /sys/dev/block/98:32", "../../devices/platform/uml-blkdev.2/block/ubdc\n"},
		{"readlink /sys/block/ubda", "../devices/platform/uml-blkdev.0/block/ubda\n"},
		// Every link leads to the same directory, and those inside it out again.
		{"for d in /sys/block/ubdc /sys/class/block/ubdc /sys/dev/block/98:32; do readlink -f $d; done | uniq", "/sys/devices/platform/uml-blkdev.2/block/ubdc\n"},
		{"readlink -f /sys/block/ubdc/subsystem /sys/block/ubdc/device", "/sys/class/block\n/sys/devices/platform/uml-blkdev.2\n"},
		{"cat /sys/block/ubdc/uevent", "MAJOR=98\nMINOR=32\nDEVNAME=ubdc\nDEVTYPE=disk\nDISKSEQ=3\n"},
		{"cd /sys/block/ubda; cat dev size ro removable range alignment_offset serial; cd /", "98:0\n131072\n0\n0\n16\n0\nSER1\n"},
		{"cd /sys/block/ubda/queue; cat rotational logical_block_size physical_block_size minimum_io_size optimal_io_size discard_granularity discard_max_bytes read_ahead_kb hw_sector_size scheduler; cd /",
			"0\n512\n512\n512\n0\n512\n67108864\n128\n512\n[none]\n"},
		{"cat /sys/block/ubdc/ro /sys/block/ubdc/queue/discard_max_bytes", "1\n0\n"},
		{"lsblk -rno NAME,MAJ:MIN,RM,SIZE,RO,TYPE,SERIAL,DISC-MAX,ROTA", "ubda 98:0 0 64M 0 disk SER1 64M 0\nubdc 98:32 0 1M 1 disk  0B 0\n"},
		{"stat -f -c %t /sys /sys/block /sys/devices/platform", "62656572\n62656572\n62656572\n"},
		{"echo 1 2>/dev/null >/sys/block/ubda/size; echo $?; mkdir /sys/block/x 2>/dev/null; echo $?", "1\n1\n"},
		{"cat /sys/class/tty/tty1/dev /sys/class/tty/console/dev /sys/class/tty/console/active; readlink -f /sys/dev/char/4:65", "4:1\n5:1\ntty0\n/sys/devices/virtual/tty/ttyS1\n"},
		{"ls /sys/block/ubdb 2>&1 | grep -c 'No such file'", "1\n"},
	} {
		if got := m.Sh(limit, test.command); got != test.want {
			t.Errorf("%s: %q, want %q", test.command, got, test.want)
		}
	}
	// Traffic shows at once.
	before := m.Sh(limit, "read n rest </sys/block/ubda/stat; echo $n")
	after := m.Sh(limit, "dd if=/dev/ubda of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null || dd if=/dev/ubda of=/dev/null bs=64k count=4 2>/dev/null; read n rest </sys/block/ubda/stat; echo $n")
	if before == after {
		t.Errorf("stat counts %q before and after reading", before)
	}
	if got := strings.Fields(m.Sh(limit, "cat /sys/block/ubda/stat")); len(got) != 17 {
		t.Errorf("stat has %d fields, want 17: %q", len(got), got)
	}
	// A directory with many entries is listed whole, whatever the size of the buffer.
	if got := m.Sh(limit, "ls /sys/class/tty | wc -l; find /sys/devices/virtual/tty -name uevent | wc -l"); got == "" || strings.Fields(got)[0] != strings.Fields(got)[1] {
		t.Errorf("terminals and their devices: %q", got)
	}
	hotplug(t, m, dir, disk("b", 2<<20))
	m.Type("exit\n")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// hotplug has a disk come and go while a program stands in its directory.
func hotplug(t *testing.T, m *guest.Machine, dir, path string) {
	t.Helper()
	tell := func(command string) {
		t.Helper()
		if out, status := guest.Output(t, limit, guest.Binary(t, "uml_mconsole"), filepath.Join(dir, "S", "mconsole"), command); status != 0 || strings.Contains(out, "ERR") {
			t.Fatalf("%s: status %d, %s", command, status, out)
		}
	}
	tell("config ubd1=" + path)
	if got := m.Sh(limit, "cat /sys/block/ubdb/size; ls -1 /sys/block; cd /sys/block/ubdb"); got != fmt.Sprintf("%d\nubda\nubdb\nubdc\n", 2<<20/512) {
		t.Errorf("a disk that came: %q", got)
	}
	tell("remove ubd1")
	if got := m.Sh(limit, "ls -1 /sys/block; cat size 2>/dev/null; ls /sys/dev/block/98:16 2>/dev/null; cd /"); got != "ubda\nubdc\n" {
		t.Errorf("a disk that went: %q", got)
	}
}
