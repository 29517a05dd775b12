package ubd

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/usermem"
)

// The ioctls that x/sys has no names for, from linux/fs.h, linux/hdreg.h, linux/blkdev.h
// and linux/cdrom.h.
const (
	blkGetDiskSeq   = 0x80081280
	hdioGetGeometry = 0x0301
	hdioGetIdentity = 0x030d
	cdromVolRead    = 0x5313
)

// The geometry that User Mode Linux gives its disks.
const (
	heads          = 128
	sectorsOfTrack = 32
)

// Ioctl implements vfs.FileDescriptionImpl.Ioctl.
func (fd *diskFD) Ioctl(ctx context.Context, uio usermem.IO, sysno uintptr, args arch.SyscallArguments) (uintptr, error) {
	d := fd.disk
	put := func(b []byte) (uintptr, error) {
		_, err := uio.CopyOut(ctx, args[2].Pointer(), b, usermem.IOOpts{})
		return 0, err
	}
	put16 := func(v uint16) (uintptr, error) { return put(binary.NativeEndian.AppendUint16(nil, v)) }
	put32 := func(v uint32) (uintptr, error) { return put(binary.NativeEndian.AppendUint32(nil, v)) }
	put64 := func(v uint64) (uintptr, error) { return put(binary.NativeEndian.AppendUint64(nil, v)) }

	switch args[1].Uint() {
	case unix.BLKGETSIZE64:
		return put64(uint64(d.size()))
	case unix.BLKGETSIZE:
		return put64(uint64(d.size() / logicalBlock))
	case unix.BLKSSZGET:
		return put32(logicalBlock)
	case unix.BLKPBSZGET, unix.BLKIOMIN:
		return put32(logicalBlock)
	case unix.BLKIOOPT, unix.BLKALIGNOFF, unix.BLKDISCARDZEROES:
		return put32(0)
	case unix.BLKROTATIONAL:
		return put16(0)
	case unix.BLKSECTGET:
		// The most sectors of a request; larger ones are no slower here.
		return put16(2560)
	case unix.BLKBSZGET:
		d.mu.Lock()
		size := d.blockSize
		d.mu.Unlock()
		return put32(uint32(size))
	case unix.BLKBSZSET:
		return fd.setBlockSize(ctx, uio, args[2].Pointer())
	case unix.BLKROGET:
		if d.isReadOnly() {
			return put32(1)
		}
		return put32(0)
	case unix.BLKROSET:
		if err := needAdmin(ctx); err != nil {
			return 0, err
		}
		v, err := get32(ctx, uio, args[2].Pointer())
		if err != nil {
			return 0, err
		}
		d.mu.Lock()
		d.readOnly = v != 0
		d.mu.Unlock()
		return 0, nil
	case unix.BLKRAGET, unix.BLKFRAGET:
		d.mu.Lock()
		sectors := d.readAhead
		d.mu.Unlock()
		return put64(sectors)
	case unix.BLKRASET, unix.BLKFRASET:
		if err := needAdmin(ctx); err != nil {
			return 0, err
		}
		d.mu.Lock()
		d.readAhead = args[2].Uint64()
		d.mu.Unlock()
		return 0, nil
	case unix.BLKFLSBUF:
		if err := needAdmin(ctx); err != nil {
			return 0, err
		}
		return 0, hostError(d.sync())
	case unix.BLKRRPART:
		if err := needAdmin(ctx); err != nil {
			return 0, err
		}
		return 0, fd.disks.rescan(d, fd.holder)
	case unix.BLKPG:
		if err := needAdmin(ctx); err != nil {
			return 0, err
		}
		return 0, fd.changePartition(ctx, uio, args[2].Pointer())
	case unix.BLKDISCARD, unix.BLKZEROOUT:
		off, n, err := fd.changeRange(ctx, uio, args[2].Pointer())
		if err != nil {
			return 0, err
		}
		if args[1].Uint() == unix.BLKZEROOUT {
			return 0, d.zero(off, n)
		}
		return 0, d.trim(off, n)
	case unix.BLKSECDISCARD:
		return 0, linuxerr.EOPNOTSUPP
	case blkGetDiskSeq:
		return put64(uint64(d.spec.Unit + 1))
	case hdioGetGeometry:
		return put(d.geometry())
	case hdioGetIdentity:
		return put(d.identity())
	case cdromVolRead:
		return put([]byte{255, 255, 255, 255})
	}
	return fd.FileDescriptionDefaultImpl.Ioctl(ctx, uio, sysno, args)
}

