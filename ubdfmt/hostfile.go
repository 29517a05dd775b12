package ubdfmt

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// hostFile is an open, locked file of the host with the facts that do not change
// while it is open.
type hostFile struct {
	*os.File
	path     string
	readOnly bool
	info     os.FileInfo
	// size is the length at the time of opening; for a block device, of the device.
	size int64
	// lost is the error of a datasync that failed. The host forgets it when it has
	// told it once; what it lost stays lost. Whoever calls datasync guards it.
	lost error
}

// openHost opens a regular file or a block device and locks it. One that may not be
// written is opened read-only instead, as the kernel's driver does, unless strict.
func openHost(path string, o Options, strict bool) (*hostFile, error) {
	readOnly := o.ReadOnly
	// Without O_NONBLOCK, opening a FIFO would wait for its other end.
	flags := unix.O_NONBLOCK | os.O_RDWR
	if readOnly {
		flags = unix.O_NONBLOCK | os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil && !readOnly && !strict && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS)) {
		readOnly = true
		f, err = os.OpenFile(path, unix.O_NONBLOCK|os.O_RDONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	h := &hostFile{File: f, path: path, readOnly: readOnly}
	if err := h.inspect(); err != nil {
		f.Close()
		return nil, err
	}
	if o.Shared {
		o.logf("Not locking %q at the request of the user", path)
		return h, nil
	}
	if err := lock(f, path, !readOnly); err != nil {
		f.Close()
		return nil, err
	}
	// What was true before we had the lock may not be any more.
	if err := h.inspect(); err != nil {
		f.Close()
		return nil, err
	}
	return h, nil
}

// maxFile is how long a file may be. Beyond it, sums of sizes would not fit their numbers.
const maxFile = 1 << 62

func (h *hostFile) inspect() error {
	info, err := h.Stat()
	if err != nil {
		return err
	}
	h.info = info
	switch mode := info.Mode(); {
	case mode.IsRegular():
		if h.size = info.Size(); h.size > maxFile {
			return fmt.Errorf("open %s: a file of %d bytes is too long for a disk, of which %d may be: %w", h.path, h.size, int64(maxFile), unix.EFBIG)
		}
		return nil
	case mode.IsDir():
		return &os.PathError{Op: "open", Path: h.path, Err: unix.EISDIR}
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		// The end of a block device is where its last byte is.
		h.size, err = h.Seek(0, io.SeekEnd)
		return err
	}
	return fmt.Errorf("open %s: neither a regular file nor a block device", h.path)
}

// mtime is when the file was last changed, as a COW header would say it.
func (h *hostFile) mtime() int64 { return h.info.ModTime().Unix() }

// readFull reads all of p. Bytes from zeroFrom on that the file does not have are
// zeros; any other that it does not have are an error.
func (h *hostFile) readFull(p []byte, off, zeroFrom int64) error {
	n, err := h.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		if off+int64(n) >= zeroFrom {
			clear(p[n:])
			return nil
		}
		return fmt.Errorf("read %s at %d: the file has become shorter: %w", h.path, off+int64(n), io.ErrUnexpectedEOF)
	}
	return err
}

// fullSync makes the file stable with all that the host says of it, its modification time
// too.
func (h *hostFile) fullSync() error {
	if err := h.note(event{op: opSync}); err != nil {
		return err
	}
	return h.Sync()
}

// datasync makes the file's data stable, and the metadata needed to read it.
func (h *hostFile) datasync() error {
	if h.lost != nil {
		return h.lost
	}
	err := h.note(event{op: opSync})
	if err == nil {
		err = control(h.File, func(fd int) error { return ignoringEINTR(func() error { return unix.Fdatasync(fd) }) })
	}
	if err != nil {
		h.lost = fmt.Errorf("fdatasync %s: %w", h.path, err)
	}
	return h.lost
}

// writeStable writes p and makes it stable, alone.
func (h *hostFile) writeStable(p []byte, off int64) (done int, err error) {
	if err := h.note(event{op: opWrite, off: off, data: p}); err != nil {
		return 0, err
	}
	err = control(h.File, func(fd int) error {
		for done < len(p) {
			var n int
			err := ignoringEINTR(func() (err error) {
				n, err = unix.Pwritev2(fd, [][]byte{p[done:]}, off+int64(done), unix.RWF_DSYNC)
				return err
			})
			if err != nil {
				return &os.PathError{Op: "write", Path: h.path, Err: err}
			}
			done += n
		}
		return nil
	})
	return done, err
}

