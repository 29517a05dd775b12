package hostfs

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// The attribute that the option remember keeps owners in, and the beginning of all names
// that are ours and that the guest does not see.
//
// A file without it belongs to whom the host says, as uid= and gid= map that. A file with
// it has the owner, the group and the mode in the attribute, and the type that the mode
// says: a device node, a FIFO, a socket or a symlink, which cannot have such an attribute,
// is a regular file on the host, and a symlink's target is that file's content. The host's
// own mode of a file lets its owner read and write it whatever the attribute says, and has
// no set-user-ID and set-group-ID bits.
const (
	ownerXattr  = "user.umlkit.owner"
	hiddenXattr = "user.umlkit."
)

// maxOwner is the longest value that is read.
const maxOwner = 64

// owner is what the attribute says: "UID GID MODE", with the mode in octal digits and
// the file's type in it, and for a device "UID GID MODE MAJOR MINOR".
type owner struct {
	uid, gid     uint32
	mode         uint16
	major, minor uint32
}

// String is the attribute's value.
func (o owner) String() string {
	s := fmt.Sprintf("%d %d %o", o.uid, o.gid, o.mode)
	if isDevice(o.mode) {
		s += fmt.Sprintf(" %d %d", o.major, o.minor)
	}
	return s
}

func isDevice(mode uint16) bool {
	return mode&linux.S_IFMT == linux.S_IFCHR || mode&linux.S_IFMT == linux.S_IFBLK
}

// parseOwner reads an attribute's value, which anyone may have written.
func parseOwner(value string) (owner, error) {
	var o owner
	fields := strings.Split(value, " ")
	if len(fields) != 3 && len(fields) != 5 {
		return o, fmt.Errorf("%s is %q: not of the form \"UID GID MODE [MAJOR MINOR]\"", ownerXattr, value)
	}
	for i, f := range fields {
		base, bits := 10, 32
		switch i {
		case 2:
			base, bits = 8, 16
		case 3:
			bits = 12
		case 4:
			bits = 20
		}
		n, err := strconv.ParseUint(f, base, bits)
		if err != nil || i < 2 && n > maxID {
			return o, fmt.Errorf("%s is %q: field %d is no number of that kind", ownerXattr, value, i+1)
		}
		switch i {
		case 0:
			o.uid = uint32(n)
		case 1:
			o.gid = uint32(n)
		case 2:
			o.mode = uint16(n)
		case 3:
			o.major = uint32(n)
		case 4:
			o.minor = uint32(n)
		}
	}
	switch o.mode & linux.S_IFMT {
	case linux.S_IFREG, linux.S_IFDIR, linux.S_IFLNK, linux.S_IFIFO, linux.S_IFSOCK:
		if len(fields) == 5 {
			return o, fmt.Errorf("%s is %q: a device's numbers for a file that is none", ownerXattr, value)
		}
	case linux.S_IFCHR, linux.S_IFBLK:
		if len(fields) == 3 {
			return o, fmt.Errorf("%s is %q: a device without numbers", ownerXattr, value)
		}
	default:
		return o, fmt.Errorf("%s is %q: the mode has no type", ownerXattr, value)
	}
	return o, nil
}

// attr is what the guest sees of a file, and what the host says.
type attr struct {
	owner
	host unix.Statx_t
	// noted is whether the file has the attribute.
	noted bool
}

// mapped is how the owner of a file without the attribute shows.
func (fs *filesystem) mapped(st *unix.Statx_t) owner {
	o := owner{uid: st.Uid, gid: st.Gid, mode: st.Mode, major: st.Rdev_major, minor: st.Rdev_minor}
	if fs.opts.mapUID && st.Uid == fs.typ.user {
		o.uid = fs.opts.uid
	}
	if fs.opts.mapGID && st.Gid == fs.typ.group {
		o.gid = fs.opts.gid
	}
	return o
}

// attr asks the host for what i is.
func (i *inode) attr() (attr, error) {
	var a attr
	if err := statx(i.fd, &a.host); err != nil {
		return a, errno(err)
	}
	a.owner = i.fs.mapped(&a.host)
	if o, ok := i.fs.noted(i.fd, a.host.Mode); ok {
		a.owner, a.noted = o, true
	}
	return a, nil
}

