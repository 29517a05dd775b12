package ubd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// limit is how long a guest may take for what it does at once.
const limit = 60 * time.Second

// TestToolsOnDisks uses disks as Debian's tools do, a raw image and a COW file.
func TestToolsOnDisks(t *testing.T) {
	dir := t.TempDir()
	const size = 64 << 20
	for _, name := range []string{"raw", "backing"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	rd := borrowed.Initrd(t, `mount -t proc proc /proc
setsid bash -c "exec bash --norc --noediting -i <>/dev/tty0 >&0 2>&1"
poweroff -f
`, []string{"bash", "mke2fs", "blkid", "fsck.ext4", "fstrim", "blockdev", "blkdiscard", "dd", "debugfs", "wipefs"}, nil)
	raw := filepath.Join(dir, "raw")
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=256M", "quiet", "initrd="+rd, "ubd0="+raw+",,SER1", fmt.Sprintf("ubd1=%s/cow,%[1]s/backing", dir), "ubd2r="+rd)
	m.Expect(limit, `# $`)
	m.Quiet()
	expect := func(command, want string) {
		t.Helper()
		if got := m.Sh(limit, command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	expect("stat -L -c '%F %t:%T %a' /dev/ubda /dev/ubd0 /dev/ubdb /dev/ubdc", strings.Repeat("block special file 62:0 660\n", 2)+"block special file 62:10 660\nblock special file 62:20 660\n")
	expect("grep -c ubd /proc/partitions", "3\n")
	for _, disk := range []string{"ubda", "ubdb"} {
		dev := "/dev/" + disk
		expect("blockdev --getsize64 --getsz --getss --getpbsz --getbsz --getro --getra "+dev, "67108864\n131072\n512\n512\n4096\n0\n256\n")
		m.Sh(limit, "blockdev --report "+dev)
		m.Sh(limit, "mke2fs -q -t ext4 -L test -U 12345678-1234-1234-1234-123456789abc "+dev)
		expect("blkid -o value -s LABEL -s UUID -s TYPE "+dev, "test\n12345678-1234-1234-1234-123456789abc\next4\n")
		m.Sh(limit, "fsck.ext4 -fn "+dev)
		m.Sh(limit, "dd if="+dev+" of=/tmp/copy bs=1M count=8 2>/dev/null; dd if="+dev+" of=/tmp/direct bs=64k count=128 iflag=direct 2>/dev/null; cmp /tmp/copy /tmp/direct")
		m.Sh(limit, "debugfs -w -R 'write /bin/busybox b' "+dev+" 2>/dev/null; debugfs -R 'dump b /tmp/b' "+dev+" 2>/dev/null; cmp /tmp/b /bin/busybox; fsck.ext4 -fn "+dev)
	}
	if out, code := m.Try(limit, "dd if=/dev/zero of=/dev/ubdc bs=512 count=1"); code == 0 || !strings.Contains(out, "Read-only file system") {
		t.Errorf("a read-only disk is written: %d %s", code, out)
	}
	if out, code := m.Try(limit, "dd if=/dev/zero of=/dev/ubda bs=1M"); code != 1 || !strings.Contains(out, "No space left on device") || !strings.Contains(out, "\n64+0 records out") {
		t.Errorf("writing over the end: %d %s", code, out)
	}
	m.Sh(limit, "blkdiscard /dev/ubda")
	if out, code := m.Try(limit, "cat /dev/ubdd"); code == 0 || !strings.Contains(out, "No such") {
		t.Errorf("a disk that is not there: %d %s", code, out)
	}
	m.Type("exit\n")
	if code := m.Wait(limit); code != 0 {
		t.Errorf("exit status %d", code)
	}
	var st unix.Stat_t
	if err := unix.Stat(raw, &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("after a discard the image takes %d bytes (%v)", st.Blocks*512, err)
	}
	if err := unix.Stat(filepath.Join(dir, "backing"), &st); err != nil || st.Blocks != 0 {
		t.Errorf("the backing file takes %d blocks (%v)", st.Blocks, err)
	}
	merged := filepath.Join(dir, "merged")
	oracle.Run(t, "uml_moo", filepath.Join(dir, "cow"), merged)
	oracle.Fsck(t, merged)
}
