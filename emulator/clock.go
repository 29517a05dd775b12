package emulator

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
	sentrytime "gvisor.dev/gvisor/pkg/sentry/time"
)

// clocks are the host's clocks with a wall clock that the guest can set. It
// implements sentrytime.Clocks.
type clocks struct {
	*sentrytime.CalibratedClocks
	// offset is what the guest's wall clock is ahead of the host's, in nanoseconds.
	offset atomic.Int64
}

// Update implements sentrytime.Clocks.
func (c *clocks) Update(parked bool) sentrytime.UpdateResult {
	r := c.CalibratedClocks.Update(parked)
	r.Realtime.BaseRef += sentrytime.ReferenceNS(c.offset.Load())
	return r
}

// GetTime implements sentrytime.Clocks.
func (c *clocks) GetTime(id sentrytime.ClockID) (int64, error) {
	now, err := c.CalibratedClocks.GetTime(id)
	if id == sentrytime.Realtime {
		now += c.offset.Load()
	}
	return now, err
}

// SetTime implements syscalls.Machine.
func (s *sentry) SetTime(ns int64) {
	now, err := s.clocks.GetTime(sentrytime.Realtime)
	if err != nil {
		return
	}
	s.clocks.offset.Add(ns - now)
	// Programs read the clock from a page that is written once a second; a pause of
	// the keeper ends in writing it.
	keeper := s.k.Timekeeper()
	keeper.Pause()
	keeper.Resume(s.vdsoParams)
}

var _ sentrytime.Clocks = (*clocks)(nil)

// newClocks makes a timekeeper and the clocks it reads.
func (s *sentry) newClocks() *kernel.Timekeeper {
	s.clocks = &clocks{CalibratedClocks: sentrytime.NewCalibratedClocks(false)}
	keeper := kernel.NewTimekeeper()
	keeper.SetClocks(s.clocks, s.vdsoParams)
	return keeper
}