// noted reads the attribute of the file behind a descriptor. A value that makes no sense
// counts as none: it is in the user's tree, and the user sees there what the host says.
func (fs *filesystem) noted(fd int, hostMode uint16) (owner, bool) {
	kind := hostMode & linux.S_IFMT
	if !fs.opts.remember || kind != linux.S_IFREG && kind != linux.S_IFDIR {
		return owner{}, false
	}
	buf := make([]byte, maxOwner)
	n, err := unix.Getxattr(procPath(fd), ownerXattr, buf)
	if err != nil {
		return owner{}, false
	}
	o, err := parseOwner(string(buf[:n]))
	if err != nil || (kind == linux.S_IFDIR) != (o.mode&linux.S_IFMT == linux.S_IFDIR) {
		return owner{}, false
	}
	return o, true
}

// usable is the host's mode of a file whose mode is remembered.
func usable(mode uint16) uint32 {
	m := uint32(mode) & linux.PermissionsMask &^ 0o022
	if mode&linux.S_IFMT == linux.S_IFDIR {
		return m | 0o700
	}
	return m | 0o600
}

// note writes the attribute of i and gives the host's file a mode to go with it.
func (i *inode) note(o owner) error {
	if err := unix.Setxattr(procPath(i.fd), ownerXattr, []byte(o.String()), 0); err != nil {
		if err == unix.EOPNOTSUPP {
			return linuxerr.EPERM // as a host says that does not let us chown
		}
		return errno(err)
	}
	return errno(unix.Fchmodat(unix.AT_FDCWD, procPath(i.fd), usable(o.mode), 0))
}

// grant makes the host's mode of a file of ours let us at it, where the guest's own mode
// is remembered in its place. It reports whether that may help. i.mu is held.
func (i *inode) grant() bool {
	if !i.fs.opts.remember || i.hostKind != linux.S_IFREG && i.hostKind != linux.S_IFDIR {
		return false
	}
	a, err := i.attr()
	if err != nil || a.host.Uid != i.fs.typ.user || uint32(a.host.Mode)&linux.PermissionsMask == usable(a.mode) {
		return false
	}
	return i.note(a.owner) == nil
}

// withGrant does what the host may refuse, again where grant helped.
func (i *inode) withGrant(call func() error) error {
	err := call()
	if err != unix.EACCES {
		return err
	}
	i.mu.Lock()
	granted := i.grant()
	i.mu.Unlock()
	if granted {
		err = call()
	}
	return err
}

// SetStat implements tree.Filesystem. It makes another file where the host's cannot have
// the owner that shall be remembered: a symlink, FIFO or socket becomes a regular file with
// the attribute.
func (fs *filesystem) SetStat(ctx context.Context, creds *auth.Credentials, d *dentry, opts *vfs.SetStatOptions, fd *vfs.FileDescription) error {
	host := -1
	if fd != nil && fd.IsWritable() {
		if f, ok := fd.Impl().(*regularFD); ok {
			host = f.host
		}
	}
	err := d.Inode.setStat(ctx, creds, opts, host)
	if err != errRemake {
		return err
	}
	i, parent := d.Inode, d.Parent()
	a, err := i.attr()
	if err != nil {
		return err
	}
	if parent == nil || i.Bound() {
		return linuxerr.EPERM
	}
	o := a.owner
	if opts.Stat.Mask&linux.STATX_UID != 0 {
		o.uid = opts.Stat.UID
	}
	if opts.Stat.Mask&linux.STATX_GID != 0 {
		o.gid = opts.Stat.GID
	}
	target := ""
	if i.Kind == linux.S_IFLNK {
		if target, err = i.Readlink(nil); err != nil {
			return err
		}
	}
	parent.Lock()
	defer parent.Unlock()
	if key, err := parent.Inode.key(d.Name()); err != nil || key != i.Key() {
		return enoent
	}
	temp := fmt.Sprintf(".umlkit.%016x", rand.Uint64())
	if err := fs.placeholder(parent.Inode, temp, o, target); err != nil {
		return err
	}
	if err := unix.Renameat(parent.Inode.fd, temp, parent.Inode.fd, d.Name()); err != nil {
		_ = unix.Unlinkat(parent.Inode.fd, temp, 0)
		return errno(err)
	}
	return nil // the next look-up finds the other file
}

// placeholder makes a regular file on the host that stands for one of another kind.
func (fs *filesystem) placeholder(parent *inode, name string, o owner, target string) error {
	fd, err := open(parent.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return errno(err)
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(target))
	if err == nil {
		err = unix.Fsetxattr(fd, ownerXattr, []byte(o.String()), unix.XATTR_CREATE)
	}
	if err != nil {
		_ = unix.Unlinkat(parent.fd, name, 0)
		if err == unix.EOPNOTSUPP {
			return linuxerr.EPERM
		}
		return errno(err)
	}
	return nil
}
