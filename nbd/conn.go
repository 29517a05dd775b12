package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/umlkit/umlkit/ubdfmt"
)

// conn is a client.
type conn struct {
	srv *Server
	id  uint64
	dev ubdfmt.Device
	nc  net.Conn
	in  *bufio.Reader
	terms

	mem memory
	out replies

	// A slot is taken by each request until its reply is sent.
	slots   chan struct{}
	running sync.WaitGroup // the goroutines that work at requests
}

// inSize is the length of the buffer that requests are read through, in bytes: many
// requests come with one system call, and most of a large payload goes around it.
const inSize = 16 << 10

func (s *Server) newConn(id uint64, nc net.Conn) *conn {
	c := &conn{
		srv: s, id: id, dev: s.Device, nc: nc,
		in:    bufio.NewReaderSize(nc, inSize),
		terms: terms{size: s.Device.Size(), readOnly: s.ReadOnly},
		slots: make(chan struct{}, maxRequests),
	}
	c.mem.init(&s.store)
	c.out.to, c.out.sent = nc, c.sent
	return c
}

// sent frees what a reply held.
func (c *conn) sent(r *reply) {
	if r.buf != nil {
		c.mem.put(r.buf)
	}
	if r.last {
		<-c.slots
	}
}

// serve is a client from its first byte to its last. It returns nil when the client ended
// the connection as the protocol has it, or ctx did.
func (c *conn) serve(ctx context.Context) error {
	defer c.nc.Close()
	if err := c.nc.SetDeadline(c.srv.handshakeLimit()); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, c.hurry)
	defer stop()
	err := c.negotiate()
	if err == nil {
		err = c.nc.SetDeadline(time.Time{})
	}
	if err == nil && ctx.Err() == nil { // else hurry's deadline may be gone
		err = c.transmit()
	}
	if ctx.Err() != nil || errors.Is(err, errAborted) {
		return nil
	}
	return err
}

// hurry has nothing more read, and ends what is sent before long.
func (c *conn) hurry() {
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	c.linger()
}

// linger keeps a client that does not read its replies from holding them for ever.
func (c *conn) linger() {
	limit := c.srv.LingerTime
	if limit == 0 {
		limit = lingerTime
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(limit))
}

// transmit is the transmission phase. When it returns, every request that was begun is
// done and answered.
func (c *conn) transmit() error {
	defer c.running.Wait()
	defer c.linger()
	for {
		c.slots <- struct{}{}
		b, err := c.in.Peek(requestLength)
		if err != nil {
			return c.ended(len(b), err)
		}
		r, err := decodeRequest(b)
		if err != nil {
			return err
		}
		if _, err := c.in.Discard(requestLength); err != nil {
			return err
		}
		if r.kind == cmdDisc {
			return nil
		}
		refused := c.check(r)
		switch {
		case r.kind == cmdWrite:
			if err := c.receive(r, refused); err != nil {
				return err
			}
		case refused != 0:
			c.refuse(r, refused)
		default:
			c.run(r.kind == cmdRead && r.length <= quick, func() { c.do(r) })
		}
	}
}

// ended is why no request could be read: nil if the client hung up between two of them.
func (c *conn) ended(have int, err error) error {
	if failed := c.out.failed(); failed != nil {
		return failed
	}
	if errors.Is(err, io.EOF) {
		if have == 0 {
			return nil
		}
		return io.ErrUnexpectedEOF
	}
	return err
}

// quick is up to which length a read or a write is done at once where nothing else waits,
// in bytes.
const quick = 64 << 10

// run has a request done beside others. If it is a short one, there is no other, and none
// is to be read, it is done at once: to wake another goroutine would take longer.
func (c *conn) run(short bool, f func()) {
	if short && len(c.slots) == 1 && c.in.Buffered() == 0 {
		f()
		return
	}
	c.running.Go(f)
}

// do does a request that makes sense, and answers it.
func (c *conn) do(r request) {
	off, n := int64(r.offset), int64(r.length)
	switch r.kind {
	case cmdRead:
		c.read(r)
	case cmdBlockStatus:
		c.blockStatus(r)
	case cmdFlush:
		c.answer(r, "flush", c.dev.Sync())
	case cmdTrim:
		c.answer(r, "trim", c.stable(r, c.dev.Trim(off, n)))
	case cmdWriteZeroes:
		c.answer(r, "write zeroes", c.stable(r, c.zero(off, n, r.flags&cmdFlagNoHole != 0)))
	case cmdCache:
		c.answer(r, "cache", c.cache(off, n))
	}
}

// answer ends a request that brings no data.
func (c *conn) answer(r request, op string, err error) {
	if err != nil {
		c.refuse(r, c.fault(r, op, err))
		return
	}
	c.out.send(simpleReply(r.cookie, 0))
}

// fault tells the log what the disk said, and returns what the client is told.
func (c *conn) fault(r request, op string, err error) errno {
	c.srv.logf("client %d: %s of %d bytes at %d: %v", c.id, op, r.length, r.offset, err)
	return errnoOf(err)
}

// refuse ends a request with an error.
func (c *conn) refuse(r request, e errno) {
	if c.structured {
		c.out.send(errorChunk(r.cookie, e))
	} else {
		c.out.send(simpleReply(r.cookie, e))
	}
}

// reason is why a connection ended, in words of its own where the net package's would name
// the addresses of both ends once more.
func reason(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "it was silent for too long"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "it hung up midway"
	case errors.As(err, &op):
		return fmt.Sprintf("%s: %v", op.Op, op.Err)
	}
	return err.Error()
}
