package ubdfmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A host file is locked twice. The lock that counts is one of the open file
// description: it goes when our descriptor goes and not, as a POSIX lock does, when
// any other descriptor of the file is closed somewhere in this process. But such a
// lock names no holder. So the last byte that a file could ever have carries a POSIX
// lock, which does; it is a name tag and nothing more, and may vanish. Both conflict
// with the whole-file POSIX locks of the kernel's own driver.
const tagOffset = math.MaxInt64 - 1

// lock takes the lock of a whole file, shared for a reader and exclusive for a
// writer, or returns a *LockedError at once.
func lock(f *os.File, path string, exclusive bool) error {
	kind := int16(unix.F_RDLCK)
	if exclusive {
		kind = unix.F_WRLCK
	}
	err := flock(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: 0, Len: tagOffset})
	if err == nil {
		// Without the tag the lock is as good; only its holder is harder to find.
		_ = flock(f, unix.F_SETLK, &unix.Flock_t{Type: kind, Start: tagOffset, Len: 1})
		return nil
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return &LockedError{Path: path, PID: holder(f, kind)}
	}
	return fmt.Errorf("lock %s: %w", path, err)
}

func flock(f *os.File, cmd int, l *unix.Flock_t) error {
	return control(f, func(fd int) error { return unix.FcntlFlock(uintptr(fd), cmd, l) })
}

// holder returns a process whose lock keeps us from taking one of that kind, or 0.
func holder(f *os.File, kind int16) int {
	l := unix.Flock_t{Type: kind, Start: 0, Len: tagOffset}
	if err := flock(f, unix.F_OFD_GETLK, &l); err == nil && l.Type != unix.F_UNLCK && l.Pid > 0 {
		return int(l.Pid) // a POSIX lock, as the kernel's driver takes
	}
	l = unix.Flock_t{Type: kind, Start: tagOffset, Len: 1}
	if err := flock(f, unix.F_GETLK, &l); err == nil && l.Type != unix.F_UNLCK && l.Pid > 0 {
		return int(l.Pid)
	}
	return searchHolder(f)
}

// searchHolder looks through /proc for a descriptor of the file that carries a lock:
// the way to find this very process, or a holder that lost its tag. It sees the
// processes that we may look into.
func searchHolder(f *os.File) int {
	want, err := f.Stat()
	if err != nil {
		return 0
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + p.Name()
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			have, err := os.Stat(dir + "/fd/" + fd.Name())
			if err != nil || !os.SameFile(have, want) {
				continue
			}
			info, err := readSmall(dir + "/fdinfo/" + fd.Name())
			if err == nil && (bytes.Contains(info, []byte("OFDLCK")) || bytes.Contains(info, []byte("POSIX"))) {
				return pid
			}
		}
	}
	return 0
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
