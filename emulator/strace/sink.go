package strace

import (
	"bufio"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// perSecond bounds the lines that the kernel log is given in a second: it keeps only so
// many, and other messages are in it too.
const perSecond = 500

// bounded is the kernel log.
type bounded struct {
	logf func(format string, args ...any)
	now  func() time.Time

	begin time.Time // of the second
	lines int
	left  int // lines left out of it
}

func (b *bounded) line(text string) {
	if now := b.now(); now.Sub(b.begin) >= time.Second {
		b.begin, b.lines = now, 0
		b.tell()
	}
	if b.lines == perSecond {
		b.left++
		return
	}
	b.lines++
	b.logf("strace: %s", text)
}

// tell says how many lines were left out.
func (b *bounded) tell() {
	if b.left > 0 {
		b.logf("strace: %d calls left out, more than %d in a second; strace.file= takes them all", b.left, perSecond)
		b.left = 0
	}
}

func (b *bounded) close() error {
	b.tell()
	return nil
}

// maxFile bounds what is written to a file, in bytes.
const maxFile = 1 << 30

// flushAfter is how long lines may wait for the file.
const flushAfter = 200 * time.Millisecond

// file is a file on the host.
type file struct {
	logf func(format string, args ...any)

	mu      sync.Mutex
	f       *os.File
	w       *bufio.Writer
	written int64
	over    bool // no more is written
	waiting bool // for a flush
}

func newFile(name string, logf func(string, ...any)) (*file, error) {
	// A FIFO must not have us wait.
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{logf: logf, f: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (f *file) line(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	if f.written += int64(len(text)) + 1; f.written > maxFile {
		f.end(fmt.Errorf("%s has %d bytes: no more is written", f.f.Name(), int64(maxFile)))
		return
	}
	_, _ = f.w.WriteString(text)
	if err := f.w.WriteByte('\n'); err != nil {
		f.end(err)
		return
	}
	if !f.waiting {
		f.waiting = true
		time.AfterFunc(flushAfter, f.flush)
	}
}

func (f *file) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = false
	if err := f.w.Flush(); err != nil && !f.over {
		f.end(err)
	}
}

// end has no more be written, and says why.
func (f *file) end(why error) {
	f.over = true
	_ = f.w.Flush()
	f.logf("strace: %v", why)
}

func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.w.Flush()
	if f.over {
		err = nil // it was said
	}
	f.over = true
	if failed := f.f.Close(); err == nil {
		err = failed
	}
	return err
}
