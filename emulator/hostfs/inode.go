package hostfs

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// inodeKey is a file of the host: its filesystem and its number. While an inode holds
// the file open the host gives the number to no other.
type inodeKey struct {
	dev, ino uint64
}

// inode is a file, under however many names. There is one per file of the host, so that
// hard links share mappings, locks and watches.
type inode struct {
	fs  *filesystem
	key inodeKey

	// fd is the file, opened with O_PATH.
	fd int

	// kind is the type that the guest sees, hostKind the host's: linux.S_IFREG and the
	// like. Neither changes.
	kind, hostKind uint16

	refs int64 // protected by fs.inodesMu

	locks   vfs.FileLocks
	watches vfs.Watches

	// mu serialises the guest's changes of attributes.
	mu sync.Mutex

	// nameless is set while a file made with O_TMPFILE may still be given a name.
	nameless atomic.Bool

	mapped mapped

	// pipeMu protects pipe, which a FIFO gets when it is first opened.
	pipeMu sync.Mutex
	pipe   *pipe.VFSPipe

	// endpoint is what a socket bound at the file listens with. While it is set it
	// holds a reference on the inode, until the file's last name is removed.
	endpoint atomic.Pointer[endpoint]
}

type endpoint struct{ transport.BoundEndpoint }

// makeRoom lets go of files that nobody uses while inodes hold too many. No dirMu is held.
func (fs *filesystem) makeRoom(ctx context.Context) {
	for fs.typ.fds.inodes.Load() >= fs.typ.fds.mostInodes && fs.evictOldest(ctx) {
	}
}

// room fails where makeRoom did not help.
func (fs *filesystem) room() error {
	if fs.typ.fds.inodes.Load() >= fs.typ.fds.mostInodes {
		return linuxerr.ENFILE
	}
	return nil
}

// inodeOf returns the inode of the file behind fd, opened with O_PATH, with a reference.
// It takes fd over.
func (fs *filesystem) inodeOf(ctx context.Context, fd int) (*inode, error) {
	var st unix.Statx_t
	if err := statx(fd, &st); err != nil {
		unix.Close(fd)
		return nil, errno(err)
	}
	key := inodeKey{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	fs.inodesMu.Lock()
	defer fs.inodesMu.Unlock()
	if i, ok := fs.inodes[key]; ok {
		i.refs++
		unix.Close(fd)
		return i, nil
	}
	i := &inode{fs: fs, key: key, fd: fd, kind: st.Mode & linux.S_IFMT, refs: 1}
	i.hostKind = i.kind
	if o, ok := fs.noted(fd, st.Mode); ok {
		i.kind = o.mode & linux.S_IFMT
	}
	fs.inodes[key] = i
	fs.typ.fds.inodes.Add(1)
	return i, nil
}

func (i *inode) incRef() {
	i.fs.inodesMu.Lock()
	i.refs++
	i.fs.inodesMu.Unlock()
}

// decRef drops a reference. An inode that is watched stays as long as it has a name.
func (i *inode) decRef(ctx context.Context) {
	fs := i.fs
	fs.inodesMu.Lock()
	if i.refs--; i.refs > 0 {
		fs.inodesMu.Unlock()
		return
	}
	removed := false
	if i.watches.Size() != 0 && !fs.released.Load() {
		if removed = i.links() == 0; !removed {
			fs.inodesMu.Unlock()
			return
		}
	}
	i.destroyLocked(ctx, removed)
}

// links is how many names the file has, as far as the host tells.
func (i *inode) links() uint32 {
	var st unix.Statx_t
	if statx(i.fd, &st) != nil {
		return 0
	}
	return st.Nlink
}

// unwatched ends an inode that only its watches kept.
func (i *inode) unwatched(ctx context.Context) {
	i.fs.inodesMu.Lock()
	if i.refs != 0 || i.fs.inodes[i.key] != i || i.watches.Size() != 0 {
		i.fs.inodesMu.Unlock()
		return
	}
	i.destroyLocked(ctx, false)
}

// destroyLocked ends i. It unlocks fs.inodesMu.
func (i *inode) destroyLocked(ctx context.Context, removed bool) {
	delete(i.fs.inodes, i.key)
	i.fs.inodesMu.Unlock()
	if removed {
		i.watches.HandleDeletion(ctx)
	}
	i.dropMapped()
	unix.Close(i.fd)
	i.fs.typ.fds.inodes.Add(-1)
}

// clearEndpoint lets go of the socket bound at i, if any.
func (i *inode) clearEndpoint(ctx context.Context) {
	if i.endpoint.Swap(nil) != nil {
		i.decRef(ctx)
	}
}

func (i *inode) isDir() bool { return i.kind == linux.S_IFDIR }

// allows checks that creds may access i so. The host has the last word, when it is asked.
func (i *inode) allows(creds *auth.Credentials, ats vfs.AccessTypes) error {
	a, err := i.attr()
	if err != nil {
		return err
	}
	return vfs.GenericCheckPermissions(creds, ats, linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid))
}