// punch gives the space of a range back to the host; it reads as zeros then.
func (h *hostFile) punch(off, n int64) error {
	if err := h.note(event{op: opZero, off: off, n: n}); err != nil {
		return err
	}
	return control(h.File, func(fd int) error {
		return ignoringEINTR(func() error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		})
	})
}

// cannotPunch tells whether punch failed because the host does not know how.
func cannotPunch(err error) bool {
	// EINVAL: a block device whose own blocks are larger than a sector.
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}

// zero makes [off, off+n) read as zeros, and gives its space back where the host
// knows how.
func (h *hostFile) zero(off, n int64) error {
	err := h.punch(off, n)
	if err == nil {
		return nil
	}
	if !cannotPunch(err) {
		return fmt.Errorf("punch hole in %s: %w", h.path, err)
	}
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		m, err := h.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}

// segments visits [off, off+n) of the file, in order and without gaps, as runs of data
// and holes, as far as the host tells them apart. What lies past the end of the file
// is a hole.
func (h *hostFile) segments(off, n int64, visit func(off, n int64, hole bool) bool) error {
	end := off + n
	for off < end {
		hole, err := h.seek(off, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if hole > off {
			hole = min(hole, end)
			if !visit(off, hole-off, false) {
				return nil
			}
			off = hole
			continue
		}
		data, err := h.seek(off, unix.SEEK_DATA)
		if err != nil {
			return err
		}
		isHole := data > off
		if !isHole {
			// Data came about between the two calls.
			data = off + SectorSize
		}
		data = min(data, end)
		if !visit(off, data-off, isHole) {
			return nil
		}
		off = data
	}
	return nil
}

// seek returns where data or a hole begins at off or after it. Past the end there is a
// hole, and data only at the end of all offsets. A host that does not know has data
// everywhere.
func (h *hostFile) seek(off int64, whence int) (int64, error) {
	const never = 1<<63 - 1
	var at int64
	err := control(h.File, func(fd int) error {
		var err error
		at, err = unix.Seek(fd, off, whence)
		return err
	})
	switch {
	case err == nil:
		return at, nil
	case errors.Is(err, unix.ENXIO) && whence == unix.SEEK_HOLE:
		return off, nil
	case errors.Is(err, unix.ENXIO):
		return never, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		if whence == unix.SEEK_DATA {
			return off, nil
		}
		return never, nil
	}
	return 0, fmt.Errorf("find data in %s at %d: %w", h.path, off, err)
}

// reserveLeast is the least for which blocks are reserved, in bytes: below, the request takes
// as long as it saves.
const reserveLeast = 256 << 10

// reserves tells whether reserve is of use: where the host has the file on ext4.
func (h *hostFile) reserves() bool {
	var fs unix.Statfs_t
	err := control(h.File, func(fd int) error { return unix.Fstatfs(fd, &fs) })
	return err == nil && fs.Type == unix.EXT4_SUPER_MAGIC
}

// reserve has the host find blocks for a range of the file that is to be written next, and
// has none. ext4 would look for one at every page of the write, which takes half of its time
// again. Where it cannot, the write tells.
func (h *hostFile) reserve(off, n int64) {
	_ = control(h.File, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// WriteAt writes to the file.
func (h *hostFile) WriteAt(p []byte, off int64) (int, error) {
	if err := h.note(event{op: opWrite, off: off, data: p}); err != nil {
		return 0, err
	}
	return h.File.WriteAt(p, off)
}

// setLength makes the file longer with zeros, or shorter.
func (h *hostFile) setLength(n int64) error {
	if err := h.note(event{op: opLength, n: n}); err != nil {
		return err
	}
	return h.Truncate(n)
}

// An event is a change of a host file that is about to be made. Tests look at them all, to
// see what a crash between any two would leave, and fail them.
type event struct {
	op     op
	off, n int64
	data   []byte
}

type op int

const (
	opWrite op = iota
	opZero
	opLength
	opSync // all before it is stable once it returns
)

// observe is told of every event, in tests. It may fail them.
var observe func(*hostFile, event) error

func (h *hostFile) note(e event) error {
	if observe == nil {
		return nil
	}
	return observe(h, e)
}

// control runs f with the file's descriptor, which stays open meanwhile.
func control(file *os.File, f func(fd int) error) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if e := c.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// checkOpen fails when the file was closed.
func (h *hostFile) checkOpen() error {
	return control(h.File, func(int) error { return nil })
}
