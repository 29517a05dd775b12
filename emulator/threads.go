package emulator

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// The names of threads and processes, as ps -L and top -H show them, of at most 15 bytes.
// The first thread keeps the name of the program.
const (
	// guestName is a process that runs guest code.
	guestName = "linux-guest"
	// workerName is a thread of the kernel: it does whatever there is to do.
	workerName = "linux-worker"
)

// nameThreads names all threads but the first. A thread that begins later has the name of
// the one that began it. Names are for people: what fails leaves the old one.
func nameThreads(name string) {
	first := strconv.Itoa(os.Getpid())
	dirs, _ := filepath.Glob("/proc/self/task/*")
	for _, dir := range dirs {
		if filepath.Base(dir) != first {
			_ = os.WriteFile(dir+"/comm", []byte(name), 0)
		}
	}
}

// nameForGuests gives every thread the name of a process for guest code, and takes it
// back when the function that it returns is called: the first of these processes has it
// from the thread that forks it, the others have it from the first.
func nameForGuests() (done func()) {
	const first = "/proc/self/comm"
	own, err := os.ReadFile(first)
	if err == nil {
		_ = os.WriteFile(first, []byte(guestName), 0)
	}
	nameThreads(guestName)
	return func() {
		if err == nil {
			_ = os.WriteFile(first, bytes.TrimSuffix(own, []byte("\n")), 0)
		}
		nameThreads(workerName)
	}
}

// tracedForks says why guest code cannot run under the program that traces this process,
// if one does that follows forks: guest code runs in processes that the machine traces
// itself, and a process has one tracer.
func tracedForks() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(status), "\nTracerPid:\t")
	text, _, _ := strings.Cut(rest, "\n")
	tracer, err := strconv.Atoi(text)
	if err != nil || tracer == 0 {
		return nil
	}
	// One that asks to be traced by us finds out.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	probe := exec.Command("/proc/self/exe", "--version")
	probe.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := probe.Start(); err == nil {
		_ = probe.Process.Kill()
		_ = probe.Wait()
		return nil
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", tracer))
	return fmt.Errorf("%s (process %d) traces this process and all that it starts, and guest code runs in processes that the machine must trace itself: start it without following forks (strace without -f), or attach to the running machine (strace -p)",
		strings.TrimSpace(string(name)), tracer)
}