// allowsRemoval checks that creds may remove or rename child, a file of directory i.
func (i *inode) allowsRemoval(creds *auth.Credentials, child *inode) error {
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

// readlink returns the target of a symlink.
func (i *inode) readlink() (string, error) {
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

// statx fills stat with what i is.
func (i *inode) statx(stat *linux.Statx) error {
	a, err := i.attr()
	if err != nil {
		return err
	}
	h := &a.host
	stat.Mask = h.Mask & statxMask
	stat.Blksize = h.Blksize
	stat.Nlink = h.Nlink
	stat.UID, stat.GID, stat.Mode = a.uid, a.gid, a.mode
	stat.Ino = h.Ino
	stat.Size, stat.Blocks = h.Size, h.Blocks
	if i.kind != i.hostKind && i.kind != linux.S_IFLNK {
		stat.Size, stat.Blocks = 0, 0
	}
	stat.Atime, stat.Mtime = statxTime(h.Atime), statxTime(h.Mtime)
	stat.Ctime, stat.Btime = statxTime(h.Ctime), statxTime(h.Btime)
	stat.DevMinor = i.fs.minor(h)
	if isDevice(a.mode) {
		stat.RdevMajor, stat.RdevMinor = a.major, a.minor
	}
	return nil
}

func statxTime(t unix.StatxTimestamp) linux.StatxTimestamp {
	return linux.StatxTimestamp{Sec: t.Sec, Nsec: t.Nsec}
}

// statxMountRoot is the attribute of a mount's root.
const statxMountRoot = 0x2000

// statxIn is what statx(2) tells of d seen through mnt.
func (d *dentry) statxIn(mnt *vfs.Mount) (linux.Statx, error) {
	var stat linux.Statx
	if err := d.inode.statx(&stat); err != nil {
		return stat, err
	}
	stat.Mask |= linux.STATX_MNT_ID
	stat.MntID = mnt.ID
	stat.AttributesMask |= statxMountRoot
	if mnt.Root() == &d.vfsd {
		stat.Attributes |= statxMountRoot
	}
	return stat, nil
}

// setStat implements chmod, chown, truncate and utimensat. The caller has counted
// itself as a writer of the mount. A descriptor of the file that is open for writing
// serves to change the size; -1 stands for none.
func (i *inode) setStat(ctx context.Context, creds *auth.Credentials, opts *vfs.SetStatOptions, fd int) error {
	st := &opts.Stat
	if st.Mask == 0 {
		return nil
	}
	const known = linux.STATX_MODE | linux.STATX_UID | linux.STATX_GID | linux.STATX_ATIME | linux.STATX_MTIME | linux.STATX_CTIME | linux.STATX_SIZE
	if st.Mask&^uint32(known) != 0 {
		return linuxerr.EPERM
	}
	if st.Mask&linux.STATX_SIZE != 0 {
		switch {
		case i.isDir():
			return linuxerr.EISDIR
		case i.kind != linux.S_IFREG || st.Size > math.MaxInt64:
			return linuxerr.EINVAL
		}
	}
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
