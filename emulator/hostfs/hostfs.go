package hostfs

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/tree"
)

// Name is the filesystem type's name in mount(2) and /proc/filesystems.
const Name = "hostfs"

// FilesystemType is the vfs.FilesystemType of hostfs. Make it with New, and register it
// with AllowUserMount and AllowUserList.
//
// A mount from inside (the root) may pass an *Export as GetFilesystemOptions.InternalData.
// A mount by the guest is of what Find says that its source stands for, else of the export
// that New got.
type FilesystemType struct {
	export *Export

	// Find is the export that a mount's source stands for, or nil. It may be nil.
	Find func(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string) *Export

	// Errorf writes a line to the guest's kernel log. It may be nil.
	Errorf func(format string, a ...any)

	// user and group are whom the files belong to that we make on the host.
	user, group uint32

	fds *descriptors
}

// New makes the type. Mounts show what is below export; without one none succeeds.
func New(export *Export) *FilesystemType {
	return &FilesystemType{
		export: export,
		user:   uint32(os.Geteuid()),
		group:  uint32(os.Getegid()),
		fds:    newDescriptors(),
	}
}

// Name implements vfs.FilesystemType.
func (t *FilesystemType) Name() string { return Name }

// Release implements vfs.FilesystemType.
func (t *FilesystemType) Release(ctx context.Context) {}

func (t *FilesystemType) errorf(format string, args ...any) {
	if t.Errorf != nil {
		t.Errorf("hostfs: "+format, args...)
	}
}

// GetFilesystem implements vfs.FilesystemType. Every mount has a filesystem of its own.
func (t *FilesystemType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	if !opts.InternalMount && !creds.HasRootCapability(linux.CAP_SYS_ADMIN) {
		// As in Linux root of a user namespace may not: files of the host would be
		// theirs that are not.
		return nil, nil, linuxerr.EPERM
	}
	export, _ := opts.InternalData.(*Export)
	if export == nil && t.Find != nil {
		export = t.Find(ctx, v, creds, source)
	}
	if export == nil {
		export = t.export
	}
	o, err := parseOptions(opts.Data)
	if err != nil {
		t.errorf("%v", err)
		return nil, nil, linuxerr.EINVAL
	}
	if export == nil || export.fd < 0 {
		return nil, nil, linuxerr.ENOENT
	}
	fd, err := openDir(export.fd, o.dir)
	if err != nil {
		return nil, nil, errno(err)
	}
	fs := &filesystem{
		typ: t, opts: o, grow: export.Append, source: source,
		mf:      pgalloc.MemoryFileFromContext(ctx),
		devices: make(map[uint64]uint32),
	}
	fs.readOnly.Store(o.ro)
	fs.MostCached = int(min(maxCachedDentries, t.fds.mostInodes/2))
	fs.Still, fs.Full = still, t.fds.full
	fs.Init(fs)
	fs.VFSFS.Init(v, t, fs)
	i, err := fs.inodeOf(fd)
	if err != nil {
		fs.VFSFS.DecRef(ctx)
		return nil, nil, err
	}
	fs.SetRoot(i)
	if o.remember && !fs.remembers() {
		t.errorf("%s: option remember: the host keeps no attributes %s* there", o.dir, hiddenXattr)
		fs.VFSFS.DecRef(ctx)
		return nil, nil, linuxerr.EOPNOTSUPP
	}
	fs.Root().IncRef()
	return &fs.VFSFS, fs.Root().VFS(), nil
}

// remembers says whether the host has the attributes that the option remember needs.
func (fs *filesystem) remembers() bool {
	_, err := unix.Getxattr(procPath(fs.Root().Inode.fd), ownerXattr, make([]byte, maxOwner))
	return err == nil || err == unix.ENODATA || err == unix.ERANGE
}

// dentry is a name in a directory.
type dentry = tree.Dentry[*inode]

// maxCachedDentries is how many unreferenced dentries a filesystem keeps, each with a
// descriptor of the host.
const maxCachedDentries = 4096

// enoent is compared with ==.
var enoent error = linuxerr.ENOENT

// filesystem is a mounted directory. It implements vfs.FilesystemImpl.
type filesystem struct {
	tree.Tree[*inode]

	// These do not change.
	typ    *FilesystemType
	opts   options
	grow   bool // files may only grow
	source string
	mf     *pgalloc.MemoryFile

	// readOnly is whether the filesystem is, whatever a mount of it is.
	readOnly atomic.Bool

	// changed is whether anything was changed since the last Sync, stored whether a
	// mapping may have changed something at any time.
	changed, stored atomic.Bool

	// devices gives the host's filesystems numbers that the guest has for nothing else.
	devicesMu sync.Mutex
	devices   map[uint64]uint32
}

