package ubdfmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A host file is locked twice. The lock that counts is one of the open file
// description: it goes when our descriptor goes and not, as a POSIX lock does, when
// any other descriptor of the file is closed somewhere in this process. But such a
// lock names no holder. So the last byte that a file could ever have carries a POSIX
// lock, which does; it is a name tag and nothing more, and may vanish. Both conflict
// with the whole-file POSIX locks of the kernel's own driver.
const tagOffset = math.MaxInt64 - 1

// lockPatience is how long a lock is awaited that no living process names as its own. A
// machine that was killed leaves guest processes that share its descriptors, and with
// them its locks, until the host's kernel has ended the last.
const lockPatience = 2 * time.Second

// lock takes the lock of a whole file, shared for a reader and exclusive for a
// writer, or returns a *LockedError: at once where the holder lives, and else after
// lockPatience.
func lock(f *os.File, path string, exclusive bool) error {
	kind := int16(unix.F_RDLCK)
	if exclusive {
		kind = unix.F_WRLCK
	}
	begun := time.Now()
	for {
		err := flock(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: 0, Len: tagOffset})
		switch {
		case err == nil:
			// Without the tag the lock is as good; only its holder is harder to find.
			_ = flock(f, unix.F_SETLK, &unix.Flock_t{Type: kind, Start: tagOffset, Len: 1})
			return nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES):
			return fmt.Errorf("lock %s: %w", path, err)
		}
		pid := namedHolder(f, kind)
		if pid == 0 && locks(os.Getpid(), f) { // F_GETLK tells nothing of our own
			pid = os.Getpid()
		}
		if lives(pid) {
			return &LockedError{Path: path, PID: pid}
		}
		if time.Since(begun) > lockPatience {
			return &LockedError{Path: path, PID: searchHolder(f)}
		}
		time.Sleep(lockPatience / 200)
	}
}

func flock(f *os.File, cmd int, l *unix.Flock_t) error {
	return control(f, func(fd int) error { return unix.FcntlFlock(uintptr(fd), cmd, l) })
}

// namedHolder returns the process that the host names as holder of a lock that keeps us
// from taking one of that kind, or 0. It may have ended.
func namedHolder(f *os.File, kind int16) int {
	l := unix.Flock_t{Type: kind, Start: 0, Len: tagOffset}
	if err := flock(f, unix.F_OFD_GETLK, &l); err == nil && l.Type != unix.F_UNLCK && l.Pid > 0 {
		return int(l.Pid) // a POSIX lock, as the kernel's driver takes
	}
	l = unix.Flock_t{Type: kind, Start: tagOffset, Len: 1}
	if err := flock(f, unix.F_GETLK, &l); err == nil && l.Type != unix.F_UNLCK && l.Pid > 0 {
		return int(l.Pid)
	}
	return 0
}

// lives reports whether a process is more than a name that waits for its parent.
func lives(pid int) bool {
	if pid <= 0 {
		return false
	}
	stat, err := readSmall(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the command's name in parentheses, which may hold any byte: proc(5).
	_, state, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}

// searchHolder looks through /proc for a descriptor of the file that carries a lock:
// the way to find a holder that lost its tag. It sees the processes that we may look
// into.
func searchHolder(f *os.File) int {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, p := range procs {
		if pid, err := strconv.Atoi(p.Name()); err == nil && locks(pid, f) {
			return pid
		}
	}
	return 0
}

// locks reports whether a process has a descriptor of the file that carries a lock.
func locks(pid int, f *os.File) bool {
	want, err := f.Stat()
	if err != nil {
		return false
	}
	dir := fmt.Sprintf("/proc/%d", pid)
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return false
	}
	for _, fd := range fds {
		have, err := os.Stat(dir + "/fd/" + fd.Name())
		if err != nil || !os.SameFile(have, want) {
			continue
		}
		info, err := readSmall(dir + "/fdinfo/" + fd.Name())
		if err == nil && (bytes.Contains(info, []byte("OFDLCK")) || bytes.Contains(info, []byte("POSIX"))) {
			return true
		}
	}
	return false
}

// readSmall reads a file of which a page or two are of interest.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 8192))
}
