package nbd

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// A hundred clients are served at once, while as many others break off in every way.
func TestHundredClients(t *testing.T) {
	const size, part = 4 << 20, 32 << 10
	s := serve(t, &Server{Export: Export{Device: image(t, size)}})
	ends := [][]byte{
		nil,
		wire(uint32(requestMagic)),
		wire(uint32(requestMagic), uint16(0), uint16(cmdWrite), uint64(1), uint64(size-part), uint32(part), make([]byte, part-1)),
		wire(uint32(requestMagic), uint16(0), uint16(cmdRead), uint64(1), uint64(0), uint32(size)),
		wire(uint32(requestMagic), uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(1<<32-1)),
		wire(uint32(requestMagic+1), make([]byte, 100)),
		bytes.Repeat(wire(uint32(requestMagic), uint16(0), uint16(cmdRead), uint64(1), uint64(0), uint32(part)), 1000),
	}
	var good []*client
	for range 100 {
		good = append(good, s.start(true))
	}
	var all sync.WaitGroup
	for i, c := range good {
		all.Go(func() {
			off, want := uint64(i)*part, bytes.Repeat([]byte{byte(i + 1)}, part)
			for range 3 {
				if e := c.do(0, cmdWrite, off, part, want); e != 0 {
					t.Errorf("client %d: write: error %d", i, e)
				}
				if data, _, e := c.read(0, off, part); e != 0 || !bytes.Equal(data, want) {
					t.Errorf("client %d: it does not read what it wrote, error %d", i, e)
				}
			}
		})
	}
	for i := range 100 {
		c := s.start(i%2 == 0)
		all.Go(func() {
			_, _ = c.Write(ends[i%len(ends)])
			if i%3 == 0 {
				_ = c.Conn.(*net.UnixConn).CloseWrite()
				_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20))
			}
			c.Close()
		})
	}
	all.Wait()
}

// Where there are as many clients as there may be, the next is turned away, until one
// goes.
func TestTooManyClients(t *testing.T) {
	s := serve(t, &Server{Export: Export{Device: image(t, 1<<20)}})
	var clients []*client
	for range maxConns {
		clients = append(clients, s.dial())
	}
	welcome := func() bool {
		nc, err := net.Dial("unix", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(time.Minute))
		_, err = io.ReadFull(nc, make([]byte, 18))
		return err == nil
	}
	if welcome() {
		t.Errorf("client %d is served", maxConns+1)
	}
	clients[0].Close()
	await(t, "another is served", welcome)
}

// A client that sends requests and reads no replies is held to its share of memory, and
// keeps nobody else from going on, nor the server from ending.
func TestClientsThatDoNotRead(t *testing.T) {
	dev := image(t, 64<<20)
	if _, err := dev.WriteAt(bytes.Repeat([]byte{1}, 8<<20), 0); err != nil {
		t.Fatal(err)
	}
	s := serve(t, &Server{Export: Export{Device: dev}, LingerTime: 100 * time.Millisecond})
	const hogs = 6
	for i := range hogs {
		c := s.start(i%2 == 0)
		_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		// Sooner or later nobody takes them.
		for range 10_000 {
			if _, err := c.Write(wire(uint32(requestMagic), uint16(0), uint16(cmdRead), uint64(1), uint64(0), uint32(8<<20))); err != nil {
				break
			}
		}
	}
	await(t, "the clients have filled something", func() bool { return s.store.held.Load() > 0 })
	if held := s.store.held.Load(); held > hogs*connMemory {
		t.Errorf("%d bytes are held for %d clients", held, hogs)
	}
	c := s.start(true)
	if e := c.do(0, cmdWrite, 9<<20, 3, []byte("abc")); e != 0 {
		t.Errorf("write: error %d", e)
	}
	if data, _, e := c.read(0, 9<<20, 4<<20); e != 0 || string(data[:3]) != "abc" {
		t.Errorf("read: error %d", e)
	}
	s.end()
}

