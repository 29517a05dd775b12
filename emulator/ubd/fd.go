package ubd

import (
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// device is a device number. What it names may come and go.
type device struct {
	disks *Disks
	unit  int
	part  int
}

// Open implements vfs.Device.Open.
func (d *device) Open(ctx context.Context, mnt *vfs.Mount, vfsd *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	disk := d.disks.disk(d.unit, d.part)
	if disk == nil {
		return nil, linuxerr.ENXIO
	}
	if vfs.MayWriteFileWithOpenFlags(opts.Flags) && disk.fixed {
		return nil, linuxerr.EROFS
	}
	fd := &diskFD{disks: d.disks, disk: disk}
	if opts.Flags&linux.O_EXCL != 0 {
		fd.holder = new(holder)
	}
	if err := disk.open(fd.holder); err != nil {
		return nil, err
	}
	fd.LockFD.Init(&disk.locks)
	if err := fd.vfsfd.Init(fd, opts.Flags, auth.CredentialsFromContext(ctx), mnt, vfsd, &vfs.FileDescriptionOptions{
		AllowDirectIO:     true,
		UseDentryMetadata: true,
		SpecialFile:       true,
	}); err != nil {
		disk.shut(fd.holder)
		return nil, err
	}
	return &fd.vfsfd, nil
}

// diskFD is an open disk.
type diskFD struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.LockFD

	disks *Disks
	disk  *disk
	// holder is nil without O_EXCL.
	holder *holder

	mu  sync.Mutex
	off int64
}

// Release implements vfs.FileDescriptionImpl.Release.
func (fd *diskFD) Release(context.Context) { fd.disk.shut(fd.holder) }

// PRead implements vfs.FileDescriptionImpl.PRead.
func (fd *diskFD) PRead(ctx context.Context, dst usermem.IOSequence, offset int64, opts vfs.ReadOptions) (int64, error) {
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	if err := fd.checkDirect(dst.NumBytes(), offset); err != nil {
		return 0, err
	}
	if dst.NumBytes() == 0 {
		return 0, nil
	}
	left := fd.disk.size() - offset
	if left <= 0 {
		// sendfile(2) and splice(2) go on until they see it.
		return 0, io.EOF
	}
	return dst.TakeFirst64(left).CopyOutFrom(ctx, &transfer{disk: fd.disk, off: offset})
}

// Read implements vfs.FileDescriptionImpl.Read.
func (fd *diskFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	n, err := fd.PRead(ctx, dst, fd.off, opts)
	fd.off += n
	return n, err
}

// PWrite implements vfs.FileDescriptionImpl.PWrite.
func (fd *diskFD) PWrite(ctx context.Context, src usermem.IOSequence, offset int64, opts vfs.WriteOptions) (int64, error) {
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	if fd.disk.isReadOnly() {
		return 0, linuxerr.EPERM
	}
	if src.NumBytes() == 0 {
		return 0, nil
	}
	left := fd.disk.size() - offset
	if left <= 0 {
		return 0, linuxerr.ENOSPC
	}
	if err := fd.checkDirect(src.NumBytes(), offset); err != nil {
		return 0, err
	}
	n, err := src.TakeFirst64(left).CopyInTo(ctx, &transfer{disk: fd.disk, off: offset})
	if n > 0 && fd.vfsfd.StatusFlags()&(linux.O_DSYNC|linux.O_SYNC) != 0 {
		if err := fd.disk.sync(); err != nil {
			return 0, hostError(err)
		}
	}
	return n, err
}

// Write implements vfs.FileDescriptionImpl.Write.
func (fd *diskFD) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	n, err := fd.PWrite(ctx, src, fd.off, opts)
	fd.off += n
	return n, err
}

// checkDirect holds O_DIRECT to whole blocks.
func (fd *diskFD) checkDirect(n, offset int64) error {
	if fd.vfsfd.StatusFlags()&linux.O_DIRECT != 0 && (n|offset)&(logicalBlock-1) != 0 {
		return linuxerr.EINVAL
	}
	return nil
}

// Seek implements vfs.FileDescriptionImpl.Seek.
func (fd *diskFD) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	base := int64(0)
	switch whence {
	case linux.SEEK_SET:
	case linux.SEEK_CUR:
		base = fd.off
	case linux.SEEK_END:
		base = fd.disk.size()
	default:
		return 0, linuxerr.EINVAL
	}
	if offset < -base || offset > fd.disk.size()-base {
		return 0, linuxerr.EINVAL
	}
	fd.off = base + offset
	return fd.off, nil
}

// Sync implements vfs.FileDescriptionImpl.Sync.
func (fd *diskFD) Sync(ctx context.Context, opts vfs.SyncOptions) error {
	return hostError(fd.disk.sync())
}

// Allocate implements vfs.FileDescriptionImpl.Allocate. A disk has all its bytes; they
// can be made zero, and given back.
func (fd *diskFD) Allocate(ctx context.Context, mode, offset, length uint64) error {
	size := uint64(fd.disk.size())
	if offset >= size {
		return linuxerr.EINVAL
	}
	if length > size-offset {
		if mode&linux.FALLOC_FL_KEEP_SIZE == 0 {
			return linuxerr.EINVAL
		}
		length = size - offset
	}
	if (offset|length)&(logicalBlock-1) != 0 {
		return linuxerr.EINVAL
	}
	switch mode {
	case linux.FALLOC_FL_ZERO_RANGE, linux.FALLOC_FL_ZERO_RANGE | linux.FALLOC_FL_KEEP_SIZE, linux.FALLOC_FL_PUNCH_HOLE | linux.FALLOC_FL_KEEP_SIZE:
		if fd.disk.isReadOnly() {
			return linuxerr.EPERM
		}
		return fd.disk.zero(int64(offset), int64(length))
	}
	return linuxerr.EOPNOTSUPP
}

