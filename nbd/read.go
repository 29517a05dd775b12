package nbd

import (
	"errors"
	"fmt"
	"io"

	"github.com/umlkit/umlkit/ubdfmt"
)

// readAt fills p from the disk.
func (c *conn) readAt(p []byte, off int64) error {
	n, err := c.dev.ReadAt(p, off)
	if n == len(p) && errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// read answers NBD_CMD_READ.
func (c *conn) read(r request) {
	off, end := int64(r.offset), int64(r.offset)+int64(r.length)
	if !c.structured && r.length > pieceSize {
		c.readLong(r)
		return
	}
	if r.flags&cmdFlagDF != 0 || r.length < holeWorth {
		c.readRun(r, off, end, end)
		return
	}
	for _, run := range c.runs(off, end) {
		if run.hole {
			c.out.send(holeChunk(r.cookie, off, run.end-off, run.end == end))
		} else if !c.readRun(r, off, run.end, end) {
			return
		}
		off = run.end
	}
}

// readRun answers a part of a read of which nothing is known, piece by piece; last is
// where the request ends. It returns false when it failed and the request is done.
func (c *conn) readRun(r request, off, end, last int64) bool {
	for off < end {
		if c.out.failed() != nil {
			c.refuse(r, eio) // which nobody hears
			return false
		}
		n := pieceLength(off, end)
		buf := c.mem.get(n)
		p := buf.b[:n]
		if err := c.readAt(p, off); err != nil {
			c.mem.put(buf)
			c.refuse(r, c.fault(r, "read", err))
			return false
		}
		if c.structured {
			c.out.send(dataChunk(r.cookie, off, p, buf, off+int64(n) == last))
		} else {
			whole := simpleReply(r.cookie, 0)
			whole.body, whole.buf = p, buf
			c.out.send(whole)
		}
		off += int64(n)
	}
	return true
}

// pieceLength is how much of [off, end) makes the next piece.
func pieceLength(off, end int64) int { return int(min(end-off, pieceSize)) }

// readLong answers a read by one simple reply that is longer than a piece. It is read
// while it is sent, and when the disk fails then nothing is left but to hang up.
func (c *conn) readLong(r request) {
	off, end := int64(r.offset), int64(r.offset)+int64(r.length)
	buf := c.mem.get(pieceSize)
	if err := c.readAt(buf.b, off); err != nil {
		c.mem.put(buf)
		c.refuse(r, c.fault(r, "read", err))
		return
	}
	whole := simpleReply(r.cookie, 0)
	whole.body, whole.buf = buf.b, buf
	whole.stream = func(w io.Writer) error {
		for at := off + pieceSize; at < end; {
			p := buf.b[:pieceLength(at, end)]
			if err := c.readAt(p, at); err != nil {
				_ = c.fault(r, "read", err)
				return fmt.Errorf("a read failed midway: %w", err)
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
			at += int64(len(p))
		}
		return nil
	}
	c.out.send(whole)
}

// holeWorth is from which length on a hole is sent as one, in bytes: a shorter one is
// read sooner than it is found and told.
const holeWorth = 32 << 10

// run is data or a hole, up to end.
type run struct {
	end  int64
	hole bool
}

// runs are the data and the holes of [off, end). Of holes shorter than holeWorth nothing
// is said, so that there are not more than the bytes are worth.
func (c *conn) runs(off, end int64) []run {
	runs := make([]run, 0, 4)
	add := func(to int64, hole bool) {
		if last := len(runs) - 1; last >= 0 && runs[last].hole == hole {
			runs[last].end = to
		} else {
			runs = append(runs, run{to, hole})
		}
	}
	holeEnd := off // where a hole ends that goes on up to the next extent
	at := off      // up to there all is in runs
	flush := func() {
		if holeEnd > at {
			add(holeEnd, holeEnd-at >= holeWorth)
			at = holeEnd
		}
	}
	err := c.dev.Extents(off, end-off, func(e ubdfmt.Extent) bool {
		if e.File == nil {
			holeEnd = e.Offset + e.Length
			return true
		}
		flush()
		at = e.Offset + e.Length
		add(at, false)
		return true
	})
	flush()
	if err != nil {
		return []run{{end, false}} // where it lies is of no matter if it can be read
	}
	return runs
}
