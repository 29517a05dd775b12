// Package nic is a guest's network interface over a packet device: the Sentry's
// stack.LinkEndpoint, written once for all transports.
//
// A Port holds the device and reads it for as long as the unit is configured; an Endpoint
// is its interface in the stack of one boot. Frames that nobody takes are dropped, as on a
// wire whose other end is not plugged in.
package nic

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// Options say what a port is like.
type Options struct {
	// Name is that of the interface, for messages and at first for the guest.
	Name string
	// MAC is its address at first, MTU its MTU at first, in bytes.
	MAC tcpip.LinkAddress
	MTU uint32
	// Headroom is what is kept free before a packet, in bytes.
	Headroom uint16
	// Segments is whether frames longer than the MTU are expected.
	Segments bool
	// Open opens the device.
	Open func() (netdev.Device, error)
	// Logf is the kernel log.
	Logf func(format string, args ...any)
}

// Port is a device with what reads it. Its methods may be called by any number of
// goroutines at once.
type Port struct {
	Options

	// device is what is open now.
	device atomic.Pointer[opened]
	// current is the interface of the boot that runs.
	current  atomic.Pointer[Endpoint]
	counters Counters
	// past are the counters of devices that were open before.
	past netdev.Counters

	adding sync.Mutex

	mu     sync.Mutex
	closed bool
	reader sync.WaitGroup
	// warned is when a frame was last complained of.
	warned atomic.Int64
}

// opened is a device and what it leaves undone.
type opened struct {
	netdev.Device
	offloads netdev.Offloads
}

// Counters count frames that did not get through, and those that were not for us.
type Counters struct {
	// Long are frames longer than the MTU that were not agreed on, BadChecksum and
	// Malformed what they say, Foreign those to another's address.
	Long, BadChecksum, Malformed, Foreign atomic.Uint64
	// Unplugged are frames that could not be sent for want of a device.
	Unplugged atomic.Uint64
}

// New makes a port. It is not connected yet.
func New(o Options) *Port { return &Port{Options: o} }

// Connect opens the device, if it is not open. What a device lacks may come later, so that
// an interface that is brought up asks again.
func (p *Port) Connect() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	if p.device.Load() != nil {
		return nil
	}
	d, err := p.Open()
	if err != nil {
		return err
	}
	o := &opened{d, d.Offloads()}
	p.device.Store(o)
	p.reader.Add(1)
	go p.read(o)
	return nil
}

// Connected says whether there is a device.
func (p *Port) Connected() bool { return p.device.Load() != nil }

// Attached says whether a kernel has an interface of the port.
func (p *Port) Attached() bool { return p.current.Load() != nil }

// Device is the open device, nil without one.
func (p *Port) Device() netdev.Device {
	if o := p.device.Load(); o != nil {
		return o.Device
	}
	return nil
}

// Close gives the device up for good.
func (p *Port) Close() error {
	p.mu.Lock()
	p.closed = true
	o := p.device.Swap(nil)
	p.mu.Unlock()
	var err error
	if o != nil {
		err = o.Close()
	}
	p.reader.Wait()
	return err
}

// lost is when a device is gone by itself.
func (p *Port) lost(o *opened) {
	p.mu.Lock()
	mine := p.device.CompareAndSwap(o, nil)
	p.mu.Unlock()
	if mine {
		c := o.Counters()
		p.past.ReceiveErrors.Add(c.ReceiveErrors.Load())
		p.past.ReceiveDropped.Add(c.ReceiveDropped.Load())
		p.past.SendErrors.Add(c.SendErrors.Load())
		p.past.SendDropped.Add(c.SendDropped.Load())
		p.Logf("%s: the other side is gone; it is looked for when the interface is brought up", p.Name)
		_ = o.Close()
	}
}

// The shortest and longest pauses after an error of the host's that may pass, as while an
// interface is down.
const (
	firstPause = time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// manyIdle is how often a device may say that it has something and have nothing.
const manyIdle = 1000

// read reads a device until it is closed. Room for frames is taken only while there are
// some: thousands of idle devices hold none.
func (p *Port) read(o *opened) {
	defer p.reader.Done()
	pause, idle := firstPause, 0
	for {
		n, err := 0, o.Wait()
		if err == nil {
			n, err = p.drain(o)
		}
		switch {
		case err == nil && n == 0 && idle == manyIdle:
			// The host says that there is something, and never gives it.
			time.Sleep(firstPause)
		case err == nil:
			pause = firstPause
			if idle++; n > 0 {
				idle = 0
			}
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, io.EOF):
			p.lost(o)
			return
		default:
			time.Sleep(pause)
			pause = min(2*pause, lastPause)
		}
	}
}

// drain delivers frames until there are no more, and says how many there were.
func (p *Port) drain(o *opened) (total int, err error) {
	size := o.BatchSize()
	r := takeRoom(size)
	defer r.give()
	for {
		e := p.current.Load()
		long := p.Segments || e != nil && e.MTU() > shortFrame-headers
		frames := r.frames(size, long)
		n, err := o.Read(frames)
		for i := range n {
			p.deliver(e, o, r, i)
		}
		if total += n; err != nil || n < size {
			return total, err
		}
	}
}

// complain logs, at most once in five seconds for a port.
func (p *Port) complain(format string, args ...any) {
	const seldom = 5 * time.Second
	now := time.Now().UnixNano()
	last := p.warned.Load()
	if last != 0 && now-last < int64(seldom) || !p.warned.CompareAndSwap(last, now) {
		return
	}
	p.Logf(p.Name+": "+format, args...)
}
