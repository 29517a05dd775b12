package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// guestOp is something that BenchmarkGuest does in both machines. Its command runs below
// bash; what the setup before it does is not measured.
type guestOp struct {
	name   string
	setup  string
	cmd    string
	amount float64 // how much that was, of unit
	unit   string
	fio    bool    // fio tells how long it took
	wanted float64 // the throughput, as a part of the real kernel's; 0 for none
}

const fio = `/opt/fio/ld --library-path /opt/fio /opt/fio/fio --name=x --filename=big --bs=4k --direct=1 --ioengine=psync --io_size=80m --randseed=1 ` +
	`--thread --allow_file_create=0 --size=512m --output-format=terse --terse-version=3 `

var guestOps = []guestOp{
	{"write + fsync", "rm -f big; sync", "dd if=/dev/zero of=big bs=1M count=512 conv=fsync status=none", 536.87, "MB", false, 1},
	{"read", "", "dd if=big of=/dev/null bs=1M status=none", 536.87, "MB", false, 1},
	{"rewrite + fsync", "", "dd if=/dev/zero of=big bs=1M count=512 conv=notrunc,fsync status=none", 536.87, "MB", false, 1},
	{"fio random read", "", fio + "--rw=randread", 20480, "IO", true, 0},
	{"fio random write", "", fio + "--rw=randwrite", 20480, "IO", true, 0},
	{"create", "rm -rf m; mkdir m; sync", `cd m; perl -e 'for (1..5000) { open F, q(>), qq(f$_) or die; close F }'`, 5000, "files", false, 0},
	{"delete", "", `cd m; perl -e 'for (1..5000) { unlink qq(f$_) or die }'`, 5000, "files", false, 0},
	{"untar of /usr", "rm -rf u; mkdir u; sync", "tar -C u -xf usr.tar", 1, "trees", false, 0},
	{"fsync", "rm -f s; sync", `perl -MIO::Handle -e 'open F, q(>), q(s) or die; for (1..200) { syswrite F, q(x) x 4096 or die; F->sync or die }'`, 200, "fsyncs", false, 0},
	{"getppid", "", `perl -e 'getppid for 1..20000'`, 20000, "calls", false, 0},
	{"nothing", "", `perl -e 1`, 1, "programs", false, 0},
}

// guestScript runs the operations and prints a line of each one's number and
// microseconds.
func guestScript() string {
	var s strings.Builder
	s.WriteString(`#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc 2>/dev/null
mount -t tmpfs tmpfs /dev/shm 2>/dev/null
cd /root
t() { local s=$EPOCHREALTIME e; /bin/bash -c "$2" >/tmp/out || echo "operation $1 failed"; e=$EPOCHREALTIME; printf 'op %d %d\n' $1 $((${e/./} - ${s/./})); }
`)
	for i, op := range guestOps {
		if op.setup != "" {
			fmt.Fprintln(&s, op.setup)
		}
		fmt.Fprintf(&s, "t %d '%s'\n", i, strings.ReplaceAll(op.cmd, "'", `'\''`))
		if op.fio { // runtimes in milliseconds: read is field 9, write field 50
			fmt.Fprintf(&s, "IFS=';' read -ra f </tmp/out; printf 'fio %d %%d\\n' $((f[8] + f[49]))\n", i)
		}
	}
	s.WriteString(`echo all done
/sbin/poweroff -f 2>/dev/null || perl -e 'syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0)'
`)
	return s.String()
}

// guestTree is a Debian tree with fio, its libraries and a tar of its own /usr in it.
func guestTree(b *testing.B) string {
	tree := b.TempDir()
	oracle.Run(b, "tar", "-C", tree, "--numeric-owner", "-xpf", debianTar(b))
	oracle.Run(b, "tar", "-C", tree, "-cf", filepath.Join(tree, "root/usr.tar"), "usr")
	dir := filepath.Join(tree, "opt/fio")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	program := oracle.Tool(b, "fio")
	var libs []string
	for _, line := range strings.Split(oracle.Run(b, "ldd", program), "\n") {
		words := strings.Fields(line) // libfoo.so => /lib/libfoo.so (0x…), /lib64/ld-linux.so (0x…)
		switch {
		case len(words) > 2 && strings.HasPrefix(words[2], "/"):
			libs = append(libs, words[2])
		case len(words) > 0 && strings.HasPrefix(words[0], "/"):
			oracle.Run(b, "cp", "-L", words[0], filepath.Join(dir, "ld"))
		}
	}
	oracle.Run(b, "cp", append([]string{"-L", program}, append(libs, dir)...)...)
	if err := os.WriteFile(filepath.Join(tree, "bench-init"), []byte(guestScript()), 0o755); err != nil {
		b.Fatal(err)
	}
	return tree
}

