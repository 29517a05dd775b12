package ubdfmt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// COW is a disk made of two host files: the COW file, which holds the sectors that were
// written, and below it the backing file, which is never changed.
//
// Its size is that of the backing file, rounded up to a whole sector; what the
// backing file lacks of the last sector reads as zeros.
//
// Data is in the COW file before the bitmap says so: a new bit lives in memory until
// Sync, which makes the data stable, then writes the bitmap, then makes that stable.
// A machine that dies, or is killed, loses writes of which no Sync returned, as a
// disk with a write cache does, and never shows a block that was half copied.
type COW struct {
	file    *hostFile
	backing *hostFile
	header  Header
	layout  Layout
	size    int64
	opts    Options
	bits    *bitmap
	sync    *syncer

	// Copying a block up from the backing file, to change a part of it, must not
	// happen beside another write or trim of that block. Whoever copies up holds
	// the lock of the block's stripe for writing, whoever else writes or trims
	// for reading. Readers take none: a bit is set after the data is in place, and
	// is never cleared.
	stripes [64]stripe
}

// stripe guards the chunks of the bitmap whose index has the same remainder. It has
// a cache line of its own.
type stripe struct {
	sync.RWMutex
	_ [40]byte
}

var _ Device = (*COW)(nil)

// COWOptions say how a COW file is opened, and over what.
type COWOptions struct {
	Options
	Policy
}

