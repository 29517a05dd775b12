package ext4

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// xattr is an extended attribute in memory.
type xattr struct {
	index uint8
	name  string // without prefix
	value []byte
	inode uint32 // holds the value in its stead, with the feature ea_inode
	size  uint32
}

// compare is the order of attributes in a block.
func (x xattr) compare(y xattr) int {
	return cmp.Or(cmp.Compare(x.index, y.index), cmp.Compare(len(x.name), len(y.name)), strings.Compare(x.name, y.name))
}

var xattrPrefixes = []struct {
	index  uint8
	prefix string
	whole  bool
}{
	{format.XattrUser, "user.", false},
	{format.XattrACLAccess, "system.posix_acl_access", true},
	{format.XattrACLDefault, "system.posix_acl_default", true},
	{format.XattrTrusted, "trusted.", false},
	{format.XattrSecurity, "security.", false},
	{format.XattrRichACL, "system.richacl", true},
	{format.XattrSystem, "system.", false},
}

// splitXattr gives the index and the rest of a full name.
func splitXattr(name string) (index uint8, rest string, err error) {
	for _, p := range xattrPrefixes {
		if p.whole && name == p.prefix {
			return p.index, "", nil
		}
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && !p.whole {
			switch {
			case rest == "" || p.index == format.XattrSystem && rest == format.XattrInlineDataName:
				return 0, "", fmt.Errorf("ext4: attribute %q: %w", name, unix.EINVAL)
			case len(rest) > format.MaxName:
				return 0, "", fmt.Errorf("ext4: attribute name of %d bytes: %w", len(name), unix.ERANGE)
			}
			return p.index, rest, nil
		}
	}
	return 0, "", fmt.Errorf("ext4: attribute %q: %w", name, unix.EOPNOTSUPP)
}

// joinXattr is the full name; ok is false for attributes that are not shown.
func joinXattr(index uint8, rest string) (name string, ok bool) {
	if index == format.XattrSystem && rest == format.XattrInlineDataName {
		return "", false
	}
	for _, p := range xattrPrefixes {
		if p.index == index {
			return p.prefix + rest, p.whole == (rest == "")
		}
	}
	return "", false
}

// parseXattrs reads the entries that start at offset first of data; value offsets
// count from offset base.
func (n *Inode) parseXattrs(data []byte, first, base int) ([]xattr, error) {
	var out []xattr
	used := 0 // bytes of values: they cannot overlap
	for off := first; ; {
		if off+4 > len(data) {
			return nil, n.bad("attributes without end at offset", off)
		}
		if le.Uint32(data[off:]) == 0 {
			return out, nil
		}
		var e format.XattrEntry
		if err := e.Decode(data[off:]); err != nil {
			return nil, n.bad("attribute entry at offset", off)
		}
		next := off + format.XattrEntryLen(int(e.NameLen))
		if next+4 > len(data) {
			return nil, n.bad("attribute name length", e.NameLen)
		}
		x := xattr{index: e.NameIndex, name: string(data[off+format.XattrEntrySize:][:e.NameLen]), inode: e.ValueInode, size: e.ValueSize}
		if strings.IndexByte(x.name, 0) >= 0 {
			return nil, n.bad("attribute name", fmt.Sprintf("%q", x.name))
		}
		if e.ValueInode == 0 && e.ValueSize > 0 {
			at := base + int(e.ValueOffset)
			if e.ValueSize > uint32(len(data)) || at+int(e.ValueSize) > len(data) || at < next {
				return nil, n.bad("attribute value", fmt.Sprintf("%d bytes at offset %d", e.ValueSize, e.ValueOffset))
			}
			if used += int(e.ValueSize); used > len(data) {
				return nil, n.bad("attribute values overlap, bytes", used)
			}
			x.value = bytes.Clone(data[at : at+int(e.ValueSize)])
		} else if e.ValueInode == 0 {
			x.value = []byte{}
		}
		out = append(out, x)
		off = next
	}
}

// bodyXattrs reads the attributes in the inode. mu is held.
func (n *Inode) bodyXattrs() ([]xattr, error) {
	at := format.InodeBaseSize + int(n.d.ExtraIsize)
	if n.d.ExtraIsize == 0 || at+format.XattrInodeHeaderSize+4 > len(n.body) {
		return nil, nil
	}
	if le.Uint32(n.body[at:]) != format.XattrMagic {
		return nil, nil
	}
	data := n.body[at+format.XattrInodeHeaderSize:]
	return n.parseXattrs(data, 0, 0)
}

// xattrBlock reads the block of attributes; nil when there is none. mu is held.
func (n *Inode) xattrBlock() (*buffer, error) {
	nr := n.d.FileACL
	if nr == 0 {
		return nil, nil
	}
	b, err := n.fs.cache.get(nr)
	if err != nil {
		return nil, err
	}
	fresh, ok := b.claim(kindXattr, 0) // shared: no inode's own
	if !ok {
		return nil, n.bad("attribute block that is also something else:", nr)
	}
	if !fresh {
		return b, nil
	}
	var h format.XattrHeader
	if err := h.Decode(b.data); err != nil {
		return nil, err
	}
	if h.Magic != format.XattrMagic || h.Blocks != 1 || h.Refcount == 0 {
		return nil, n.bad("header of attribute block", fmt.Sprintf("%d: %+v", nr, h))
	}
	if n.fs.csum && h.Checksum != format.XattrBlockChecksum(n.fs.seed, nr, b.data) {
		return nil, n.bad("checksum of attribute block", nr)
	}
	if !b.settle(kindXattr, 0) {
		return nil, n.bad("attribute block that is also something else:", nr)
	}
	return b, nil
}

