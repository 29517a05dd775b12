package ext4fs

import (
	"bytes"
	stdcontext "context"
	"encoding/binary"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
)

// Requests of ioctl(2) on files and directories.
const (
	ioctlFIBMAP       = 0x1
	ioctlFIGETBSZ     = 0x2
	ioctlFIONREAD     = 0x541b
	ioctlFIOQSIZE     = 0x5460
	ioctlFIFREEZE     = 0xc0045877
	ioctlFITHAW       = 0xc0045878
	ioctlFITRIM       = 0xc0185879
	ioctlFSGetXattr   = 0x801c581f
	ioctlFSSetXattr   = 0x401c5820
	ioctlGetFlags     = 0x80086601
	ioctlGetFlags32   = 0x80046601
	ioctlSetFlags     = 0x40086602
	ioctlSetFlags32   = 0x40046602
	ioctlGetVersion   = 0x80087601
	ioctlGetVersion32 = 0x80047601
	ioctlExt4Version  = 0x80086603
	ioctlGetLabel     = 0x81009431
	ioctlSetLabel     = 0x41009432
	ioctlGetUUID      = 0x80111500
	ioctlFIEMAP       = 0xc020660b
	ioctlResizeFS     = 0x40086610 // EXT4_IOC_RESIZE_FS
)

const (
	// fixedFlags are those that forbid to rename, link or remove a file.
	fixedFlags = format.FlagImmutable | format.FlagAppend
	// dirSyncFlags make changes of a directory stable at once.
	dirSyncFlags = format.FlagSync | format.FlagDirSync
)

// Ioctl implements vfs.FileDescriptionImpl.
func (fd *regularFD) Ioctl(ctx context.Context, uio usermem.IO, sysno uintptr, args arch.SyscallArguments) (uintptr, error) {
	i := fd.Inode()
	switch args[1].Uint() {
	case ioctlFIONREAD:
		fd.mu.Lock()
		n := i.content.size.Load() - fd.off
		fd.mu.Unlock()
		return 0, copyOut(ctx, uio, args[2].Pointer(), int32(n))
	case ioctlFIOQSIZE:
		return 0, copyOut(ctx, uio, args[2].Pointer(), i.content.size.Load())
	case ioctlFIBMAP:
		return 0, i.bmap(ctx, uio, args[2].Pointer())
	}
	return fd.ioctl(ctx, uio, sysno, args)
}

// Ioctl implements vfs.FileDescriptionImpl.
func (fd *directoryFD) Ioctl(ctx context.Context, uio usermem.IO, sysno uintptr, args arch.SyscallArguments) (uintptr, error) {
	if args[1].Uint() == ioctlFIOQSIZE {
		return 0, copyOut(ctx, uio, args[2].Pointer(), fd.Inode().node.Attr().Size)
	}
	return fd.ioctl(ctx, uio, sysno, args)
}

