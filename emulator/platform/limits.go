//go:build amd64

package platform

import (
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// limits are what the host lets stub processes have, all together.
type limits struct {
	// threads bounds those of stub processes and ours that wait for them.
	threads int64
	// descriptors bounds listeners and pidfds.
	descriptors int64
}

// hostLimits leaves an eighth of the threads that the host has left to everybody else, and a
// quarter of the descriptors to disks, connections and files.
func hostLimits() limits {
	free := freeThreads()
	var files unix.Rlimit
	descriptors := int64(math.MaxInt32)
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		descriptors = int64(min(files.Cur, math.MaxInt32))
		if used, err := os.ReadDir("/proc/self/fd"); err == nil {
			descriptors = max(descriptors-int64(len(used)), 0)
		}
	}
	return limits{threads: free - free/8, descriptors: descriptors - descriptors/4}
}

// freeThreads is how many threads this process and its children can still begin.
func freeThreads() int64 {
	free := int64(math.MaxInt32)
	bound := func(most, used int64) { free = min(free, max(most-used, 0)) }
	// "0.1 0.2 0.3 1/234 5678": of 234 threads one runs.
	_, rest, _ := strings.Cut(contents("/proc/loadavg"), "/")
	all, _, _ := strings.Cut(rest, " ")
	existing, _ := strconv.ParseInt(all, 10, 64)
	for _, name := range []string{"threads-max", "pid_max"} {
		if n, err := strconv.ParseInt(contents("/proc/sys/kernel/"+name), 10, 64); err == nil {
			bound(n, existing)
		}
	}
	var processes unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &processes); err == nil && os.Getuid() != 0 && processes.Cur < uint64(free) {
		bound(int64(processes.Cur), threadsOf(os.Getuid()))
	}
	for line := range strings.Lines(contents("/proc/self/cgroup")) {
		// "4:pids:/group" of the old hierarchies, "0::/group" of the new one.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "" && fields[1] != "pids" {
			continue
		}
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) {
			dir := filepath.Join("/sys/fs/cgroup", fields[1], group)
			most, err := strconv.ParseInt(contents(dir+"/pids.max"), 10, 64)
			used, err2 := strconv.ParseInt(contents(dir+"/pids.current"), 10, 64)
			if err == nil && err2 == nil {
				bound(most, used)
			}
			if group == "/" {
				break
			}
		}
	}
	return free
}

// threadsOf counts a user's threads, as RLIMIT_NPROC does.
func threadsOf(uid int) int64 {
	names, _ := filepath.Glob("/proc/[0-9]*/status")
	sum := int64(0)
	for _, name := range names {
		status := contents(name)
		_, owner, _ := strings.Cut(status, "\nUid:\t")
		owner, _, _ = strings.Cut(owner, "\t")
		_, threads, _ := strings.Cut(status, "\nThreads:\t")
		threads, _, _ = strings.Cut(threads, "\n")
		if n, err := strconv.ParseInt(threads, 10, 64); err == nil && owner == strconv.Itoa(uid) {
			sum += n
		}
	}
	return sum
}

// contents is the text of one of the kernel's small files, or "" without it.
func contents(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// raise lets the Go runtime have a thread for each stub thread: past its own limit, 10,000, it
// ends the program.
func (l limits) raise() {
	const usual, others = 10000, 1000
	if most := min(l.threads, math.MaxInt32-others) + others; most > usual {
		debug.SetMaxThreads(int(most))
	}
}

// Lacks says what the host has too little of for another guest process with a thread, "" if
// nothing. What it lets through finds what it needs, unless somebody else takes it from
// the host. It counts stubs; others says what there is too little of for other reasons.
func (o *Own) Lacks(others func() string) string {
	const patience, pause = time.Second, time.Millisecond
	z := o.zygote
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		lacks := z.lacks()
		if lacks == "" {
			lacks = others()
		}
		if lacks == "" {
			return ""
		}
		idle := false
		for p := z.takeIdle(); p != nil; p = z.takeIdle() {
			p.end()
			idle = true
		}
		// What is about to leave makes room.
		if !idle && z.ending.Load() == 0 || time.Now().After(end) {
			return lacks
		}
	}
}

func (z *zygote) lacks() string {
	threads, processes := max(z.contexts.Load(), z.stubThreads.Load())+1, z.processes.Load()+1
	switch {
	case threads+2*processes > z.limits.descriptors:
		return "descriptors (ulimit -n)"
	case 2*threads+2*processes > z.limits.threads:
		return "processes (ulimit -u, pids.max, kernel.pid_max)"
	case threads+processes >= sharedSlots:
		return "memory for stubs"
	}
	return ""
}
