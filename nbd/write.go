package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// stableWriter is a Device that can make a write stable without those before it.
type stableWriter interface {
	WriteStable(p []byte, off int64) (int, error)
}

// writing is a write whose pieces are under way.
type writing struct {
	c *conn
	r request

	mu   sync.Mutex
	left int64 // bytes
	err  error // the first
}

// receive reads the payload of NBD_CMD_WRITE and has it written, each piece as soon as it
// is there. Its error is the connection's.
func (c *conn) receive(r request, refused errno) error {
	if r.length > maxPayload {
		return fmt.Errorf("a write of %d bytes, the limit is %d", r.length, maxPayload)
	}
	if refused != 0 {
		if _, err := c.in.Discard(int(r.length)); err != nil {
			return err
		}
		c.refuse(r, refused)
		return nil
	}
	w := &writing{c: c, r: r, left: int64(r.length)}
	for off, end := int64(r.offset), int64(r.offset)+int64(r.length); off < end; {
		// A piece ends where a block of the disk does, so that no block is written twice.
		n := min(pieceLength(off, end), pieceSize-int(off%pieceSize))
		buf := c.mem.get(n)
		if _, err := io.ReadFull(c.in, buf.b[:n]); err != nil {
			c.mem.put(buf)
			return err
		}
		at := off
		c.run(r.length <= quick, func() { w.write(buf, n, at) })
		off += int64(n)
	}
	return nil
}

// write writes a piece; the last one to be written answers the request.
func (w *writing) write(buf *buffer, n int, off int64) {
	c, p := w.c, buf.b[:n]
	fua := w.r.flags&cmdFlagFUA != 0
	alone := n == int(w.r.length)
	var err error
	if device, ok := c.dev.(stableWriter); ok && fua && alone {
		_, err = device.WriteStable(p, off)
	} else {
		_, err = c.dev.WriteAt(p, off)
	}
	c.mem.put(buf)
	w.mu.Lock()
	if w.left -= int64(n); w.err == nil {
		w.err = err
	}
	done, err := w.left == 0, w.err
	w.mu.Unlock()
	if !done {
		return
	}
	if _, ok := c.dev.(stableWriter); !ok || !alone {
		err = c.stable(w.r, err)
	}
	c.answer(w.r, "write", err)
}

// stable makes stable what a request with NBD_CMD_FLAG_FUA has done, unless it failed.
func (c *conn) stable(r request, err error) error {
	if err == nil && r.flags&cmdFlagFUA != 0 {
		return c.dev.Sync()
	}
	return err
}

// zeros are written where a client wants no hole.
var zeros [pieceSize]byte

// errGone ends what is done for a client that is no longer there.
var errGone = errors.New("the client has gone")

// zero makes a range zeros: a hole, or with full zeros that take their room.
func (c *conn) zero(off, n int64, full bool) error {
	if !full {
		return c.dev.Trim(off, n)
	}
	for end := off + n; off < end; {
		if c.out.failed() != nil {
			return errGone
		}
		p := zeros[:min(pieceLength(off, end), pieceSize-int(off%pieceSize))]
		if _, err := c.dev.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// cache has the host read ahead what a client is going to read.
func (c *conn) cache(off, n int64) error {
	var failed error
	err := c.dev.Extents(off, n, func(e ubdfmt.Extent) bool {
		if e.File == nil || e.Compressed {
			return true
		}
		failed = willNeed(e.File, e.FileOffset, e.Length)
		return failed == nil
	})
	return errors.Join(err, failed)
}

func willNeed(f *os.File, off, n int64) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = unix.Fadvise(int(fd), off, n, unix.FADV_WILLNEED) }); e != nil {
		return e
	}
	return err
}
