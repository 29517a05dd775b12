package ubd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/partition"
)

// extendedBytes is the most of an extended partition that is a device: its own table.
const extendedBytes = 2 * logicalBlock

// newPartition is an entry of a disk's table as a device of its own.
func (d *disk) newPartition(p partition.Partition) *disk {
	size := p.Size
	if p.Extended {
		// As on Linux, which gives it no PARTUUID either.
		size, p.UUID = min(size, extendedBytes), ""
	}
	part := &disk{
		spec:  d.spec,
		name:  fmt.Sprintf("%s%d", d.name, p.Number),
		minor: d.minor + uint32(p.Number),
		dev:   partition.NewSection(d.counted(), p.Start, size),
		fixed: d.fixed,
		whole: d,
		part:  p,
		mu:    d.mu,
	}
	part.init()
	return part
}

// scan makes devices of the partitions of a disk that has none.
func (d *Disks) scan(disk *disk) {
	t, err := partition.Read(disk.dev)
	if err != nil {
		if !errors.Is(err, partition.ErrNone) {
			d.logf("%s: no partitions: %v", disk.name, err)
		}
		return
	}
	if t.Backup {
		d.logf("%s: the GPT at the front is damaged, the one at the end is taken", disk.name)
	}
	names := ""
	for _, p := range t.Partitions {
		if p.Number >= Minors {
			d.logf("%s: partition %d is left out: a disk has no more than %d", disk.name, p.Number, Minors-1)
			continue
		}
		part := disk.newPartition(p)
		disk.mu.Lock()
		disk.parts[p.Number] = part
		disk.mu.Unlock()
		names += " " + part.name
	}
	d.logf(" %s:%s", disk.name, names)
}

// rescan is BLKRRPART: it reads the table again. A disk that someone else has for himself,
// and one of which a partition is open, stays as it is.
func (d *Disks) rescan(disk *disk, h *holder) error {
	if disk.whole != nil {
		return linuxerr.EINVAL
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	disk.mu.Lock()
	if disk.isHeld(h) {
		disk.mu.Unlock()
		return linuxerr.EBUSY
	}
	old := disk.each()
	old = old[:len(old)-1]
	for _, p := range old {
		if p.opens > 0 {
			disk.mu.Unlock()
			return linuxerr.EBUSY
		}
	}
	var gone []Node
	for _, p := range old {
		p.gone = true
		disk.parts[p.part.Number] = nil
		gone = append(gone, p.node())
	}
	disk.mu.Unlock()
	err := disk.pages.flush(0, disk.size())
	for _, p := range old {
		if dropErr := p.pages.drop(); err == nil {
			err = dropErr
		}
	}
	if len(gone) > 0 {
		d.changed(gone, false)
	}
	d.scan(disk)
	if nodes := disk.nodes()[2:]; len(nodes) > 0 {
		d.changed(nodes, true)
	}
	return hostError(err)
}

// The operations of BLKPG, from linux/blkpg.h.
const (
	blkpgAdd    = 1
	blkpgDelete = 2
	blkpgResize = 3
)

// changePartition is BLKPG: a program that changed a table tells of one partition.
func (fd *diskFD) changePartition(ctx context.Context, uio usermem.IO, addr hostarch.Addr) error {
	// struct blkpg_ioctl_arg: op, flags and length, then a pointer to struct
	// blkpg_partition: start and length in bytes, then the number.
	var arg [24]byte
	if _, err := uio.CopyIn(ctx, addr, arg[:], usermem.IOOpts{}); err != nil {
		return err
	}
	var p [20]byte
	if _, err := uio.CopyIn(ctx, hostarch.Addr(binary.NativeEndian.Uint64(arg[16:])), p[:], usermem.IOOpts{}); err != nil {
		return err
	}
	start, length := int64(binary.NativeEndian.Uint64(p[:])), int64(binary.NativeEndian.Uint64(p[8:]))
	number := int(int32(binary.NativeEndian.Uint32(p[16:])))
	whole := fd.disk
	if whole.whole != nil || number <= 0 {
		return linuxerr.EINVAL
	}
	if number >= Minors {
		return linuxerr.ENXIO
	}
	op := binary.NativeEndian.Uint32(arg[:])
	if op != blkpgDelete && (start < 0 || length <= 0 || (start|length)&(logicalBlock-1) != 0 || start > whole.size() || length > whole.size()-start) {
		return linuxerr.EINVAL
	}
	d := fd.disks
	d.mu.Lock()
	defer d.mu.Unlock()
	switch op {
	case blkpgAdd:
		return d.addPartition(whole, partition.Partition{Number: number, Start: start, Size: length})
	case blkpgDelete:
		return d.deletePartition(whole, number)
	case blkpgResize:
		return whole.resizePartition(number, start, length)
	}
	return linuxerr.EINVAL
}

// overlaps says that a partition other than the one with a number has bytes of a range.
//
// Precondition: d.mu is held.
func (d *disk) overlaps(number int, start, length int64) bool {
	for n, p := range d.parts {
		if p != nil && n != number && start < p.part.Start+p.size() && p.part.Start < start+length {
			return true
		}
	}
	return false
}

func (d *Disks) addPartition(whole *disk, p partition.Partition) error {
	// What the table says of it, as far as it agrees.
	if t, err := partition.Read(whole.dev); err == nil {
		if q, err := t.Find(p.Number); err == nil && q.Start == p.Start {
			q.Size, q.Extended = p.Size, false
			p = q
		}
	}
	part := whole.newPartition(p)
	whole.mu.Lock()
	switch {
	case whole.gone:
		whole.mu.Unlock()
		return linuxerr.ENXIO
	case whole.parts[p.Number] != nil, whole.overlaps(p.Number, p.Start, p.Size):
		whole.mu.Unlock()
		return linuxerr.EBUSY
	}
	whole.parts[p.Number] = part
	whole.mu.Unlock()
	d.changed([]Node{part.node()}, true)
	return nil
}

func (d *Disks) deletePartition(whole *disk, number int) error {
	whole.mu.Lock()
	part := whole.parts[number]
	switch {
	case part == nil:
		whole.mu.Unlock()
		return linuxerr.ENXIO
	case part.opens > 0:
		whole.mu.Unlock()
		return linuxerr.EBUSY
	}
	part.gone = true
	whole.parts[number] = nil
	whole.mu.Unlock()
	d.changed([]Node{part.node()}, false)
	return hostError(part.pages.drop())
}

// resizePartition gives a partition another end, also while it is in use. What a
// filesystem on it knows of its size stays.
func (d *disk) resizePartition(number int, start, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	part := d.parts[number]
	switch {
	case part == nil:
		return linuxerr.ENXIO
	case part.part.Start != start:
		return linuxerr.EINVAL
	case d.overlaps(number, start, length):
		return linuxerr.EBUSY
	}
	part.dev.(*partition.Section).Resize(length)
	part.bytes.Store(length)
	return nil
}
