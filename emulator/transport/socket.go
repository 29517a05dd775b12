package transport

import (
	"errors"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// header is what stands before each frame of a transport.
type header interface {
	// size is how long it is when it is sent, room how long what stands before a received
	// frame is, in bytes.
	size() int
	room() int
	// put writes the header of a frame; the frames of a device are put one after another.
	put(b []byte, o *netdev.Offload)
	// take reads what stands before a received frame: room bytes, or less of a datagram
	// that is shorter. It says false of one that is not ours.
	take(b []byte) (netdev.Offload, bool)
}

// plain is no header.
type plain struct{}

func (plain) size() int                          { return 0 }
func (plain) room() int                          { return 0 }
func (plain) put([]byte, *netdev.Offload)        {}
func (plain) take([]byte) (netdev.Offload, bool) { return netdev.Offload{}, true }

// vnet is a virtio_net_hdr, which taps and packet sockets have before frames.
type vnet struct{}

func (vnet) size() int                       { return netdev.VnetSize }
func (vnet) room() int                       { return netdev.VnetSize }
func (vnet) put(b []byte, o *netdev.Offload) { netdev.PutVnet(b, o) }
func (vnet) take(b []byte) (netdev.Offload, bool) {
	if len(b) < netdev.VnetSize {
		return netdev.Offload{}, false
	}
	return netdev.Vnet(b), true
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	length uint32
	_      [4]byte
}

// maxPieces bounds the pieces of a frame that one system call takes apart; what has more is
// put together first.
const maxPieces = 32

// batch is the memory of one direction: what a system call is told.
type batch struct {
	messages []mmsghdr
	vectors  []unix.Iovec
	headers  []byte
	names    []unix.RawSockaddrAny
}

func newBatch(depth, header int, names bool) *batch {
	b := &batch{messages: make([]mmsghdr, depth), headers: make([]byte, depth*header)}
	if names {
		b.names = make([]unix.RawSockaddrAny, depth)
	}
	return b
}

// socket is a device over sockets that keep the boundaries of frames. rx and tx may be one.
type socket struct {
	rx, tx   *handle
	header   header
	depth    int
	offloads netdev.Offloads
	counters netdev.Counters
	// to is where frames go when tx is not connected; from looks at where a datagram came
	// from, when that is asked for.
	to   []byte
	from func(*unix.RawSockaddrAny) bool
	// stream says that an empty datagram is the end, as it is of a seqpacket socket.
	stream bool
	// closing is done with the sockets.
	closing func()

	in *batch // the reader's

	mu    sync.Mutex
	out   *batch
	stuck bool
}

// Wait implements netdev.Device.Wait.
func (s *socket) Wait() error { return s.rx.waitReadable() }

// Offloads implements netdev.Device.Offloads.
func (s *socket) Offloads() netdev.Offloads { return s.offloads }

// Counters implements netdev.Device.Counters.
func (s *socket) Counters() *netdev.Counters { return &s.counters }

// BatchSize implements netdev.Device.BatchSize.
func (s *socket) BatchSize() int { return s.depth }

// Close implements netdev.Device.Close.
func (s *socket) Close() error {
	err := s.rx.close()
	if s.tx != s.rx {
		err = s.tx.close()
	}
	if s.closing != nil {
		s.closing()
	}
	return err
}

// Read implements netdev.Device.Read.
func (s *socket) Read(frames []netdev.Frame) (int, error) {
	frames = frames[:min(len(frames), s.depth)]
	room := s.header.room()
	if s.in == nil {
		s.in = newBatch(s.depth, room, s.from != nil)
	}
	b := s.in
	b.vectors = b.vectors[:0]
	for i := range frames {
		for range len(frames[i].Pieces) + 1 {
			b.vectors = append(b.vectors, unix.Iovec{})
		}
	}
	at := 0
	for i := range frames {
		first := at
		if room > 0 {
			b.vectors[at] = vector(b.headers[i*room : (i+1)*room])
			at++
		}
		for _, p := range frames[i].Pieces {
			b.vectors[at] = vector(p)
			at++
		}
		m := &b.messages[i]
		*m = mmsghdr{}
		m.Iov = &b.vectors[first]
		m.SetIovlen(at - first)
		if b.names != nil {
			m.Name = (*byte)(unsafe.Pointer(&b.names[i]))
			m.Namelen = uint32(unsafe.Sizeof(b.names[i]))
		}
	}
	n, err := s.rx.try(func(fd int) (int, unix.Errno) {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[0])), uintptr(len(frames)), unix.MSG_DONTWAIT, 0, 0)
		return int(n), errno
	})
	if err != nil || n <= 0 {
		return 0, err
	}
	kept := 0
	for i := range n {
		m := &b.messages[i]
		length := int(m.length)
		if length == 0 && s.stream {
			if kept > 0 {
				break // the next call sees the end again
			}
			return 0, io.EOF
		}
		if m.Flags&unix.MSG_TRUNC != 0 {
			s.counters.ReceiveDropped.Add(1)
			continue
		}
		head := b.headers[i*room : i*room+min(room, length)]
		o, ok := s.header.take(head)
		if !ok || length < room || b.names != nil && !s.from(&b.names[i]) {
			s.counters.ReceiveErrors.Add(1)
			continue
		}
		frames[i].Offload, frames[i].Size = o, length-room
		if kept != i {
			frames[kept], frames[i] = frames[i], frames[kept]
		}
		kept++
	}
	return kept, nil
}

