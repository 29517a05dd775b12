package ext4fs

import (
	"math"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/tree"
	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
)

// inode is a file, under however many names. It implements tree.Inode.
type inode struct {
	tree.File
	fs   *filesystem
	node *ext4.Inode // one reference

	// mu serialises what changes the file: writes, truncation, attributes.
	mu sync.Mutex

	acls acls

	// noCaps is set when the file is known to have no file capabilities.
	noCaps atomic.Bool

	// content is the data of a regular file, nil for other files.
	content *content
}

// inodeOf returns the inode of node with a reference. It takes over the caller's
// reference on node.
func (fs *filesystem) inodeOf(node *ext4.Inode) (*inode, error) {
	ino := node.Number()
	i, had, err := fs.Inode(tree.Key{Ino: uint64(ino)}, func() (*inode, error) {
		a := node.Attr()
		i := &inode{fs: fs, node: node}
		switch i.Kind = a.Mode & linux.S_IFMT; i.Kind {
		case linux.S_IFREG:
			i.content = &content{}
			i.content.size.Store(a.Size)
		case linux.S_IFDIR, linux.S_IFLNK, linux.S_IFIFO, linux.S_IFSOCK, linux.S_IFCHR, linux.S_IFBLK:
		default:
			fs.log("error: inode %d has unknown type %#o", ino, a.Mode)
			return nil, linuxerr.EUCLEAN
		}
		return i, nil
	})
	if had || err != nil {
		node.Put() // where i has another reference nothing is freed here
	}
	return i, err
}

// Links implements tree.Inode.
func (i *inode) Links() uint32 { return i.node.Attr().Links }

// Unsaved implements tree.Inode. What has no name any more needs no saving.
func (i *inode) Unsaved() bool {
	return i.content != nil && i.content.dirtyPages.Load() && i.Links() != 0
}

// Save implements tree.Inode: it writes back what is dirty.
func (i *inode) Save(ctx context.Context) {
	if err := i.flush(ctx, true); err != nil {
		i.fs.log("warning: inode %d: lost data at writeback: %v", i.Ino(), err)
		i.discardDirty()
	}
}

// Close implements tree.Inode. It gives the file back to the engine, which frees it if it
// has no name.
func (i *inode) Close(ctx context.Context) {
	if i.content != nil {
		i.dropPages()
	}
	if err := i.node.Put(); err != nil {
		i.fs.errno(err)
	}
}

// Readlink implements tree.Inode. It notes the access.
func (i *inode) Readlink(mnt *vfs.Mount) (string, error) {
	target, err := i.node.Readlink()
	if err != nil {
		return "", i.fs.errno(err)
	}
	i.touchAtime(mnt)
	return target, nil
}

// Device implements tree.Inode.
func (i *inode) Device() (major, minor uint32, err error) {
	a := i.node.Attr()
	return a.Major, a.Minor, nil
}

// Allows implements tree.Inode: by mode and ACL and by the immutable
// flag, which forbids writing to everyone.
func (i *inode) Allows(creds *auth.Credentials, ats vfs.AccessTypes) error {
	a := i.node.Attr()
	if ats.MayWrite() && a.Flags&format.FlagImmutable != 0 {
		return linuxerr.EPERM
	}
	acl, err := i.accessACL()
	if err != nil {
		return err
	}
	return vfs.GenericCheckPermissions(creds, ats, linux.FileMode(a.Mode), acl, auth.KUID(a.UID), auth.KGID(a.GID))
}

// AllowsRemoval implements tree.Inode.
func (i *inode) AllowsRemoval(creds *auth.Credentials, child *inode) error {
	if err := i.Allows(creds, vfs.MayWrite|vfs.MayExec); err != nil {
		return err
	}
	dir, a := i.node.Attr(), child.node.Attr()
	if dir.Flags&format.FlagAppend != 0 || a.Flags&(format.FlagImmutable|format.FlagAppend) != 0 {
		return linuxerr.EPERM
	}
	return vfs.CheckDeleteSticky(creds, linux.FileMode(dir.Mode), auth.KUID(dir.UID), auth.KUID(a.UID), auth.KGID(a.GID))
}

// AllowsLink implements tree.Inode.
func (i *inode) AllowsLink(creds *auth.Credentials) error {
	a := i.node.Attr()
	if a.Flags&fixedFlags != 0 {
		return linuxerr.EPERM
	}
	acl, err := i.accessACL()
	if err != nil {
		return err
	}
	return vfs.MayLink(creds, linux.FileMode(a.Mode), acl, auth.KUID(a.UID), auth.KGID(a.GID))
}

