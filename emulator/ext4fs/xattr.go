package ext4fs

import (
	"strings"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
)

// acls caches the POSIX ACLs of an inode, which every step of a path walk asks for.
type acls struct {
	mu    sync.Mutex
	state atomic.Pointer[aclState]
}

// aclState is immutable.
type aclState struct{ access, def *vfs.PosixACL }

// aclState reads the ACLs of i, once.
func (i *inode) aclState() (*aclState, error) {
	if s := i.acls.state.Load(); s != nil {
		return s, nil
	}
	i.acls.mu.Lock()
	defer i.acls.mu.Unlock()
	if s := i.acls.state.Load(); s != nil {
		return s, nil
	}
	s := &aclState{}
	if i.Kind != linux.S_IFLNK {
		var err error
		if s.access, err = i.readACL(linux.XATTR_NAME_POSIX_ACL_ACCESS); err != nil {
			return nil, err
		}
		if i.IsDir() {
			if s.def, err = i.readACL(linux.XATTR_NAME_POSIX_ACL_DEFAULT); err != nil {
				return nil, err
			}
		}
	}
	i.acls.state.Store(s)
	return s, nil
}

func (i *inode) readACL(name string) (*vfs.PosixACL, error) {
	b, err := i.node.Xattr(name)
	if err != nil {
		if err = i.fs.errno(err); err == enodata {
			return nil, nil
		}
		return nil, err
	}
	acl, err := vfs.ParsePosixACL(b, i.fs.userns)
	if err != nil {
		i.fs.log("error: inode %d: %s is no ACL: %v", i.Ino(), name, err)
		return nil, linuxerr.EIO
	}
	return acl, nil
}

func (i *inode) accessACL() (*vfs.PosixACL, error) {
	s, err := i.aclState()
	if err != nil {
		return nil, err
	}
	return s.access, nil
}

// writeACL stores or, with nil, removes an ACL. i.mu is held.
func (i *inode) writeACL(name string, acl *vfs.PosixACL) error {
	i.acls.mu.Lock()
	defer i.acls.mu.Unlock()
	var err error
	if acl != nil {
		err = i.node.SetXattr(name, acl.Serialize(i.fs.userns), ext4.XattrFlags{})
	} else if err = i.node.RemoveXattr(name); err != nil && i.fs.errno(err) == enodata {
		err = nil
	}
	i.acls.state.Store(nil)
	return i.fs.errno(err)
}

// storeAccessACL stores acl, or removes it where the mode says as much, and returns
// the permission bits that go with it. i.mu is held.
func (i *inode) storeAccessACL(acl *vfs.PosixACL) (uint16, error) {
	perm, same := acl.Mode()
	if same {
		acl = nil
	}
	return perm, i.writeACL(linux.XATTR_NAME_POSIX_ACL_ACCESS, acl)
}

