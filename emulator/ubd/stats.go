package ubd

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/umlkit/umlkit/partition"
)

// stats are the counters of /proc/diskstats.
type stats struct {
	reads, writes, trims, flushes counter
}

// counter counts the requests of one kind.
type counter struct {
	requests, sectors, nanoseconds atomic.Int64
}

// done counts a request of n bytes that began at start.
func (c *counter) done(n int64, start time.Time) {
	c.requests.Add(1)
	c.sectors.Add((n + logicalBlock - 1) / logicalBlock)
	c.nanoseconds.Add(int64(time.Since(start)))
}

func (c *counter) milliseconds() int64 { return c.nanoseconds.Load() / int64(time.Millisecond) }

// Partitions is the text of /proc/partitions.
func (d *Disks) Partitions() []byte {
	out := []byte("major minor  #blocks  name\n\n")
	for _, disk := range d.everything() {
		out = fmt.Appendf(out, "%4d  %7d %10d %s\n", Major, disk.minor, disk.size()/1024, disk.name)
	}
	return out
}

// Diskstats is the text of /proc/diskstats. Requests are never merged here, and one is
// counted when it is done, so none is ever under way.
func (d *Disks) Diskstats() []byte {
	var out []byte
	for _, disk := range d.everything() {
		out = fmt.Appendf(out, "%4d %7d %s %s\n", Major, disk.minor, disk.name, disk.stats.fields())
	}
	return out
}

// Requests is how many requests all disks have done.
func (d *Disks) Requests() int64 {
	var n int64
	for _, disk := range d.all() {
		if disk == nil {
			continue
		}
		for _, c := range []*counter{&disk.stats.reads, &disk.stats.writes, &disk.stats.trims, &disk.stats.flushes} {
			n += c.requests.Load()
		}
	}
	return n
}

// fields are the counters of one disk, as /proc/diskstats and /sys/block/*/stat have them.
func (s *stats) fields() string {
	busy := s.reads.milliseconds() + s.writes.milliseconds() + s.trims.milliseconds() + s.flushes.milliseconds()
	return fmt.Sprintf("%d 0 %d %d %d 0 %d %d 0 %d %d %d 0 %d %d %d %d",
		s.reads.requests.Load(), s.reads.sectors.Load(), s.reads.milliseconds(),
		s.writes.requests.Load(), s.writes.sectors.Load(), s.writes.milliseconds(),
		busy, busy,
		s.trims.requests.Load(), s.trims.sectors.Load(), s.trims.milliseconds(),
		s.flushes.requests.Load(), s.flushes.milliseconds())
}

// Info is what /sys/block shows of a disk or a partition.
type Info struct {
	// Name is "ubda".
	Name string
	// Major and Minor are the device's numbers.
	Major, Minor uint32
	// Size is in bytes.
	Size int64
	// ReadOnly says that writes are refused, Trim that trims are taken.
	ReadOnly, Trim bool
	// Serial is the serial number that the disk was given, or "".
	Serial string
	// Stat is the line of /sys/block/NAME/stat.
	Stat string
	// Partition is a partition's entry in the table; a disk's has the number 0.
	Partition partition.Partition
}

// List tells about all disks that are configured, and behind each about its partitions.
func (d *Disks) List() []Info {
	var list []Info
	for _, disk := range d.everything() {
		list = append(list, Info{
			Name:      disk.name,
			Major:     Major,
			Minor:     disk.minor,
			Size:      disk.size(),
			ReadOnly:  disk.isReadOnly(),
			Trim:      !disk.spec.NoTrim,
			Serial:    disk.spec.Serial,
			Stat:      disk.stats.fields(),
			Partition: disk.part,
		})
	}
	return list
}

// everything is all disks, and behind each its partitions.
func (d *Disks) everything() []*disk {
	var list []*disk
	for _, disk := range d.all() {
		if disk != nil {
			family := disk.family()
			list = append(append(list, disk), family[:len(family)-1]...)
		}
	}
	return list
}

// all is a copy of the table of units.
func (d *Disks) all() [Units]*disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.units
}

// Traffic is how many bytes were read from all disks and written to them, those that were
// removed among them.
func (d *Disks) Traffic() (read, written int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	read, written = d.goneRead, d.goneWritten
	for _, disk := range d.units {
		if disk != nil {
			read += disk.stats.reads.sectors.Load()
			written += disk.stats.writes.sectors.Load()
		}
	}
	return read * logicalBlock, written * logicalBlock
}
