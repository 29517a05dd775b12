package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ubdfmt"
)

// image makes a raw image of so many bytes, and opens it.
func image(t testing.TB, size int64) *ubdfmt.Raw {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	dev, err := ubdfmt.OpenRaw(path, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// serving is a server that runs.
type serving struct {
	*Server
	t    testing.TB
	addr string
	stop context.CancelFunc
	done chan error
}

// serve runs a server until the test ends, which has to leave no goroutine behind.
func serve(t testing.TB, s *Server) *serving {
	t.Helper()
	before := runtime.NumGoroutine()
	// The test's own directory may have too long a name for a socket.
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	run := &serving{s, t, filepath.Join(dir, "s"), stop, make(chan error, 1)}
	go func() { run.done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		defer os.RemoveAll(dir)
		run.end()
		if held := s.store.held.Load(); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}
		// What has ended may not be gone yet.
		for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, before there were %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			}
		}
	})
	return run
}

// end ends the server, which has to be well.
func (s *serving) end() {
	s.t.Helper()
	s.stop()
	select {
	case err, ok := <-s.done:
		if ok && err != nil {
			s.t.Errorf("Serve: %v", err)
		}
		if ok {
			close(s.done)
		}
	case <-time.After(time.Minute):
		s.t.Error("Serve does not end")
	}
}

// client is the other end of a connection. What goes wrong with it fails the test.
type client struct {
	t testing.TB
	net.Conn
	cookie     uint64
	structured bool
}

// dial connects, and sees the server's greeting.
func (s *serving) dial() *client {
	s.t.Helper()
	nc, err := net.Dial("unix", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	c := &client{t: s.t, Conn: nc}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if got := c.get(18); string(got) != "NBDMAGICIHAVEOPT\x00\x03" {
		s.t.Fatalf("the server greets with %q", got)
	}
	return c
}

// put sends numbers, big-endian by their sizes, and bytes.
func (c *client) put(parts ...any) {
	c.t.Helper()
	if _, err := c.Write(wire(parts...)); err != nil {
		c.t.Fatal(err)
	}
}

func wire(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return b
}

func (c *client) get(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("reading %d bytes: %v", n, err)
	}
	return b
}

// hungUp fails the test unless the server has ended the connection.
func (c *client) hungUp(what string) {
	c.t.Helper()
	if b, err := io.ReadAll(io.LimitReader(c, 1<<20)); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("%s: the server goes on: %q, %v", what, b, err)
	}
}

func (c *client) option(opt uint32, data []byte) {
	c.t.Helper()
	c.put(uint64(optionMagic), opt, uint32(len(data)), data)
}

// answer is a reply to an option.
type answer struct {
	kind uint32
	data string
}

func (a answer) String() string { return fmt.Sprintf("%#x %q", a.kind, a.data) }

func (c *client) answer(opt uint32) answer {
	c.t.Helper()
	head := c.get(20)
	if got := binary.BigEndian.Uint64(head); got != optionReplyMagic {
		c.t.Fatalf("magic %#x", got)
	}
	if got := binary.BigEndian.Uint32(head[8:]); got != opt {
		c.t.Fatalf("a reply to option %d, not %d", got, opt)
	}
	return answer{binary.BigEndian.Uint32(head[12:]), string(c.get(int(binary.BigEndian.Uint32(head[16:]))))}
}

// answers are all replies to an option, up to the final one.
func (c *client) answers(opt uint32) []answer {
	c.t.Helper()
	for all := []answer{}; ; {
		a := c.answer(opt)
		all = append(all, a)
		if a.kind == repAck || a.kind&(1<<31) != 0 {
			return all
		}
	}
}

// ask sends an option and returns all replies.
func (c *client) ask(opt uint32, data []byte) []answer {
	c.t.Helper()
	c.option(opt, data)
	return c.answers(opt)
}

func (c *client) want(what string, got []answer, kinds ...uint32) {
	c.t.Helper()
	var have []uint32
	for _, a := range got {
		have = append(have, a.kind)
	}
	if fmt.Sprint(have) != fmt.Sprint(kinds) {
		c.t.Errorf("%s: the server answers %v, want the kinds %#x", what, got, kinds)
	}
}

func nameData(name string, kinds ...uint16) []byte {
	b := wire(uint32(len(name)), name, uint16(len(kinds)))
	for _, k := range kinds {
		b = wire(b, k)
	}
	return b
}

func metaData(name string, queries ...string) []byte {
	b := wire(uint32(len(name)), name, uint32(len(queries)))
	for _, q := range queries {
		b = wire(b, uint32(len(q)), q)
	}
	return b
}

// start leads a new client into the transmission phase, with or without structured
// replies and base:allocation.
func (s *serving) start(structured bool) *client {
	s.t.Helper()
	c := s.dial()
	c.put(uint32(3))
	if structured {
		c.want("structured replies", c.ask(optStructuredReply, nil), repAck)
		c.want("base:allocation", c.ask(optSetMetaContext, metaData("", allocationName)), repMetaContext, repAck)
		c.structured = true
	}
	c.want("GO", c.ask(optGo, nameData("")), repInfo, repAck)
	return c
}

