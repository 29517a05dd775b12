package klog

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	kmsgMajor = 1
	kmsgMinor = 11
	// maxWrite is the longest line that user space may write, in bytes.
	maxWrite = 1024
)

// Register registers /dev/kmsg, 1:11.
func (l *Log) Register(vfsObj *vfs.VirtualFilesystem) error {
	return vfsObj.RegisterDevice(vfs.CharDevice, kmsgMajor, kmsgMinor, kmsgDevice{l}, &vfs.RegisterDeviceOptions{
		GroupName: "mem",
		Pathname:  "kmsg",
		FilePerms: 0644,
	})
}

// kmsgDevice is /dev/kmsg.
type kmsgDevice struct{ log *Log }

// Open implements vfs.Device.Open.
func (d kmsgDevice) Open(ctx context.Context, mnt *vfs.Mount, vfsd *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	creds := auth.CredentialsFromContext(ctx)
	if opts.Flags&linux.O_ACCMODE != linux.O_WRONLY {
		if err := d.log.allowed(creds, actionReadAll); err != nil {
			return nil, err
		}
	}
	fd := &kmsgFD{log: d.log}
	if err := fd.vfsfd.Init(fd, opts.Flags, creds, mnt, vfsd, &vfs.FileDescriptionOptions{
		UseDentryMetadata: true,
		SpecialFile:       true,
		DenyPRead:         true,
		DenyPWrite:        true,
	}); err != nil {
		return nil, err
	}
	return &fd.vfsfd, nil
}

// kmsgFD is an open /dev/kmsg. Every one reads at its own place.
type kmsgFD struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.NoLockFD

	log *Log

	mu  sync.Mutex
	seq uint64
}

// Release implements vfs.FileDescriptionImpl.Release.
func (fd *kmsgFD) Release(context.Context) {}

// Epollable implements vfs.FileDescriptionImpl.Epollable.
func (fd *kmsgFD) Epollable() bool { return true }

// EventRegister implements waiter.Waitable.EventRegister.
func (fd *kmsgFD) EventRegister(e *waiter.Entry) error {
	fd.log.queue.EventRegister(e)
	return nil
}

// EventUnregister implements waiter.Waitable.EventUnregister.
func (fd *kmsgFD) EventUnregister(e *waiter.Entry) { fd.log.queue.EventUnregister(e) }

// Readiness implements waiter.Waitable.Readiness. A place that was overwritten is an
// error, as reading there is.
func (fd *kmsgFD) Readiness(mask waiter.EventMask) waiter.EventMask {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	ready := waiter.EventMask(waiter.WritableEvents)
	fd.log.mu.Lock()
	r, ok := fd.log.atOrAfter(fd.seq)
	fd.log.mu.Unlock()
	if ok {
		ready |= waiter.ReadableEvents
		if r.seq != fd.seq && fd.seq != 0 {
			ready |= waiter.EventErr | waiter.EventPri
		}
	}
	return ready & mask
}

// Read implements vfs.FileDescriptionImpl.Read. It gives one record.
func (fd *kmsgFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	fd.log.mu.Lock()
	r, ok := fd.log.atOrAfter(fd.seq)
	fd.log.mu.Unlock()
	if !ok {
		return 0, linuxerr.ErrWouldBlock
	}
	if r.seq != fd.seq && fd.seq != 0 {
		fd.seq = r.seq
		return 0, linuxerr.EPIPE
	}
	line := r.extended()
	if int64(len(line)) > dst.NumBytes() {
		return 0, linuxerr.EINVAL
	}
	n, err := dst.CopyOut(ctx, line)
	if err != nil {
		return 0, err
	}
	fd.seq = r.seq + 1
	return int64(n), nil
}

// Write implements vfs.FileDescriptionImpl.Write. It adds one record; "<N>" at its
// start gives level and facility, but nobody speaks as the kernel.
func (fd *kmsgFD) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	n := src.NumBytes()
	if n > maxWrite {
		return 0, linuxerr.EINVAL
	}
	buf := make([]byte, n)
	if _, err := src.CopyIn(ctx, buf); err != nil {
		return 0, err
	}
	fd.log.User(string(buf))
	return n, nil
}