// SetPosixACL implements tree.Inode. The mode follows from an ACL.
func (i *inode) SetPosixACL(creds *auth.Credentials, t vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (*vfs.PosixACL, linux.FileMode, error) {
	if i.Kind == linux.S_IFLNK {
		return nil, 0, linuxerr.EOPNOTSUPP
	}
	if err := i.fs.writable(); err != nil {
		return nil, 0, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	a := i.node.Attr()
	if a.Flags&(format.FlagImmutable|format.FlagAppend) != 0 {
		return nil, 0, linuxerr.EPERM
	}
	mask := ext4.AttrCtime
	a.Ctime = i.fs.now()
	switch t {
	case vfs.DefaultACL:
		if !i.IsDir() {
			if acl != nil {
				return nil, 0, linuxerr.EACCES
			}
			return nil, linux.FileMode(a.Mode), nil
		}
		if err := i.writeACL(linux.XATTR_NAME_POSIX_ACL_DEFAULT, acl); err != nil {
			return nil, 0, err
		}
	case vfs.AccessACL:
		if acl != nil {
			perm, err := i.storeAccessACL(acl)
			if err != nil {
				return nil, 0, err
			}
			a.Mode = a.Mode&^linux.PermissionsMask | perm
		} else if err := i.writeACL(linux.XATTR_NAME_POSIX_ACL_ACCESS, nil); err != nil {
			return nil, 0, err
		}
		if clearSGID && vfs.ShouldClearSGID(creds, linux.FileMode(a.Mode), auth.KUID(a.UID), auth.KGID(a.GID)) {
			a.Mode &^= linux.S_ISGID
		}
		mask |= ext4.AttrMode
	default:
		return nil, 0, linuxerr.EOPNOTSUPP
	}
	if err := i.setAttr(mask, a); err != nil {
		return nil, 0, err
	}
	return acl, linux.FileMode(a.Mode), nil
}

// inheritACL gives i, a new file of a directory with the default ACL def, the ACLs
// that follow. It returns the mode that goes with them.
func (i *inode) inheritACL(def *vfs.PosixACL, mode uint16) (uint16, error) {
	acl := def.MaskNewFileMode(mode)
	i.mu.Lock()
	defer i.mu.Unlock()
	perm, err := i.storeAccessACL(&acl)
	if err != nil {
		return mode, err
	}
	if i.IsDir() {
		if err := i.writeACL(linux.XATTR_NAME_POSIX_ACL_DEFAULT, def); err != nil {
			return mode, err
		}
	}
	mode = mode&^linux.PermissionsMask | perm&linux.PermissionsMask
	a := i.node.Attr()
	if a.Mode == mode {
		return mode, nil
	}
	a.Mode = mode
	return mode, i.setAttr(ext4.AttrMode, a)
}

// dropFileCaps removes the file capabilities of i, as a write does. i.mu is held.
func (i *inode) dropFileCaps() error {
	if i.noCaps.Load() {
		return nil
	}
	err := i.node.RemoveXattr(linux.XATTR_SECURITY_CAPABILITY)
	if err != nil {
		if err = i.fs.errno(err); err != enodata {
			return err
		}
	}
	i.noCaps.Store(true)
	return nil
}

// checkXattr checks that the namespace of name exists on this mount and that creds
// may use it so on i.
func (i *inode) checkXattr(creds *auth.Credentials, ats vfs.AccessTypes, name string) error {
	ns, rest, ok := strings.Cut(name, ".")
	if !ok {
		return linuxerr.EOPNOTSUPP
	}
	a := i.node.Attr()
	if ats.MayWrite() {
		if err := i.fs.writable(); err != nil {
			return err
		}
		if a.Flags&(format.FlagImmutable|format.FlagAppend) != 0 {
			return linuxerr.EPERM
		}
	}
	switch ns {
	case "user", "trusted", "security":
		if rest == "" {
			return linuxerr.EINVAL
		}
	}
	switch ns {
	case "user":
		if err := vfs.CheckXattrPermissions(creds, ats, linux.FileMode(a.Mode), auth.KUID(a.UID), name); err != nil {
			return err
		}
		return i.Allows(creds, ats)
	case "trusted":
		return vfs.CheckXattrPermissions(creds, ats, linux.FileMode(a.Mode), auth.KUID(a.UID), name)
	case "security":
		if ats.MayWrite() && name != linux.XATTR_SECURITY_CAPABILITY && !creds.HasRootCapability(linux.CAP_SYS_ADMIN) {
			return linuxerr.EPERM
		}
		return nil
	case "system":
		return nil // the ACL functions check
	}
	return linuxerr.EOPNOTSUPP
}

// ListXattr implements tree.Inode.
func (i *inode) ListXattr(creds *auth.Credentials) ([]string, error) {
	all, err := i.node.Xattrs()
	if err != nil {
		return nil, i.fs.errno(err)
	}
	names := all[:0:0]
	for _, n := range all {
		if strings.HasPrefix(n, "trusted.") && !creds.HasRootCapability(linux.CAP_SYS_ADMIN) {
			continue
		}
		names = append(names, n)
	}
	return names, nil
}

// GetXattr implements tree.Inode.
func (i *inode) GetXattr(creds *auth.Credentials, opts *vfs.GetXattrOptions) (string, error) {
	if err := i.checkXattr(creds, vfs.MayRead, opts.Name); err != nil {
		return "", err
	}
	if strings.HasPrefix(opts.Name, linux.XATTR_SYSTEM_PREFIX) {
		s, err := i.aclState()
		if err != nil {
			return "", err
		}
		return vfs.ACLGetXattr(creds, opts, linux.FileMode(i.node.Attr().Mode), s.access, s.def)
	}
	b, err := i.node.Xattr(opts.Name)
	if err != nil {
		return "", i.fs.errno(err)
	}
	if opts.Name == linux.XATTR_SECURITY_CAPABILITY {
		return auth.FixupVfsCapDataOnGet(creds, string(b))
	}
	if opts.Size != 0 && uint64(len(b)) > opts.Size {
		return "", linuxerr.ERANGE
	}
	return string(b), nil
}

// SetXattr implements tree.Inode.
func (i *inode) SetXattr(creds *auth.Credentials, opts *vfs.SetXattrOptions) error {
	if err := i.checkXattr(creds, vfs.MayWrite, opts.Name); err != nil {
		return err
	}
	a := i.node.Attr()
	if strings.HasPrefix(opts.Name, linux.XATTR_SYSTEM_PREFIX) {
		acl, t, err := vfs.ACLSetXattr(creds, opts, linux.FileMode(a.Mode), auth.KUID(a.UID))
		if err != nil {
			return err
		}
		_, _, err = i.SetPosixACL(creds, t, acl, true)
		return err
	}
	value := opts.Value
	if opts.Name == linux.XATTR_SECURITY_CAPABILITY {
		var err error
		if value, err = auth.FixupVfsCapDataOnSet(creds, value, auth.KUID(a.UID), auth.KGID(a.GID)); err != nil {
			return err
		}
	}
	i.mu.Lock()
	err := i.node.SetXattr(opts.Name, []byte(value), ext4.XattrFlags{
		Create:  opts.Flags&linux.XATTR_CREATE != 0,
		Replace: opts.Flags&linux.XATTR_REPLACE != 0,
	})
	i.noCaps.Store(false)
	i.mu.Unlock()
	if err != nil {
		return i.fs.errno(err)
	}
	return i.touchCtime()
}

// RemoveXattr implements tree.Inode.
func (i *inode) RemoveXattr(creds *auth.Credentials, name string) error {
	if err := i.checkXattr(creds, vfs.MayWrite, name); err != nil {
		return err
	}
	a := i.node.Attr()
	if strings.HasPrefix(name, linux.XATTR_SYSTEM_PREFIX) {
		t, err := vfs.ACLRemoveXattr(creds, name, linux.FileMode(a.Mode), auth.KUID(a.UID))
		if err != nil {
			return err
		}
		_, _, err = i.SetPosixACL(creds, t, nil, true)
		return err
	}
	if name == linux.XATTR_SECURITY_CAPABILITY && !creds.HasCapabilityOnFile(linux.CAP_SETFCAP, auth.KUID(a.UID), auth.KGID(a.GID)) {
		return linuxerr.EPERM
	}
	i.mu.Lock()
	err := i.node.RemoveXattr(name)
	i.mu.Unlock()
	if err != nil {
		return i.fs.errno(err)
	}
	return i.touchCtime()
}

// PosixACL implements tree.Inode.
func (i *inode) PosixACL(t vfs.ACLType) (*vfs.PosixACL, error) {
	s, err := i.aclState()
	if err != nil {
		return nil, err
	}
	switch t {
	case vfs.AccessACL:
		return s.access, nil
	case vfs.DefaultACL:
		return s.def, nil
	}
	return nil, linuxerr.EINVAL
}
