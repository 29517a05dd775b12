package emulator

import (
	"errors"
	"io"
	"path"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// programOnDisk is the program whose bytes are a block device's, for init=/dev/ubdd. Only
// a regular file can be executed, so that it is copied into guest memory; it has the
// device's name there, which is what a script's interpreter is given. What is no block
// device is EACCES.
func (s *sentry) programOnDisk(name string) (*vfs.FileDescription, error) {
	ctx := s.proc.NewContext(s.k)
	root := s.mounts.Root(ctx)
	defer root.DecRef(ctx)
	at := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(path.Clean("/" + name)), FollowFinalSymlink: true}
	st, err := s.k.VFS().StatAt(ctx, s.proc.Credentials, at, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return nil, err
	}
	if st.Mode&linux.S_IFMT != linux.S_IFBLK {
		return nil, linuxerr.EACCES
	}
	disk, err := s.k.VFS().OpenAt(ctx, s.proc.Credentials, at, &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		return nil, err
	}
	defer disk.DecRef(ctx)
	size, err := disk.Seek(ctx, 0, linux.SEEK_END)
	if err != nil {
		return nil, err
	}
	if size > s.m.config.Memory/2 {
		return nil, linuxerr.ENOMEM
	}

	mount, err := s.k.VFS().MountDisconnected(ctx, s.proc.Credentials, "", tmpfs.Name,
		&vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}})
	if err != nil {
		return nil, err
	}
	defer mount.DecRef(ctx)
	top := vfs.MakeVirtualDentry(mount, mount.Root())
	if err := s.k.VFS().MkdirAllAt(ctx, path.Dir(path.Clean("/" + name))[1:], top, s.proc.Credentials, &vfs.MkdirOptions{Mode: 0o755}, true); err != nil {
		return nil, err
	}
	copied := &vfs.PathOperation{Root: top, Start: top, Path: fspath.Parse(path.Clean("/" + name))}
	out, err := s.k.VFS().OpenAt(ctx, s.proc.Credentials, copied, &vfs.OpenOptions{Flags: linux.O_WRONLY | linux.O_CREAT, Mode: 0o755 | linux.S_IFREG})
	if err != nil {
		return nil, err
	}
	err = copyProgram(ctx, out, disk, size)
	out.DecRef(ctx)
	if err != nil {
		return nil, err
	}
	return s.k.VFS().OpenAt(ctx, s.proc.Credentials, copied, &vfs.OpenOptions{Flags: linux.O_RDONLY, FileExec: true})
}

// copyProgram copies a disk's bytes. Blocks of zeros are left out, at its end and within.
func copyProgram(ctx context.Context, out, disk *vfs.FileDescription, size int64) error {
	buf := make([]byte, 64<<10)
	for at := int64(0); at < size; {
		n, err := disk.PRead(ctx, usermem.BytesIOSequence(buf[:min(int64(len(buf)), size-at)]), at, vfs.ReadOptions{})
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = linuxerr.EIO
			}
			return err
		}
		for b, place := buf[:n], at; len(b) > 0; {
			piece := b[:min(len(b), 4096)]
			b = b[len(piece):]
			if !zeros(piece) {
				if _, err := out.PWrite(ctx, usermem.BytesIOSequence(piece), place, vfs.WriteOptions{}); err != nil {
					return err
				}
			}
			place += int64(len(piece))
		}
		at += n
	}
	return nil
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
