package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/mconsole"
)

// BenchmarkManagementConsole asks both machines, which wait at their shell's prompt, for
// their version, in turns. Most of the time is the client's own, and the same for both.
func BenchmarkManagementConsole(b *testing.B) {
	dir := b.TempDir()
	image := small(b, dir)
	all := kernels(b)
	var machines []*guest.Machine
	var clients []mconsole.Client
	for _, k := range all {
		cow := filepath.Join(dir, k.name+".cow")
		m := guest.StartCmd(b, k.command(b, dir, "mem=256M", "umid=m", "ubd0="+cow+","+image, "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1"))
		m.Expect(time.Minute, `[#$] $`)
		machines = append(machines, m)
		clients = append(clients, mconsole.Client{Socket: filepath.Join(dir, k.name, "m", "mconsole")})
	}
	const rounds, each = 100, 20
	medians, best := make([]float64, len(all)), make([]float64, len(all))
	times := make([][]float64, len(all))
	for range rounds {
		for i, c := range clients {
			start := time.Now()
			for range each {
				if code, err := c.Command(context.Background(), "version", func(mconsole.Reply) error { return nil }); err != nil || code != 0 {
					b.Fatalf("%s: %d, %v", all[i].name, code, err)
				}
			}
			times[i] = append(times[i], time.Since(start).Seconds()/each)
		}
	}
	for i := range all {
		medians[i] = median(times[i]) // which sorts them
		best[i] = times[i][0]
		machines[i].Type("poweroff -f\n")
		machines[i].Wait(time.Minute)
	}
	b.ReportMetric(medians[0]*1e6, "us")
	b.ReportMetric(medians[0]/medians[1], "ratio")
	fmt.Printf("mconsole version: %.0f us, real kernel %.0f us, ratio %.2f (wanted: at most 1); at best %.0f us, real kernel %.0f us, ratio %.2f\n",
		medians[0]*1e6, medians[1]*1e6, medians[0]/medians[1], best[0]*1e6, best[1]*1e6, best[0]/best[1])
}
