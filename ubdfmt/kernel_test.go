package ubdfmt

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// guestInit is all that runs in the real kernel: it says what it sees of the other
// disks, changes them, and writes to its root.
const guestInit = `#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev 2>/dev/null
mount -o remount,rw /
for d in b c d e f; do
sha256sum </dev/ubd$d >/sum$d
dd if=/blob of=/dev/ubd$d bs=512 seek=77 count=9 2>/dev/null
dd if=/blob of=/dev/ubd$d bs=512 seek=1000 count=1 2>/dev/null
done
sync
echo guest was here >/hello
mount -o remount,ro /
sync
poweroff -f
`

// TestRealKernel boots a real kernel from COW files that we made and wrote, one of every
// dialect, and has it make one itself; reads what it made of them, and merges that with
// Debian's uml_moo, where that knows the dialect, and with ours.
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

	// The root is aligned as ours are, the others as kernels make them.
	if err := CreateCOW(at("root.cow"), at("root.img"), Options{}); err != nil {
		t.Fatal(err)
	}
	disks := []*kernelDisk{{"v3", V3, true, nil, ""}, {"v2", V2, true, nil, ""}, {"v1", V1, false, nil, ""},
		{"v3broken", V3Broken, false, nil, ""}, {"made", V3, true, read(t, base), baseSum}}
	args := []string{"mem=64M", "ubd0=" + at("root.cow"), "root=/dev/ubda", "rw", "con=null", "con0=null,fd:1", "uml_dir=" + dir + "/uml/"}
	for i, k := range disks {
		cow := at(k.name + ".cow")
		if k.name == "made" { // by the kernel
			args = append(args, fmt.Sprintf("ubd%d=%s,%s", i+1, cow, base))
			continue
		}
		makeDialect(t, cow, base, k.dialect)
		k.write(t, cow, read(t, base))
		args = append(args, fmt.Sprintf("ubd%d=%s", i+1, cow))
	}

	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, kernel, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the real kernel: %v\n%s", err, out)
	}

	merge := func(name string, debian bool) {
		theirs, ours := at(name+".theirs"), at(name+".ours")
		if err := Merge(context.Background(), at(name+".cow"), ours, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		if debian {
			oracle.Run(t, "uml_moo", at(name+".cow"), theirs)
			oracle.Run(t, "cmp", ours, theirs)
		}
	}
	merge("root", true)
	for i, k := range disks {
		copy(k.model[77*512:], pattern(9*512, 0x61))
		copy(k.model[1000*512:], pattern(512, 0x61))
		if got := shown(t, at(k.name+".cow"), 1<<20); !bytes.Equal(got, k.model) {
			at := firstDifference(got, k.model)
			t.Errorf("%s: byte %d of what the kernel left is %#x, want %#x\n%s", k.name, at, got[at], k.model[at], out)
		}
		merge(k.name, k.debian)
		if h, err := ReadHeader(at(k.name + ".cow")); err != nil || h.Dialect != k.dialect {
			t.Errorf("%s: the kernel left a header of dialect %v: %v", k.name, h.Dialect, err)
		}
		if got := oracle.Run(t, "debugfs", "-R", fmt.Sprintf("cat /sum%c", 'b'+i), at("root.ours")); !strings.Contains(got, k.before) {
			t.Errorf("%s: the kernel saw %q, we %s", k.name, got, k.before)
		}
	}
	if sumFile(t, at("root.img")) != rootSum || sumFile(t, base) != baseSum {
		t.Error("a backing file was changed")
	}
	oracle.Fsck(t, at("root.ours"))
	if got := oracle.Run(t, "debugfs", "-R", "cat /hello", at("root.ours")); !strings.Contains(got, "guest was here") {
		t.Errorf("the guest's file holds %q", got)
	}
}

// kernelDisk is one of the disks that the real kernel gets, and what it must show.
type kernelDisk struct {
	name    string
	dialect Dialect
	debian  bool // Debian's uml_moo reads the dialect
	model   []byte
	before  string // the sum of what the kernel finds
}

// write writes and trims through the COW file.
func (k *kernelDisk) write(t *testing.T, cow string, backing []byte) {
	k.model = backing
	d := mustOpen(t, cow, "", Options{})
	for i, off := range []int64{0, 5000, 77 * 512, 1<<20 - 700} {
		b := pattern(700, byte(0x11*i+1))
		if _, err := d.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		copy(k.model[off:], b)
	}
	if err := d.Trim(96<<10, 64<<10); err != nil {
		t.Fatal(err)
	}
	clear(k.model[96<<10 : 160<<10])
	k.before = sumDevice(t, d)
	mustClose(t, d)
}
