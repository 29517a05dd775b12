package emulator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// partitioned puts a file system into the second partition of a disk, made by sfdisk.
func partitioned(t testing.TB, label, filesystem string) string {
	t.Helper()
	name := disk(t, 48<<20)
	cmd := exec.Command(oracle.Tool(t, "sfdisk"), "-q", name)
	cmd.Stdin = strings.NewReader(label)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	oracle.Run(t, "dd", "if="+filesystem, "of="+name, "bs=1M", "seek=4", "conv=notrunc", "status=none")
	return name
}

// TestRootPartition boots from a partition by each of its names.
func TestRootPartition(t *testing.T) {
	img := image(t)
	oracle.Run(t, "tune2fs", "-L", "guests", img)
	uuid := strings.TrimSpace(oracle.Run(t, "blkid", "-o", "value", "-s", "UUID", img))
	gpt := partitioned(t, "label: gpt\n1 : start=2048,size=1M,uuid=11111111-2222-3333-4444-55555555AAAA\n2 : start=8192,size=32M,uuid=11111111-2222-3333-4444-55555555BBBB,name=\"the root\"\n", img)
	mbr := partitioned(t, "label: dos\nlabel-id: 0x0badcafe\n1 : start=2048,size=1M\n2 : start=8192,size=32M\n", img)
	for root, name := range map[string]string{
		"/dev/ubda2": gpt, "ubda2": mbr, "98:2": gpt, "6202": mbr, "UUID=" + uuid: gpt, "LABEL=guests": mbr,
		"PARTUUID=11111111-2222-3333-4444-55555555bbbb": gpt, "PARTUUID=11111111-2222-3333-4444-55555555AAAA/PARTNROFF=1": gpt,
		"PARTUUID=0badcafe-02": mbr, "PARTLABEL=the root": gpt,
	} {
		out, status := boot(t, "ubd0="+name, "root="+root, "mount:proc,/proc,proc", "cat:/proc/mounts", "cat:/proc/self/mountinfo", "cat:/proc/partitions", "stat:/sbin/init")
		if status != 0 {
			t.Errorf("root=%s: exit status %d", root, status)
		}
		want(t, out, "VFS: Mounted root (ext4 filesystem) readonly on device 98:2.", "/dev/ubda2 / ext4 ro", " 98:2 / / ro",
			"  98        0      49152 ubda\n  98        1       1024 ubda1\n  98        2      32768 ubda2\n", "stat /sbin/init dev=98:2")
	}
	for root, reason := range map[string]string{
		"PARTUUID=0badcafe-09": "no partition has this PARTUUID", "PARTUUID=0badcafe-01/PARTNROFF=4": "no partition 5 on the disk of this PARTUUID",
		"/dev/ubda7": "", "LABEL=": "",
	} {
		out, status := boot(t, "ubd0="+mbr, "root="+root)
		if status != 134 {
			t.Errorf("root=%s: exit status %d", root, status)
		}
		want(t, out, reason, "  6202           32768 ubda2 0badcafe-02", "Kernel panic - not syncing: VFS: Unable to mount root fs")
	}
}

// TestDamagedTable holds that a table that makes no sense is named and gives no partitions.
func TestDamagedTable(t *testing.T) {
	name := partitioned(t, "label: dos\n1 : start=2048,size=1M\n2 : start=8192,size=32M\n", image(t))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0x7f}, 446+16+12); err != nil {
		t.Fatal(err)
	}
	out, _ := boot(t, "initrd="+initrd(t), "ubd0="+name, "mount:proc,/proc,proc", "cat:/proc/partitions")
	want(t, out, "ubda: no partitions: MBR partition 2: number of sectors 2147483647 from 8192 on are not on the disk of 98304", "  98        0      49152 ubda\n")
	if strings.Contains(out, "ubda1") {
		t.Errorf("there are partitions:\n%s", out)
	}
}

// TestRootWait holds that rootwait waits for a disk that the management console adds.
func TestRootWait(t *testing.T) {
	name := partitioned(t, "label: gpt\n2 : start=8192,size=32M\n", image(t))
	dir := t.TempDir()
	out, status := boot(t, "ubd0="+name, "root=/dev/ubdc2", "rootwait=1", "rdinit=/x")
	if status != 134 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "check access for rdinit=/x failed: -2, ignoring", "Waiting for root device /dev/ubdc2...", "Timed out waiting for root device /dev/ubdc2",
		"Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,34)")
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=waits", "root=/dev/ubdc2", "rootwait", "mount:proc,/proc,proc", "cat:/proc/partitions")
	m.Expect(limit, regexp.QuoteMeta("Waiting for root device /dev/ubdc2..."))
	socket := filepath.Join(dir, "waits/mconsole")
	deadline := time.Now().Add(limit)
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no management console")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if status, text := ask(t, socket, "config ubd2="+name); status != 0 {
		t.Fatalf("config: %s", text)
	}
	m.Expect(limit, `VFS: Mounted root \(ext4 filesystem\) readonly on device 98:34`)
	m.Expect(limit, `98       34      32768 ubdc2`)
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}
