package netdev

import (
	"os"
	"sync"
)

// Fake is a device for tests, with two queues in place of a wire.
type Fake struct {
	batch    int
	offloads Offloads
	counters Counters

	mu     sync.Mutex
	more   *sync.Cond
	in     []Sent
	out    []Sent
	closed bool
}

// Sent is a frame as it was sent, its bytes together.
type Sent struct {
	Offload
	Data []byte
}

// NewFake makes a device that gives and takes batch frames at once.
func NewFake(batch int, offloads Offloads) *Fake {
	f := &Fake{batch: batch, offloads: offloads}
	f.more = sync.NewCond(&f.mu)
	return f
}

// Receive has the device receive a frame.
func (f *Fake) Receive(s Sent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.in = append(f.in, s)
	f.more.Broadcast()
}

// Take waits for a frame that was written and takes it; false when the device is closed.
func (f *Fake) Take() (Sent, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.out) == 0 && !f.closed {
		f.more.Wait()
	}
	if len(f.out) == 0 {
		return Sent{}, false
	}
	s := f.out[0]
	f.out = f.out[1:]
	return s, true
}

// Read implements Device.Read.
func (f *Fake) Read(frames []Frame) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, os.ErrClosed
	}
	n := 0
	for n < min(len(frames), f.batch) && len(f.in) > 0 {
		s := f.in[0]
		f.in = f.in[1:]
		frame := &frames[n]
		rest := s.Data
		for _, p := range frame.Pieces {
			rest = rest[copy(p, rest):]
		}
		if len(rest) > 0 {
			f.counters.ReceiveDropped.Add(1)
			continue
		}
		frame.Offload, frame.Size = s.Offload, len(s.Data)
		n++
	}
	return n, nil
}

// Wait implements Device.Wait.
func (f *Fake) Wait() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.in) == 0 && !f.closed {
		f.more.Wait()
	}
	if f.closed {
		return os.ErrClosed
	}
	return nil
}

// Write implements Device.Write.
func (f *Fake) Write(frames []Frame) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, os.ErrClosed
	}
	for i := range frames {
		s := Sent{Offload: frames[i].Offload}
		for _, p := range frames[i].Pieces {
			s.Data = append(s.Data, p...)
		}
		f.out = append(f.out, s)
	}
	f.more.Broadcast()
	return len(frames), nil
}

// BatchSize implements Device.BatchSize.
func (f *Fake) BatchSize() int { return f.batch }

// Offloads implements Device.Offloads.
func (f *Fake) Offloads() Offloads { return f.offloads }

// Counters implements Device.Counters.
func (f *Fake) Counters() *Counters { return &f.counters }

// Close implements Device.Close.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.more.Broadcast()
	return nil
}
