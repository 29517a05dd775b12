// Package bench measures umlkit against its peers, each pair in one run, and prints
// the ratios.
package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// work runs in a Debian guest and prints lines of a name and microseconds. GNU dd and perl are the
// same binaries under both kernels.
const work = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc 2>/dev/null
t() { local s=$EPOCHREALTIME e; /bin/bash -c "$2" || echo "$1 failed"; e=$EPOCHREALTIME; printf '%s %d\n' "$1" $((${e/./} - ${s/./})); }
for i in 1 2 3; do
  rm -f /root/big; sync
  t write 'dd if=/dev/zero of=/root/big bs=1M count=512 conv=fsync status=none'
  t read 'dd if=/root/big of=/dev/null bs=1M status=none'
done
t create 'mkdir /root/m; cd /root/m; perl -e "for (1..5000) { open F, q(>), qq(f\$_) or die; print F q(x); close F }"'
t stat 'cd /root/m; perl -e "for (1..5000) { stat qq(f\$_) or die }"'
t unlink 'cd /root/m; perl -e "for (1..5000) { unlink qq(f\$_) or die }"'
t getppid 'perl -e "getppid for 1..20000"'
t nothing 'perl -e "1"'
echo all done
/sbin/poweroff -f 2>/dev/null || perl -e 'syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0)'
`

// BenchmarkDisk measures ext4 on a ubd with a COW file, in the guest.
func BenchmarkDisk(b *testing.B) {
	dir := b.TempDir()
	tar := debianTar(b)
	image := filepath.Join(dir, "debian.img")
	oracle.Run(b, guest.Binary(b, "umlimg"), "create", "--from", tar, "--size", "4G", image)
	addInit(b, image, work)
	result := map[string]map[string]float64{}
	for _, k := range kernels(b) {
		cow := filepath.Join(dir, k.name+".cow")
		m := guest.StartCmd(b, k.command(b, dir, "mem=1G", "ubd0="+cow+","+image, "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1", "quiet",
			"init=/bench-init"))
		out := m.Expect(5*time.Minute, `all done`)
		m.Wait(time.Minute)
		best := map[string]float64{}
		for _, match := range regexp.MustCompile(`(?m)^(\w+) (\d+)\r*$`).FindAllStringSubmatch(out, -1) {
			us, err := strconv.ParseInt(match[2], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			s := float64(us) / 1e6
			if old, ok := best[match[1]]; !ok || s < old {
				best[match[1]] = s
			}
		}
		for _, name := range []string{"write", "read", "create", "stat", "unlink", "getppid", "nothing"} {
			if best[name] == 0 {
				b.Fatalf("%s said nothing of %s:\n%s", k.name, name, out)
			}
		}
		result[k.name] = best
	}
	ours, real := result["umlkit"], result["real"]
	for _, name := range []string{"write", "read"} {
		fmt.Printf("%s 512 MiB, ext4 on ubd with COW: %.0f MB/s, real kernel %.0f MB/s, ratio %.2f (wanted: at least 0.8)\n",
			name, 536.87/ours[name], 536.87/real[name], real[name]/ours[name])
		b.ReportMetric(real[name]/ours[name], name+"-ratio")
	}
	call := func(r map[string]float64) float64 { return (r["getppid"] - r["nothing"]) / 20000 }
	// open, fstat, ioctl and lseek by perl, write, close for a file made; one call else.
	for _, op := range []struct {
		name  string
		calls float64
	}{{"create", 6 * 5000}, {"stat", 5000}, {"unlink", 5000}} {
		fmt.Printf("%s 5000 files: %.3f s, of which %.0f calls x getppid %.1f us = %.3f s; real kernel %.3f s with %.1f us a call\n",
			op.name, ours[op.name], op.calls, call(ours)*1e6, op.calls*call(ours), real[op.name], call(real)*1e6)
	}
}

// debianTar is the tree that the proofs made and keep.
func debianTar(b *testing.B) string {
	dir := os.Getenv("UMLKIT_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			b.Fatal(err)
		}
		dir = filepath.Join(base, "umlkit")
	}
	path := filepath.Join(dir, "minbase-sysvinit-2.tar")
	if _, err := os.Stat(path); err != nil {
		b.Fatalf("%v: go test ./internal/proof makes it", err)
	}
	return path
}
