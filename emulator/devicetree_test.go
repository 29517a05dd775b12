package emulator_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// shell writes an archive whose /init runs a script by Debian's busybox.
func shell(t testing.TB, script string) string {
	t.Helper()
	busybox, err := os.ReadFile(oracle.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "initrd")
	begin := "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n"
	archive := cpio(file{"bin", 0o40755, nil}, file{"dev", 0o40755, nil}, file{"proc", 0o40755, nil}, file{"sys", 0o40755, nil}, file{"mnt", 0o40755, nil},
		file{"bin/busybox", 0o100755, busybox}, file{"init", 0o100755, []byte(begin + script + "\npoweroff -f\n")})
	if err := os.WriteFile(name, archive, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// compile makes a device tree by dtc.
func compile(t testing.TB, source string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tree.dtb")
	cmd := exec.Command(oracle.Tool(t, "dtc"), "-q", "-I", "dts", "-O", "dtb", "-o", name)
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dtc: %v\n%s", err, out)
	}
	return name
}

// TestDeviceTree holds that dtc reads from the guest's files the tree that it made.
func TestDeviceTree(t *testing.T) {
	dtb := compile(t, `/dts-v1/; / {
		compatible = "umlkit,test"; model = "A test"; #address-cells = <1>; #size-cells = <0>;
		led@1 { reg = <1>; label = "green"; empty; sub { list = "a", "b"; bytes = [00 0a ff]; }; };
		chosen { bootargs = "quiet"; };
	};`)
	dir := t.TempDir()
	out, status := boot(t, "initrd="+shell(t, `mount -t hostfs none /mnt -o `+dir+`
cp -r /proc/device-tree/. /mnt/tree; cp /sys/firmware/fdt /mnt/fdt
readlink /proc/device-tree; stat -c "%n %a %s %F" /proc/device-tree/led@1 /proc/device-tree/led@1/reg /proc/device-tree/led@1/empty /sys/firmware/fdt
cat /sys/firmware/devicetree/base/led@1/label; echo; echo x >/proc/device-tree/model; echo "status $?"`), "dtb="+dtb)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "Machine model: A test", "/sys/firmware/devicetree/base\n", "/led@1 755 0 directory", "/led@1/reg 444 4 regular file", "/led@1/empty 444 0 regular empty file",
		"/sys/firmware/fdt 400 ", "green", "status 1")
	decompile := func(form, name string) string { return oracle.Run(t, "dtc", "-q", "-s", "-I", form, "-O", "dts", name) }
	if got, expect := decompile("fs", filepath.Join(dir, "tree")), decompile("dtb", dtb); got != expect {
		t.Errorf("the guest's tree:\n%s\nwant\n%s", got, expect)
	}
	blob, err := os.ReadFile(dtb)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "fdt")); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("/sys/firmware/fdt is not the file: %v", err)
	}

	for file, reason := range map[string]string{"/no/such.dtb": "no such file or directory", disk(t, 4096): "begins with 0x00000000"} {
		out, status = boot(t, "initrd="+initrd(t), "dtb="+file, "mount:proc,/proc,proc", "stat:/proc/device-tree")
		if status != 0 {
			t.Errorf("exit status %d", status)
		}
		want(t, out, "invalid DTB: ", reason, "guest: /proc/device-tree: no such file or directory")
	}
}