// ioctl is what files and directories have in common.
func (fd *fileDescription) ioctl(ctx context.Context, uio usermem.IO, sysno uintptr, args arch.SyscallArguments) (uintptr, error) {
	i, fs, addr := fd.Inode(), fd.Inode().fs, args[2].Pointer()
	switch args[1].Uint() {
	case ioctlFIGETBSZ:
		return 0, copyOut(ctx, uio, addr, int32(fs.blockSize))
	case ioctlGetFlags, ioctlGetFlags32:
		return 0, copyOut(ctx, uio, addr, i.node.Attr().Flags&format.FlagsUserVisible)
	case ioctlSetFlags, ioctlSetFlags32:
		var flags uint32
		if err := copyIn(ctx, uio, addr, &flags); err != nil {
			return 0, err
		}
		return 0, fd.Change(func() error { return i.setFlags(ctx, flags) })
	case ioctlGetVersion, ioctlGetVersion32, ioctlExt4Version:
		return 0, copyOut(ctx, uio, addr, i.node.Generation())
	case ioctlFSGetXattr:
		return 0, copyOut(ctx, uio, addr, i.fsxattr())
	case ioctlFSSetXattr:
		var x fsxattr
		if err := copyIn(ctx, uio, addr, &x); err != nil {
			return 0, err
		}
		return 0, fd.Change(func() error { return i.setFsxattr(ctx, &x) })
	case ioctlGetLabel:
		var label [256]byte
		copy(label[:255], fs.engine.Label())
		return 0, copyOut(ctx, uio, addr, label)
	case ioctlSetLabel:
		return 0, fd.Change(func() error { return fs.setLabel(ctx, uio, addr) })
	case ioctlGetUUID:
		return 0, copyOut(ctx, uio, addr, struct {
			Len  uint8
			UUID [16]byte
		}{16, fs.info.UUID})
	case ioctlFIFREEZE:
		return 0, fs.freeze(ctx)
	case ioctlFITHAW:
		return 0, fs.thaw(ctx)
	case ioctlFITRIM:
		return 0, fs.trim(ctx, uio, addr)
	case ioctlFIEMAP:
		return 0, i.fiemap(ctx, uio, addr)
	case ioctlResizeFS:
		var blocks uint64
		if err := copyIn(ctx, uio, addr, &blocks); err != nil {
			return 0, err
		}
		if !auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_RESOURCE) {
			return 0, linuxerr.EPERM
		}
		return 0, fd.Change(func() error { return fs.grow(blocks) })
	}
	return fd.FileDescriptionDefaultImpl.Ioctl(ctx, uio, sysno, args)
}

// copyOut writes v, of fixed size, to guest memory.
func copyOut(ctx context.Context, uio usermem.IO, addr hostarch.Addr, v any) error {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
		return err
	}
	_, err := uio.CopyOut(ctx, addr, b.Bytes(), usermem.IOOpts{})
	return err
}

// copyIn reads *v, of fixed size, from guest memory.
func copyIn(ctx context.Context, uio usermem.IO, addr hostarch.Addr, v any) error {
	b := make([]byte, binary.Size(v))
	if _, err := uio.CopyIn(ctx, addr, b, usermem.IOOpts{}); err != nil {
		return err
	}
	return binary.Read(bytes.NewReader(b), binary.LittleEndian, v)
}

// setFlags is chattr(1).
func (i *inode) setFlags(ctx context.Context, flags uint32) error {
	creds := auth.CredentialsFromContext(ctx)
	if err := i.fs.writable(); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	a := i.node.Attr()
	if !vfs.CanActAsOwner(creds, auth.KUID(a.UID)) {
		return linuxerr.EPERM
	}
	if flags&^format.FlagsUserVisible != 0 {
		return linuxerr.EOPNOTSUPP
	}
	if !i.IsDir() {
		flags &^= format.FlagDirSync | format.FlagTopDir
	}
	if (flags^a.Flags)&fixedFlags != 0 && !creds.HasRootCapability(linux.CAP_LINUX_IMMUTABLE) {
		return linuxerr.EPERM
	}
	if (flags^a.Flags)&format.FlagJournalData != 0 && !creds.HasRootCapability(linux.CAP_SYS_RESOURCE) {
		return linuxerr.EPERM
	}
	if (flags^a.Flags)&format.FlagExtents != 0 && i.fs.info.Incompat&format.IncompatExtents == 0 {
		return linuxerr.EINVAL
	}
	// Other flags that chattr(1) cannot change stay: it gives back what it was shown.
	if (flags^a.Flags)&format.FlagCasefold != 0 {
		return linuxerr.EOPNOTSUPP
	}
	migrate := (flags^a.Flags)&format.FlagExtents != 0
	a.Flags = a.Flags&^format.FlagsUserChange | flags&format.FlagsUserChange
	a.Ctime = i.fs.now()
	if err := i.setAttr(ext4.AttrFlags|ext4.AttrCtime, a); err != nil || !migrate {
		return err
	}
	// As a kernel does it: the other flags are set whatever comes of this.
	if c := i.content; c != nil {
		c.dataMu.Lock()
		defer c.dataMu.Unlock()
	}
	return i.fs.errno(i.node.SetExtents(flags&format.FlagExtents != 0))
}