// send sends a request, and returns its cookie.
func (c *client) send(flags, kind uint16, off uint64, n uint32, payload ...[]byte) uint64 {
	c.t.Helper()
	c.cookie++
	b := wire(uint32(requestMagic), flags, kind, c.cookie, off, n)
	for _, p := range payload {
		b = append(b, p...)
	}
	c.put(b)
	return c.cookie
}

// part is a chunk of a structured reply, or a simple reply.
type part struct {
	kind   uint16 // replyNone: a simple reply
	cookie uint64
	err    errno
	last   bool
	data   []byte // payload of a chunk, without what is in err
}

// part reads a simple reply, followed by n bytes if it has no error, or a chunk.
func (c *client) part(n int) part {
	c.t.Helper()
	head := c.get(16)
	switch magic := binary.BigEndian.Uint32(head); magic {
	case simpleReplyMagic:
		p := part{err: errno(binary.BigEndian.Uint32(head[4:])), cookie: binary.BigEndian.Uint64(head[8:]), last: true}
		if p.err == 0 {
			p.data = c.get(n)
		}
		return p
	case structuredReplyMagic:
		if !c.structured {
			c.t.Fatal("a structured reply was not negotiated")
		}
		p := part{kind: binary.BigEndian.Uint16(head[6:]), cookie: binary.BigEndian.Uint64(head[8:]), last: binary.BigEndian.Uint16(head[4:])&replyFlagDone != 0}
		p.data = c.get(int(binary.BigEndian.Uint32(c.get(4))))
		if p.kind == replyError {
			p.err = errno(binary.BigEndian.Uint32(p.data))
			if p.err == 0 || int(binary.BigEndian.Uint16(p.data[4:])) != len(p.data)-6 || strings.Contains(string(p.data[6:]), "/") {
				c.t.Errorf("an error chunk %q", p.data)
			}
		}
		return p
	default:
		c.t.Fatalf("magic %#x", magic)
		return part{}
	}
}

// done waits for the end of the only request, which brings no data.
func (c *client) done(cookie uint64) errno {
	c.t.Helper()
	p := c.part(0)
	if p.cookie != cookie || !p.last || p.kind != replyNone && p.kind != replyError {
		c.t.Fatalf("request %d is answered by %+v", cookie, p)
	}
	return p.err
}

// do is a request that brings no data.
func (c *client) do(flags, kind uint16, off uint64, n uint32, payload ...[]byte) errno {
	c.t.Helper()
	return c.done(c.send(flags, kind, off, n, payload...))
}

// read reads, and puts together what comes in pieces, of which holes counts the bytes.
func (c *client) read(flags uint16, off uint64, n int) (data []byte, holes int, e errno) {
	c.t.Helper()
	cookie := c.send(flags, cmdRead, off, uint32(n))
	if !c.structured {
		p := c.part(n)
		return p.data, 0, p.err
	}
	data = make([]byte, n)
	seen := make([]bool, n)
	for {
		p := c.part(n)
		if p.cookie != cookie {
			c.t.Fatalf("cookie %d, want %d", p.cookie, cookie)
		}
		length := len(p.data) - 8
		switch p.kind {
		case replyOffsetData:
		case replyOffsetHole:
			length = int(binary.BigEndian.Uint32(p.data[8:]))
			holes += length
		case replyError:
			if !p.last {
				c.t.Error("an error that is not the end")
			}
			return nil, holes, p.err
		default:
			c.t.Fatalf("chunk %+v", p)
		}
		at := int(binary.BigEndian.Uint64(p.data) - off)
		if at < 0 || length <= 0 || at+length > n {
			c.t.Fatalf("a chunk of %d bytes at %d of a read of %d", length, at, n)
		}
		for i := at; i < at+length; i++ {
			if seen[i] {
				c.t.Fatalf("byte %d is sent twice", i)
			}
			seen[i] = true
		}
		if p.kind == replyOffsetData {
			copy(data[at:], p.data[8:])
		}
		if p.last {
			break
		}
		if flags&cmdFlagDF != 0 {
			c.t.Error("a reply in several chunks")
		}
	}
	for i, s := range seen {
		if !s {
			c.t.Fatalf("byte %d is missing", i)
		}
	}
	return data, holes, 0
}

// extent is a descriptor of a block status.
type extent struct{ length, state uint32 }

func (c *client) status(flags uint16, off uint64, n uint32) (all []extent, e errno) {
	c.t.Helper()
	cookie := c.send(flags, cmdBlockStatus, off, n)
	p := c.part(0)
	if p.cookie != cookie || !p.last {
		c.t.Fatalf("%+v", p)
	}
	if p.err != 0 {
		return nil, p.err
	}
	if p.kind != replyBlockStatus || binary.BigEndian.Uint32(p.data) != allocationID {
		c.t.Fatalf("%+v", p)
	}
	for b := p.data[4:]; len(b) > 0; b = b[8:] {
		all = append(all, extent{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])})
	}
	return all, 0
}
