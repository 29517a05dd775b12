package ext4fs

import (
	"io"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
)

// directAlign is what O_DIRECT wants offsets, lengths and addresses aligned to: the
// sector of a ubd.
const directAlign = 512

// regularFD is an open regular file.
type regularFD struct {
	fileDescription

	// mu protects off, the file position.
	mu  sync.Mutex
	off int64
}

// PRead implements vfs.FileDescriptionImpl.
func (fd *regularFD) PRead(ctx context.Context, dst usermem.IOSequence, offset int64, opts vfs.ReadOptions) (int64, error) {
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	if opts.Flags&^uint32(unix.RWF_HIPRI) != 0 {
		return 0, linuxerr.EOPNOTSUPP
	}
	i := fd.Inode()
	if fd.direct() && !aligned(dst, offset) {
		return 0, linuxerr.EINVAL
	}
	if dst.NumBytes() == 0 {
		return 0, nil
	}
	n, err := int64(0), io.EOF
	if offset < i.content.size.Load() {
		n, err = dst.CopyOutFrom(ctx, &reader{i, offset})
	}
	// A read at the end of a file is an access too.
	if fd.VFSFD.StatusFlags()&linux.O_NOATIME == 0 {
		i.touchAtime(fd.VFSFD.Mount())
	}
	return n, err
}

// Read implements vfs.FileDescriptionImpl.
func (fd *regularFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	n, err := fd.PRead(ctx, dst, fd.off, opts)
	fd.off += n
	return n, err
}

func (fd *regularFD) direct() bool { return fd.VFSFD.StatusFlags()&linux.O_DIRECT != 0 }

// aligned says whether O_DIRECT allows the transfer.
func aligned(seq usermem.IOSequence, off int64) bool {
	if off%directAlign != 0 {
		return false
	}
	for ars := seq.Addrs; !ars.IsEmpty(); ars = ars.Tail() {
		ar := ars.Head()
		if ar.Start%directAlign != 0 || uint64(ar.Length())%directAlign != 0 {
			return false
		}
	}
	return true
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
	if opts.Flags&^uint32(unix.RWF_HIPRI|unix.RWF_DSYNC|unix.RWF_SYNC|unix.RWF_APPEND) != 0 {
		return 0, offset, linuxerr.EOPNOTSUPP
	}
	i, fs := fd.Inode(), fd.Inode().fs
	defer fs.Changing()()
	if err := fs.writable(); err != nil {
		return 0, offset, err
	}
	flags := fd.VFSFD.StatusFlags()
	if fd.direct() && !aligned(src, offset) {
		return 0, offset, linuxerr.EINVAL
	}
	if src.NumBytes() == 0 {
		return 0, offset, nil
	}

	i.mu.Lock()
	defer i.mu.Unlock()
	if i.node.Attr().Flags&format.FlagImmutable != 0 {
		return 0, offset, linuxerr.EPERM
	}
	if flags&linux.O_APPEND != 0 || opts.Flags&unix.RWF_APPEND != 0 {
		offset = i.content.size.Load()
	}
	limit, err := vfs.CheckLimit(ctx, offset, src.NumBytes())
	if err != nil {
		return 0, offset, err
	}
	if offset >= fs.maxFileSize {
		return 0, offset, linuxerr.EFBIG
	}
	limit = min(limit, fs.maxFileSize-offset)
	if limit, err = i.affordable(ctx, offset, min(limit, src.NumBytes())); err != nil {
		return 0, offset, err
	}
	src = src.TakeFirst64(limit)
	if err := i.dropPrivileges(ctx); err != nil {
		return 0, offset, err
	}
	n, err = src.CopyInTo(ctx, &writer{i, offset})
	i.moved(offset, n)
	if n > 0 {
		sync := flags&linux.O_SYNC != 0 || opts.Flags&unix.RWF_SYNC != 0
		if sync || flags&linux.O_DSYNC != 0 || opts.Flags&unix.RWF_DSYNC != 0 || i.alwaysSync() {
			if serr := i.syncRange(ctx, offset, n, !sync); serr != nil {
				return 0, offset, serr
			}
		}
	}
	return n, offset + n, err
}

// affordable is how much of a write of n bytes at off the task of ctx may make. The
// last blocks of a disk are reserved to root, and to whom resuid= and resgid= name.
// It fails with ENOSPC where that is nothing. inode.mu is held.
func (i *inode) affordable(ctx context.Context, off, n int64) (int64, error) {
	fs := i.fs
	bs := int64(fs.blockSize)
	// Besides the data's own there may be blocks for the map of the file.
	left := int64(fs.engine.Statfs().Available)
	if left > n/bs+16 || fs.mayUseReserved(auth.CredentialsFromContext(ctx)) {
		return n, nil
	}
	allowed := n
	err := i.node.Map(off, n, func(e ext4.Extent) bool {
		if e.State != ext4.Hole {
			return true
		}
		start := max(e.Offset, off)
		end := min(e.Offset+e.Length, off+n)
		missing := (end+bs-1)/bs - start/bs
		if missing > left {
			// A page is written in whole or not at all.
			allowed = max((start/bs+left)*bs&^(hostarch.PageSize-1), start) - off
			return false
		}
		left -= missing
		return true
	})
	switch {
	case err != nil:
		return 0, fs.errno(err)
	case allowed <= 0:
		return 0, linuxerr.ENOSPC
	}
	return min(allowed, n), nil
}

