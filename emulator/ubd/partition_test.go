package ubd_test

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestToolsOnPartitions partitions disks in a guest as Debian's tools do, and uses what
// comes out.
func TestToolsOnPartitions(t *testing.T) {
	dir := t.TempDir()
	names := map[string]string{}
	for _, name := range []string{"raw", "backing", "spare"} {
		names[name] = filepath.Join(dir, name)
		oracle.Run(t, "truncate", "-s", "64M", names[name])
	}
	rd := borrowed.Initrd(t, `mount -t proc proc /proc
mount -t sysfs sysfs /sys
setsid bash -c "exec bash --norc --noediting -i <>/dev/tty0 >&0 2>&1"
poweroff -f
`, []string{"bash", "mke2fs", "blkid", "fsck.ext4", "blockdev", "lsblk", "sfdisk", "sgdisk", "partx", "dd", "cmp", "resize2fs", "wipefs"}, nil)
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=256M", "quiet", "uml_dir="+dir, "umid=P", "initrd="+rd,
		"ubd0="+names["raw"], "ubd1="+filepath.Join(dir, "cow")+","+names["backing"])
	m.Expect(limit, `# $`)
	m.Quiet()
	expect := func(command, want string) {
		t.Helper()
		if got, code := m.Try(limit, command); got != want || code != 0 && want != "" && !strings.HasPrefix(want, "! ") {
			t.Errorf("%s: status %d, %q, want %q", command, code, got, want)
		}
	}
	fails := func(command, want string) {
		t.Helper()
		if got, code := m.Try(limit, command); code == 0 || !strings.Contains(got, want) {
			t.Errorf("%s: status %d, %q, want %q", command, code, got, want)
		}
	}
	for i, disk := range []string{"ubda", "ubdb"} {
		dev := "/dev/" + disk
		minor := i * 16
		// A kernel that would not read the table again makes sfdisk say so.
		expect(`printf 'label: gpt\n1 : size=20M, uuid=11111111-2222-3333-4444-5555555500AA, name="one"\n2 : size=30M\n' | sfdisk -q `+dev+" 2>&1; ls /sys/block/"+disk+" | grep "+disk, disk+"1\n"+disk+"2\n")
		expect("grep "+disk+" /proc/partitions | tr -s ' '", strings.NewReplacer("@", disk, "#0", strconv.Itoa(minor), "#1", strconv.Itoa(minor+1), "#2", strconv.Itoa(minor+2)).
			Replace(" 98 #0 65536 @\n 98 #1 20480 @1\n 98 #2 30720 @2\n"))
		expect("stat -c '%F %a' "+dev+"1 "+dev+"2", strings.Repeat("block special file 660\n", 2))
		expect("blockdev --getsize64 --getbsz "+dev+"2", "31457280\n4096\n")
		expect("mke2fs -q -t ext4 -L inner "+dev+"2 && blkid -o value -s LABEL -s PARTUUID "+dev+"2 | head -1", "inner\n")
		expect("blkid -o value -s PARTUUID -s PARTLABEL "+dev+"1", "one\n11111111-2222-3333-4444-5555555500aa\n")
		expect("lsblk -rno NAME,MAJ:MIN,SIZE,TYPE "+dev, strings.NewReplacer("@", disk, "#0", strconv.Itoa(minor), "#1", strconv.Itoa(minor+1), "#2", strconv.Itoa(minor+2)).
			Replace("@ 98:#0 64M disk\n@1 98:#1 20M part\n@2 98:#2 30M part\n"))
		// The disk and the partition are the same bytes.
		expect("cmp -n 31457280 -i 22020096:0 "+dev+" "+dev+"2 && echo same", "same\n")
		expect("mount -t ext4 "+dev+"2 /mnt && cp /bin/busybox /mnt/busybox && cmp /mnt/busybox /bin/busybox && /mnt/busybox echo runs", "runs\n")
		// Who holds one holds the other.
		fails("blockdev --rereadpt "+dev, "Device or resource busy")
		fails("mke2fs -q "+dev+" 1 2>&1", "in use")
		fails("partx -d --nr 2 "+dev+" 2>&1", "error deleting partition 2")
		expect("dd if=/dev/zero of="+dev+"1 bs=1M 2>/dev/null; dd if="+dev+"1 bs=1M 2>/dev/null | wc -c", "20971520\n")
		// It grows under its file system.
		expect("echo ,40M | sfdisk -q --no-reread --no-tell-kernel -N 2 "+dev+" 2>&1; partx -u --nr 2 "+dev+" && resize2fs "+dev+"2 >/dev/null 2>&1; blockdev --getsize64 "+dev+"2; cat /sys/class/block/"+disk+"2/size; df -m /mnt | tail -1 | awk '{ print ($2 > 30) }'", "41943040\n81920\n1\n")
		expect("cmp /mnt/busybox /bin/busybox && umount /mnt && fsck.ext4 -fn "+dev+"2 2>/dev/null >/dev/null && echo clean", "clean\n")
		expect("partx -d --nr 1 "+dev+" && partx -a --nr 1 "+dev+" && ls /sys/block/"+disk+" | grep "+disk, disk+"1\n"+disk+"2\n")
		expect("wipefs -qa "+dev+" >/dev/null 2>&1 && blockdev --rereadpt "+dev+" && grep -c "+disk+" /proc/partitions", "1\n")
		fails("cat "+dev+"1 2>&1", "No such")
	}
	m.Type("exit\n")
	if code := m.Wait(limit); code != 0 {
		t.Errorf("exit status %d", code)
	}
}
