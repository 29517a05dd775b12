package tree

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
)

// Region is a run of bytes, [Off, Off+Len).
type Region struct{ Off, Len int64 }

// Content is what is in a regular file, to be read when the image is written. Open may
// be called by any goroutine; each Reader belongs to one.
type Content interface {
	Open() (Reader, error)
}

// Reader reads a file's content.
type Reader interface {
	// ReadAt reads at a place of the file, holes as zeros.
	io.ReaderAt

	// Host is a file of this machine that holds the bytes of a run of data, and
	// where in it the run starts; nil when there is none. It lets the kernel copy
	// without bringing the bytes here.
	Host(run Region) (*os.File, int64)

	// Close ends reading. It fails when the content was changed while it was read.
	Close() error
}

// Bytes is content that is in memory.
type Bytes []byte

// Open implements Content.
func (b Bytes) Open() (Reader, error) { return bytesReader{bytes.NewReader(b)}, nil }

type bytesReader struct {
	io.ReaderAt
}

func (bytesReader) Host(Region) (*os.File, int64) { return nil, 0 }
func (bytesReader) Close() error                  { return nil }

// Read is a regular file's whole content. The caller bounds Size before.
func (n *Node) Read() ([]byte, error) {
	data := make([]byte, n.Size)
	if n.Content == nil {
		return data, nil
	}
	r, err := n.Content.Open()
	if err != nil {
		return nil, err
	}
	if got, err := r.ReadAt(data, 0); got < len(data) {
		r.Close()
		return nil, fmt.Errorf("read %d of %d bytes: %w", got, len(data), err)
	}
	return data, r.Close()
}

// Runs are the runs of a regular file that hold data, nil only when nothing is.
func (n *Node) Runs() []Region {
	if n.Size == 0 {
		return nil
	}
	if n.Data == nil && n.Content != nil {
		return []Region{{0, n.Size}}
	}
	return n.Data
}

// ReadError is an error of what is copied, not of where it goes.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.Err }

// Copy hands the data of a regular file to write, its runs in order and in pieces, in a
// buffer that is kept from file to file. An error of reading is a *ReadError.
func (n *Node) Copy(ctx context.Context, buf *[]byte, write func(p []byte, off int64) error) error {
	if n.Content == nil {
		return nil
	}
	r, err := n.Content.Open()
	if err != nil {
		return &ReadError{err}
	}
	for _, run := range n.Runs() {
		if err := CopyRun(ctx, r, run, buf, write); err != nil {
			r.Close()
			return err
		}
	}
	if err := r.Close(); err != nil {
		return &ReadError{err}
	}
	return nil
}

// CopyRun does it for one run that r has.
func CopyRun(ctx context.Context, r io.ReaderAt, run Region, buf *[]byte, write func(p []byte, off int64) error) error {
	const piece = 1 << 20
	for run.Len > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		size := min(run.Len, piece)
		if int64(cap(*buf)) < size {
			*buf = make([]byte, size)
		}
		p := (*buf)[:size]
		if got, err := r.ReadAt(p, run.Off); int64(got) < size {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return &ReadError{err}
		}
		if err := write(p, run.Off); err != nil {
			return err
		}
		run.Off, run.Len = run.Off+size, run.Len-size
	}
	return nil
}

// CheckRegions says whether runs are in order, apart, not empty, and inside a file of
// that size.
func CheckRegions(runs []Region, size int64) error {
	end := int64(0)
	for i, r := range runs {
		if r.Len <= 0 || r.Off < end || r.Off > size || r.Len > size-r.Off {
			return fmt.Errorf("run %d at %d of %d bytes does not fit a file of %d bytes after %d", i, r.Off, r.Len, size, end)
		}
		end = r.Off + r.Len
	}
	return nil
}

// Store keeps the content of a source that can be read only once, such as a
// compressed archive: it is written to its place in the image at once, and found
// there when the file gets its name.
type Store interface {
	// Put takes the runs of data, one after another, from r; size and data are as in
	// a Node.
	Put(size int64, data []Region, r io.Reader) (Content, error)
}