// setLabel is FS_IOC_SETFSLABEL, the guest's e2label(8).
func (fs *filesystem) setLabel(ctx context.Context, uio usermem.IO, addr hostarch.Addr) error {
	if !auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_ADMIN) {
		return linuxerr.EPERM
	}
	var label [17]byte // one more than a name can have
	if err := copyIn(ctx, uio, addr, &label); err != nil {
		return err
	}
	n := bytes.IndexByte(label[:], 0)
	if n < 0 {
		return linuxerr.EINVAL
	}
	if err := fs.writable(); err != nil {
		return err
	}
	return fs.errno(fs.engine.SetLabel(string(label[:n])))
}

// fsxattr is struct fsxattr.
type fsxattr struct {
	Flags, ExtentSize, Extents, Project, CowExtentSize uint32
	Pad                                                [8]byte
}

// fsxFlags pairs the flags of struct fsxattr with those of inodes.
var fsxFlags = []struct{ fsx, inode uint32 }{
	{0x8, format.FlagImmutable},
	{0x10, format.FlagAppend},
	{0x20, format.FlagSync},
	{0x40, format.FlagNoAtime},
	{0x80, format.FlagNoDump},
	{0x200, format.FlagProjInherit},
}

func (i *inode) fsxattr() fsxattr {
	a := i.node.Attr()
	x := fsxattr{Project: a.Project}
	for _, f := range fsxFlags {
		if a.Flags&f.inode != 0 {
			x.Flags |= f.fsx
		}
	}
	return x
}

func (i *inode) setFsxattr(ctx context.Context, x *fsxattr) error {
	var known, flags uint32
	a := i.node.Attr()
	flags = a.Flags & format.FlagsUserVisible
	for _, f := range fsxFlags {
		known |= f.fsx
		flags &^= f.inode
		if x.Flags&f.fsx != 0 {
			flags |= f.inode
		}
	}
	if x.Flags&^known != 0 || x.ExtentSize != 0 || x.CowExtentSize != 0 {
		return linuxerr.EOPNOTSUPP
	}
	if x.Project != a.Project && i.fs.info.RoCompat&format.RoProject == 0 {
		return linuxerr.EOPNOTSUPP
	}
	if err := i.setFlags(ctx, flags); err != nil || x.Project == a.Project {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	a = i.node.Attr()
	a.Project, a.Ctime = x.Project, i.fs.now()
	return i.setAttr(ext4.AttrProject|ext4.AttrCtime, a)
}

// bmap is FIBMAP: the block of the disk that holds a block of the file.
func (i *inode) bmap(ctx context.Context, uio usermem.IO, addr hostarch.Addr) error {
	if !auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_RAWIO) {
		return linuxerr.EPERM
	}
	var block int32
	if err := copyIn(ctx, uio, addr, &block); err != nil {
		return err
	}
	if block < 0 {
		return linuxerr.EINVAL
	}
	bs := int64(i.fs.blockSize)
	off, found := int64(block)*bs, int64(0)
	err := i.node.Map(off, bs, func(e ext4.Extent) bool {
		if e.State == ext4.Written {
			found = (e.Disk + off - e.Offset) / bs
		}
		return false
	})
	if err != nil {
		return i.fs.errno(err)
	}
	return copyOut(ctx, uio, addr, int32(found))
}

// trim is FITRIM.
func (fs *filesystem) trim(ctx context.Context, uio usermem.IO, addr hostarch.Addr) error {
	if !auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_ADMIN) {
		return linuxerr.EPERM
	}
	var r struct{ Start, Len, MinLen uint64 }
	if err := copyIn(ctx, uio, addr, &r); err != nil {
		return err
	}
	if err := fs.writable(); err != nil {
		return err
	}
	size := uint64(fs.disk.Device.Size())
	if r.Start >= size || r.Len < uint64(fs.blockSize) || r.MinLen > size {
		return linuxerr.EINVAL
	}
	r.Len = min(r.Len, size-r.Start)
	n, err := fs.engine.Trim(stdcontext.Background(), int64(r.Start), int64(r.Len), int64(r.MinLen))
	if err != nil {
		return fs.errno(err)
	}
	r.Len = uint64(n)
	return copyOut(ctx, uio, addr, r)
}

