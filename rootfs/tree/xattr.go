package tree

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// StorableXattr says whether ext4 can hold an extended attribute of that name.
// Others (system.nfs4_acl, btrfs.*) belong to the file system they were read from.
func StorableXattr(name string) bool {
	switch name {
	case ACLAccess, ACLDefault:
		return true
	}
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if strings.HasPrefix(name, prefix) {
			return len(name) > len(prefix) && len(name)-len(prefix) <= NameMax
		}
	}
	return false
}

// The two attributes that hold POSIX access control lists, in the form of
// linux/posix_acl_xattr.h: a version, then entries of tag, permission and id.
const (
	ACLAccess  = "system.posix_acl_access"
	ACLDefault = "system.posix_acl_default"
)

// Tags of ACL entries whose id is a user's or a group's.
const (
	ACLVersion  = 2
	ACLUserObj  = 0x01
	ACLUser     = 0x02
	ACLGroupObj = 0x04
	ACLGroup    = 0x08
	ACLMask     = 0x10
	ACLOther    = 0x20
	ACLNoID     = 0xffffffff
)

// ACLEntry is one entry of an access control list.
type ACLEntry struct {
	Tag, Perm uint16
	ID        uint32
}

// DecodeACL reads the value of an ACL attribute.
func DecodeACL(value []byte) ([]ACLEntry, error) {
	if len(value) < 4 || (len(value)-4)%8 != 0 {
		return nil, fmt.Errorf("access control list of %d bytes is cut short", len(value))
	}
	if v := binary.LittleEndian.Uint32(value); v != ACLVersion {
		return nil, fmt.Errorf("access control list of version %d, not %d", v, ACLVersion)
	}
	entries := make([]ACLEntry, 0, (len(value)-4)/8)
	for value = value[4:]; len(value) > 0; value = value[8:] {
		entries = append(entries, ACLEntry{
			binary.LittleEndian.Uint16(value), binary.LittleEndian.Uint16(value[2:]), binary.LittleEndian.Uint32(value[4:]),
		})
	}
	return entries, nil
}

// EncodeACL is the value of an ACL attribute.
func EncodeACL(entries []ACLEntry) []byte {
	value := binary.LittleEndian.AppendUint32(nil, ACLVersion)
	for _, e := range entries {
		value = binary.LittleEndian.AppendUint16(value, e.Tag)
		value = binary.LittleEndian.AppendUint16(value, e.Perm)
		value = binary.LittleEndian.AppendUint32(value, e.ID)
	}
	return value
}

// SortACL puts entries into the order that the kernel wants: by tag, and by id among
// those of one tag.
func SortACL(entries []ACLEntry) []ACLEntry {
	slices.SortStableFunc(entries, func(a, b ACLEntry) int {
		return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.ID, b.ID))
	})
	return entries
}
