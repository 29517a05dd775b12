package nbd

import (
	"sync"
	"sync/atomic"
)

// Data is moved in pieces, whatever the length of a request: memory is bounded, and a
// piece is still in the processor's cache when it is sent on.
const (
	pieceSize = 256 << 10
	smallSize = 16 << 10

	// connMemory is the most that the buffers of one connection take, in bytes. With
	// more, clients that ask for much at once are served slower: what was read for them
	// is out of the processor's cache before it is sent. serverMemory is the most that
	// the buffers of all connections take, but for the one that each is always given.
	connMemory   = 2 << 20
	serverMemory = 256 << 20
)

// store is the memory that the connections of a server share.
type store struct {
	held          atomic.Int64 // bytes
	small, pieces sync.Pool    // of *buffer
}

// buffer is memory for a piece.
type buffer struct {
	b []byte // of smallSize or pieceSize
}

func (s *store) get(size int) *buffer {
	pool := &s.pieces
	if size == smallSize {
		pool = &s.small
	}
	if b, ok := pool.Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, size)}
}

func (s *store) put(b *buffer) {
	if len(b.b) == smallSize {
		s.small.Put(b)
	} else {
		s.pieces.Put(b)
	}
}

// memory is what one connection holds. A connection that holds nothing is given a buffer
// in any case, and so every one goes on, if only piece by piece, whatever the others keep
// for themselves by not reading their replies.
type memory struct {
	store *store

	mu   sync.Mutex
	cond sync.Cond
	held int // bytes
}

func (m *memory) init(s *store) {
	m.store = s
	m.cond.L = &m.mu
}

// get is a buffer for n bytes, at most pieceSize. It waits for others of the connection to
// be put back where there is no room.
func (m *memory) get(n int) *buffer {
	size := pieceSize
	if n <= smallSize {
		size = smallSize
	}
	m.mu.Lock()
	for m.held > 0 && (m.held+size > connMemory || m.store.held.Load()+int64(size) > serverMemory) {
		m.cond.Wait()
	}
	m.held += size
	m.mu.Unlock()
	m.store.held.Add(int64(size))
	return m.store.get(size)
}

// put gives a buffer back.
func (m *memory) put(b *buffer) {
	m.mu.Lock()
	m.held -= len(b.b)
	m.mu.Unlock()
	m.cond.Signal()
	m.store.held.Add(-int64(len(b.b)))
	m.store.put(b)
}
