package hwrng

import (
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Register makes a kernel know the device. A kernel cannot forget one: while the unit is
// not configured, opening it gives ENXIO. The node below /dev is made apart from that.
func (d *Driver) Register(v *vfs.VirtualFilesystem) error {
	return v.RegisterDevice(vfs.CharDevice, Major, Minor, device{d}, &vfs.RegisterDeviceOptions{GroupName: "misc"})
}

// Mode are the permissions of the node.
const Mode = 0o600

// device is what the guest opens.
type device struct{ driver *Driver }

// Open implements vfs.Device.Open.
func (v device) Open(ctx context.Context, mnt *vfs.Mount, d *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if opts.Flags&linux.O_ACCMODE != linux.O_RDONLY {
		return nil, linuxerr.EINVAL // as Linux says
	}
	v.driver.mu.Lock()
	defer v.driver.mu.Unlock()
	if v.driver.source == nil {
		return nil, linuxerr.ENXIO
	}
	fd := &descriptor{driver: v.driver}
	err := fd.vfsfd.Init(fd, opts.Flags, auth.CredentialsFromContext(ctx), mnt, d, &vfs.FileDescriptionOptions{
		UseDentryMetadata: true, SpecialFile: true, DenyPRead: true, DenyPWrite: true,
	})
	if err != nil {
		return nil, err
	}
	v.driver.open++
	return &fd.vfsfd, nil
}

// descriptor is an open device.
type descriptor struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.NoLockFD

	driver *Driver
}

// Release implements vfs.FileDescriptionImpl.Release.
func (fd *descriptor) Release(context.Context) {
	fd.driver.mu.Lock()
	defer fd.driver.mu.Unlock()
	fd.driver.open--
}

// maxRead bounds one read, in bytes: Linux gives no more at once either.
const maxRead = 4096

// Read implements vfs.FileDescriptionImpl.Read. ErrWouldBlock has the Sentry wait, unless
// the guest said O_NONBLOCK, until Readiness says otherwise.
func (fd *descriptor) Read(ctx context.Context, dst usermem.IOSequence, _ vfs.ReadOptions) (int64, error) {
	if dst.NumBytes() == 0 {
		return 0, nil
	}
	d := fd.driver
	d.mu.Lock()
	if d.source == nil {
		d.mu.Unlock()
		return 0, linuxerr.ENODEV
	}
	n := d.source.may(min(dst.NumBytes(), maxRead), d.now())
	if n == 0 {
		d.wakeLater()
		d.mu.Unlock()
		return 0, linuxerr.ErrWouldBlock
	}
	buf := make([]byte, n)
	got, err := d.source.read(buf)
	d.mu.Unlock()
	switch {
	case err == unix.EAGAIN:
		return 0, linuxerr.EAGAIN
	case err != nil, got == 0:
		return 0, linuxerr.EIO // a generator has no end
	}
	copied, err := dst.CopyOut(ctx, buf[:got])
	return int64(copied), err
}

// wakeLater has those told who wait, once there is a byte. mu is held.
func (d *Driver) wakeLater() {
	if d.timer != nil {
		return
	}
	d.timer = time.AfterFunc(d.source.wait(), func() {
		d.mu.Lock()
		d.timer = nil
		d.mu.Unlock()
		d.queue.Notify(waiter.ReadableEvents)
	})
}

// Readiness implements waiter.Waitable.Readiness.
func (fd *descriptor) Readiness(mask waiter.EventMask) waiter.EventMask {
	d := fd.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.source != nil && d.source.may(1, d.now()) == 0 {
		d.wakeLater()
		return 0
	}
	return mask & waiter.ReadableEvents
}

// EventRegister implements waiter.Waitable.EventRegister.
func (fd *descriptor) EventRegister(e *waiter.Entry) error {
	fd.driver.queue.EventRegister(e)
	return nil
}

// EventUnregister implements waiter.Waitable.EventUnregister.
func (fd *descriptor) EventUnregister(e *waiter.Entry) { fd.driver.queue.EventUnregister(e) }

// Epollable implements vfs.FileDescriptionImpl.Epollable.
func (fd *descriptor) Epollable() bool { return true }
