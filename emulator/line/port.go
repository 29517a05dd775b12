package line

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxClients is how many clients of a port wait for a line that has not been opened. Who
// comes later is sent away.
const maxClients = 16

// acceptPause is how long nobody is let in after a failure.
const acceptPause = 100 * time.Millisecond

// ports are the TCP ports of a Host by address.
type ports struct {
	mu    sync.Mutex
	ports map[netip.AddrPort]*port
}

// port is a port that is listened on. Each client gets the line that has waited for the
// longest time.
type port struct {
	listener *net.TCPListener

	// refs is guarded by the ports' mu.
	refs int

	mu sync.Mutex
	// lines wait for a client and clients for a line: one of the two is empty.
	lines   []chan *net.TCPConn
	clients []*net.TCPConn
	over    bool
}

// Hold listens on the ports that a pair names, until release is called: before a line is
// opened, so that clients find it there, and so that a port that others use is known at
// once.
func (h *Host) Hold(p Pair) (release func(), err error) {
	var held []func()
	release = sync.OnceFunc(func() {
		for _, r := range held {
			r()
		}
	})
	for _, end := range []End{p.In, p.Out} {
		if end.Kind != Port {
			continue
		}
		_, r, err := h.ports.hold(end)
		if err != nil {
			release()
			return nil, fmt.Errorf("channel %s: %w", p, err)
		}
		held = append(held, r)
	}
	return release, nil
}

// hold finds or makes the port of an end.
func (ps *ports) hold(end End) (*port, func(), error) {
	address := end.Address
	if address == "" {
		address = "127.0.0.1"
	}
	key, err := netip.ParseAddrPort(net.JoinHostPort(address, strconv.Itoa(end.Number)))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", end, err)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.ports[key]
	if p == nil {
		listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(key))
		if err != nil {
			return nil, nil, err
		}
		p = &port{listener: listener}
		if ps.ports == nil {
			ps.ports = make(map[netip.AddrPort]*port)
		}
		ps.ports[key] = p
		go p.serve()
	}
	p.refs++
	return p, sync.OnceFunc(func() {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if p.refs--; p.refs == 0 {
			delete(ps.ports, key)
			p.close()
		}
	}), nil
}

// serve hands out clients until close.
func (p *port) serve() {
	for {
		conn, err := p.listener.AcceptTCP()
		if err != nil {
			if p.ended() {
				return
			}
			// A client that gave up, or too many open files: the next may do better.
			time.Sleep(acceptPause)
			continue
		}
		p.came(conn)
	}
}

func (p *port) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// came gives a client to a line, or has it wait for one.
func (p *port) came(conn *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lines) > 0 && !p.over {
		p.lines[0] <- conn
		p.lines = p.lines[1:]
		return
	}
	p.forget()
	if p.over || len(p.clients) >= maxClients {
		conn.Close()
		return
	}
	p.clients = append(p.clients, conn)
}

// forget drops waiting clients that have left.
//
// Precondition: p.mu is held.
func (p *port) forget() {
	kept := p.clients[:0]
	for _, conn := range p.clients {
		if left(conn) {
			conn.Close()
		} else {
			kept = append(kept, conn)
		}
	}
	clear(p.clients[len(kept):])
	p.clients = kept
}

// left says that a client closed its side and sent nothing before that.
func left(conn *net.TCPConn) bool {
	gone := true
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = err == nil && n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return gone
}

// next waits for a client.
func (p *port) next(cancel <-chan struct{}) (*net.TCPConn, error) {
	p.mu.Lock()
	p.forget()
	if len(p.clients) > 0 {
		conn := p.clients[0]
		p.clients = p.clients[1:]
		p.mu.Unlock()
		return conn, nil
	}
	mine := make(chan *net.TCPConn, 1)
	p.lines = append(p.lines, mine)
	p.mu.Unlock()
	select {
	case conn := <-mine:
		return conn, nil
	case <-cancel:
	}
	p.mu.Lock()
	for i, line := range p.lines {
		if line == mine {
			p.lines = append(p.lines[:i], p.lines[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	select {
	case conn := <-mine:
		// It came at the same moment, and is the next line's.
		p.came(conn)
	default:
	}
	return nil, ErrClosed
}

func (p *port) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.listener.Close()
	for _, conn := range p.clients {
		conn.Close()
	}
	p.clients = nil
}

// openPort waits for a client and begins to speak telnet with it.
func (h *Host) openPort(end End, o *Options) (*link, error) {
	p, release, err := h.ports.hold(end)
	if err != nil {
		return nil, err
	}
	conn, err := p.next(o.Cancel)
	if err != nil {
		release()
		return nil, err
	}
	// Other channels are polled by their descriptors, and so is this one.
	fd := -1
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(c uintptr) { fd, err = unix.FcntlInt(c, unix.F_DUPFD_CLOEXEC, 3) })
	}
	conn.Close()
	if err == nil && fd >= 0 {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil || fd < 0 {
		release()
		return nil, fmt.Errorf("take over a client of %s: %w", end, err)
	}
	return &link{fd: fd, own: true, telnet: newTelnet(o.resized, o.pressed), close: func() {
		// What the client sent and nobody read would have the host drop our last words.
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		var rest [4096]byte
		for range 16 {
			if n, err := unix.Read(fd, rest[:]); err != nil || n <= 0 {
				break
			}
		}
		unix.Close(fd)
		release()
	}}, nil
}
