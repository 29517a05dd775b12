package main

import (
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows on a terminal how far a long work is. Off a terminal it is silent, and so
// is a work that is done before someone would look.
type progress struct {
	w     io.Writer // nil: silent
	start time.Time

	mu    sync.Mutex
	bar   *progressbar.ProgressBar
	total int64
}

// patience is how long nothing is shown.
const patience = 500 * time.Millisecond

func newProgress(w io.Writer) *progress {
	p := &progress{start: time.Now()}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

// tell takes the bytes done and those to do, 0 where they are not known.
func (p *progress) tell(done, total int64) {
	if p.w == nil || time.Since(p.start) < patience {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil || p.total != total {
		p.end()
		p.total = total
		max := total
		if max == 0 {
			max = -1
		}
		p.bar = progressbar.NewOptions64(max,
			progressbar.OptionSetWriter(p.w),
			progressbar.OptionShowBytes(true),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(100*time.Millisecond))
	}
	// A bar that cannot be drawn is no reason to stop the work.
	_ = p.bar.Set64(done)
}

// finish takes the bar away.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

// end clears a bar; one without an end draws itself until it is finished.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
