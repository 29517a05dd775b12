package mkfs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Names of the attributes that hold ACLs. Their values come as getxattr(2) gives them: a version, 2,
// then entries of 8 bytes: tag, permissions, id. On disk ext4 has a version, 1, and
// entries of 4 bytes, or 8 for those that name a user or a group.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"

	aclWireVersion = 2
	aclDiskVersion = 1
)

// Tags of ACL entries, in the order in which they must come.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// encodeACL brings an ACL from the wire form into ext4's and checks it as a kernel does.
func encodeACL(wire []byte) ([]byte, error) {
	if len(wire) < 4 || (len(wire)-4)%8 != 0 {
		return nil, fmt.Errorf("%w: %d bytes are no ACL", unix.EINVAL, len(wire))
	}
	if v := le.Uint32(wire); v != aclWireVersion {
		return nil, fmt.Errorf("%w: ACL version %d, not %d", unix.EINVAL, v, aclWireVersion)
	}
	disk := make([]byte, 4, len(wire))
	le.PutUint32(disk, aclDiskVersion)
	seen := uint16(0)
	for e := wire[4:]; len(e) > 0; e = e[8:] {
		tag, perm, id := le.Uint16(e), le.Uint16(e[2:]), le.Uint32(e[4:])
		if perm > 7 {
			return nil, fmt.Errorf("%w: ACL permissions %#x", unix.EINVAL, perm)
		}
		named := tag == aclUser || tag == aclGroup
		switch tag {
		case aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther:
			// A tag comes once, but those with a name; never after a higher one.
			if seen&^(tag-1) != 0 && !(named && seen < 2*tag) {
				return nil, fmt.Errorf("%w: ACL entry %#x is out of order", unix.EINVAL, tag)
			}
		default:
			return nil, fmt.Errorf("%w: ACL entry %#x is of no kind", unix.EINVAL, tag)
		}
		seen |= tag
		disk = le.AppendUint16(disk, tag)
		disk = le.AppendUint16(disk, perm)
		if named {
			disk = le.AppendUint32(disk, id)
		}
	}
	const always = aclUserObj | aclGroupObj | aclOther
	if seen&always != always {
		return nil, fmt.Errorf("%w: ACL without entries for owner, group and others", unix.EINVAL)
	}
	if seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0 {
		return nil, fmt.Errorf("%w: ACL with named entries and without a mask", unix.EINVAL)
	}
	return disk, nil
}