// blockXattrs reads the attributes in the block. mu is held.
func (n *Inode) blockXattrs() ([]xattr, error) {
	n.fs.xattrMu.Lock()
	defer n.fs.xattrMu.Unlock()
	b, err := n.xattrBlock()
	if b == nil || err != nil {
		return nil, err
	}
	return n.parseXattrs(b.data, format.XattrHeaderSize, 0)
}

// allXattrs reads all attributes, those of the inode first. mu is held.
func (n *Inode) allXattrs() ([]xattr, error) {
	body, err := n.bodyXattrs()
	if err != nil {
		return nil, err
	}
	block, err := n.blockXattrs()
	return append(body, block...), err
}

// Xattr is the value of an extended attribute, named in full ("user.x"); ENODATA when
// there is none. ACLs have the form that getxattr(2) gives.
func (n *Inode) Xattr(name string) ([]byte, error) {
	index, rest, err := splitXattr(name)
	if err != nil {
		return nil, err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	all, err := n.allXattrs()
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if x.index != index || x.name != rest {
			continue
		}
		v, err := n.xattrValue(x)
		if err == nil && (index == format.XattrACLAccess || index == format.XattrACLDefault) {
			v, err = n.decodeACL(v)
		}
		return v, err
	}
	return nil, fmt.Errorf("ext4: attribute %q of inode %d: %w", name, n.ino, unix.ENODATA)
}

// Xattrs lists the names of the extended attributes.
func (n *Inode) Xattrs() ([]string, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	all, err := n.allXattrs()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, x := range all {
		if name, ok := joinXattr(x.index, x.name); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// maxXattr bounds a value that an inode of its own holds, as the kernel does.
const maxXattr = 64 << 10

// xattrValue gives a value, also one that lies in an inode of its own.
func (n *Inode) xattrValue(x xattr) ([]byte, error) {
	if x.inode == 0 {
		return x.value, nil
	}
	if n.fs.incompat&format.IncompatEAInode == 0 || x.inode == n.ino || x.size > maxXattr {
		return nil, n.bad("attribute in inode", x.inode)
	}
	v, err := n.fs.igetSpecial(x.inode)
	if err != nil {
		return nil, err
	}
	defer v.unref()
	if !v.isRegular() || v.d.Flags&format.FlagEAInode == 0 || v.d.Size != uint64(x.size) {
		return nil, n.bad("attribute in inode", x.inode)
	}
	p := make([]byte, x.size)
	if _, err := v.readAt(p, 0); err != nil {
		return nil, err
	}
	return p, nil
}

// POSIX ACLs: the disk's version 1 leaves out the ids that say nothing, the system
// call's version 2 has them all.
const (
	aclDiskVersion = 1
	aclWireVersion = 2
	aclUser        = 0x02
	aclGroup       = 0x08
)

func (n *Inode) decodeACL(v []byte) ([]byte, error) {
	if len(v) < 4 || le.Uint32(v) != aclDiskVersion {
		return nil, n.bad("ACL version", fmt.Sprintf("%x", v[:min(4, len(v))]))
	}
	out := binary.LittleEndian.AppendUint32(nil, aclWireVersion)
	for v = v[4:]; len(v) > 0; {
		if len(v) < 4 {
			return nil, n.bad("ACL length", len(v))
		}
		tag := le.Uint16(v)
		id := ^uint32(0)
		size := 4
		if tag == aclUser || tag == aclGroup {
			if size = 8; len(v) < size {
				return nil, n.bad("ACL length", len(v))
			}
			id = le.Uint32(v[4:])
		}
		out = append(out, v[:4]...)
		out = le.AppendUint32(out, id)
		v = v[size:]
	}
	return out, nil
}

// encodeACL is the reverse of decodeACL.
func encodeACL(v []byte) ([]byte, error) {
	if len(v) < 4 || le.Uint32(v) != aclWireVersion || (len(v)-4)%8 != 0 {
		return nil, fmt.Errorf("ext4: ACL of %d bytes: %w", len(v), unix.EINVAL)
	}
	out := binary.LittleEndian.AppendUint32(nil, aclDiskVersion)
	for v = v[4:]; len(v) > 0; v = v[8:] {
		out = append(out, v[:4]...)
		switch le.Uint16(v) {
		case aclUser, aclGroup:
			out = append(out, v[4:8]...)
		case 0x01, 0x04, 0x10, 0x20:
		default:
			return nil, fmt.Errorf("ext4: ACL tag %#x: %w", le.Uint16(v), unix.EINVAL)
		}
	}
	return out, nil
}
