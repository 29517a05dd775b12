package hwrng

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// source is the host's file, with what may still be read of it in this second.
type source struct {
	file string
	rate int64 // bytes a second, 0 for no bound
	fd   int

	left int64
	then time.Time // when left was right
}

// String is the specification.
func (s *source) String() string {
	if s.rate == 0 {
		return s.file
	}
	return fmt.Sprintf("%s,%d", s.file, s.rate)
}

// open opens the file. One that could have a reader wait is refused: a task of the guest
// would stand still in the host.
func (s *source) open() error {
	fd, err := unix.Open(s.file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.file, Err: err}
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if kind := st.Mode & unix.S_IFMT; err == nil && kind != unix.S_IFREG && kind != unix.S_IFCHR {
		err = unix.EINVAL
	}
	if err != nil {
		_ = unix.Close(fd)
		return &os.PathError{Op: "read", Path: s.file, Err: err}
	}
	s.fd = fd
	return nil
}

// may is how many of n bytes may be read now.
func (s *source) may(n int64, now time.Time) int64 {
	if s.rate == 0 {
		return n
	}
	// Time that passed gives bytes, for a second at most.
	if passed := min(now.Sub(s.then), time.Second); passed > 0 {
		if more := int64(passed.Seconds() * float64(s.rate)); more > 0 {
			s.left, s.then = min(s.left+more, s.rate), now
		}
	}
	return min(n, s.left)
}

// wait is how long it takes until there is a byte.
func (s *source) wait() time.Duration {
	return max(time.Duration(float64(time.Second)/float64(s.rate)), time.Millisecond)
}

// read reads at most len(p) bytes.
func (s *source) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, p)
		if err == unix.EINTR {
			continue
		}
		if n > 0 && s.rate > 0 {
			s.left -= int64(n)
		}
		return max(n, 0), err
	}
}
