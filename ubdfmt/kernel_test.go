package ubdfmt

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// guestInit is all that runs in the real kernel: it says what it sees of the second
// disk, changes it, and writes to its root.
const guestInit = `#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev 2>/dev/null
mount -o remount,rw /
sha256sum </dev/ubdb >/sum
dd if=/blob of=/dev/ubdb bs=512 seek=77 count=9 2>/dev/null
dd if=/blob of=/dev/ubdb bs=512 seek=1000 count=1 2>/dev/null
sync
echo guest was here >/hello
mount -o remount,ro /
sync
poweroff -f
`

// TestRealKernel boots a real kernel from COW files that we made and wrote, reads what it
// made of them, and merges that with Debian's uml_moo and with ours.
func TestRealKernel(t *testing.T) {
	kernel := oracle.RealUML(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }

	tree := at("tree")
	for _, d := range []string{"bin", "sbin", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox := read(t, oracle.Tool(t, "busybox"))
	if err := os.WriteFile(filepath.Join(tree, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "mount", "sha256sum", "dd", "sync", "poweroff"} {
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "sbin/init"), []byte(guestInit), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, "blob"), pattern(9*512, 0x61))
	oracle.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", tree, at("root.img"), "16M")
	base := sparseImage(t, at("base.img"), 1<<20)
	rootSum, baseSum := sumFile(t, at("root.img")), sumFile(t, base)

	if err := CreateCOW(at("root.cow"), at("root.img"), Options{}); err != nil {
		t.Fatal(err)
	}
	model := pattern(1<<20, 0)
	copy(model, read(t, base))
	d := mustOpen(t, at("disk.cow"), base, Options{})
	for i, off := range []int64{0, 5000, 77 * 512, 1<<20 - 700} {
		b := pattern(700, byte(0x11*i+1))
		if _, err := d.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		copy(model[off:], b)
	}
	if err := d.Trim(96<<10, 64<<10); err != nil {
		t.Fatal(err)
	}
	clear(model[96<<10 : 160<<10])
	before := sumDevice(t, d)
	mustClose(t, d)

	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, kernel, "mem=64M", "ubd0="+at("root.cow"), "ubd1="+at("disk.cow"),
		"root=/dev/ubda", "rw", "con=null", "con0=null,fd:1", "uml_dir="+dir+"/uml/")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the real kernel: %v\n%s", err, out)
	}

	copy(model[77*512:], pattern(9*512, 0x61))
	copy(model[1000*512:], pattern(512, 0x61))
	if got := shown(t, at("disk.cow"), 1<<20); !bytes.Equal(got, model) {
		t.Errorf("byte %d of what the kernel left is %#x, want %#x\n%s", firstDifference(got, model),
			got[max(0, firstDifference(got, model))], model[max(0, firstDifference(got, model))], out)
	}
	for _, name := range []string{"root", "disk"} {
		theirs, ours := at(name+".theirs"), at(name+".ours")
		oracle.Run(t, "uml_moo", at(name+".cow"), theirs)
		if err := Merge(context.Background(), at(name+".cow"), ours, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, "cmp", ours, theirs)
	}
	if sumFile(t, at("root.img")) != rootSum || sumFile(t, base) != baseSum {
		t.Error("a backing file was changed")
	}
	oracle.Fsck(t, at("root.ours"))
	if got := oracle.Run(t, "debugfs", "-R", "cat /sum", at("root.ours")); !strings.Contains(got, before) {
		t.Errorf("the kernel saw %q, we %s", got, before)
	}
	if got := oracle.Run(t, "debugfs", "-R", "cat /hello", at("root.ours")); !strings.Contains(got, "guest was here") {
		t.Errorf("the guest's file holds %q", got)
	}
}