// transfer moves bytes between a disk and the guest's memory, straight: the host reads
// into the guest's pages and writes from them.
type transfer struct {
	disk *disk
	off  int64
}

// ReadToBlocks implements safemem.Reader.
func (t *transfer) ReadToBlocks(dsts safemem.BlockSeq) (uint64, error) {
	return t.disk.read(dsts, &t.off)
}

// WriteFromBlocks implements safemem.Writer.
func (t *transfer) WriteFromBlocks(srcs safemem.BlockSeq) (uint64, error) {
	return t.disk.write(srcs, &t.off)
}

// read fills dsts with what is at *off, and moves *off behind it.
func (d *disk) read(dsts safemem.BlockSeq, off *int64) (uint64, error) {
	d.pages.io.RLock()
	if d.pages.mapped {
		d.pages.io.RUnlock()
		d.pages.io.Lock()
		err := d.pages.flushLocked(*off, int64(dsts.NumBytes()))
		d.pages.io.Unlock()
		if err != nil {
			return 0, hostError(err)
		}
		d.pages.io.RLock()
	}
	defer d.pages.io.RUnlock()
	return d.readDevice(dsts, off)
}

// readDevice is read below the mapped pages.
func (d *disk) readDevice(dsts safemem.BlockSeq, off *int64) (uint64, error) {
	var done uint64
	for ; !dsts.IsEmpty(); dsts = dsts.Tail() {
		b := dsts.Head()
		start := time.Now()
		n, err := eachSlice(b, false, func(p []byte) (int, error) { return d.dev.ReadAt(p, *off) })
		d.stats.reads.done(int64(n), start)
		done += uint64(n)
		*off += int64(n)
		if err != nil && !(errors.Is(err, io.EOF) && n == b.Len()) {
			return done, hostError(err)
		}
	}
	return done, nil
}

// write stores srcs at *off, and moves *off behind it.
func (d *disk) write(srcs safemem.BlockSeq, off *int64) (uint64, error) {
	d.pages.io.RLock()
	if !d.pages.mapped {
		defer d.pages.io.RUnlock()
		return d.writeDevice(srcs, off)
	}
	d.pages.io.RUnlock()
	d.pages.io.Lock()
	defer d.pages.io.Unlock()
	first, n := *off, int64(srcs.NumBytes())
	if err := d.pages.flushLocked(first, n); err != nil {
		return 0, hostError(err)
	}
	done, err := d.writeDevice(srcs, off)
	if again := d.pages.refreshLocked(first, n); err == nil {
		err = again
	}
	return done, err
}

// writeDevice is write below the mapped pages.
func (d *disk) writeDevice(srcs safemem.BlockSeq, off *int64) (uint64, error) {
	var done uint64
	for ; !srcs.IsEmpty(); srcs = srcs.Tail() {
		start := time.Now()
		n, err := eachSlice(srcs.Head(), true, func(p []byte) (int, error) { return d.dev.WriteAt(p, *off) })
		d.stats.writes.done(int64(n), start)
		done += uint64(n)
		*off += int64(n)
		if err != nil {
			return done, hostError(err)
		}
	}
	return done, nil
}

// eachSlice calls f with the bytes of b. Memory that can fault is copied first (or
// afterwards, when f reads into it): a fault outside of the host's own calls would
// take the machine down.
func eachSlice(b safemem.Block, write bool, f func([]byte) (int, error)) (int, error) {
	if !b.NeedSafecopy() {
		return f(b.ToSlice())
	}
	buf := make([]byte, b.Len())
	bounce := safemem.BlockFromSafeSlice(buf)
	if write {
		if _, err := safemem.Copy(bounce, b); err != nil {
			return 0, err
		}
		return f(buf)
	}
	n, err := f(buf)
	if _, copyErr := safemem.Copy(b, bounce.TakeFirst(n)); copyErr != nil {
		return 0, copyErr
	}
	return n, err
}

// trim gives [off, off+n) back to the host. The range reads as zeros afterwards.
func (d *disk) trim(off, n int64) error {
	start := time.Now()
	d.pages.io.Lock()
	defer d.pages.io.Unlock()
	if err := d.pages.flushLocked(off, n); err != nil {
		return hostError(err)
	}
	if err := d.dev.Trim(off, n); err != nil {
		return hostError(err)
	}
	d.stats.trims.done(n, start)
	return d.pages.refreshLocked(off, n)
}

// zeroChunk bounds the zeros that are written at once.
const zeroChunk = 1 << 20

// zero makes [off, off+n) read as zeros, with or without trims.
func (d *disk) zero(off, n int64) error {
	err := d.trim(off, n)
	if !linuxerr.Equals(linuxerr.EOPNOTSUPP, err) {
		return err
	}
	zeros := make([]byte, min(n, zeroChunk))
	for n > 0 {
		p := zeros[:min(n, zeroChunk)]
		if _, err := d.write(safemem.BlockSeqOf(safemem.BlockFromSafeSlice(p)), &off); err != nil {
			return err
		}
		n -= int64(len(p))
	}
	return nil
}

// hostError is what a guest is told of an error on the host's side.
func hostError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return linuxerr.ENOSPC
	case errors.Is(err, unix.EROFS):
		return linuxerr.EROFS
	case errors.Is(err, unix.EOPNOTSUPP):
		return linuxerr.EOPNOTSUPP
	case errors.Is(err, unix.EFAULT):
		return linuxerr.EFAULT
	}
	return linuxerr.EIO
}