// grow is EXT4_IOC_RESIZE_FS: resize2fs on a mounted disk.
func (fs *filesystem) grow(blocks uint64) error {
	if err := fs.writable(); err != nil {
		return err
	}
	have := fs.engine.Info()
	if have.Compat&format.CompatSparseSuper2 != 0 {
		return linuxerr.EOPNOTSUPP // the last copy of the superblock would have to move
	}
	if blocks > uint64(fs.disk.Device.Size())/uint64(fs.blockSize) {
		fs.log("can't read last block, resize aborted")
		return linuxerr.ENOSPC
	}
	if blocks < have.Blocks {
		fs.log("can't shrink FS - resize aborted")
		return linuxerr.EINVAL
	}
	if blocks == have.Blocks {
		return nil
	}
	fs.log("resizing filesystem from %d to %d blocks", have.Blocks, blocks)
	if err := fs.engine.Grow(blocks); err != nil {
		fs.log("resize: %v", err)
		return fs.errno(err)
	}
	fs.log("resized filesystem to %d", fs.engine.Info().Blocks)
	return nil
}

// Flags of FIEMAP, of the request and of an extent.
const (
	fiemapSync      = 0x1
	fiemapLast      = 0x1
	fiemapNotAlign  = 0x100
	fiemapInline    = 0x200
	fiemapUnwritten = 0x800

	// fiemapMax bounds the extents of an answer.
	fiemapMax = 4096
)

type fiemapHead struct {
	Start, Length                       uint64
	Flags, Mapped, ExtentCount, Reserve uint32
}

type fiemapExtent struct {
	Logical, Physical, Length uint64
	Reserved64                [2]uint64
	Flags                     uint32
	Reserved                  [3]uint32
}

// fiemap is FIEMAP: where the file's data lies, as filefrag(8) shows it.
func (i *inode) fiemap(ctx context.Context, uio usermem.IO, addr hostarch.Addr) error {
	var h fiemapHead
	if err := copyIn(ctx, uio, addr, &h); err != nil {
		return err
	}
	if bad := h.Flags &^ fiemapSync; bad != 0 {
		h.Flags = bad
		if err := copyOut(ctx, uio, addr, h); err != nil {
			return err
		}
		return linuxerr.ErrorFromUnix(unix.EBADR)
	}
	if h.Length == 0 || h.Start >= maxOffset {
		return linuxerr.EINVAL
	}
	if h.Flags&fiemapSync != 0 {
		if err := i.flush(ctx, false); err != nil {
			return err
		}
	}
	length := int64(min(h.Length, maxOffset-h.Start, uint64(i.fs.maxFileSize)))
	limit := int(min(h.ExtentCount, fiemapMax))
	var out []fiemapExtent
	more := false
	err := i.node.Map(int64(h.Start), length, func(e ext4.Extent) bool {
		if e.State == ext4.Hole {
			return true
		}
		if h.ExtentCount != 0 && len(out) == limit {
			more = true
			return false
		}
		x := fiemapExtent{Logical: uint64(e.Offset), Physical: uint64(e.Disk), Length: uint64(e.Length)}
		switch e.State {
		case ext4.Unwritten:
			x.Flags = fiemapUnwritten
		case ext4.Inline:
			x.Flags, x.Physical = fiemapInline|fiemapNotAlign, 0
		}
		out = append(out, x)
		return true
	})
	if err != nil {
		return i.fs.errno(err)
	}
	h.Mapped = uint32(len(out))
	if n := len(out); n > 0 && !more {
		last := out[n-1].Logical + out[n-1].Length
		tail := true
		if i.node.Map(int64(last), maxTail(i, int64(last)), func(e ext4.Extent) bool {
			tail = tail && e.State == ext4.Hole
			return tail
		}) == nil && tail {
			out[n-1].Flags |= fiemapLast
		}
	}
	if h.ExtentCount != 0 {
		if err := copyOut(ctx, uio, addr+hostarch.Addr(binary.Size(h)), out); err != nil {
			return err
		}
	}
	return copyOut(ctx, uio, addr, h)
}

// maxTail is how much of a file lies after off, at least a byte.
func maxTail(i *inode, off int64) int64 {
	return max(i.fs.maxFileSize-off, 1)
}