// Stat implements tree.Inode.
func (i *inode) Stat() (stat linux.Statx, err error) {
	a := i.node.Attr()
	stat.Mask = linux.STATX_BASIC_STATS | linux.STATX_BTIME
	stat.Blksize = uint32(i.fs.engine.BlockSize())
	stat.Nlink = a.Links
	stat.UID, stat.GID = a.UID, a.GID
	stat.Mode = a.Mode
	stat.Ino = uint64(i.Ino())
	stat.Size = uint64(a.Size)
	if i.content != nil {
		stat.Size = uint64(i.content.size.Load())
	}
	stat.Blocks = uint64(a.Blocks512)
	stat.Atime, stat.Mtime = statxTime(a.Atime), statxTime(a.Mtime)
	stat.Ctime, stat.Btime = statxTime(a.Ctime), statxTime(a.Btime)
	stat.DevMajor, stat.DevMinor = i.fs.disk.Major, i.fs.disk.Minor
	if i.Kind == linux.S_IFCHR || i.Kind == linux.S_IFBLK {
		stat.RdevMajor, stat.RdevMinor = a.Major, a.Minor
	}
	stat.AttributesMask = statxCompressed | statxImmutable | statxAppend | statxNodump | statxEncrypted | statxAutomount | statxVerity | statxDAX
	for _, f := range statxFlags {
		if a.Flags&f.flag != 0 {
			stat.Attributes |= f.attr
		}
	}
	return stat, nil
}

// The attributes of statx(2).
const (
	statxCompressed = 0x4
	statxImmutable  = 0x10
	statxAppend     = 0x20
	statxNodump     = 0x40
	statxEncrypted  = 0x800
	statxAutomount  = 0x1000
	statxVerity     = 0x100000
	statxDAX        = 0x200000
)

var statxFlags = []struct {
	flag uint32
	attr uint64
}{
	{format.FlagCompr, statxCompressed},
	{format.FlagImmutable, statxImmutable},
	{format.FlagAppend, statxAppend},
	{format.FlagNoDump, statxNodump},
	{format.FlagEncrypt, statxEncrypted},
	{format.FlagVerity, statxVerity},
}

func statxTime(t ext4.Time) linux.StatxTimestamp {
	return linux.StatxTimestamp{Sec: t.Sec, Nsec: t.Nsec}
}

// SetStat implements tree.Filesystem.
func (fs *filesystem) SetStat(ctx context.Context, creds *auth.Credentials, d *dentry, opts *vfs.SetStatOptions, _ *vfs.FileDescription) error {
	i, st := d.Inode, &opts.Stat
	acl, err := i.accessACL()
	if err != nil {
		return err
	}

	i.mu.Lock()
	defer i.mu.Unlock()
	a := i.node.Attr()
	if err := vfs.CheckSetStat(ctx, creds, opts, linux.FileMode(a.Mode), acl, auth.KUID(a.UID), auth.KGID(a.GID)); err != nil {
		return err
	}
	if err := checkFlagsAllow(a.Flags, st); err != nil {
		return err
	}
	if st.Mask&linux.STATX_SIZE != 0 {
		if err := i.truncate(ctx, int64(st.Size)); err != nil {
			return err
		}
		a = i.node.Attr()
	}

	var mask ext4.AttrMask
	if st.Mask&linux.STATX_UID != 0 {
		a.UID = st.UID
		mask |= ext4.AttrUID
	}
	if st.Mask&linux.STATX_GID != 0 {
		a.GID = st.GID
		mask |= ext4.AttrGID
	}
	if st.Mask&linux.STATX_MODE != 0 {
		perm := st.Mode & linux.PermissionsMask
		if acl != nil {
			changed := acl.Chmod(perm)
			if perm, err = i.storeAccessACL(&changed); err != nil {
				return err
			}
		}
		a.Mode = a.Mode&linux.S_IFMT | st.Mode&^(linux.S_IFMT|linux.PermissionsMask) | perm
		mask |= ext4.AttrMode
	}
	if opts.ClearPrivs && (st.Mask&linux.STATX_SIZE == 0 || !creds.HasCapabilityOnFile(linux.CAP_FSETID, auth.KUID(a.UID), auth.KGID(a.GID))) {
		if m := uint16(vfs.ClearSUIDAndSGID(uint32(a.Mode))); m != a.Mode {
			a.Mode = m
			mask |= ext4.AttrMode
		}
	}
	if opts.ClearPrivs && !i.IsDir() {
		if err := i.dropFileCaps(); err != nil {
			return err
		}
	}

	now := i.fs.now()
	if st.Mask&linux.STATX_ATIME != 0 {
		a.Atime = i.fs.timeOf(st.Atime, now)
		mask |= ext4.AttrAtime
	}
	switch {
	case st.Mask&linux.STATX_MTIME != 0:
		a.Mtime = i.fs.timeOf(st.Mtime, now)
		mask |= ext4.AttrMtime
	case st.Mask&linux.STATX_SIZE != 0:
		a.Mtime = now
		mask |= ext4.AttrMtime
	}
	a.Ctime = now
	if st.Mask&linux.STATX_CTIME != 0 {
		a.Ctime = i.fs.timeOf(st.Ctime, now)
	}
	return i.setAttr(mask|ext4.AttrCtime, a)
}

