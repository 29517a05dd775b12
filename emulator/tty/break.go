package tty

import (
	"slices"
	"sync"
	"time"
)

// sysrqTime is how long after a break the next key is one of the magic sysrq.
const sysrqTime = 5 * time.Second

// breaks are the breaks on a terminal's line.
type breaks struct {
	mu sync.Mutex
	// ahead is where in the input that is being read there are breaks.
	ahead []int
	// until is how long the next key is one of the magic sysrq; it is zero unless the
	// last thing that came was a break.
	until time.Time
}

// broken is a break that came after so many bytes of the input that is being read.
func (t *terminal) broken(after int) {
	if after > 0 {
		t.breaks.mu.Lock()
		t.breaks.ahead = append(t.breaks.ahead, after)
		t.breaks.mu.Unlock()
		return
	}
	t.breakNow()
}

// breakNow does what a break does. On the terminal that the kernel's messages go to the
// first one announces a key of the magic sysrq, as on Linux's serial consoles; a second
// one is the guest's.
func (t *terminal) breakNow() {
	if t.all.sysrq != nil && t.all.console == t {
		t.breaks.mu.Lock()
		first := t.breaks.until.IsZero()
		t.breaks.until = time.Time{}
		if first {
			t.breaks.until = time.Now().Add(sysrqTime)
		}
		t.breaks.mu.Unlock()
		if first {
			return
		}
	}
	t.discipline.Break()
}

// pieces cuts input at the breaks within it.
func (t *terminal) pieces(b []byte) [][]byte {
	t.breaks.mu.Lock()
	at := t.breaks.ahead
	t.breaks.ahead = nil
	t.breaks.mu.Unlock()
	var pieces [][]byte
	start := 0
	for _, end := range at {
		end = min(end, len(b))
		pieces = append(pieces, b[start:end])
		start = end
	}
	return slices.Clip(append(pieces, b[start:]))
}

// withoutSysrq takes the key off the input that a break announced, if it comes in time,
// and has it done.
func (t *terminal) withoutSysrq(b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	t.breaks.mu.Lock()
	until := t.breaks.until
	t.breaks.until = time.Time{}
	t.breaks.mu.Unlock()
	if until.IsZero() || time.Now().After(until) {
		return b
	}
	// What it does may wait for this line, or end it.
	go t.all.sysrq(b[0])
	return b[1:]
}
