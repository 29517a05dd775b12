package volume

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
)

// The names of the two access control lists, and the tags of their entries as getxattr(2)
// gives them (linux/posix_acl_xattr.h): a version of four bytes, then for each entry tag,
// permissions and id in 2, 2 and 4.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// Create makes a file in a directory, without a name where that is "", with what it
// inherits: permissions are those of m that the directory's default ACL gives too, or
// without one those that umask leaves. A symbolic link inherits nothing.
func Create(dir *ext4.Inode, name string, m ext4.NewInode, umask uint16) (*ext4.Inode, error) {
	kind := m.Mode & format.ModeType
	var access, def []byte
	if kind != format.ModeSymlink {
		var err error
		if def, err = dir.Xattr(aclDefault); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, err
		}
		if len(def) > 0 {
			access, m.Mode = inherited(def, m.Mode)
		} else {
			m.Mode &^= umask
		}
	}
	var n *ext4.Inode
	var err error
	if name == "" {
		n, err = dir.CreateUnlinked(m)
	} else {
		n, err = dir.Create(name, m)
	}
	if err != nil {
		return nil, err
	}
	if len(access) > 0 {
		err = n.SetXattr(aclAccess, access, ext4.XattrFlags{})
	}
	if err == nil && len(def) > 0 && kind == format.ModeDir {
		err = n.SetXattr(aclDefault, def, ext4.XattrFlags{})
	}
	if err == nil {
		return n, nil
	}
	// Rather none than one that is too open.
	switch {
	case name == "":
	case kind == format.ModeDir:
		err = errors.Join(err, dir.Rmdir(name))
	default:
		err = errors.Join(err, dir.Unlink(name))
	}
	return nil, errors.Join(err, n.Put())
}

// inherited is the ACL of a new file in a directory with a default ACL, nil where the
// permissions say it all, and these. What either does not give, neither does.
func inherited(def []byte, mode uint16) ([]byte, uint16) {
	acl := slices.Clone(def)
	more := false // than permissions can say
	var group, mask []byte
	meet := func(e []byte, shift uint) {
		perm := binary.LittleEndian.Uint16(e[2:]) & (mode >> shift & 7)
		binary.LittleEndian.PutUint16(e[2:], perm)
		mode = mode&^(7<<shift) | perm<<shift
	}
	for e := range slices.Chunk(acl[4:], 8) {
		switch binary.LittleEndian.Uint16(e) {
		case aclUserObj:
			meet(e, 6)
		case aclGroupObj:
			group = e
		case aclOther:
			meet(e, 0)
		case aclMask:
			mask, more = e, true
		default:
			more = true
		}
	}
	if mask != nil {
		group = mask
	}
	if group != nil {
		meet(group, 3)
	}
	if !more {
		return nil, mode
	}
	return acl, mode
}

// Chmod gives a file permissions, and its ACL, where it has one, the same: the group's are
// those of the mask.
func Chmod(n *ext4.Inode, mode uint16) error {
	acl, err := n.Xattr(aclAccess)
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if len(acl) > 0 {
		var group, mask []byte
		for e := range slices.Chunk(acl[4:], 8) {
			switch binary.LittleEndian.Uint16(e) {
			case aclUserObj:
				binary.LittleEndian.PutUint16(e[2:], mode>>6&7)
			case aclGroupObj:
				group = e
			case aclMask:
				mask = e
			case aclOther:
				binary.LittleEndian.PutUint16(e[2:], mode&7)
			}
		}
		if mask != nil {
			group = mask
		}
		if group != nil {
			binary.LittleEndian.PutUint16(group[2:], mode>>3&7)
		}
		if err := n.SetXattr(aclAccess, acl, ext4.XattrFlags{}); err != nil {
			return err
		}
	}
	a := n.Attr()
	a.Mode = a.Mode&format.ModeType | mode&format.ModePerm
	return n.SetAttr(ext4.AttrMode, a)
}