// Release implements vfs.FilesystemImpl. It runs when the last mount is gone.
func (fs *filesystem) Release(ctx context.Context) {
	fs.ReleaseAll(ctx)
	fs.devicesMu.Lock()
	defer fs.devicesMu.Unlock()
	for _, minor := range fs.devices {
		fs.VFSFS.VirtualFilesystem().PutAnonBlockDevMinor(minor)
	}
	fs.devices = nil
}

// minor is the guest's number of a filesystem of the host's; its major is 0. Files of
// one number there and here are the same file.
func (fs *filesystem) minor(st *unix.Statx_t) uint32 {
	key := unix.Mkdev(st.Dev_major, st.Dev_minor)
	fs.devicesMu.Lock()
	defer fs.devicesMu.Unlock()
	if minor, ok := fs.devices[key]; ok {
		return minor
	}
	minor, err := fs.VFSFS.VirtualFilesystem().GetAnonBlockDevMinor()
	if err != nil || fs.devices == nil {
		return 0
	}
	fs.devices[key] = minor
	return minor
}

// Sync implements vfs.FilesystemImpl. It makes the host's whole filesystem stable, unless
// nothing was changed here.
func (fs *filesystem) Sync(ctx context.Context) error {
	if !fs.changed.Swap(false) && !fs.stored.Load() {
		return nil
	}
	fd, err := reopen(fs.Root().Inode.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return errno(err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		fs.changed.Store(true)
		return errno(err)
	}
	return nil
}

// MountOptions implements vfs.FilesystemImpl.
func (fs *filesystem) MountOptions() string {
	s := fs.opts.String()
	if fs.grow {
		s += ",append"
	}
	return s
}

// Remount implements mount(2) with MS_REMOUNT: whether the mount may be written is all
// that can change.
func (fs *filesystem) Remount(ctx context.Context, readOnly bool, data string) error {
	o, err := parseRemount(data, fs)
	if err != nil {
		fs.typ.errorf("remount: %v", err)
		return linuxerr.EINVAL
	}
	if given, now := o.String(), fs.opts.String(); given != now {
		fs.typ.errorf("remount: %s: the options of the mount are %s and stay so", given, now)
		return linuxerr.EINVAL
	}
	fs.readOnly.Store(readOnly)
	return nil
}

// ReadOnly implements tree.Filesystem.
func (fs *filesystem) ReadOnly() bool { return fs.readOnly.Load() }

// Changing implements tree.Filesystem.
func (fs *filesystem) Changing() (done func()) { return func() {} }

// BeginWrite implements tree.Filesystem.
func (fs *filesystem) BeginWrite(mnt *vfs.Mount) error {
	if err := fs.writable(); err != nil {
		return err
	}
	return mnt.CheckBeginWrite()
}

// EndWrite implements tree.Filesystem: the change is noted when it is made, so that no Sync misses it.
func (fs *filesystem) EndWrite(mnt *vfs.Mount) {
	fs.changed.Store(true)
	mnt.EndWrite()
}

// writable fails where the filesystem is read-only.
func (fs *filesystem) writable() error {
	if fs.readOnly.Load() {
		return linuxerr.EROFS
	}
	return nil
}

// StatFS implements tree.Inode.
func (i *inode) StatFS(mnt *vfs.Mount) (linux.Statfs, error) {
	const magic = 0x00c0ffee // HOSTFS_SUPER_MAGIC
	var st unix.Statfs_t
	if err := again(func() error { return unix.Fstatfs(i.fd, &st) }); err != nil {
		return linux.Statfs{}, errno(err)
	}
	flags := uint64(linux.ST_VALID)
	if mnt != nil {
		flags |= mnt.MountFlags()
	}
	if i.fs.readOnly.Load() {
		flags |= linux.ST_RDONLY
	}
	return linux.Statfs{
		Type:            magic,
		BlockSize:       st.Bsize,
		FragmentSize:    st.Frsize,
		Blocks:          st.Blocks,
		BlocksFree:      st.Bfree,
		BlocksAvailable: st.Bavail,
		Files:           st.Files,
		FilesFree:       st.Ffree,
		NameLength:      uint64(st.Namelen),
		Flags:           flags,
	}, nil
}
