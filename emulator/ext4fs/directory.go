package ext4fs

import (
	"math"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4"
)

// direntBatch is how many entries are taken from the engine at a time. The callback
// copies to guest memory, which must not happen within the engine.
const direntBatch = 128

// directoryFD is an open directory. Its position is a cookie of the engine's, which
// stays good while the directory changes.
type directoryFD struct {
	fileDescription
	vfs.DirectoryFileDescriptionDefaultImpl

	mu     sync.Mutex
	cookie uint64
}

// Allocate implements vfs.FileDescriptionImpl.
func (fd *directoryFD) Allocate(ctx context.Context, mode, offset, length uint64) error {
	return linuxerr.EISDIR
}

// IterDirents implements vfs.FileDescriptionImpl.
func (fd *directoryFD) IterDirents(ctx context.Context, cb vfs.IterDirentsCallback) error {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	d := fd.Dentry()
	if d.Deleted() {
		return linuxerr.ENOENT
	}
	d.Inode.touchAtime(fd.VFSFD.Mount())
	batch := make([]ext4.DirEntry, 0, direntBatch)
	for {
		batch = batch[:0]
		err := d.Inode.node.ReadDir(fd.cookie, func(e ext4.DirEntry) bool {
			batch = append(batch, e)
			return len(batch) < direntBatch
		})
		for _, e := range batch {
			ino := uint64(e.Ino)
			if e.Name == ".." {
				ino = fd.parentIno(d, ino)
			}
			if err := cb.Handle(vfs.Dirent{
				Name:    e.Name,
				Type:    uint8(e.Type >> 12),
				Ino:     ino,
				NextOff: int64(e.Cookie),
			}); err != nil {
				return err
			}
			fd.cookie = e.Cookie
		}
		if err != nil {
			return fd.Inode().fs.errno(err)
		}
		if len(batch) < direntBatch {
			return nil
		}
	}
}

// parentIno is the inode number of "..", which where a mount begins is the
// filesystem's own.
func (fd *directoryFD) parentIno(d *dentry, ino uint64) uint64 {
	if parent := d.Parent(); parent != nil {
		return parent.Inode.Ino()
	}
	return ino
}

// Seek implements vfs.FileDescriptionImpl.
func (fd *directoryFD) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	switch whence {
	case linux.SEEK_SET:
	case linux.SEEK_CUR:
		offset += int64(fd.cookie)
	case linux.SEEK_END:
		offset = math.MaxInt64
	default:
		return 0, linuxerr.EINVAL
	}
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	fd.cookie = uint64(offset)
	return offset, nil
}

// Sync implements vfs.FileDescriptionImpl.
func (fd *directoryFD) Sync(ctx context.Context, opts vfs.SyncOptions) error {
	return fd.Inode().fs.errno(fd.Inode().node.Sync(opts.DataOnly))
}
