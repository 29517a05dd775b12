package hostfs

import (
	"encoding/binary"
	"io"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/hostfd"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// regularFD is an open regular file. Data goes between the guest's memory and the host's
// file, without a copy in between.
type regularFD struct {
	fileDescription

	// mu protects off, the file position, which the host's descriptor does not have.
	mu  sync.Mutex
	off int64

	// directMu protects direct, whether the host's descriptor has O_DIRECT.
	directMu sync.Mutex
	direct   bool
}

// setDirect sets or clears O_DIRECT on a descriptor.
func setDirect(fd int, direct bool) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if direct {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	return err
}

// followDirect makes the host's descriptor follow fcntl(2), of which the Sentry does not
// tell.
func (fd *regularFD) followDirect() error {
	want := fd.VFSFD.StatusFlags()&linux.O_DIRECT != 0
	fd.directMu.Lock()
	defer fd.directMu.Unlock()
	if fd.direct == want {
		return nil
	}
	if err := setDirect(fd.host, want); err != nil {
		return errno(err)
	}
	fd.direct = want
	return nil
}

// PRead implements vfs.FileDescriptionImpl.
func (fd *regularFD) PRead(ctx context.Context, dst usermem.IOSequence, offset int64, opts vfs.ReadOptions) (int64, error) {
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	if opts.Flags&^uint32(unix.RWF_HIPRI|unix.RWF_NOWAIT) != 0 {
		return 0, linuxerr.EOPNOTSUPP
	}
	if err := fd.followDirect(); err != nil {
		return 0, err
	}
	if dst.NumBytes() == 0 {
		return 0, nil
	}
	rw := hostfd.GetReadWriterAt(int32(fd.host), offset, opts.Flags)
	defer hostfd.PutReadWriterAt(rw)
	n, err := dst.CopyOutFrom(ctx, rw)
	return n, hostIOError(n, err)
}

// hostIOError is the error of a transfer of n bytes for the guest.
func hostIOError(n int64, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if err == unix.EINTR && n > 0 {
		return nil
	}
	return errno(err)
}

// Read implements vfs.FileDescriptionImpl.
func (fd *regularFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	n, err := fd.PRead(ctx, dst, fd.off, opts)
	fd.off += n
	return n, err
}

// PWrite implements vfs.FileDescriptionImpl.
func (fd *regularFD) PWrite(ctx context.Context, src usermem.IOSequence, offset int64, opts vfs.WriteOptions) (int64, error) {
	n, _, err := fd.pwrite(ctx, src, offset, opts)
	return n, err
}

// Write implements vfs.FileDescriptionImpl.
func (fd *regularFD) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	n, end, err := fd.pwrite(ctx, src, fd.off, opts)
	if n > 0 {
		fd.off = end
	}
	return n, err
}

// pwrite returns how much it wrote and where that ended, which with O_APPEND is not
// offset + n.
func (fd *regularFD) pwrite(ctx context.Context, src usermem.IOSequence, offset int64, opts vfs.WriteOptions) (n, end int64, err error) {
	if offset < 0 {
		return 0, offset, linuxerr.EINVAL
	}
	if opts.Flags&^uint32(unix.RWF_HIPRI|unix.RWF_DSYNC|unix.RWF_SYNC|unix.RWF_NOWAIT|unix.RWF_APPEND) != 0 {
		return 0, offset, linuxerr.EOPNOTSUPP
	}
	if err := fd.followDirect(); err != nil {
		return 0, offset, err
	}
	i, status, flags := fd.Inode(), fd.VFSFD.StatusFlags(), opts.Flags
	if src.NumBytes() == 0 {
		return 0, offset, nil
	}
	if err := i.fs.writable(); err != nil {
		return 0, offset, err
	}
	switch {
	case status&linux.O_SYNC == linux.O_SYNC:
		flags |= unix.RWF_SYNC
	case status&linux.O_DSYNC != 0:
		flags |= unix.RWF_DSYNC
	}
	if status&linux.O_APPEND != 0 || i.fs.grow {
		flags |= unix.RWF_APPEND
	}
	if flags&unix.RWF_APPEND != 0 {
		// Where it will be, but for those on the host who append too.
		if offset, err = fd.size(); err != nil {
			return 0, 0, err
		}
	}
	limit, err := vfs.CheckLimit(ctx, offset, src.NumBytes())
	if err != nil {
		return 0, offset, err
	}
	src = src.TakeFirst64(limit)
	if err := i.dropPrivileges(ctx); err != nil {
		return 0, offset, err
	}
	rw := hostfd.GetReadWriterAt(int32(fd.host), offset, flags)
	defer hostfd.PutReadWriterAt(rw)
	n, err = src.CopyInTo(ctx, rw)
	i.fs.changed.Store(true)
	end = offset + n
	if flags&unix.RWF_APPEND != 0 && n > 0 {
		if size, err := fd.size(); err == nil {
			end = size
		}
	}
	return n, end, hostIOError(n, err)
}

// size is the length of the file, now.
func (fd *regularFD) size() (int64, error) {
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(fd.host, &st) }); err != nil {
		return 0, errno(err)
	}
	return st.Size, nil
}

