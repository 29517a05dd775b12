package tree

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// Key is a file among those of a filesystem: a device, where there are several, and an
// inode number.
type Key struct{ Dev, Ino uint64 }

// File is what every inode has. There is one per file, so that hard links share mappings,
// locks and watches.
type File struct {
	// Kind is the type that the guest sees: linux.S_IFREG and the like. It never changes.
	Kind uint16

	key  Key
	refs int64 // protected by Tree.inodesMu

	Locks   vfs.FileLocks
	Watches vfs.Watches

	// Nameless is set while a file made with O_TMPFILE may still be given a name.
	Nameless atomic.Bool

	// pipeMu protects pipe, which a FIFO gets when it is first opened.
	pipeMu sync.Mutex
	pipe   *pipe.VFSPipe

	// endpoint is what a socket bound at the file listens with. While it is set it
	// holds a reference on the inode, until the file's last name is removed.
	endpoint atomic.Pointer[endpoint]
}

type endpoint struct{ transport.BoundEndpoint }

// Common is f: see Inode.
func (f *File) Common() *File { return f }

// Ino is the file's inode number.
func (f *File) Ino() uint64 { return f.key.Ino }

// Key is the file among those of its filesystem.
func (f *File) Key() Key { return f.key }

// IsDir says whether f is a directory.
func (f *File) IsDir() bool { return f.Kind == linux.S_IFDIR }

// Bound says whether a socket of the guest is bound at f.
func (f *File) Bound() bool { return f.endpoint.Load() != nil }

// fifo returns the pipe behind a FIFO, which lives as long as someone holds the inode.
func (f *File) fifo() *pipe.VFSPipe {
	f.pipeMu.Lock()
	defer f.pipeMu.Unlock()
	if f.pipe == nil {
		f.pipe = pipe.NewVFSPipe(true, pipe.DefaultPipeSize)
	}
	return f.pipe
}

// openSpecial opens a FIFO or a device: the guest's own, whatever is behind the node
// elsewhere. A socket is connected to, not opened.
func (d *Dentry[I]) openSpecial(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (*vfs.FileDescription, error) {
	switch d.file.Kind {
	case linux.S_IFIFO:
		return d.file.fifo().Open(ctx, rp.Mount(), &d.vfsd, opts.Flags, &d.file.Locks)
	case linux.S_IFCHR, linux.S_IFBLK:
		if rp.Mount().Options().Flags.NoDev {
			return nil, linuxerr.EACCES
		}
		kind := vfs.CharDevice
		if d.file.Kind == linux.S_IFBLK {
			kind = vfs.BlockDevice
		}
		major, minor, err := d.Inode.Device()
		if err != nil {
			return nil, err
		}
		return rp.VirtualFilesystem().OpenDeviceSpecialFile(ctx, rp.Mount(), &d.vfsd, kind, major, minor, opts)
	}
	return nil, linuxerr.ENXIO
}

// BoundEndpointAt implements vfs.FilesystemImpl. Only what the guest has bound can be
// connected to: a socket that a process of the host listens at refuses.
func (t *Tree[I]) BoundEndpointAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.BoundEndpointOptions) (transport.BoundEndpoint, error) {
	d, err := t.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	if err := d.Inode.Allows(rp.Credentials(), vfs.MayWrite); err != nil {
		return nil, err
	}
	if ep := d.file.endpoint.Load(); ep != nil {
		return ep.BoundEndpoint, nil
	}
	return nil, linuxerr.ECONNREFUSED
}
