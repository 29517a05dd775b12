package compression

import (
	"context"
	"io"
	"sync"
)

// Ahead reads from r in a goroutine of its own, some buffers ahead of who reads it, so
// that unpacking and writing go on at the same time. When the context ends, Read fails.
// Close ends reading; it waits for a Read of r that is under way, so r may be used again, unless the
// context has ended: a pipe may never give another byte.
func Ahead(ctx context.Context, r io.Reader) io.ReadCloser {
	const buffers, size = 4, 512 << 10
	a := &ahead{ctx: ctx, full: make(chan chunk, buffers), free: make(chan []byte, buffers), stop: make(chan struct{})}
	for range buffers {
		a.free <- make([]byte, size)
	}
	a.done.Go(func() { a.run(r) })
	return a
}

type chunk struct {
	data []byte
	err  error
}

type ahead struct {
	ctx  context.Context
	full chan chunk
	free chan []byte
	stop chan struct{}
	done sync.WaitGroup

	now  chunk
	rest []byte
	once sync.Once
}

func (a *ahead) run(r io.Reader) {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return
		}
		n := 0
		var err error
		for n < len(buf) && err == nil {
			var got int
			got, err = r.Read(buf[n:])
			n += got
		}
		select {
		case a.full <- chunk{buf[:n], err}:
		case <-a.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.data != nil {
			a.free <- a.now.data[:cap(a.now.data)]
		}
		select {
		case next, ok := <-a.full:
			if !ok {
				return 0, io.ErrClosedPipe
			}
			a.now, a.rest = next, next.data
		case <-a.ctx.Done():
			return 0, a.ctx.Err()
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	if a.ctx.Err() == nil {
		a.done.Wait()
	}
	return nil
}
