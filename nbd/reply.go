package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// maxHead is the longest head of a reply: that of a hole in a structured one.
const maxHead = 32

// reply is a message to the client: a simple reply, or a chunk of a structured one.
type reply struct {
	head   [maxHead]byte
	length int // of head
	body   []byte
	stream func(io.Writer) error // sends the rest of a body that is not in memory as a whole

	buf  *buffer // what body lies in; it is given back once it is sent
	last bool    // the request is done with it
}

// simpleReply is the head of a simple reply (section "Simple reply message").
func simpleReply(cookie uint64, e errno) reply {
	r := reply{length: 16, last: true}
	binary.BigEndian.PutUint32(r.head[0:], simpleReplyMagic)
	binary.BigEndian.PutUint32(r.head[4:], uint32(e))
	binary.BigEndian.PutUint64(r.head[8:], cookie)
	return r
}

// chunk is a chunk of a structured reply (section "Structured reply chunk message"), with
// the fields that begin its payload and as many bytes in body as more is said to follow.
func chunk(cookie uint64, kind uint16, last bool, fields []byte, more int) reply {
	r := reply{length: 20 + len(fields), last: last}
	binary.BigEndian.PutUint32(r.head[0:], structuredReplyMagic)
	if last {
		binary.BigEndian.PutUint16(r.head[4:], replyFlagDone)
	}
	binary.BigEndian.PutUint16(r.head[6:], kind)
	binary.BigEndian.PutUint64(r.head[8:], cookie)
	binary.BigEndian.PutUint32(r.head[16:], uint32(len(fields)+more))
	copy(r.head[20:], fields)
	return r
}

// dataChunk is a part of what was read.
func dataChunk(cookie uint64, off int64, body []byte, buf *buffer, last bool) reply {
	var f [8]byte
	binary.BigEndian.PutUint64(f[:], uint64(off))
	r := chunk(cookie, replyOffsetData, last, f[:], len(body))
	r.body, r.buf = body, buf
	return r
}

// holeChunk is a part of what was read that is zeros.
func holeChunk(cookie uint64, off, n int64, last bool) reply {
	var f [12]byte
	binary.BigEndian.PutUint64(f[0:], uint64(off))
	binary.BigEndian.PutUint32(f[8:], uint32(n))
	return chunk(cookie, replyOffsetHole, last, f[:], 0)
}

// errorChunk ends a request that failed.
func errorChunk(cookie uint64, e errno) reply {
	text := e.text()
	var f [6]byte
	binary.BigEndian.PutUint32(f[0:], uint32(e))
	binary.BigEndian.PutUint16(f[4:], uint16(len(text)))
	r := chunk(cookie, replyError, true, f[:], len(text))
	r.body = []byte(text)
	return r
}

// replies sends what is ready. Whoever has a reply while nobody sends becomes the sender
// and sends on for as long as there is more; the others leave theirs to it. What piles up
// meanwhile goes out in one system call.
type replies struct {
	to   net.Conn
	sent func(*reply) // frees what a reply holds, also when it could not be sent

	mu          sync.Mutex
	sending     bool
	queue, idle []reply
	vector      net.Buffers // of the sender
	err         error
}

// send sends a reply, now or when the sender comes to it.
func (w *replies) send(r reply) {
	w.mu.Lock()
	w.queue = append(w.queue, r)
	if w.sending {
		w.mu.Unlock()
		return
	}
	w.sending = true
	for len(w.queue) > 0 {
		batch, failed := w.queue, w.err != nil
		w.queue = w.idle[:0]
		w.mu.Unlock()
		var err error
		if !failed {
			if err = w.write(batch); err != nil {
				w.to.Close() // who reads requests is to stop, too
			}
		}
		for i := range batch {
			w.sent(&batch[i])
		}
		clear(batch)
		w.mu.Lock()
		w.idle = batch
		if err != nil {
			w.err = err
		}
	}
	w.sending = false
	w.mu.Unlock()
}

// failed is the error that ended all sending.
func (w *replies) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *replies) write(batch []reply) error {
	vector := w.vector[:0]
	for i := range batch {
		r := &batch[i]
		vector = append(vector, r.head[:r.length])
		if len(r.body) > 0 {
			vector = append(vector, r.body)
		}
		if r.stream == nil {
			continue
		}
		if err := w.writev(vector); err != nil {
			return err
		}
		if err := r.stream(w.to); err != nil {
			return err
		}
		vector = vector[:0]
	}
	w.vector = vector
	return w.writev(vector)
}

// writev sends a vector and leaves it without references.
func (w *replies) writev(vector net.Buffers) error {
	rest := vector // which is eaten up
	_, err := rest.WriteTo(w.to)
	clear(vector)
	return err
}
