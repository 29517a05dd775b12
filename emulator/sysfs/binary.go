package sysfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// binary is a file of bytes that never change, whose size is seen.
type binary struct {
	file
	size int
}

// newBinary makes the inode of an entry with Data.
func (s *sysfs) newBinary(ctx context.Context, creds *auth.Credentials, parent *directory, e Entry, ino uint64) *binary {
	perm := e.Perm
	if perm == 0 {
		perm = 0o444
	}
	f := &binary{file: file{parent: parent, name: e.Name}, size: len(e.Data)}
	f.Init(ctx, creds, linux.UNNAMED_MAJOR, s.devMinor, ino, content(func() string { return string(e.Data) }), perm)
	return f
}

// Stat implements kernfs.Inode.Stat.
func (f *binary) Stat(ctx context.Context, fs *vfs.Filesystem, opts vfs.StatOptions) (linux.Statx, error) {
	st, err := f.file.Stat(ctx, fs, opts)
	if err == nil {
		st.Mask |= linux.STATX_SIZE
		st.Size = uint64(f.size)
	}
	return st, err
}
