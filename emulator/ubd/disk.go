package ubd

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

const (
	// logicalBlock is the least that can be read or written, in bytes.
	logicalBlock = ubdfmt.SectorSize
	// pageBytes is the block size that a disk of whole pages starts with.
	pageBytes = 4096
)

// disk is a configured unit, or a partition of one.
type disk struct {
	spec Spec
	// name is "ubda" or "ubda1", minor the device's number.
	name  string
	minor uint32
	dev   ubdfmt.Device
	// bytes is its size, which only a partition changes.
	bytes atomic.Int64
	// fixed says that the device itself refuses writes.
	fixed bool
	stats stats
	pages pages
	locks vfs.FileLocks

	// whole is the disk that a partition lies on, nil for a disk. part is its entry.
	whole *disk
	part  partition.Partition

	// mu is one for a disk and its partitions.
	mu *sync.Mutex
	// parts are a disk's partitions, by their numbers.
	parts [Minors]*disk
	// gone is set when the unit is removed: an open that was under way fails.
	gone bool
	// opens counts open file descriptions, exclusive ones too.
	opens int
	// holder is who has the disk for himself, or nil.
	holder *holder
	// readOnly is what BLKROSET set.
	readOnly bool
	// blockSize is what BLKBSZSET set, in bytes.
	blockSize int
	// readAhead is what BLKRASET set, in sectors. Nothing is read ahead here: the
	// host's page cache does it.
	readAhead uint64
}

// holder is an exclusive holder. Its address is its identity.
type holder struct{ _ byte }

func newDisk(s Spec, dev ubdfmt.Device) *disk {
	d := &disk{spec: s, name: name(s.Unit), minor: uint32(s.Unit * Minors), dev: dev, fixed: s.ReadOnly, mu: new(sync.Mutex)}
	if ro, ok := dev.(interface{ ReadOnly() bool }); ok {
		d.fixed = ro.ReadOnly()
	}
	d.init()
	return d
}

// init fills in what follows from the device.
func (d *disk) init() {
	// The guest counts in sectors: the bytes of a broken one at the end are lost to it.
	d.bytes.Store(d.dev.Size() &^ (logicalBlock - 1))
	d.readAhead = 256
	d.blockSize = logicalBlock
	for d.blockSize < pageBytes && d.size()&int64(d.blockSize) == 0 {
		d.blockSize <<= 1
	}
	d.pages.disk = d
}

// size is in bytes.
func (d *disk) size() int64 { return d.bytes.Load() }

// backing is the path of the backing file, or "".
func (d *disk) backing() string {
	if cow, ok := d.dev.(*ubdfmt.COW); ok {
		return cow.Backing()
	}
	return ""
}

// isReadOnly says that writes are refused.
func (d *disk) isReadOnly() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fixed || d.readOnly || d.whole != nil && d.whole.readOnly
}

// open counts an open file description. It is exclusive for h, or not when h is nil.
func (d *disk) open(h *holder) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return linuxerr.ENXIO
	}
	if h != nil {
		if d.isHeld(nil) {
			return linuxerr.EBUSY
		}
		d.holder = h
	}
	d.opens++
	return nil
}

// shut is the end of what open counted.
func (d *disk) shut(h *holder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opens--
	if h != nil && d.holder == h {
		d.holder = nil
	}
}

// acquire makes h the exclusive holder.
func (d *disk) acquire(h *holder) error { return d.open(h) }

// release is the end of acquire.
func (d *disk) release(h *holder) { d.shut(h) }

// isHeld says that somebody else than h is an exclusive holder: of the disk, of the one
// that it is a partition of, or of one of its partitions.
//
// Precondition: d.mu is held.
func (d *disk) isHeld(h *holder) bool {
	held := func(d *disk) bool { return d != nil && d.holder != nil && d.holder != h }
	if held(d) || held(d.whole) {
		return true
	}
	for _, p := range d.parts {
		if held(p) {
			return true
		}
	}
	return false
}