// needAdmin is the privilege that Linux asks of those who change a disk's settings.
func needAdmin(ctx context.Context) error {
	if !auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_ADMIN) {
		return linuxerr.EACCES
	}
	return nil
}

func get32(ctx context.Context, uio usermem.IO, addr hostarch.Addr) (uint32, error) {
	var b [4]byte
	if _, err := uio.CopyIn(ctx, addr, b[:], usermem.IOOpts{}); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint32(b[:]), nil
}

// setBlockSize is BLKBSZSET: a power of two from a logical block to a page.
func (fd *diskFD) setBlockSize(ctx context.Context, uio usermem.IO, addr hostarch.Addr) (uintptr, error) {
	if err := needAdmin(ctx); err != nil {
		return 0, err
	}
	size, err := get32(ctx, uio, addr)
	if err != nil {
		return 0, err
	}
	if bits.OnesCount32(size) != 1 || size < logicalBlock || size > pageBytes {
		return 0, linuxerr.EINVAL
	}
	fd.disk.mu.Lock()
	defer fd.disk.mu.Unlock()
	if fd.disk.isHeld(fd.holder) {
		return 0, linuxerr.EBUSY
	}
	fd.disk.blockSize = int(size)
	return 0, nil
}

// changeRange reads the range of a BLKDISCARD or a BLKZEROOUT, start and length.
func (fd *diskFD) changeRange(ctx context.Context, uio usermem.IO, addr hostarch.Addr) (off, n int64, err error) {
	if !fd.vfsfd.IsWritable() {
		return 0, 0, linuxerr.EBADF
	}
	if fd.disk.isReadOnly() {
		return 0, 0, linuxerr.EPERM
	}
	var b [16]byte
	if _, err := uio.CopyIn(ctx, addr, b[:], usermem.IOOpts{}); err != nil {
		return 0, 0, err
	}
	start, length := binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])
	size := uint64(fd.disk.size())
	if (start|length)&(logicalBlock-1) != 0 || length == 0 || start > size || length > size-start {
		return 0, 0, linuxerr.EINVAL
	}
	return int64(start), int64(length), nil
}

// geometry is a struct hd_geometry.
func (d *disk) geometry() []byte {
	cylinders := d.size() / (heads * sectorsOfTrack * logicalBlock)
	b := []byte{heads, sectorsOfTrack}
	b = binary.NativeEndian.AppendUint16(b, uint16(cylinders))
	b = append(b, 0, 0, 0, 0)
	return binary.NativeEndian.AppendUint64(b, uint64(d.part.Start/logicalBlock))
}

// identity is a struct hd_driveid with the serial number. Its strings are padded with
// blanks.
func (d *disk) identity() []byte {
	b := make([]byte, 512)
	binary.NativeEndian.PutUint16(b[2:], uint16(d.size()/(heads*sectorsOfTrack*logicalBlock)))
	binary.NativeEndian.PutUint16(b[6:], heads)
	binary.NativeEndian.PutUint16(b[12:], sectorsOfTrack)
	ataString(b[20:40], d.spec.Serial)
	ataString(b[54:94], "UML ubd")
	return b
}

// ataString fills dst with s and blanks.
func ataString(dst []byte, s string) {
	for i := range dst {
		dst[i] = ' '
	}
	copy(dst, s)
}
