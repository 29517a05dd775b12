package hostfs

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/tree"
)

// inode is a file, under however many names. While it holds the file open the host gives
// the number to no other. It implements tree.Inode.
type inode struct {
	tree.File
	fs *filesystem

	// fd is the file, opened with O_PATH.
	fd int

	// hostKind is the type that the host sees, as Kind the guest's. It never changes.
	hostKind uint16

	// mu serialises the guest's changes of attributes.
	mu sync.Mutex

	mapped mapped
}

// inodeOf returns the inode of the file behind fd, opened with O_PATH, with a reference.
// It takes fd over.
func (fs *filesystem) inodeOf(fd int) (*inode, error) {
	var st unix.Statx_t
	if err := statx(fd, &st); err != nil {
		unix.Close(fd)
		return nil, errno(err)
	}
	key := tree.Key{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}
	i, had, err := fs.Inode(key, func() (*inode, error) {
		i := &inode{fs: fs, fd: fd, hostKind: st.Mode & linux.S_IFMT}
		i.Kind = i.hostKind
		if o, ok := fs.noted(fd, st.Mode); ok {
			i.Kind = o.mode & linux.S_IFMT
		}
		fs.typ.fds.inodes.Add(1)
		return i, nil
	})
	if had {
		unix.Close(fd)
	}
	return i, err
}

// key asks the host which file a name in the directory i is.
func (i *inode) key(name string) (tree.Key, error) {
	if !plain(name) {
		return tree.Key{}, enoent
	}
	var st unix.Stat_t
	err := again(func() error {
		return unix.Fstatat(i.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	})
	return tree.Key{Dev: uint64(st.Dev), Ino: st.Ino}, err
}

// still says whether a name in dir is child yet.
func still(dir, child *inode, name string) bool {
	key, err := dir.key(name)
	return err == nil && key == child.Key()
}

// Links implements tree.Inode, as far as the host tells.
func (i *inode) Links() uint32 {
	var st unix.Statx_t
	if statx(i.fd, &st) != nil {
		return 0
	}
	return st.Nlink
}

// Unsaved implements tree.Inode: what is written is the host's.
func (i *inode) Unsaved() bool { return false }

// Save implements tree.Inode.
func (i *inode) Save(ctx context.Context) {}

// Close implements tree.Inode.
func (i *inode) Close(ctx context.Context) {
	i.dropMapped()
	unix.Close(i.fd)
	i.fs.typ.fds.inodes.Add(-1)
}

// Device implements tree.Inode.
func (i *inode) Device() (major, minor uint32, err error) {
	a, err := i.attr()
	return a.major, a.minor, err
}

// Allows implements tree.Inode. The host has the last word, when it is asked.
func (i *inode) Allows(creds *auth.Credentials, ats vfs.AccessTypes) error {
	a, err := i.attr()
	if err != nil {
		return err
	}
	return vfs.GenericCheckPermissions(creds, ats, linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid))
}

// AllowsRemoval implements tree.Inode.
func (i *inode) AllowsRemoval(creds *auth.Credentials, child *inode) error {
	dir, err := i.attr()
	if err != nil {
		return err
	}
	if err := vfs.GenericCheckPermissions(creds, vfs.MayWrite|vfs.MayExec, linux.FileMode(dir.mode), nil, auth.KUID(dir.uid), auth.KGID(dir.gid)); err != nil {
		return err
	}
	a, err := child.attr()
	if err != nil {
		return err
	}
	return vfs.CheckDeleteSticky(creds, linux.FileMode(dir.mode), auth.KUID(dir.uid), auth.KUID(a.uid), auth.KGID(a.gid))
}

// AllowsLink implements tree.Inode.
func (i *inode) AllowsLink(creds *auth.Credentials) error {
	a, err := i.attr()
	if err != nil {
		return err
	}
	return vfs.MayLink(creds, linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid))
}

// Readlink implements tree.Inode.
func (i *inode) Readlink(*vfs.Mount) (string, error) {
	buf := make([]byte, linux.PATH_MAX)
	if i.hostKind == linux.S_IFLNK {
		n, err := unix.Readlinkat(i.fd, "", buf)
		if err != nil {
			return "", errno(err)
		}
		return string(buf[:n]), nil
	}
	// A symlink whose owner is remembered.
	fd, err := reopen(i.fd, unix.O_RDONLY)
	if err != nil {
		return "", errno(err)
	}
	defer unix.Close(fd)
	n, err := unix.Pread(fd, buf, 0)
	switch {
	case err != nil:
		return "", errno(err)
	case n == 0:
		return "", linuxerr.EIO
	}
	return string(buf[:n]), nil
}