// countCalls is the number of system calls of each operation, counted on the host in the
// same tree.
func countCalls(b *testing.B, tree string) []int {
	counts := make([]int, len(guestOps))
	file := filepath.Join(b.TempDir(), "counts")
	for i, op := range guestOps {
		in := func(script string, before ...string) {
			argv := append(before, oracle.Tool(b, "chroot"), tree, "/bin/bash", "-c", "cd /root; "+script)
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				b.Fatalf("%s: %v\n%s", op.name, err, out)
			}
		}
		in(op.setup)
		in(op.cmd, oracle.Tool(b, "strace"), "-f", "-c", "-o", file)
		data, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		total := regexp.MustCompile(`(?m)^100\.00\s+\S+\s+\S+\s+(\d+)\s.*total$`).FindSubmatch(data)
		if total == nil {
			b.Fatalf("%s: strace -c says nothing of a total:\n%s", op.name, data)
		}
		counts[i], _ = strconv.Atoi(string(total[1]))
	}
	return counts
}

// BenchmarkGuest does the same on the same image, ext4 on a raw ubd, in our machine and
// under the real kernel, both on one processor. Beside each time stands how much of it
// the system calls alone take, from the cost of getppid in the same run: that part is
// the platform's, the rest the filesystem's and the program's own.
func BenchmarkGuest(b *testing.B) {
	oracle.NeedsRoot(b) // to read all of the tree, and for chroot
	dir := b.TempDir()
	tree := guestTree(b)
	image := filepath.Join(dir, "disk.img")
	oracle.Run(b, guest.Binary(b, "umlimg"), "create", "--as-is", "--from", tree, "--size", "4G", image)
	calls := countCalls(b, tree)
	result := [2][]float64{make([]float64, len(guestOps)), make([]float64, len(guestOps))}
	for range max(b.N, 4) {
		for side, k := range kernels(b) {
			copied := filepath.Join(dir, k.name+".img")
			oracle.Run(b, "cp", "--sparse=always", image, copied)
			m := guest.StartCmd(b, k.command(b, dir, "mem=1G", "ubd0="+copied, "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1", "quiet",
				"init=/bench-init"))
			out := m.Expect(10*time.Minute, `all done`)
			m.Wait(time.Minute)
			oracle.Fsck(b, copied)
			keepBest(b, result[side], k.name, out)
			if err := os.Remove(copied); err != nil {
				b.Fatal(err)
			}
		}
	}
	n := len(guestOps)
	perCall := func(side int) float64 { return (result[side][n-2] - result[side][n-1]) / guestOps[n-2].amount }
	fmt.Printf("a system call: %.1f us, real kernel %.1f us\n", perCall(0)*1e6, perCall(1)*1e6)
	for i, op := range guestOps[:n-2] {
		count := float64(calls[i])
		if op.fio {
			count = op.amount // only those in the time that fio tells
		}
		ours, real := result[0][i], result[1][i]
		wanted := ""
		if op.wanted > 0 {
			wanted = fmt.Sprintf(" (wanted: at least %.1f)", op.wanted)
			b.ReportMetric(real/ours, strings.Fields(op.name)[0]+"-ratio")
		}
		fmt.Printf("%-16s %9.1f %s/s, real kernel %9.1f, ratio %.2f%s; %.3f s, %.0f calls x getppid = %.3f s; real kernel %.3f s, %.3f s\n",
			op.name+":", op.amount/ours, op.unit, op.amount/real, real/ours, wanted, ours, count, count*perCall(0), real, count*perCall(1))
	}
}

// keepBest takes over the times, in seconds, that guestScript printed, where they are
// better than those there are.
func keepBest(b *testing.B, best []float64, name, out string) {
	b.Helper()
	if strings.Contains(out, "failed") {
		b.Fatalf("%s: an operation failed:\n%s", name, out)
	}
	for _, match := range regexp.MustCompile(`(?m)^(op|fio) (\d+) (\d+)\r*$`).FindAllStringSubmatch(out, -1) {
		i, _ := strconv.Atoi(match[2])
		t, err := strconv.ParseFloat(match[3], 64)
		if err != nil || i >= len(best) {
			b.Fatalf("%s: %q", name, match[0])
		}
		if guestOps[i].fio != (match[1] == "fio") {
			continue
		}
		s := t / 1e6
		if match[1] == "fio" {
			s = t / 1e3
		}
		if best[i] == 0 || s < best[i] {
			best[i] = s
		}
	}
	for i, s := range best {
		if s == 0 {
			b.Fatalf("%s said nothing of %s:\n%s", name, guestOps[i].name, out)
		}
	}
}
