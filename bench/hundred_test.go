package bench

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// BenchmarkHundred boots many machines over one backing file, each with a COW file of its
// own, has them wait at their shell's prompt, and measures what memory each adds: the sum
// of Pss of all processes of all machines but the first, for each. It is twenty machines
// of each kernel, and a hundred in make nightly.
func BenchmarkHundred(b *testing.B) {
	count := 20
	if oracle.Nightly() {
		count = 100
	}
	dir := b.TempDir()
	image := small(b, dir)
	each := map[string]float64{}
	for _, k := range kernels(b) {
		var machines []*guest.Machine
		total := func() (kb, processes int) {
			for _, m := range machines {
				kb += memory(b, m.PID())
				processes += len(family(b, m.PID()))
			}
			return kb, processes
		}
		first := 0
		for i := range count {
			cow := filepath.Join(dir, fmt.Sprintf("%s%d.cow", k.name, i))
			m := guest.StartCmd(b, k.command(b, dir, "mem=256M", "ubd0="+cow+","+image, "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1"))
			machines = append(machines, m)
			m.Expect(2*time.Minute, `[#$] $`)
			if i == 0 {
				time.Sleep(5 * time.Second)
				first, _ = total()
			}
		}
		time.Sleep(10 * time.Second)
		kb, processes := total()
		each[k.name] = float64(kb-first) / float64(count-1) / 1024
		fmt.Printf("%s: the first of %d idle machines takes %.1f MB, each other adds %.2f MB; %d processes\n",
			k.name, count, float64(first)/1024, each[k.name], processes)
		for _, m := range machines {
			m.Type("poweroff -f\n")
		}
		for _, m := range machines {
			m.Wait(2 * time.Minute)
		}
	}
	b.ReportMetric(each["umlkit"], "MB")
	b.ReportMetric(each["umlkit"]/each["real"], "ratio")
	fmt.Printf("memory that each of %d idle machines adds: %.2f MB, real kernel %.2f MB, ratio %.2f (wanted: at most 0.5)\n",
		count, each["umlkit"], each["real"], each["umlkit"]/each["real"])
}
