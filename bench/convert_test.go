package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// BenchmarkConvert copies a sparse image of 16 GiB with 1 GiB in use between raw and qcow2
// with umlimg and with qemu-img. qemu-img ends before anything is on the disk, unless it
// is told to flush; umlimg ends after, unless it is told not to. Like is held against
// like. The peers take turns, and the best of each counts.
func BenchmarkConvert(b *testing.B) {
	dir := b.TempDir()
	lookPair(b, dir)
	raw, qcow := filepath.Join(dir, "base.img"), filepath.Join(dir, "base.qcow2")
	umlimg, qemu := guest.Binary(b, "umlimg"), oracle.Tool(b, "qemu-img")
	oracle.Run(b, qemu, "convert", "-f", "raw", "-O", "qcow2", raw, qcow)
	out := filepath.Join(dir, "out")
	for _, c := range []struct{ from, image, to string }{{"raw", raw, "raw"}, {"qcow2", qcow, "raw"}, {"raw", raw, "qcow2"}} {
		for _, stable := range []bool{true, false} {
			ours, theirs := []string{umlimg, "convert", "-f", c.from, "-O", c.to}, []string{qemu, "convert", "-f", c.from, "-O", c.to}
			name, metric := "unsynced", "-unsynced"
			if stable {
				name, metric = "made stable", "-stable"
				theirs = append(theirs, "-t", "writeback")
			} else {
				ours = append(ours, "--no-sync")
			}
			var best [2]time.Duration
			for range 4 {
				for i, argv := range [][]string{ours, theirs} {
					if err := os.RemoveAll(out); err != nil {
						b.Fatal(err)
					}
					unix.Sync()
					argv := append(argv[1:len(argv):len(argv)], c.image, out)
					start := time.Now()
					if text, err := exec.Command([]string{umlimg, qemu}[i], argv...).CombinedOutput(); err != nil {
						b.Fatalf("%v: %v\n%s", argv, err, text)
					}
					if d := time.Since(start); best[i] == 0 || d < best[i] {
						best[i] = d
					}
				}
			}
			ratio := best[0].Seconds() / best[1].Seconds()
			fmt.Printf("convert %s to %s, 16 GiB with 1 GiB in use, %s: %.2f s, qemu-img %.2f s, ratio %.3f (wanted: at most 1)\n",
				c.from, c.to, name, best[0].Seconds(), best[1].Seconds(), ratio)
			b.ReportMetric(ratio, c.from+"-"+c.to+metric)
		}
	}
}
