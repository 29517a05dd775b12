// Package ubd is the machine's block devices, ubda to ubdp.
//
// A disk is a ubdfmt.Device that is configured as a unit; the guest sees it as the
// block device 98:16*unit, with the nodes /dev/ubda and /dev/ubd0. Programs of the
// guest open it, and filesystems claim it. The words are Linux's: an open with O_EXCL
// and a mount are exclusive holders, and a disk has one at a time.
package ubd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/ext4fs"
	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

const (
	// Major is the major number of every disk.
	Major = 98
	// Minors is how many minor numbers a disk has, for itself and its partitions.
	Minors = 16
	// Units is how many disks there can be.
	Units = 16
)

// Options say how disks are opened. The zero value is the default.
type Options struct {
	// Logf takes what is said about disks in the kernel log. It may be nil.
	Logf func(format string, args ...any)
	// Changed is called after a disk was configured or removed, with its nodes, so
	// that /dev and /sys can follow. It may be nil.
	Changed func(nodes []Node, added bool)
}

// A Node is a name of a disk below /dev.
type Node struct {
	// Name is "ubda" or "ubd0".
	Name string
	// Major and Minor are the device's numbers.
	Major, Minor uint32
	// Mode are the permission bits.
	Mode uint16
	// Link is empty for a device node, else the name beside it that this one is a
	// symbolic link to. One real name is what tools that compare names with the
	// mount table need: fsck -M must see that /dev/ubd0 is the root.
	Link string
	// Partition is a partition's entry in the table; a disk's has the number 0.
	Partition partition.Partition
}

// Disks are the disks of a machine. They are the driver "ubd", and what ext4fs asks
// for disks. All methods may be called by any number of goroutines at once.
type Disks struct {
	logf    func(format string, args ...any)
	changed func(nodes []Node, added bool)

	mu sync.Mutex
	// syncAll makes every write stable at once, as ubd=sync does.
	syncAll bool
	units   [Units]*disk
	// goneRead and goneWritten are the sectors of disks that were removed.
	goneRead, goneWritten int64
}

var (
	_ driver.Driver = (*Disks)(nil)
	_ ext4fs.Disks  = (*Disks)(nil)
)

// A DirectoryError says that a unit names a directory of the host, which real kernels
// refuse and which can be booted as a hostfs root.
type DirectoryError struct {
	// Unit is the number of the disk.
	Unit int
	// Path is the directory.
	Path string
}

func (e *DirectoryError) Error() string {
	return fmt.Sprintf("Failed to open '%s', errno = %d", e.Path, int(unix.EISDIR))
}

// Unwrap makes errors.Is(err, unix.EISDIR) hold.
func (e *DirectoryError) Unwrap() error { return unix.EISDIR }

// New makes a machine without disks.
func New(o Options) *Disks {
	d := &Disks{logf: o.Logf, changed: o.Changed}
	if d.logf == nil {
		d.logf = func(string, ...any) {}
	}
	if d.changed == nil {
		d.changed = func([]Node, bool) {}
	}
	return d
}

// Register registers the device numbers of all disks, configured or not: opening one
// that is not gives ENXIO, and one can be configured while the guest runs. Devtmpfs
// makes a node for each disk that is configured by now. It is called once, before
// devtmpfs is mounted.
func (d *Disks) Register(vfsObj *vfs.VirtualFilesystem) error {
	for unit := range Units {
		for part := range Minors {
			o := vfs.RegisterDeviceOptions{GroupName: "ubd", FilePerms: nodeMode}
			if disk := d.disk(unit, part); disk != nil {
				o.Pathname = disk.name
			}
			minor := uint32(unit*Minors + part)
			if err := vfsObj.RegisterDevice(vfs.BlockDevice, Major, minor, &device{disks: d, unit: unit, part: part}, &o); err != nil {
				return fmt.Errorf("register block device %d:%d: %w", Major, minor, err)
			}
		}
	}
	return nil
}

// nodeMode are the permission bits of a disk's nodes, as udev sets them.
const nodeMode = 0660

// name is a disk's name below /dev.
func name(unit int) string { return "ubd" + string(rune('a'+unit)) }

// Nodes are the names below /dev of all disks that are configured.
func (d *Disks) Nodes() []Node {
	d.mu.Lock()
	defer d.mu.Unlock()
	var nodes []Node
	for _, disk := range d.units {
		if disk != nil {
			nodes = append(nodes, disk.nodes()...)
		}
	}
	return nodes
}

// nodes are the names of a disk and its partitions.
func (d *disk) nodes() []Node {
	list := []Node{
		{Name: d.name, Major: Major, Minor: d.minor, Mode: nodeMode},
		{Name: fmt.Sprintf("ubd%d", d.spec.Unit), Major: Major, Minor: d.minor, Mode: nodeMode, Link: d.name},
	}
	for _, p := range d.family() {
		if p.whole != nil {
			list = append(list, p.node())
		}
	}
	return list
}

// node is the name of a partition.
func (d *disk) node() Node {
	return Node{Name: d.name, Major: Major, Minor: d.minor, Mode: nodeMode, Partition: d.part}
}

// Configure implements driver.Driver. Besides a unit there is "ubd=sync" (the unit is
// empty): all disks that are configured later write stably at once. A directory is a
// *DirectoryError, a file in use a *ubdfmt.LockedError.
func (d *Disks) Configure(unit, spec string) error {
	if unit == "" && spec == "sync" {
		d.mu.Lock()
		d.syncAll = true
		d.mu.Unlock()
		return nil
	}
	s, err := Parse(unit, spec)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.units[s.Unit] != nil {
		return driver.Errorf(driver.Busy, "Device is already configured")
	}
	s.Sync = s.Sync || d.syncAll
	disk, err := d.open(s)
	if err != nil {
		return err
	}
	d.units[s.Unit] = disk
	d.scan(disk)
	d.changed(disk.nodes(), true)
	return nil
}

