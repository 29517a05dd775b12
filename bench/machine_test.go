package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// pinned runs a machine on one processor: unpinned, both kernels are bimodal on small
// machines and say nothing.
func pinned(t testing.TB, argv ...string) *exec.Cmd {
	return exec.Command(oracle.Tool(t, "taskset"), append([]string{"-c", "1"}, argv...)...)
}

// kernels are the machines that every benchmark here runs in turn.
func kernels(t testing.TB) []kernel {
	return []kernel{
		{"umlkit", []string{guest.Binary(t, "linux")}},
		{"real", []string{oracle.RealUML(t), "seccomp=on"}},
	}
}

type kernel struct {
	name string
	argv []string
}

// command is the kernel with its state below dir. Both keep the guest's memory in the
// first fitting place of $TMPDIR and /dev/shm; a memory on a disk is written back to it
// and says little of the machine, so $TMPDIR and its kind are left out.
func (k kernel) command(t testing.TB, dir string, args ...string) *exec.Cmd {
	argv := append(append([]string{}, k.argv...), "uml_dir="+filepath.Join(dir, k.name)+"/")
	cmd := pinned(t, append(argv, args...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "TMPDIR" || name == "TMP" || name == "TEMP"
	})
	return cmd
}

// small is an image of the built-in userland.
func small(t testing.TB, dir string) string {
	image := filepath.Join(dir, "small.img")
	oracle.Run(t, guest.Binary(t, "umlimg"), "create", "--size", "256M", "--umlbox", guest.Binary(t, "umlbox"), image)
	return image
}

// addInit puts a script into an image as /bench-init: a real kernel splits init's
// arguments at every space, so a script cannot come on its command line.
func addInit(t testing.TB, image, script string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bench-init")
	if err := os.WriteFile(file, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	debugfs := oracle.Tool(t, "debugfs")
	oracle.Run(t, debugfs, "-w", "-R", "write "+file+" bench-init", image)
	oracle.Run(t, debugfs, "-w", "-R", "sif bench-init mode 0100755", image)
	oracle.Fsck(t, image)
}

func median(d []float64) float64 {
	sort.Float64s(d)
	return d[len(d)/2]
}

// BenchmarkBoot measures from exec of linux to the first line that init prints.
func BenchmarkBoot(b *testing.B) {
	dir := b.TempDir()
	image := small(b, dir)
	addInit(b, image, "#!/bin/sh\necho init speaks\npoweroff -f\n")
	result := map[string]float64{}
	for _, k := range kernels(b) {
		var times []float64
		for range 5 {
			cmd := k.command(b, dir, "mem=256M", "ubd0="+image, "root=/dev/ubda", "rw", "con0=null,fd:1", "con=null", "quiet",
				"init=/bench-init")
			out, err := cmd.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			spoke := false
			for s := bufio.NewScanner(out); s.Scan(); {
				if strings.Contains(s.Text(), "init speaks") && !spoke {
					spoke = true
					times = append(times, time.Since(start).Seconds())
				}
			}
			cmd.Wait()
			if !spoke {
				b.Fatalf("%s: init did not speak", k.name)
			}
		}
		result[k.name] = median(times)
	}
	b.ReportMetric(result["umlkit"]*1e3, "ms")
	b.ReportMetric(result["real"]*1e3, "real-ms")
	b.ReportMetric(result["umlkit"]/result["real"], "ratio")
	fmt.Printf("boot to init's first line: %.0f ms, real kernel %.0f ms, ratio %.3f (wanted: at most 0.1)\n",
		result["umlkit"]*1e3, result["real"]*1e3, result["umlkit"]/result["real"])
}

// BenchmarkIdle measures a machine that waits at its shell's prompt: the memory of all
// its processes, and the processor time that it takes in ten seconds.
func BenchmarkIdle(b *testing.B) {
	dir := b.TempDir()
	image := small(b, dir)
	pss := map[string]float64{}
	for _, k := range kernels(b) {
		// A COW file each: the real kernel is still running when ours starts, or has
		// just left the image in use.
		cow := filepath.Join(dir, k.name+".cow")
		m := guest.StartCmd(b, k.command(b, dir, "mem=256M", "ubd0="+cow+","+image, "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1"))
		m.Expect(time.Minute, `[#$] $`)
		time.Sleep(3 * time.Second)
		before := ticks(b, m.PID())
		time.Sleep(10 * time.Second)
		pss[k.name] = float64(memory(b, m.PID())) / 1024
		fmt.Printf("%s idle: %d ticks in 10 s, %.1f MB in %d processes\n", k.name, ticks(b, m.PID())-before, pss[k.name], len(family(b, m.PID())))
		m.Type("poweroff -f\n")
		m.Wait(time.Minute)
	}
	b.ReportMetric(pss["umlkit"], "MB")
	b.ReportMetric(pss["umlkit"]/pss["real"], "ratio")
	fmt.Printf("memory at the prompt: %.1f MB, real kernel %.1f MB, ratio %.2f (wanted: at most 1)\n", pss["umlkit"], pss["real"], pss["umlkit"]/pss["real"])
}

// family is a process and all its descendants.
func family(b *testing.B, pid int) []int {
	pids := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range tasks {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				b.Fatal(err)
			}
			pids = append(pids, family(b, child)...)
		}
	}
	return pids
}

// ticks is the processor time of a family, in clock ticks.
func ticks(b *testing.B, pid int) int {
	sum := 0
	for _, p := range family(b, pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		for _, f := range fields[11:13] {
			n, err := strconv.Atoi(f)
			if err != nil {
				b.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// memory is the sum of Pss of a family, in KiB. Processes that share one address space,
// as two threads of a stub do, all show the whole of it: it counts once.
func memory(b *testing.B, pid int) int {
	sum := 0
	var counted []int
	for _, p := range family(b, pid) {
		if slices.ContainsFunc(counted, func(q int) bool { return sameMemory(p, q) }) {
			continue
		}
		counted = append(counted, p)
		sum += resident(b, p)
	}
	return sum
}

// resident is the Pss of a process, in KiB; 0 when it is gone.
func resident(b *testing.B, pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	m := regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB`).FindSubmatch(data)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// sameMemory is whether two processes have one address space. Of a process that is gone,
// and of a host that does not tell, the answer is no.
func sameMemory(p, q int) bool {
	const kcmpVM = 1 // enum kcmp_type
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(p), uintptr(q), kcmpVM, 0, 0, 0)
	return errno == 0 && order == 0
}
