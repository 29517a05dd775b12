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

// BenchmarkHostfs reads, writes, stats and makes files of a hostfs in our guest and in a
// real kernel's, by turns.
func BenchmarkHostfs(b *testing.B) {
	dir := b.TempDir()
	root, share := filepath.Join(dir, "root"), filepath.Join(dir, "share")
	for _, d := range []string{"root/dev", "root/proc", "root/m", "share"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(root, "init"), "./emulator/hostfs/internal/hostcheck")
	cmd.Dir = oracle.Root(b)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	image := filepath.Join(dir, "disk.img")
	oracle.Run(b, "mke2fs", "-q", "-F", "-t", "ext4", "-d", root, image, "32M")
	words := []string{"mem=512M", "con=null", "con0=null,fd:1", "quiet", "ubd0=" + image, "root=/dev/ubda", "rw", "init=/init", "hostfs=" + share,
		"--", "mount", "none", "/m", "/", "then", "speed", "/m"}
	measure := func(program, uml string) map[string]float64 {
		out, status := guest.Output(b, 10*time.Minute, append([]string{oracle.Tool(b, "taskset"), "-c", "1", program, "uml_dir=" + uml}, words...)...)
		best := map[string]float64{}
		for _, m := range regexp.MustCompile(`speed (\S+) (\d+) ns`).FindAllStringSubmatch(out, -1) {
			best[m[1]], _ = strconv.ParseFloat(m[2], 64)
		}
		if status != 0 || len(best) != 8 {
			b.Fatalf("%s: exit status %d, %d results:\n%s", program, status, len(best), out)
		}
		return best
	}
	ours, real := map[string]float64{}, map[string]float64{}
	for range max(b.N, 3) {
		for into, got := range map[*map[string]float64]map[string]float64{
			&ours: measure(guest.Binary(b, "linux"), filepath.Join(dir, "uml")),
			&real: measure(oracle.RealUML(b), filepath.Join(dir, "uml-real")+"/"),
		} {
			for what, ns := range got {
				if old, ok := (*into)[what]; !ok || ns < old {
					(*into)[what] = ns
				}
			}
		}
	}
	for _, what := range []string{"write-1M", "read-1M", "read-4K", "stat", "open-close", "create", "readdir-2000", "unlink"} {
		ratio := ours[what] / real[what]
		fmt.Printf("hostfs %s: %.1f us, a real kernel %.1f us, ratio %.2f\n", what, ours[what]/1e3, real[what]/1e3, ratio)
		b.ReportMetric(ratio, strings.ReplaceAll(what, "-", "_")+"_ratio")
	}
}
