package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Serve serves the clients of a listener until ctx ends. It stops to accept and to read
// then, finishes and answers the requests that run, closes all connections and returns
// nil. It returns an error when the listener fails. The listener is closed in any case.
//
// Nothing is made stable that no client asked for: that is for the owner of the Device,
// whose Close does it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	var clients sync.WaitGroup
	var open atomic.Int64
	defer clients.Wait()
	defer stop()
	context.AfterFunc(ctx, func() { l.Close() })
	for id := uint64(1); ; id++ {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case err != nil:
			if !passes(err) {
				return fmt.Errorf("accept: %w", err)
			}
			s.logf("accept: %s", reason(err))
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if open.Add(1) > maxConns {
			open.Add(-1)
			nc.Close()
			s.logf("client %d: refused: there are %d already", id, maxConns)
			continue
		}
		clients.Go(func() {
			defer open.Add(-1)
			s.ServeConn(ctx, id, nc)
		})
	}
}

// passes tells whether a listener that failed may do better before long: the client has
// hung up, or there are no descriptors left.
func passes(err error) bool {
	for _, e := range []error{unix.ECONNABORTED, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EPROTO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// ServeConn serves one client until it hangs up or ctx ends, and closes the connection. It
// is known to the log by its number.
func (s *Server) ServeConn(ctx context.Context, id uint64, nc net.Conn) {
	s.logf("client %d: connected", id)
	if err := s.newConn(id, nc).serve(ctx); err != nil {
		s.logf("client %d: disconnected: %s", id, reason(err))
		return
	}
	s.logf("client %d: disconnected", id)
}
