package ubdfmt

import "sync"

// syncer lets any number of goroutines ask for a flush and runs one at a time: those
// that ask while one is running share the next.
type syncer struct {
	flush func() error

	mu      sync.Mutex
	cond    *sync.Cond
	running bool
	started uint64 // flushes begun
	done    uint64 // flushes ended
	err     error  // of the last one
}

func newSyncer(flush func() error) *syncer {
	s := &syncer{flush: flush}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// busy says whether a flush is under way.
func (s *syncer) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// sync returns when a flush that began after the call has ended, with its error. It
// may be the error of a still later flush, which spoke for all that was written
// before it too.
func (s *syncer) sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := s.started + 1
	for s.done < want {
		if s.running {
			s.cond.Wait()
			continue
		}
		s.running = true
		s.started++
		s.mu.Unlock()
		err := s.flush()
		s.mu.Lock()
		s.running = false
		s.done++
		s.err = err
		s.cond.Broadcast()
	}
	return s.err
}