// retire marks a disk that nobody uses as removed. It says false when somebody does.
func (d *disk) retire() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.each()
	for _, p := range all {
		if p.opens > 0 {
			return false
		}
	}
	for _, p := range all {
		p.gone = true
	}
	return true
}

// each is the partitions of a disk, and then the disk.
//
// Precondition: d.mu is held.
func (d *disk) each() []*disk {
	var all []*disk
	for _, p := range d.parts {
		if p != nil {
			all = append(all, p)
		}
	}
	return append(all, d)
}

// family is each for those who do not hold d.mu.
func (d *disk) family() []*disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.each()
}

// detach is the end of every open, whoever it was.
func (d *disk) detach() error {
	var errs []error
	for _, p := range d.family() {
		d.mu.Lock()
		p.opens, p.holder = 0, nil
		d.mu.Unlock()
		errs = append(errs, p.pages.drop())
	}
	return errors.Join(errs...)
}

// close writes back what is mapped and closes the files.
func (d *disk) close() error {
	var errs []error
	for _, p := range d.family() {
		d.mu.Lock()
		p.gone = true
		d.mu.Unlock()
		errs = append(errs, p.pages.drop())
	}
	return errors.Join(append(errs, d.dev.Close())...)
}

// sync makes all that was written stable, through its partitions too.
func (d *disk) sync() error {
	for _, p := range d.family() {
		if err := p.pages.flush(0, p.size()); err != nil {
			return err
		}
	}
	start := time.Now()
	err := d.dev.Sync()
	d.stats.flushes.done(0, start)
	return err
}

// counted is the device, counting what passes through it.
func (d *disk) counted() ubdfmt.Device { return &countedDevice{Device: d.dev, disk: d} }

// countedDevice is what a filesystem gets of a disk.
type countedDevice struct {
	ubdfmt.Device
	disk *disk
}

// ReadOnly says that writes are refused.
func (c *countedDevice) ReadOnly() bool { return c.disk.isReadOnly() }

// Layered says that a write may move data to another host file, as it does on a COW file.
func (c *countedDevice) Layered() bool {
	if l, ok := c.Device.(interface{ Layered() bool }); ok {
		return l.Layered()
	}
	_, raw := c.Device.(*ubdfmt.Raw)
	return !raw
}

// ReadAt implements ubdfmt.Device.
func (c *countedDevice) ReadAt(p []byte, off int64) (int, error) {
	start := time.Now()
	n, err := c.Device.ReadAt(p, off)
	c.disk.stats.reads.done(int64(n), start)
	return n, err
}

// WriteAt implements ubdfmt.Device.
func (c *countedDevice) WriteAt(p []byte, off int64) (int, error) {
	start := time.Now()
	n, err := c.Device.WriteAt(p, off)
	c.disk.stats.writes.done(int64(n), start)
	return n, err
}

// WriteStable writes and makes that stable, alone where the device can.
func (c *countedDevice) WriteStable(p []byte, off int64) (int, error) {
	s, ok := c.Device.(interface {
		WriteStable([]byte, int64) (int, error)
	})
	if !ok {
		n, err := c.WriteAt(p, off)
		if err == nil {
			err = c.Sync()
		}
		return n, err
	}
	start := time.Now()
	n, err := s.WriteStable(p, off)
	c.disk.stats.writes.done(int64(n), start)
	return n, err
}

// Trim implements ubdfmt.Device.
func (c *countedDevice) Trim(off, n int64) error {
	start := time.Now()
	err := c.Device.Trim(off, n)
	if err == nil {
		c.disk.stats.trims.done(n, start)
	}
	return err
}

// Sync implements ubdfmt.Device.
func (c *countedDevice) Sync() error {
	start := time.Now()
	err := c.Device.Sync()
	c.disk.stats.flushes.done(0, start)
	return err
}

// Close implements ubdfmt.Device. The files belong to the unit and stay open.
func (c *countedDevice) Close() error { return c.Sync() }