// checkFlagsAllow refuses to change the attributes of an immutable or append-only
// file, as Linux's notify_change does.
func checkFlagsAllow(flags uint32, st *linux.Statx) error {
	if flags&(format.FlagImmutable|format.FlagAppend) == 0 {
		return nil
	}
	if st.Mask&(linux.STATX_MODE|linux.STATX_UID|linux.STATX_GID|linux.STATX_SIZE) != 0 {
		return linuxerr.EPERM
	}
	// Touching both times to now is what write permission allows.
	set := st.Mask&linux.STATX_ATIME != 0 && st.Atime.Nsec != linux.UTIME_NOW ||
		st.Mask&linux.STATX_MTIME != 0 && st.Mtime.Nsec != linux.UTIME_NOW
	if set || flags&format.FlagImmutable != 0 {
		return linuxerr.EPERM
	}
	return nil
}

// timeOf is a time as utimensat(2) gives it, brought into what inodes can hold. At
// either end of that Linux drops the nanoseconds.
func (fs *filesystem) timeOf(t linux.StatxTimestamp, now ext4.Time) ext4.Time {
	if t.Nsec == linux.UTIME_NOW {
		return now
	}
	const first = math.MinInt32
	switch last := fs.info.MaxTime; {
	case t.Sec <= first:
		return ext4.Time{Sec: first}
	case last > 0 && t.Sec >= last:
		return ext4.Time{Sec: last}
	}
	return ext4.Time{Sec: t.Sec, Nsec: t.Nsec}
}

// setAttr changes attributes on the disk. i.mu is held, or i is not shared yet.
func (i *inode) setAttr(mask ext4.AttrMask, a ext4.Attr) error {
	if err := i.node.SetAttr(mask, a); err != nil {
		return i.fs.errno(err)
	}
	return nil
}

// touchCMtime sets the times of a change of content to now. i.mu is held.
func (i *inode) touchCMtime() error {
	now := i.fs.now()
	a := i.node.Attr()
	if a.Mtime == now && a.Ctime == now {
		return nil
	}
	a.Mtime, a.Ctime = now, now
	return i.setAttr(ext4.AttrMtime|ext4.AttrCtime, a)
}

// touchCtime sets the time of a change of attributes to now.
func (i *inode) touchCtime() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	a := i.node.Attr()
	a.Ctime = i.fs.now()
	return i.setAttr(ext4.AttrCtime, a)
}

// secondsPerDay is how old an access time gets under relatime before a read renews it.
const secondsPerDay = 24 * 60 * 60

// touchAtime notes an access through mnt, as the mount options have it.
func (i *inode) touchAtime(mnt *vfs.Mount) {
	opts := i.fs.options()
	if mnt.Options().Flags.NoATime || i.fs.writable() != nil || i.IsDir() && opts.nodiratime {
		return
	}
	a := i.node.Attr()
	if a.Flags&format.FlagNoAtime != 0 {
		return
	}
	now := i.fs.now()
	if !opts.strictatime && !before(a.Atime, a.Mtime) && !before(a.Atime, a.Ctime) && now.Sec-a.Atime.Sec < secondsPerDay {
		return
	}
	if a.Atime == now || !i.fs.freezer.writers.TryRLock() {
		return
	}
	defer i.fs.freezer.writers.RUnlock()
	if mnt.CheckBeginWrite() != nil {
		return
	}
	defer mnt.EndWrite()
	if !i.mu.TryLock() {
		return // someone is changing the file: its times are fresh
	}
	defer i.mu.Unlock()
	a = i.node.Attr()
	a.Atime = now
	i.setAttr(ext4.AttrAtime|ext4.AttrCtime, a) // the time of change stays
}

// before says whether a is not later than b: relatime renews an access time that is
// equal to the modification time, too.
func before(a, b ext4.Time) bool {
	return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec <= b.Nsec
}
