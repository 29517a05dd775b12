package qcow2

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// QEMU says by locks on single bytes, always shared ones, what it does to an image: byte
// 100+n is locked while it does n, byte 200+n while nobody else may. A reader of ours says
// so too, so that a qemu-img can read beside it and none that writes begins.
const (
	doesRead, doesWrite, doesResize = 100, 101, 103
	noRead, noWrite, noResize       = 200, 201, 203
)

// lockReader opens an image once more, to hold a reader's locks of QEMU's kind until it is
// closed. A writer is an error, *ubdfmt.LockedError.
func lockReader(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := takeLocks(f, path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func takeLocks(f *os.File, path string) error {
	for _, at := range []int64{doesRead, noWrite, noResize} {
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}); err == unix.EAGAIN || err == unix.EACCES {
			return &ubdfmt.LockedError{Path: path}
		} else if err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
	}
	for _, at := range []int64{noRead, doesWrite, doesResize} {
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		// A reader that locks the whole file is no writer.
		if l.Type != unix.F_UNLCK && l.Start == at && l.Len == 1 {
			return &ubdfmt.LockedError{Path: path, PID: int(max(l.Pid, 0))}
		}
	}
	return nil
}
