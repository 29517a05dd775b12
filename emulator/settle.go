package emulator

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/klog"
)

// settleTime is when a machine has booted far enough to give back what only booting
// needed. It is long past init's start, and short for whoever looks at an idle machine.
const settleTime = 2 * time.Second

// youngGC is by how much of what it keeps the heap of a machine that boots may grow before
// it is collected, in percent. Boot lays out some 7 MB, of which a third stays: the one
// collection when it has settled is enough. Each round before it would leave the
// collector's own lists of pages behind, half a megabyte in all, for good.
const youngGC = 400

// settle gives memory back to the host, and names the last threads, once in a machine's life. Two thirds of a young
// machine's memory are pages of the program itself that package initialisation and the
// host's read-ahead around it brought in: what runs later comes back from the host's
// page cache by itself, in a few hundred cheap faults. A timer that came again would
// keep an idle machine awake.
func (m *Machine) settle() {
	debug.SetGCPercent(m.gcPercent)
	// The collection comes first: it reads the types' descriptions in the program.
	debug.FreeOSMemory()
	if err := dropProgram(); err != nil {
		m.printk(klog.Debug, "memory: %v", err)
	}
	// One that was being made while the others were named was not yet to be seen.
	nameThreads(workerName)
}

// dropProgram takes the pages of this program's text and constants out of the process.
func dropProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's mappings: %w", err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("find the program's mappings: %w", err)
	}
	runs, err := cleanRuns(bytes.NewReader(smaps), exe)
	if err != nil {
		return fmt.Errorf("find the program's mappings: /proc/self/smaps: %w", err)
	}
	for _, r := range runs {
		// The wrapper in unix wants a slice, and text is not Go's memory.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back the program at %#x: madvise: %w", r.start, errno)
		}
	}
	return nil
}

// addrRun is a range of this process's addresses.
type addrRun struct{ start, end uintptr }

// cleanRuns finds the private mappings of file in the text of /proc/PID/smaps that can
// be dropped without loss: nothing may write them, and no page of them is a copy that
// differs from the file, as a debugger's breakpoints and relocated constants are.
func cleanRuns(smaps io.Reader, file string) ([]addrRun, error) {
	var (
		found []addrRun
		last  addrRun
		ours  bool
	)
	in := bufio.NewScanner(smaps)
	for in.Scan() {
		text := in.Text()
		key, rest, _ := strings.Cut(text, " ")
		if name, ok := strings.CutSuffix(key, ":"); ok {
			if ours && name == "Anonymous" && strings.TrimSpace(rest) == "0 kB" {
				found = append(found, last)
			}
			continue
		}
		from, to, _ := strings.Cut(key, "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		last = addrRun{uintptr(start), uintptr(end)}
		// After the addresses: permissions, offset, device, inode, padding, path.
		fields := strings.SplitN(rest, " ", 5)
		ours = len(fields) == 5 && (fields[0] == "r--p" || fields[0] == "r-xp") &&
			strings.TrimLeft(fields[4], " ") == file
	}
	return found, in.Err()
}