// mayUseReserved says whether creds may fill the disk to the last block.
func (fs *filesystem) mayUseReserved(creds *auth.Credentials) bool {
	o := fs.options()
	return creds.HasRootCapability(linux.CAP_SYS_RESOURCE) ||
		creds.EffectiveKUID == auth.KUID(o.number("resuid", fs.info.ReservedUID)) ||
		fs.info.ReservedGID|o.number("resgid", 0) != 0 && creds.InGroup(auth.KGID(o.number("resgid", fs.info.ReservedGID)))
}

// alwaysSync says whether the file or the mount wants every write made stable.
func (i *inode) alwaysSync() bool {
	return i.fs.options().sync || i.node.Attr().Flags&format.FlagSync != 0
}

// dropPrivileges takes the set-user-ID, set-group-ID bits and file capabilities from
// a file that is about to be written. inode.mu is held.
func (i *inode) dropPrivileges(ctx context.Context) error {
	if err := i.dropFileCaps(); err != nil {
		return err
	}
	a := i.node.Attr()
	mode := uint16(vfs.ClearSUIDAndSGID(uint32(a.Mode)))
	if mode == a.Mode || auth.CredentialsFromContext(ctx).HasCapabilityOnFile(linux.CAP_FSETID, auth.KUID(a.UID), auth.KGID(a.GID)) {
		return nil
	}
	a.Mode = mode
	a.Ctime = i.fs.now()
	return i.setAttr(ext4.AttrMode|ext4.AttrCtime, a)
}

// syncRange makes a range of the file stable. inode.mu is held.
func (i *inode) syncRange(ctx context.Context, off, n int64, dataOnly bool) error {
	c := i.content
	if c.dirtyPages.Load() {
		mr := pageRange(off, off+n)
		i.unkeep(mr)
		c.dataMu.Lock()
		err := i.flushLocked(ctx, mr, false)
		c.dataMu.Unlock()
		if err != nil {
			return err
		}
	}
	return i.fs.errno(i.node.Sync(dataOnly))
}

// Sync implements vfs.FileDescriptionImpl.
func (fd *regularFD) Sync(ctx context.Context, opts vfs.SyncOptions) error {
	i := fd.Inode()
	if err := i.flush(ctx, false); err != nil {
		return err
	}
	return i.fs.errno(i.node.Sync(opts.DataOnly))
}

// Seek implements vfs.FileDescriptionImpl.
func (fd *regularFD) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	i := fd.Inode()
	size := i.content.size.Load()
	switch whence {
	case linux.SEEK_SET:
	case linux.SEEK_CUR:
		offset += fd.off
	case linux.SEEK_END:
		offset += size
	case linux.SEEK_DATA, linux.SEEK_HOLE:
		if offset < 0 || offset >= size {
			return 0, linuxerr.ENXIO
		}
		var err error
		if offset, err = i.seekData(offset, size, whence == linux.SEEK_DATA); err != nil {
			return 0, err
		}
	default:
		return 0, linuxerr.EINVAL
	}
	if offset < 0 || offset > i.fs.maxFileSize {
		return 0, linuxerr.EINVAL
	}
	fd.off = offset
	return offset, nil
}

// seekData finds the first data, or else the first hole, from off on. Allocated
// blocks that were never written count as a hole, unless a dirty page covers them.
func (i *inode) seekData(off, size int64, data bool) (int64, error) {
	c := i.content
	c.dataMu.RLock()
	defer c.dataMu.RUnlock()
	found := int64(-1)
	err := i.node.Map(off, size-off, func(e ext4.Extent) bool {
		start, end := max(e.Offset, off), min(e.Offset+e.Length, size)
		if e.State == ext4.Written || e.State == ext4.Inline {
			if data {
				found = start
			}
			return !data
		}
		for pos := start; pos < end; {
			dirty, gap := c.dirty.Find(uint64(pos))
			if dirty.Ok() == data {
				found = pos
				return false
			}
			if dirty.Ok() {
				pos = int64(min(dirty.End(), maxOffset))
			} else {
				pos = int64(min(gap.End(), maxOffset))
			}
		}
		return true
	})
	switch {
	case err != nil:
		return 0, i.fs.errno(err)
	case found >= 0:
		return found, nil
	case data:
		return 0, linuxerr.ENXIO
	}
	return size, nil
}

// ConfigureMMap implements vfs.FileDescriptionImpl.
func (fd *regularFD) ConfigureMMap(ctx context.Context, opts *memmap.MMapOpts) error {
	i := fd.Inode()
	if !opts.Private && opts.MaxPerms.Write && fd.VFSFD.StatusFlags()&linux.O_APPEND != 0 && i.node.Attr().Flags&format.FlagAppend != 0 {
		return linuxerr.EACCES
	}
	if err := vfs.GenericConfigureMMap(&fd.VFSFD, i, opts); err != nil {
		return err
	}
	i.touchAtime(fd.VFSFD.Mount())
	return nil
}

// Allocate implements vfs.FileDescriptionImpl.
func (fd *regularFD) Allocate(ctx context.Context, mode, offset, length uint64) error {
	if mode > 0xffff {
		return linuxerr.EOPNOTSUPP
	}
	return fd.Fallocate(ctx, uint32(mode), int64(offset), int64(length))
}

// Fallocate implements fallocate(2) with every mode, of which the Sentry's own system
// call knows only 0. The caller has checked that the file is open for writing.
func (fd *regularFD) Fallocate(ctx context.Context, mode uint32, off, n int64) error {
	i := fd.Inode()
	defer i.fs.Changing()()
	if a := i.node.Attr(); a.Flags&format.FlagImmutable != 0 || a.Flags&format.FlagAppend != 0 && mode&^fallocKeepSize != 0 {
		return linuxerr.EPERM
	}
	return i.fallocate(ctx, mode, off, n)
}