// dropPrivileges takes the set-user-ID and set-group-ID bits that are remembered from a
// file that is about to be written. Of its own the host takes care.
func (i *inode) dropPrivileges(ctx context.Context) error {
	if !i.fs.opts.remember {
		return nil
	}
	a, err := i.attr()
	if err != nil {
		return err
	}
	mode := uint16(vfs.ClearSUIDAndSGID(uint32(a.mode)))
	if mode == a.mode || auth.CredentialsFromContext(ctx).HasCapabilityOnFile(linux.CAP_FSETID, auth.KUID(a.uid), auth.KGID(a.gid)) {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	a.owner.mode = mode
	return i.note(a.owner)
}

// truncate makes the file size bytes long. Where files may only grow it does nothing, as
// a real kernel's hostfs does. A descriptor that is open for writing serves; -1 stands for
// none. i.mu is held.
func (i *inode) truncate(size int64, host int) error {
	if i.fs.grow {
		return nil
	}
	if host < 0 {
		var err error
		host, err = reopen(i.fd, unix.O_WRONLY)
		if err == unix.EACCES && i.grant() {
			host, err = reopen(i.fd, unix.O_WRONLY)
		}
		if err != nil {
			return errno(err)
		}
		defer unix.Close(host)
	}
	if err := again(func() error { return unix.Ftruncate(host, size) }); err != nil {
		return errno(err)
	}
	i.unmapFrom(size)
	return nil
}

// Sync implements vfs.FileDescriptionImpl.
func (fd *regularFD) Sync(ctx context.Context, opts vfs.SyncOptions) error {
	if opts.DataOnly {
		return errno(again(func() error { return unix.Fdatasync(fd.host) }))
	}
	return errno(again(func() error { return unix.Fsync(fd.host) }))
}

// Seek implements vfs.FileDescriptionImpl.
func (fd *regularFD) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	switch whence {
	case linux.SEEK_SET:
	case linux.SEEK_CUR:
		offset += fd.off
	case linux.SEEK_END:
		size, err := fd.size()
		if err != nil {
			return 0, err
		}
		offset += size
	case linux.SEEK_DATA, linux.SEEK_HOLE:
		var err error
		if offset, err = unix.Seek(fd.host, offset, int(whence)); err != nil {
			return 0, errno(err)
		}
	default:
		return 0, linuxerr.EINVAL
	}
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	fd.off = offset
	return offset, nil
}

// ConfigureMMap implements vfs.FileDescriptionImpl.
func (fd *regularFD) ConfigureMMap(ctx context.Context, opts *memmap.MMapOpts) error {
	i := fd.Inode()
	if i.fs.grow && !opts.Private {
		if opts.Perms.Write {
			return linuxerr.EACCES
		}
		opts.MaxPerms.Write = false
	}
	if err := i.openMapped(fd.host, fd.VFSFD.IsWritable(), !opts.Private && opts.MaxPerms.Write); err != nil {
		return err
	}
	return vfs.GenericConfigureMMap(&fd.VFSFD, i, opts)
}

// Allocate implements vfs.FileDescriptionImpl.
func (fd *regularFD) Allocate(ctx context.Context, mode, offset, length uint64) error {
	if mode > 0xffff {
		return linuxerr.EOPNOTSUPP
	}
	return fd.Fallocate(ctx, uint32(mode), int64(offset), int64(length))
}

// Fallocate implements fallocate(2) with every mode that the host has. The caller has
// checked that the file is open for writing.
func (fd *regularFD) Fallocate(ctx context.Context, mode uint32, off, n int64) error {
	if fd.Inode().fs.grow && mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return linuxerr.EPERM
	}
	if err := fd.Inode().fs.writable(); err != nil {
		return err
	}
	if err := fd.Inode().dropPrivileges(ctx); err != nil {
		return err
	}
	if err := again(func() error { return unix.Fallocate(fd.host, mode, off, n) }); err != nil {
		return errno(err)
	}
	fd.Inode().fs.changed.Store(true)
	switch {
	case mode&(unix.FALLOC_FL_COLLAPSE_RANGE|unix.FALLOC_FL_INSERT_RANGE) != 0:
		fd.Inode().unmapFrom(off &^ (hostarch.PageSize - 1))
	case mode&unix.FALLOC_FL_PUNCH_HOLE != 0:
		fd.Inode().unmap(uint64(off), uint64(off+n))
	}
	return nil
}

// Requests of ioctl(2) that every regular file of Linux answers.
const (
	ioctlFIGETBSZ = 0x2
	ioctlFIONREAD = 0x541b
	ioctlFIOQSIZE = 0x5460
)

// Ioctl implements vfs.FileDescriptionImpl. None reaches the host.
func (fd *regularFD) Ioctl(ctx context.Context, uio usermem.IO, sysno uintptr, args arch.SyscallArguments) (uintptr, error) {
	answer := make([]byte, 0, 8)
	switch args[1].Uint() {
	case ioctlFIGETBSZ:
		s, err := fd.Inode().StatFS(nil)
		if err != nil {
			return 0, err
		}
		answer = binary.NativeEndian.AppendUint32(answer, uint32(s.BlockSize))
	case ioctlFIONREAD, ioctlFIOQSIZE:
		size, err := fd.size()
		if err != nil {
			return 0, err
		}
		if args[1].Uint() == ioctlFIOQSIZE {
			answer = binary.NativeEndian.AppendUint64(answer, uint64(size))
			break
		}
		fd.mu.Lock()
		answer = binary.NativeEndian.AppendUint32(answer, uint32(size-fd.off))
		fd.mu.Unlock()
	default:
		return 0, linuxerr.ENOTTY
	}
	_, err := uio.CopyOut(ctx, args[2].Pointer(), answer, usermem.IOOpts{})
	return 0, err
}