// Stat implements tree.Inode.
func (i *inode) Stat() (stat linux.Statx, err error) {
	a, err := i.attr()
	if err != nil {
		return stat, err
	}
	h := &a.host
	stat.Mask = h.Mask & statxMask
	stat.Blksize = h.Blksize
	stat.Nlink = h.Nlink
	stat.UID, stat.GID, stat.Mode = a.uid, a.gid, a.mode
	stat.Ino = h.Ino
	stat.Size, stat.Blocks = h.Size, h.Blocks
	if i.Kind != i.hostKind && i.Kind != linux.S_IFLNK {
		stat.Size, stat.Blocks = 0, 0
	}
	stat.Atime, stat.Mtime = statxTime(h.Atime), statxTime(h.Mtime)
	stat.Ctime, stat.Btime = statxTime(h.Ctime), statxTime(h.Btime)
	stat.DevMinor = i.fs.minor(h)
	if isDevice(a.mode) {
		stat.RdevMajor, stat.RdevMinor = a.major, a.minor
	}
	return stat, nil
}

func statxTime(t unix.StatxTimestamp) linux.StatxTimestamp {
	return linux.StatxTimestamp{Sec: t.Sec, Nsec: t.Nsec}
}

// setStat is SetStat of any file but those that have to be remade. A descriptor of the file that is open for writing
// serves to change the size; -1 stands for none.
func (i *inode) setStat(ctx context.Context, creds *auth.Credentials, opts *vfs.SetStatOptions, fd int) error {
	st := &opts.Stat
	i.mu.Lock()
	defer i.mu.Unlock()
	a, err := i.attr()
	if err != nil {
		return err
	}
	if err := vfs.CheckSetStat(ctx, creds, opts, linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid)); err != nil {
		return err
	}
	if st.Mask&linux.STATX_SIZE != 0 {
		if err := i.truncate(int64(st.Size), fd); err != nil {
			return err
		}
	}
	if err := i.setOwner(creds, opts, a); err != nil {
		return err
	}
	if st.Mask&(linux.STATX_ATIME|linux.STATX_MTIME) == 0 {
		return nil
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	if st.Mask&linux.STATX_ATIME != 0 {
		times[0] = hostTime(st.Atime)
	}
	if st.Mask&linux.STATX_MTIME != 0 {
		times[1] = hostTime(st.Mtime)
	}
	return errno(unix.UtimesNanoAt(unix.AT_FDCWD, procPath(i.fd), times, 0))
}

func hostTime(t linux.StatxTimestamp) unix.Timespec {
	if t.Nsec == linux.UTIME_NOW {
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
}

// errRemake is setOwner's answer where the host's file cannot have what shall be
// remembered: it has to become another file.
var errRemake = errors.New("remake the file")

// setOwner changes owner, group and mode as setStat is asked to. i.mu is held, and a is
// what i was.
func (i *inode) setOwner(creds *auth.Credentials, opts *vfs.SetStatOptions, a attr) error {
	st := &opts.Stat
	o := a.owner
	if st.Mask&linux.STATX_UID != 0 {
		o.uid = st.UID
	}
	if st.Mask&linux.STATX_GID != 0 {
		o.gid = st.GID
	}
	if st.Mask&linux.STATX_MODE != 0 {
		o.mode = o.mode&linux.S_IFMT | st.Mode&^linux.S_IFMT
	}
	if opts.ClearPrivs && (st.Mask&linux.STATX_SIZE == 0 || !creds.HasCapabilityOnFile(linux.CAP_FSETID, auth.KUID(a.uid), auth.KGID(a.gid))) {
		o.mode = uint16(vfs.ClearSUIDAndSGID(uint32(o.mode)))
	}
	if i.fs.opts.remember {
		if o == a.owner {
			return nil
		}
		if i.hostKind == linux.S_IFREG || i.hostKind == linux.S_IFDIR {
			return i.note(o)
		}
		if o.uid != a.uid || o.gid != a.gid {
			return errRemake
		}
	}
	if o.uid != a.uid || o.gid != a.gid {
		uid, okUID := i.fs.hostUID(o.uid, a)
		gid, okGID := i.fs.hostGID(o.gid, a)
		if !okUID || !okGID {
			return linuxerr.EPERM
		}
		if err := unix.Fchownat(i.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return errno(err)
		}
	}
	if o.mode != a.mode {
		return errno(unix.Fchmodat(unix.AT_FDCWD, procPath(i.fd), uint32(o.mode&^linux.S_IFMT), 0))
	}
	return nil
}

// hostUID is whom a file of uid belongs to on the host, or -1 for whom it does. It fails
// where a file of that user on the host would show as another's.
func (fs *filesystem) hostUID(uid uint32, a attr) (int, bool) {
	return hostID(uid, a.uid, fs.opts.mapUID, fs.opts.uid, fs.typ.user)
}

func (fs *filesystem) hostGID(gid uint32, a attr) (int, bool) {
	return hostID(gid, a.gid, fs.opts.mapGID, fs.opts.gid, fs.typ.group)
}

func hostID(want, have uint32, mapped bool, ours, host uint32) (int, bool) {
	switch {
	case want == have:
		return -1, true
	case mapped && want == ours:
		return int(host), true
	case mapped && want == host:
		return -1, false
	}
	return int(want), true
}
