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

// platforms are what runs guest code, and a real kernel in its fast mode.
func platforms(t testing.TB) []kernel {
	linux := guest.Binary(t, "linux")
	return []kernel{
		{"own", []string{linux, "platform=own"}},
		{"systrap", []string{linux, "platform=systrap"}},
		{"real", []string{oracle.RealUML(t), "seccomp=on"}},
	}
}

// callsImage is an image whose init runs calls with these arguments.
func callsImage(t testing.TB, dir, args string) string {
	program := filepath.Join(dir, "calls")
	oracle.Run(t, oracle.Tool(t, "gcc"), "-O2", "-Wall", "-static", "-o", program, "testdata/calls.c")
	image := small(t, dir)
	oracle.Run(t, guest.Binary(t, "umlimg"), "cp", program, image+":/bin/calls")
	oracle.Run(t, guest.Binary(t, "umlimg"), "cp", oracle.Tool(t, "busybox"), image+":/bin/busybox")
	addInit(t, image, "#!/bin/sh\nmount -t tmpfs none /tmp\n/bin/calls "+args+"\npoweroff -f\n")
	return image
}

// runCalls boots the image and returns the lines of that kind: name and numbers.
func runCalls(t testing.TB, k kernel, free bool, dir, image, kind string) map[string][]float64 {
	cmd := k.command(t, dir, "mem=256M", "ubd0="+image, "root=/dev/ubda", "rw", "con=null", "con0=null,fd:1", "quiet", "init=/bench-init")
	if free {
		argv := cmd.Args[3:] // without taskset -c 1
		env := cmd.Env
		cmd = exec.Command(argv[0], argv[1:]...)
		cmd.Env = env
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", k.name, err, out)
	}
	rows := map[string][]float64{}
	for _, m := range regexp.MustCompile(`(?m)^`+kind+` (\S+)((?: \d+)+)\r?$`).FindAllStringSubmatch(string(out), -1) {
		for _, f := range strings.Fields(m[2]) {
			n, err := strconv.ParseFloat(f, 64)
			if err != nil {
				t.Fatal(err)
			}
			rows[m[1]] = append(rows[m[1]], n)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s printed nothing of use:\n%s", k.name, out)
	}
	return rows
}

// callRows are the rows that calls prints, with what the contract wants of ours to the
// real kernel's, pinned; 0 where it wants nothing.
var callRows = []struct {
	name, what string
	wanted     float64
}{
	{"getppid", "getppid", 1.1},
	{"pipe", "pipe round trip, two processes", 1.2},
	{"fork", "fork, exit, wait", 1.5},
	{"exec", "fork, exec of a static program, wait", 1.3},
	{"sh", "sh: 100 times such a program", 1.3},
	{"page", "first touch of an anonymous page", 0.2},
	{"map", "mmap of four pages, touch of one, munmap", 0},
	{"files", "a file of 1 KiB on tmpfs, made and removed", 1.3},
}

// BenchmarkPlatform times what a guest pays for, under each platform and a real kernel, on one
// processor and free.
func BenchmarkPlatform(b *testing.B) {
	const rounds = 3
	dir := b.TempDir()
	image := callsImage(b, dir, "rows")
	type key struct {
		kernel string
		free   bool
		row    string
	}
	best := map[key]float64{}
	for range rounds {
		for _, free := range []bool{false, true} {
			for _, k := range platforms(b) {
				for name, times := range runCalls(b, k, free, dir, image, "row") {
					at := key{k.name, free, name}
					if was, ok := best[at]; !ok || times[0] < was {
						best[at] = times[0]
					}
				}
			}
		}
	}
	for _, free := range []bool{false, true} {
		where := "one processor"
		if free {
			where = "free"
		}
		fmt.Printf("%-42s %9s %9s %9s %9s %9s\n", "µs, "+where, "own", "systrap", "real", "own/real", "own/pinned")
		for _, row := range callRows {
			own, systrap, real := best[key{"own", free, row.name}], best[key{"systrap", free, row.name}], best[key{"real", free, row.name}]
			wanted := ""
			if row.wanted != 0 && !free {
				wanted = fmt.Sprintf(" (wanted: at most %.1f)", row.wanted)
			} else if free {
				wanted = " (wanted: at most 1.3 of pinned)"
			}
			fmt.Printf("%-42s %9.2f %9.2f %9.2f %9.2f %9.2f%s\n", row.what, own/1e3, systrap/1e3, real/1e3, own/real,
				own/best[key{"own", false, row.name}], wanted)
			if !free {
				b.ReportMetric(own/real, row.name+"-ratio")
			}
		}
	}
}

// BenchmarkPlatformTwo measures how much more two guest processes do than one, on two processors.
func BenchmarkPlatformTwo(b *testing.B) {
	const rounds = 3
	dir := b.TempDir()
	image := callsImage(b, dir, "both")
	best := map[string][2]float64{}
	for range rounds {
		for _, k := range platforms(b) {
			for name, rates := range runCalls(b, k, true, dir, image, "both") {
				at := k.name + " " + name
				was := best[at]
				best[at] = [2]float64{max(was[0], rates[0]), max(was[1], rates[1])}
			}
		}
	}
	for _, what := range []string{"calls", "computation"} {
		for _, k := range platforms(b) {
			r := best[k.name+" "+what]
			fmt.Printf("%s, %s of two processes to one's: %.0f to %.0f a second, %.2f (wanted: at least 1.8)\n", k.name, what, r[0], r[1], r[0]/r[1])
		}
		r := best["own "+what]
		b.ReportMetric(r[0]/r[1], what+"-ratio")
	}
}

// BenchmarkPlatformIdle measures 50 guest processes that sleep: what each adds to the memory of
// the host, its own pages included, and how often the machine's threads wake.
func BenchmarkPlatformIdle(b *testing.B) {
	const sleepers, seconds = 50, 10
	dir := b.TempDir()
	image := callsImage(b, dir, "rows")
	for _, k := range platforms(b) {
		cow := filepath.Join(dir, k.name+".cow")
		m := guest.StartCmd(b, k.command(b, dir, "mem=256M", "ubd0="+cow+","+image, "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1"))
		m.Expect(time.Minute, `[#$] $`)
		// What the first of them costs is the program's.
		sleep := func(n int) (whole, stubs int) {
			m.Type(fmt.Sprintf("/bin/calls sleepers %d\n", n))
			m.Expect(time.Minute, `[#$] $`)
			time.Sleep(3 * time.Second)
			return footprint(b, m.PID())
		}
		wholeBefore, stubsBefore := sleep(5)
		whole, stubs := sleep(sleepers)
		whole, stubs = (whole-wholeBefore)/sleepers, (stubs-stubsBefore)/sleepers
		before := switches(b, m.PID())
		time.Sleep(seconds * time.Second)
		total := 0
		for thread, n := range switches(b, m.PID()) {
			total += n - before[thread]
		}
		fmt.Printf("%s, %d sleeping processes: a stub has %d KiB (wanted: at most 300), the machine %d more; %.1f wakes a second in all (wanted: at most 10)\n",
			k.name, sleepers, stubs, whole-stubs, float64(total)/seconds)
		if k.name == "own" {
			b.ReportMetric(float64(stubs), "KiB/stub")
			b.ReportMetric(float64(total)/seconds, "wakes/s")
		}
		m.Type("poweroff -f\n")
		m.Wait(time.Minute)
	}
}

// footprint is what a family takes of the host, in KiB, and what its members but the first do:
// the memory, shared pages by their share, and of the kernel's own the page tables and
// 16 KiB of stack for each thread.
func footprint(b *testing.B, pid int) (whole, children int) {
	for _, p := range family(b, pid) {
		sum := resident(b, p)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			switch name {
			case "VmPTE":
				sum += n
			case "Threads":
				sum += 16 * n
			}
		}
		whole += sum
		if p != pid {
			children += sum
		}
	}
	return whole, children
}