// Seek implements vfs.FileDescriptionImpl.Seek: to the oldest record, behind the last
// clear, or behind the newest.
func (fd *kmsgFD) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	if offset != 0 {
		return 0, linuxerr.ESPIPE
	}
	fd.mu.Lock()
	defer fd.mu.Unlock()
	fd.log.mu.Lock()
	defer fd.log.mu.Unlock()
	switch whence {
	case linux.SEEK_SET:
		fd.seq = 0
		if r, ok := fd.log.atOrAfter(0); ok {
			fd.seq = r.seq
		}
	case linux.SEEK_DATA:
		fd.seq = fd.log.cleared
		if r, ok := fd.log.atOrAfter(fd.seq); ok {
			fd.seq = r.seq
		}
	case linux.SEEK_END:
		fd.seq = fd.log.next
	default:
		return 0, linuxerr.EINVAL
	}
	return 0, nil
}

// User adds a record that someone outside the kernel wrote, as /dev/kmsg takes it.
func (l *Log) User(text string) {
	facility, level := facilityUser, defaultLevel
	if rest, ok := strings.CutPrefix(text, "<"); ok {
		if number, rest, ok := strings.Cut(rest, ">"); ok {
			if n, err := strconv.ParseUint(number, 10, 16); err == nil {
				level, text = Level(n&7), rest
				if n>>3 != facilityKernel {
					facility = int(n >> 3)
				}
			}
		}
	}
	l.add(facility, level, text)
}

// extended is the record as /dev/kmsg gives it. Bytes that could be taken for a border
// of the form are escaped.
func (r *record) extended() []byte {
	out := fmt.Appendf(nil, "%d,%d,%d,-;", r.prefix(), r.seq, r.time/time.Microsecond)
	for i := range len(r.text) {
		if c := r.text[i]; c < ' ' || c >= 127 || c == '\\' {
			out = fmt.Appendf(out, `\x%02x`, c)
		} else {
			out = append(out, c)
		}
	}
	return append(out, '\n')
}

// OpenProc opens /proc/kmsg, which reads as SYSLOG_ACTION_READ does. The caller has
// the mount and the dentry of that file.
func (l *Log) OpenProc(ctx context.Context, mnt *vfs.Mount, vfsd *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	creds := auth.CredentialsFromContext(ctx)
	if err := l.allowed(creds, actionOpen); err != nil {
		return nil, err
	}
	fd := &procFD{log: l}
	if err := fd.vfsfd.Init(fd, opts.Flags, creds, mnt, vfsd, &vfs.FileDescriptionOptions{
		UseDentryMetadata: true,
		DenyPRead:         true,
		DenyPWrite:        true,
	}); err != nil {
		return nil, err
	}
	return &fd.vfsfd, nil
}

// procFD is an open /proc/kmsg.
type procFD struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.NoLockFD

	log *Log
}

// Release implements vfs.FileDescriptionImpl.Release.
func (fd *procFD) Release(context.Context) {}

// Epollable implements vfs.FileDescriptionImpl.Epollable.
func (fd *procFD) Epollable() bool { return true }

// EventRegister implements waiter.Waitable.EventRegister.
func (fd *procFD) EventRegister(e *waiter.Entry) error {
	fd.log.queue.EventRegister(e)
	return nil
}

// EventUnregister implements waiter.Waitable.EventUnregister.
func (fd *procFD) EventUnregister(e *waiter.Entry) { fd.log.queue.EventUnregister(e) }

// Readiness implements waiter.Waitable.Readiness.
func (fd *procFD) Readiness(mask waiter.EventMask) waiter.EventMask {
	if fd.log.hasUnread() {
		return waiter.ReadableEvents & mask
	}
	return 0
}

// Read implements vfs.FileDescriptionImpl.Read.
func (fd *procFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	if !fd.log.hasUnread() {
		return 0, linuxerr.ErrWouldBlock
	}
	size := int(min(dst.NumBytes(), int64(fd.log.size)))
	n, err := fd.log.readUnread(size, func(b []byte) (int, error) { return dst.CopyOut(ctx, b) })
	return int64(n), err
}
