package hostfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// openSpecial opens a FIFO or a device: the guest's own, whatever the host has behind the
// node. A socket is connected to, not opened.
func (d *dentry) openSpecial(ctx context.Context, rp *vfs.ResolvingPath, opts *vfs.OpenOptions) (*vfs.FileDescription, error) {
	i := d.inode
	switch i.kind {
	case linux.S_IFIFO:
		return i.fifo().Open(ctx, rp.Mount(), &d.vfsd, opts.Flags, &i.locks)
	case linux.S_IFCHR, linux.S_IFBLK:
		if rp.Mount().Options().Flags.NoDev {
			return nil, linuxerr.EACCES
		}
		kind := vfs.CharDevice
		if i.kind == linux.S_IFBLK {
			kind = vfs.BlockDevice
		}
		a, err := i.attr()
		if err != nil {
			return nil, err
		}
		return rp.VirtualFilesystem().OpenDeviceSpecialFile(ctx, rp.Mount(), &d.vfsd, kind, a.major, a.minor, opts)
	}
	return nil, linuxerr.ENXIO
}

// fifo returns the pipe behind a FIFO, which lives as long as someone holds the inode.
func (i *inode) fifo() *pipe.VFSPipe {
	i.pipeMu.Lock()
	defer i.pipeMu.Unlock()
	if i.pipe == nil {
		i.pipe = pipe.NewVFSPipe(true, pipe.DefaultPipeSize)
	}
	return i.pipe
}

// BoundEndpointAt implements vfs.FilesystemImpl. Only what the guest has bound can be
// connected to: a socket that a process of the host listens at refuses.
func (fs *filesystem) BoundEndpointAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.BoundEndpointOptions) (transport.BoundEndpoint, error) {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	if err := d.inode.allows(rp.Credentials(), vfs.MayWrite); err != nil {
		return nil, err
	}
	if ep := d.inode.endpoint.Load(); ep != nil {
		return ep.BoundEndpoint, nil
	}
	return nil, linuxerr.ECONNREFUSED
}
