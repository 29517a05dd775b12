package ubd

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ubdfmt"
)

const (
	// logicalBlock is the least that can be read or written, in bytes.
	logicalBlock = ubdfmt.SectorSize
	// pageBytes is the block size that a disk of whole pages starts with.
	pageBytes = 4096
)

// disk is a configured unit.
type disk struct {
	spec Spec
	dev  ubdfmt.Device
	size int64
	// fixed says that the device itself refuses writes.
	fixed bool
	stats stats
	pages pages
	locks vfs.FileLocks

	mu sync.Mutex
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
	d := &disk{spec: s, dev: dev, size: dev.Size(), fixed: s.ReadOnly, readAhead: 256}
	if ro, ok := dev.(interface{ ReadOnly() bool }); ok {
		d.fixed = ro.ReadOnly()
	}
	// The guest counts in sectors: the bytes of a broken one at the end are lost to it.
	d.size &^= logicalBlock - 1
	d.blockSize = logicalBlock
	for d.blockSize < pageBytes && d.size&int64(d.blockSize) == 0 {
		d.blockSize <<= 1
	}
	d.pages.disk = d
	return d
}

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
	return d.fixed || d.readOnly
}

// open counts an open file description. It is exclusive for h, or not when h is nil.
func (d *disk) open(h *holder) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return linuxerr.ENXIO
	}
	if h != nil {
		if d.holder != nil {
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

// retire marks a disk that nobody uses as removed. It says false when somebody does.
func (d *disk) retire() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opens > 0 {
		return false
	}
	d.gone = true
	return true
}

// detach is the end of every open, whoever it was.
func (d *disk) detach() error {
	d.mu.Lock()
	d.opens, d.holder = 0, nil
	d.mu.Unlock()
	return d.pages.drop()
}

// close writes back what is mapped and closes the files.
func (d *disk) close() error {
	d.mu.Lock()
	d.gone = true
	d.mu.Unlock()
	err := d.pages.drop()
	if closeErr := d.dev.Close(); err == nil {
		err = closeErr
	}
	return err
}

// sync makes all that was written stable.
func (d *disk) sync() error {
	if err := d.pages.flush(0, d.size); err != nil {
		return err
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
