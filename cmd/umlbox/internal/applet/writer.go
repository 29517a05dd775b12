package applet

import (
	"bufio"
	"bytes"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Writer buffers standard output. Towards a terminal every line goes out at
// once, else the buffer does when it is full or flushed.
type Writer struct {
	b     *bufio.Writer
	lines bool
}

// NewWriter returns a Writer to w; it writes line by line when w is a terminal.
func NewWriter(w io.Writer) *Writer {
	f, ok := w.(*os.File)
	return &Writer{b: bufio.NewWriterSize(w, 16<<10), lines: ok && IsTerminal(int(f.Fd()))}
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.b.Write(p)
	if err == nil && w.lines && bytes.IndexByte(p, '\n') >= 0 {
		err = w.b.Flush()
	}
	return n, err
}

// WriteString implements io.StringWriter.
func (w *Writer) WriteString(s string) (int, error) {
	if !w.lines {
		return w.b.WriteString(s)
	}
	return w.Write([]byte(s))
}

// WriteByte implements io.ByteWriter.
func (w *Writer) WriteByte(c byte) error {
	err := w.b.WriteByte(c)
	if err == nil && w.lines && c == '\n' {
		err = w.b.Flush()
	}
	return err
}

// Flush writes out what is buffered. It returns the first error any write had.
func (w *Writer) Flush() error { return w.b.Flush() }

// ReadFrom copies r to the output as it arrives, and lets the kernel do the
// copying between descriptors where it can.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	if err := w.b.Flush(); err != nil {
		return 0, err
	}
	// An empty bufio.Writer hands ReadFrom through to the file.
	n, err := w.b.ReadFrom(r)
	if err == nil {
		err = w.b.Flush()
	}
	return n, err
}

// IsTerminal says whether the descriptor fd is a terminal.
func IsTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