// OpenCOW opens an existing COW file and its backing file, and locks both. It fails
// with *HeaderError or *DialectError if the COW file makes no sense, with
// *MismatchError if the backing file has changed since the COW file was made, and
// with *LockedError; both files are then as they were.
func OpenCOW(path string, o COWOptions) (*COW, error) {
	f, err := openHost(path, o.Options, false)
	if err != nil {
		return nil, err
	}
	c, err := newCOW(f, o)
	if err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// newCOW makes a disk of an open COW file, which stays the caller's if it fails.
func newCOW(f *hostFile, o COWOptions) (c *COW, err error) {
	h, err := f.readHeader()
	if err != nil {
		return nil, err
	}
	b, other, err := o.openBacking(f, h, o.Options)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	l := h.Layout()
	bits, err := f.readBitmap(h, l)
	if err != nil {
		return nil, err
	}
	if !l.Whole() && !f.readOnly {
		// The sectors at the end could not be written. That nothing can is found
		// out at once, and not when the disk is full.
		o.logf("The bitmap of %q lacks the last %d sectors, as old versions made it: opened read-only", f.path, l.Sectors-l.BitmapLength*8)
		f.readOnly = true
	}
	if other && !f.readOnly && !o.AnyTime {
		o.logf("Switching backing file to '%s'", o.Backing)
		next, err := h.over(o.Backing, b)
		if err != nil {
			return nil, err
		}
		if err := f.adopt(&h, next); err != nil {
			return nil, err
		}
	}
	return disk(f, b, h, bits, o.Options), nil
}

// disk makes a disk of its parts.
func disk(f, backing *hostFile, h Header, bits *bitmap, o Options) *COW {
	c := &COW{
		file: f, backing: backing, header: h, layout: h.Layout(), opts: o, bits: bits,
		size: roundUp(h.Size, SectorSize),
	}
	c.sync = newSyncer(c.flush)
	return c
}

// readBitmap prepares to read which sectors the COW file holds, a region when it is first
// asked for. It refuses a file that ends before its bitmap does, or before the last sector
// that it claims to hold.
func (h *hostFile) readBitmap(hdr Header, l Layout) (*bitmap, error) {
	end := l.BitmapOffset + l.BitmapLength
	if h.size < end {
		return nil, &HeaderError{Path: h.path, Field: "size", Value: uint64(hdr.Size),
			Reason: fmt.Sprintf("needs a bitmap that ends at %d; the file has %d bytes", end, h.size)}
	}
	bits := newBitmap(l)
	var buf []byte
	bits.read = func(i int64, r *region) (some bool, err error) {
		if some, err = h.readRegion(bits, l, i, r, &buf); err != nil {
			err = fmt.Errorf("read bitmap: %w", err)
		}
		return some, err
	}
	if h.size >= l.DataOffset+hdr.Size {
		return bits, nil // whatever it holds, it has
	}
	last, err := bits.end()
	if err != nil {
		return nil, err
	}
	if held := min(last*SectorSize, hdr.Size); held > 0 && h.size < l.DataOffset+held {
		return nil, &HeaderError{Path: h.path, Field: "bitmap", Value: uint64(last - 1),
			Reason: fmt.Sprintf("is the last sector held and ends at %d; the file has %d bytes", l.DataOffset+held, h.size)}
	}
	return bits, nil
}

// readRegion reads a region of the bitmap, and says whether it has a bit. The buffer is
// made as large as it must be.
func (h *hostFile) readRegion(bits *bitmap, l Layout, i int64, r *region, buf *[]byte) (some bool, err error) {
	const most = 64 << 10
	begin := i * regionBytes
	length := min(regionBytes, l.BitmapLength-begin)
	if length <= 0 {
		return false, nil // up to seven sectors that old versions rounded away
	}
	var failed error
	err = h.segments(l.BitmapOffset+begin, length, func(off, n int64, hole bool) bool {
		if hole {
			return true
		}
		// Whole chunks: what a hole has of them reads as zeros.
		first := (off - l.BitmapOffset) / chunkBytes * chunkBytes
		last := min(l.BitmapLength, roundUp(off+n-l.BitmapOffset, chunkBytes))
		for first < last {
			n := min(most, last-first)
			if int64(len(*buf)) < n {
				*buf = make([]byte, n)
			}
			p := (*buf)[:n]
			if failed = h.readFull(p, l.BitmapOffset+first, h.size); failed != nil {
				return false
			}
			if bits.load(r, p, first) {
				some = true
			}
			first += n
		}
		return true
	})
	return some, errors.Join(err, failed)
}

// Size is the length of the disk in bytes, a multiple of SectorSize.
func (c *COW) Size() int64 { return c.size }

// ReadOnly tells whether writes are refused, by option or because the host allows
// reading only.
func (c *COW) ReadOnly() bool { return c.file.readOnly }

// Path is the COW file as it was named.
func (c *COW) Path() string { return c.file.path }

// Backing is the backing file as it was opened.
func (c *COW) Backing() string { return c.backing.path }

// Close makes the disk stable and closes both files, which gives up their locks.
func (c *COW) Close() error {
	return errors.Join(c.Sync(), c.file.Close(), c.backing.Close())
}

// Sync makes stable what was written and trimmed. When the host fails to make data
// stable, nobody knows what was lost, and every later Sync fails too.
func (c *COW) Sync() error {
	if c.file.readOnly {
		return c.file.checkOpen()
	}
	return c.sync.sync()
}

// flush writes the bits that were set since the last flush. They are read before the
// data they speak of is made stable, and written after.
func (c *COW) flush() error {
	const batch = 256
	dirty := c.bits.takeDirty()
	if len(dirty) == 0 {
		return c.file.datasync()
	}
	bufs := make([][chunkBytes]byte, min(batch, len(dirty)))
	for len(dirty) > 0 {
		now := dirty[:min(batch, len(dirty))]
		dirty = dirty[len(now):]
		for i, index := range now {
			c.bits.encode(index, &bufs[i])
		}
		if err := c.file.datasync(); err != nil {
			return err
		}
		for i, index := range now {
			off, n := c.bits.span(index)
			if _, err := c.file.WriteAt(bufs[i][:n], c.layout.BitmapOffset+off); err != nil {
				// Nothing is lost; when the host has room again it can be written.
				c.bits.markDirty(now[i:]...)
				c.bits.markDirty(dirty...)
				return err
			}
		}
	}
	return c.file.datasync()
}

// Open opens what `ubdN=` names. Without a backing file, path is a COW file if it begins
// like one, unless o.NoCOW, and else a raw image. With one, path is a COW file, which
// is created if it does not exist, and whose header is switched to that backing file
// if it names another. The device is a *Raw or a *COW; the errors are theirs.
func Open(path, backing string, o Options) (Device, error) {
	if backing != "" {
		if o.NoCOW {
			return nil, errors.New("can't specify both 'd' and a cow file")
		}
		c, err := OpenCOW(path, COWOptions{o, Policy{Backing: backing}})
		if !errors.Is(err, unix.ENOENT) || o.ReadOnly {
			return device(c, err)
		}
		// Another machine may have created it since.
		if !exists(path) {
			o.logf("Creating %q as COW file for %q", path, backing)
			if err := CreateCOW(path, backing, o); err != nil && !errors.Is(err, os.ErrExist) {
				return nil, err
			}
		}
		return device(OpenCOW(path, COWOptions{o, Policy{Backing: backing}}))
	}
	f, err := openHost(path, o, false)
	if err != nil {
		return nil, err
	}
	if o.NoCOW {
		return newRaw(f, o), nil
	}
	isCOW, err := f.isCOW()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !isCOW {
		return newRaw(f, o), nil
	}
	c, err := newCOW(f, COWOptions{Options: o})
	if err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// device keeps a nil *COW from becoming a Device that is not nil.
func device(c *COW, err error) (Device, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (h *hostFile) isCOW() (bool, error) {
	var b [8]byte
	n, err := h.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	return Detect(b[:n]) != NotCOW, nil
}
