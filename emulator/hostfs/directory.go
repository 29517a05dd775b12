package hostfs

import (
	"encoding/binary"
	"math"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// direntBuffer is how much of a directory is read from the host at a time, in bytes.
const direntBuffer = 32 << 10

// directoryFD is an open directory. Its position is the host's, which stays good while
// the directory changes.
type directoryFD struct {
	fileDescription
	vfs.DirectoryFileDescriptionDefaultImpl

	mu sync.Mutex
	// off is the position behind what the guest has read; at is that of the host's
	// descriptor, which is behind unread as well.
	off, at int64
	buf     []byte
	unread  []byte
}

// Allocate implements vfs.FileDescriptionImpl.
func (fd *directoryFD) Allocate(ctx context.Context, mode, offset, length uint64) error {
	return linuxerr.EISDIR
}

// The host's struct linux_dirent64.
const (
	direntIno    = 0
	direntOff    = 8
	direntLen    = 16
	direntType   = 18
	direntName   = 19
	direntAlways = 24 // the shortest
)

// IterDirents implements vfs.FileDescriptionImpl.
func (fd *directoryFD) IterDirents(ctx context.Context, cb vfs.IterDirentsCallback) error {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	d := fd.Dentry()
	for {
		for len(fd.unread) >= direntAlways {
			e := fd.unread
			n := int(binary.NativeEndian.Uint16(e[direntLen:]))
			if n < direntAlways || n > len(e) {
				return linuxerr.EIO
			}
			dirent := vfs.Dirent{
				Name:    unix.ByteSliceToString(e[direntName:n]),
				Type:    e[direntType],
				Ino:     binary.NativeEndian.Uint64(e[direntIno:]),
				NextOff: int64(binary.NativeEndian.Uint64(e[direntOff:])),
			}
			switch {
			case dirent.Name == "..":
				dirent.Ino = parentIno(d)
			case d.Inode.fs.opts.remember && dirent.Type == linux.DT_REG:
				dirent.Type = fd.noted(dirent.Name)
			}
			if err := cb.Handle(dirent); err != nil {
				return err
			}
			fd.off, fd.unread = dirent.NextOff, e[n:]
		}
		if fd.at != fd.off {
			if _, err := unix.Seek(fd.host, fd.off, 0); err != nil {
				return errno(err)
			}
		}
		if fd.buf == nil {
			fd.buf = make([]byte, direntBuffer)
		}
		n, err := unix.Getdents(fd.host, fd.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return errno(err)
		}
		if n == 0 {
			fd.at = fd.off
			return nil
		}
		fd.unread = fd.buf[:n]
		fd.at = lastOffset(fd.unread)
	}
}

// lastOffset is the position behind the entries.
func lastOffset(b []byte) (off int64) {
	for len(b) >= direntAlways {
		off = int64(binary.NativeEndian.Uint64(b[direntOff:]))
		n := int(binary.NativeEndian.Uint16(b[direntLen:]))
		if n < direntAlways || n > len(b) {
			break
		}
		b = b[n:]
	}
	return off
}

// noted is the type of a regular file of the host's as it is remembered.
func (fd *directoryFD) noted(name string) uint8 {
	buf := make([]byte, maxOwner)
	n, err := unix.Lgetxattr(procPath(fd.host)+"/"+name, ownerXattr, buf)
	if err == nil {
		if o, err := parseOwner(string(buf[:n])); err == nil && o.mode&linux.S_IFMT != linux.S_IFDIR {
			return uint8(o.mode >> 12)
		}
	}
	return linux.DT_REG
}

// parentIno is the number of "..". Above the mount the host has nothing to tell.
func parentIno(d *dentry) uint64 {
	if parent := d.Parent(); parent != nil {
		return parent.Inode.Ino()
	}
	return d.Inode.Ino()
}

// Seek implements vfs.FileDescriptionImpl. From the beginning on the host is asked again.
func (fd *directoryFD) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	switch whence {
	case linux.SEEK_SET:
	case linux.SEEK_CUR:
		offset += fd.off
	case linux.SEEK_END:
		offset = math.MaxInt64
	default:
		return 0, linuxerr.EINVAL
	}
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	if offset != fd.off || offset == 0 {
		at, err := unix.Seek(fd.host, offset, 0)
		if err != nil {
			return 0, errno(err)
		}
		fd.off, fd.at, fd.unread = at, at, nil
	}
	return fd.off, nil
}

// Sync implements vfs.FileDescriptionImpl.
func (fd *directoryFD) Sync(ctx context.Context, opts vfs.SyncOptions) error {
	return errno(again(func() error { return unix.Fsync(fd.host) }))
}
