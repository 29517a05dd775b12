package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// A partitioned disk boots here and under a real kernel, and both see the same partitions.
func TestPartitionedBoots(t *testing.T) {
	const limit = 90 * time.Second
	dir := t.TempDir()
	other := filepath.Join(dir, "other.img")
	must(t, "create", "--blank", "--size", "64M", other)
	cmd := exec.Command(oracle.Tool(t, "sfdisk"), "-q", other)
	cmd.Stdin = strings.NewReader("label: dos\nlabel-id: 0x12345678\n1 : size=5M\n2 : size=40M,type=5\n5 : size=4M\n6 : size=3M,type=82\n3 : start=96256,size=2M,bootable\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	// Requests were made, so what counts them is left out.
	script := `echo BEGIN; cat /proc/partitions; mount | grep -c ' on / type ext4 (rw'; cat /etc/fstab; cd /sys/block; ` +
		`for d in ubda/ubda1 ubdb/ubdb1 ubdb/ubdb2 ubdb/ubdb3 ubdb/ubdb5 ubdb/ubdb6; do ` +
		`for f in dev partition start size ro alignment_offset discard_alignment uevent; do echo $d/$f; cat $d/$f; done; ls -d /sys/class/block/${d#*/}; readlink $d/subsystem; done; ` +
		`readlink /sys/dev/block/98:18; readlink /sys/class/block/ubdb5; stat -c '%n %t:%T' /dev/ubda1 /dev/ubdb?; head -c 1000 /dev/ubdb2 | wc -c; wc -c </dev/ubdb2; ` +
		`echo kept >/kept; echo END`
	run := filepath.Join(dir, "script") // a disk that the guest's shell reads
	if err := os.WriteFile(run, []byte(script+strings.Repeat("\n", 512-len(script)%512)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"gpt", "mbr"} {
		image := filepath.Join(dir, kind+".img")
		status, stdout, stderr := call("create", "--umlbox", guest.Binary(t, "umlbox"), "--partition", kind, "--size", "64M", "--json", image)
		if status != 0 {
			t.Fatal(stderr)
		}
		var sum summary
		if err := json.Unmarshal([]byte(stdout), &sum); err != nil {
			t.Fatal(err)
		}
		root := "root=/dev/ubda1"
		if kind == "mbr" {
			root = "root=PARTUUID=" + sum.PARTUUID
		}
		seen := map[string]string{}
		for name, kernel := range map[string]string{"ours": guest.Binary(t, "linux"), "real": oracle.RealUML(t)} {
			out, code := guest.Output(t, limit, kernel, "mem=128M", "ubd0="+image, "ubd1="+other, "ubd2r="+run, root, "rw", "con=null", "con0=fd:0,fd:1", "quiet",
				"uml_dir="+filepath.Join(dir, "uml")+"/", "--", "-c", "sh</dev/ubdc")
			out = strings.ReplaceAll(out, "\r", "")
			_, shown, begun := strings.Cut(out, "BEGIN\n")
			shown, _, ended := strings.Cut(shown, "END\n")
			if code != 0 || !begun || !ended {
				t.Fatalf("%s, %s: exit status %d\n%s", kind, name, code, out)
			}
			seen[name] = shown
		}
		if seen["ours"] != seen["real"] {
			a, b := filepath.Join(dir, "ours"), filepath.Join(dir, "real")
			_ = os.WriteFile(a, []byte(seen["ours"]), 0o600)
			_ = os.WriteFile(b, []byte(seen["real"]), 0o600)
			diff, _ := exec.Command("diff", "-u", b, a).CombinedOutput()
			t.Errorf("%s: a real kernel shows something else:\n%s", kind, diff)
		}
		part := filepath.Join(dir, "part.img")
		oracle.Run(t, "sh", "-c", "dd bs=1M skip=1 count=62 status=none if="+image+" of="+part)
		oracle.Fsck(t, part)
		if out := oracle.Run(t, "debugfs", "-R", "cat /kept", part); !strings.Contains(out, "kept\n") {
			t.Errorf("%s: the file did not reach the partition: %s", kind, out)
		}
	}
}