// open opens the files of a specification.
func (d *Disks) open(s Spec) (*disk, error) {
	if st, err := os.Stat(s.File); err == nil && st.IsDir() {
		err := &DirectoryError{Unit: s.Unit, Path: s.File}
		return nil, &driver.Error{Code: driver.Code(-int(unix.EISDIR)), Text: err.Error(), Err: err}
	}
	dev, err := ubdfmt.Open(s.File, s.Backing, ubdfmt.Options{
		ReadOnly: s.ReadOnly,
		Sync:     s.Sync,
		Shared:   s.Shared,
		NoCOW:    s.NoCOW,
		NoTrim:   s.NoTrim,
		Logf:     d.logf,
	})
	if err != nil {
		return nil, openError(s, err)
	}
	if dev.Size() < ubdfmt.SectorSize {
		dev.Close()
		return nil, driver.Errorf(driver.Invalid, "Couldn't determine size of device's file")
	}
	return newDisk(s, dev), nil
}

// openError words a failure as real kernels do. What they do not say stays in the chain.
func openError(s Spec, err error) error {
	var locked *ubdfmt.LockedError
	if errors.As(err, &locked) {
		return &driver.Error{Code: driver.Code(-int(unix.EAGAIN)), Text: locked.Error(), Err: err}
	}
	var errno unix.Errno
	code := driver.Invalid
	if errors.As(err, &errno) {
		code = driver.Code(-int(errno))
	}
	if errors.Is(err, unix.ENOENT) {
		return &driver.Error{Code: code, Text: "Couldn't determine size of device's file", Err: err}
	}
	return &driver.Error{Code: code, Text: err.Error(), Err: err}
}

// BootError is the line in the kernel log when a unit of the command line fails, as real
// kernels word it: some failures are seen when the line is read, others when the file is
// opened.
func BootError(unit, spec string, err error) string {
	s, parseErr := Parse(unit, spec)
	if code, _ := driver.Status(err); parseErr != nil || code == driver.Busy {
		return fmt.Sprintf("Failed to initialize device with \"%s=%s\" : %s", unit, spec, err)
	}
	return fmt.Sprintf("Failed to initialize ubd device %d :%s", s.Unit, err)
}

// Describe implements driver.Driver: "/abs/img", or "/abs/cow,/abs/img".
func (d *Disks) Describe(unit string) (string, error) {
	n, err := unitNumber(unit)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	disk := d.units[n]
	if disk == nil {
		return "", nil
	}
	text := absolute(disk.spec.File)
	if backing := disk.backing(); backing != "" {
		text += "," + absolute(backing)
	}
	return text, nil
}

// absolute is path from the root, where that can be told.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Remove implements driver.Driver. A disk that is open or mounted is refused.
func (d *Disks) Remove(unit string) error {
	n, err := unitNumber(unit)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	disk := d.units[n]
	if disk == nil {
		return driver.Errorf(driver.NoDevice, "Device doesn't exist")
	}
	if !disk.retire() {
		return driver.Errorf(driver.Busy, "Device is currently open")
	}
	d.goneRead += disk.stats.reads.sectors.Load()
	d.goneWritten += disk.stats.writes.sectors.Load()
	d.units[n] = nil
	nodes := disk.nodes()
	d.changed(append(nodes[2:], nodes[:2]...), false) // partitions go first
	if err := disk.close(); err != nil {
		d.logf("%s: %v", name(n), err)
	}
	return nil
}

// Claim implements ext4fs.Disks: it gives a disk to a filesystem, which is its
// exclusive holder until it calls Release. Programs may still open the disk, but not
// with O_EXCL.
func (d *Disks) Claim(major, minor uint32) (ext4fs.Disk, error) {
	if major != Major || minor >= Units*Minors {
		return ext4fs.Disk{}, linuxerr.ENXIO
	}
	disk := d.disk(int(minor/Minors), int(minor%Minors))
	if disk == nil {
		return ext4fs.Disk{}, linuxerr.ENXIO
	}
	h := new(holder)
	if err := disk.acquire(h); err != nil {
		return ext4fs.Disk{}, err
	}
	var once sync.Once
	return ext4fs.Disk{
		Device:   disk.counted(),
		Name:     disk.name,
		Major:    Major,
		Minor:    minor,
		ReadOnly: disk.isReadOnly(),
		Release:  func() { once.Do(func() { disk.release(h) }) },
	}, nil
}

// disk is the disk of a unit, or with a number above 0 a partition of it, or nil.
func (d *Disks) disk(unit, part int) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	whole := d.units[unit]
	if whole == nil || part == 0 {
		return whole
	}
	whole.mu.Lock()
	defer whole.mu.Unlock()
	return whole.parts[part]
}

// Close makes every disk stable and closes its files, in use or not. The guest no
// longer runs.
func (d *Disks) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for unit, disk := range d.units {
		if disk == nil {
			continue
		}
		if err := disk.close(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name(unit), err))
		}
		d.units[unit] = nil
	}
	return errors.Join(errs...)
}

// Detach forgets who has the disks open or mounted, after a kernel ended that did not
// close everything. Another kernel may Register the disks then.
func (d *Disks) Detach() error {
	var errs []error
	for unit, disk := range d.all() {
		if disk == nil {
			continue
		}
		if err := disk.detach(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name(unit), err))
		}
	}
	return errors.Join(errs...)
}

// Sync makes what was written to every disk stable.
func (d *Disks) Sync() error {
	var errs []error
	for unit, disk := range d.all() {
		if disk == nil {
			continue
		}
		if err := disk.sync(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name(unit), err))
		}
	}
	return errors.Join(errs...)
}
