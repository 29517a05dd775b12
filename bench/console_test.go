package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// BenchmarkConsole sends 100 MB from a guest's program through con0=fd to a pipe: text,
// whose lines get carriage returns, and zeros, which leave as they come.
func BenchmarkConsole(b *testing.B) {
	b.Run("text", func(b *testing.B) { console(b, "text", "/text") })
	b.Run("zeros", func(b *testing.B) { console(b, "zeros", "/dev/zero") })
}

func console(b *testing.B, what, source string) {
	const megabytes = 100
	dir := b.TempDir()
	image := small(b, dir)
	line := "The quick brown fox jumps over the lazy dog, as it has always done.\n"
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat(line, megabytes<<20/len(line)+1)), 0o644); err != nil {
		b.Fatal(err)
	}
	oracle.Run(b, oracle.Tool(b, "debugfs"), "-w", "-R", "write "+text+" text", image)
	addInit(b, image, "#!/bin/sh\ncat /text >/dev/null\nexec >/dev/tty0\necho begin\ndd if="+source+" bs=1M count=101 2>/dev/null\npoweroff -f\n")
	result := map[string]float64{}
	for _, k := range kernels(b) {
		var rates []float64
		for range 3 {
			cmd := k.command(b, dir, "mem=256M", "ubd0="+image, "root=/dev/ubda", "con0=null,fd:1", "con=null", "quiet", "init=/bench-init")
			out, err := cmd.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			var start, end time.Time
			total := 0
			buf := make([]byte, 1<<20)
			for {
				n, err := out.Read(buf)
				if n > 0 && start.IsZero() {
					start = time.Now()
				}
				if total += n; total >= megabytes<<20 && end.IsZero() {
					end = time.Now()
				}
				if err == io.EOF {
					break
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			cmd.Wait()
			if end.IsZero() {
				b.Fatalf("%s: %d bytes arrived of %d", k.name, total, megabytes<<20)
			}
			rates = append(rates, float64(megabytes<<20)/1e6/end.Sub(start).Seconds())
		}
		result[k.name] = median(rates)
	}
	b.ReportMetric(result["umlkit"], "MB/s")
	b.ReportMetric(result["umlkit"]/result["real"], "ratio")
	fmt.Printf("100 MB of %s through con0 to a pipe: %.0f MB/s, real kernel %.0f MB/s, ratio %.1f (wanted: at least 3)\n",
		what, result["umlkit"], result["real"], result["umlkit"]/result["real"])
}

// BenchmarkGettyIdle counts how often the threads of an idle machine run, with a getty on
// con0, by their voluntary switches.
func BenchmarkGettyIdle(b *testing.B) {
	const seconds = 10
	dir := b.TempDir()
	image := small(b, dir)
	for _, k := range kernels(b) {
		cow := filepath.Join(dir, k.name+".cow")
		m := guest.StartCmd(b, k.command(b, dir, "mem=256M", "ubd0="+cow+","+image, "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1"))
		m.Expect(time.Minute, `[#$] $`)
		time.Sleep(3 * time.Second)
		before := switches(b, m.PID())
		time.Sleep(seconds * time.Second)
		after := switches(b, m.PID())
		total, most := 0, 0
		for thread, n := range after {
			n -= before[thread]
			total += n
			most = max(most, n)
		}
		if k.name == "umlkit" {
			b.ReportMetric(float64(total)/seconds, "wakes/s")
		}
		fmt.Printf("%s idle at the prompt: its threads wake %.1f times a second together, the busiest %.1f times (wanted: at most 10)\n",
			k.name, float64(total)/seconds, float64(most)/seconds)
		m.Type("poweroff -f\n")
		m.Wait(time.Minute)
	}
}

// switches is how often each thread of a family gave up the processor.
func switches(b *testing.B, pid int) map[string]int {
	counts := map[string]int{}
	for _, p := range family(b, pid) {
		names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p))
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
					n, err := strconv.Atoi(strings.TrimSpace(value))
					if err != nil {
						b.Fatal(err)
					}
					counts[name] = n
				}
			}
		}
	}
	return counts
}
