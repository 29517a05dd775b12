package ext4fs

import (
	"sync"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ubdfmt"
)

// Name is the filesystem type's name in mount(2) and /proc/filesystems.
const Name = "ext4"

// Disk is a block device as a filesystem mounts it.
type Disk struct {
	// Device holds the bytes.
	Device ubdfmt.Device

	// Name is the device's name below /dev: "ubda".
	Name string

	// Major and Minor are the device's numbers, which st_dev of every file of
	// the filesystem shows.
	Major, Minor uint32

	// ReadOnly says that Device refuses writes.
	ReadOnly bool

	// Release, when not nil, is called once, after the filesystem has let go of
	// Device.
	Release func()
}

// Disks finds the disks that a guest names by device number.
type Disks interface {
	// Claim returns the disk at major and minor and counts the mount as its
	// holder until Disk.Release is called. It fails with ENXIO where there is no
	// such disk and with EBUSY where something else has it for itself.
	Claim(major, minor uint32) (Disk, error)
}

// FilesystemType is the vfs.FilesystemType of ext2, ext3 and ext4 filesystems on
// the machine's disks. Register a pointer to it with AllowUserMount, AllowUserList
// and RequiresDevice. A disk has one filesystem however often it is mounted.
//
// A mount from inside (the root) passes a Disk as GetFilesystemOptions.InternalData,
// which stays the caller's where the mount fails. A mount by the guest names a block
// device that Disks knows.
type FilesystemType struct {
	// Disks resolves device numbers. It may be nil where only InternalData is used.
	Disks Disks

	// Logf writes a line to the guest's kernel log. It may be nil.
	Logf func(format string, a ...any)

	// Errorf is Logf for what goes wrong, which a quiet boot shows too. Without it Logf
	// is used.
	Errorf func(format string, a ...any)

	// CacheBytes bounds the metadata that each filesystem keeps in memory; 0 means
	// the engine's default.
	CacheBytes int64

	// Panic ends the machine, where a filesystem mounted with errors=panic is found
	// damaged. Without it such a filesystem becomes read-only.
	Panic func(error)

	warned sync.Once // of data=journal

	mu   sync.Mutex
	open map[uint64]*filesystem // by device number
}

// As returns the type of another name of the family, "ext2" or "ext3", which refuses
// filesystems with features of later ones. A disk is mounted as one type at a time.
func (t *FilesystemType) As(name string) vfs.FilesystemType {
	return &alias{FilesystemType: t, name: name}
}

type alias struct {
	*FilesystemType
	name string
}

// Name implements vfs.FilesystemType.
func (a *alias) Name() string { return a.name }

// GetFilesystem implements vfs.FilesystemType.
func (a *alias) GetFilesystem(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	return a.mount(ctx, vfsObj, creds, a, source, opts)
}

// Name implements vfs.FilesystemType.
func (t *FilesystemType) Name() string { return Name }

// Release implements vfs.FilesystemType.
func (t *FilesystemType) Release(ctx context.Context) {}

// GetFilesystem implements vfs.FilesystemType. It fails with ENOTBLK where source
// is no block device, ENXIO where the device is no disk of ours, EBUSY where it is
// taken or mounted as another type or with the other of ro and rw, and EINVAL where it holds no
// filesystem that the type knows or an option is unknown; a line in the kernel log says
// which. Of damage it fails with EUCLEAN or EBADMSG.
func (t *FilesystemType) GetFilesystem(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	return t.mount(ctx, vfsObj, creds, t, source, opts)
}