// vector is an iovec over b.
func vector(b []byte) (v unix.Iovec) {
	if len(b) > 0 {
		v.Base = &b[0]
		v.SetLen(len(b))
	}
	return v
}

// gather appends the iovecs of a frame behind its header.
func (b *batch) gather(head []byte, pieces [][]byte) {
	if len(head) > 0 {
		b.vectors = append(b.vectors, vector(head))
	}
	if len(pieces) > maxPieces {
		var whole []byte
		for _, p := range pieces {
			whole = append(whole, p...)
		}
		b.vectors = append(b.vectors, vector(whole))
		return
	}
	for _, p := range pieces {
		if len(p) > 0 {
			b.vectors = append(b.vectors, vector(p))
		}
	}
}

// Write implements netdev.Device.Write.
func (s *socket) Write(frames []netdev.Frame) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := s.header.size()
	if s.out == nil {
		s.out = newBatch(s.depth, size, false)
	}
	sent := 0
	for rest := frames; len(rest) > 0; {
		part := rest[:min(len(rest), s.depth)]
		rest = rest[len(part):]
		n, err := s.send(part, size)
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// send sends at most depth frames.
func (s *socket) send(frames []netdev.Frame, size int) (int, error) {
	b := s.out
	b.vectors = b.vectors[:0]
	ends := make([]int, 0, 64)
	for i := range frames {
		head := b.headers[i*size : (i+1)*size]
		s.header.put(head, &frames[i].Offload)
		b.gather(head, frames[i].Pieces)
		ends = append(ends, len(b.vectors))
	}
	first := 0
	for i, end := range ends {
		m := &b.messages[i]
		*m = mmsghdr{}
		if end > first {
			m.Iov = &b.vectors[first]
			m.SetIovlen(end - first)
		}
		if s.to != nil {
			m.Name = &s.to[0]
			m.Namelen = uint32(len(s.to))
		}
		first = end
	}
	done, sent := 0, 0
	for waited := s.stuck; done < len(frames); {
		n, err := s.tx.try(func(fd int) (int, unix.Errno) {
			n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[done])), uintptr(len(frames)-done), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
			return int(n), errno
		})
		switch {
		case errors.Is(err, os.ErrClosed):
			return sent, err
		case err == unix.ENOBUFS:
			// The host's queue of the interface is full: as if the wire lost it.
			s.counters.SendDropped.Add(1)
			done++
		case err != nil:
			// This frame; the next may fare better. An error of an earlier one that
			// came back from the network (ECONNREFUSED) is told once and costs one.
			s.counters.SendErrors.Add(1)
			done++
		case n > 0:
			done, sent, s.stuck, waited = done+n, sent+n, false, false
		case waited || !s.tx.waitWritable(patience):
			s.stuck = true
			s.counters.SendDropped.Add(uint64(len(frames) - done))
			return sent, nil
		default:
			waited = true
		}
	}
	return sent, nil
}