// Memory is given within the limits, but the first of a connection always.
func TestMemory(t *testing.T) {
	var s store
	var hog, other memory
	hog.init(&s)
	other.init(&s)
	var all []*buffer
	for range connMemory / pieceSize {
		all = append(all, hog.get(pieceSize))
	}
	got := make(chan *buffer)
	go func() { got <- hog.get(1) }()
	select {
	case <-got:
		t.Fatal("a connection holds more than its share")
	case <-time.After(50 * time.Millisecond):
	}
	hog.put(all[0])
	hog.put(<-got)

	s.held.Add(serverMemory) // what others hold
	first := other.get(pieceSize)
	go func() { got <- other.get(pieceSize) }()
	select {
	case <-got:
		t.Fatal("all together hold more than there is")
	case <-time.After(50 * time.Millisecond):
	}
	other.put(first)
	other.put(<-got)
	s.held.Add(-serverMemory)
	for _, b := range all[1:] {
		hog.put(b)
	}
	if held := s.held.Load(); held != 0 || hog.held != 0 || other.held != 0 {
		t.Errorf("%d bytes are held: %d and %d", held, hog.held, other.held)
	}
	if small := hog.get(smallSize); len(small.b) != smallSize {
		t.Errorf("a small buffer has %d bytes", len(small.b))
	}
}

// A payload that does not come to its end keeps nobody waiting, and of a piece that is not
// whole nothing is written.
func TestHalfPayload(t *testing.T) {
	dev := &fake{size: 1 << 20}
	s := serve(t, &Server{Export: Export{Device: dev}})
	stuck := s.start(true)
	stuck.put(uint32(requestMagic), uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(pieceSize+2), make([]byte, pieceSize+1))
	c := s.start(true)
	if e := c.do(0, cmdWrite, 512, 512, make([]byte, 512)); e != 0 {
		t.Errorf("write: error %d", e)
	}
	await(t, "the first piece is written", func() bool {
		dev.mu.Lock()
		defer dev.mu.Unlock()
		return len(dev.calls) == 2
	})
	stuck.Close()
	s.end()
	for _, call := range dev.took() {
		if call != "write 512 at 512" && call != "write 262144 at 0" {
			t.Errorf("%s", call)
		}
	}
}

// When the server ends, what runs is done and answered, and what comes later is not.
func TestShutdown(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	dev := &fake{size: 1 << 20, read: func(off int64) error {
		if off == 0 {
			close(begun)
			<-goOn
			return unix.EIO
		}
		return nil
	}}
	s := serve(t, &Server{Export: Export{Device: dev}})
	idle, inHandshake := s.start(true), s.dial()
	c := s.start(true)
	cookie := c.send(0, cmdRead, 0, 4096)
	<-begun
	s.stop()
	await(t, "nobody listens", func() bool {
		nc, err := net.Dial("unix", s.addr)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	idle.hungUp("an idle client")
	inHandshake.hungUp("a client in the handshake")
	select {
	case <-s.done:
		t.Fatal("Serve does not wait for a request")
	case <-time.After(20 * time.Millisecond):
	}
	close(goOn)
	if e := c.done(cookie); e != eio {
		t.Errorf("error %d", e)
	}
	c.hungUp("a client whose request is done")
	s.end()
}

// A listener that fails ends the server and its clients; one that has no descriptors left
// for a while does not.
func TestListenerFails(t *testing.T) {
	s := &Server{Export: Export{Device: image(t, 1<<20)}}
	ours, theirs := net.Pipe()
	l := &failing{conns: make(chan net.Conn, 1), errs: []error{&net.OpError{Op: "accept", Err: unix.EMFILE}, &net.OpError{Op: "accept", Err: unix.EBADF}}}
	l.conns <- ours
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), l) }()
	if _, err := io.ReadAll(theirs); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || err.Error() != "accept: accept: bad file descriptor" {
		t.Errorf("Serve: %v", err)
	}
}

// failing is a listener that gives out errors when its connections are used up.
type failing struct {
	conns chan net.Conn
	errs  []error
}

func (f *failing) Accept() (net.Conn, error) {
	select {
	case nc := <-f.conns:
		return nc, nil
	default:
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

func (f *failing) Close() error   { return nil }
func (f *failing) Addr() net.Addr { return nil }
