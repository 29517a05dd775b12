package mkfs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
)

var le = binary.LittleEndian

// xattrPrefixes are the starts of names that ext4 keeps as a number. The two ACLs are whole names.
var xattrPrefixes = []struct {
	prefix string
	index  uint8
}{
	{"user.", format.XattrUser},
	{"trusted.", format.XattrTrusted},
	{"security.", format.XattrSecurity},
	{aclAccess, format.XattrACLAccess},
	{aclDefault, format.XattrACLDefault},
	{"gnu.", format.XattrHurd},
}

// attribute is an extended attribute as ext4 keeps it.
type attribute struct {
	index uint8
	name  string // without the prefix
	value []byte
}

func (a *attribute) size() int {
	return format.XattrEntryLen(len(a.name)) + format.XattrValueLen(len(a.value))
}

// parseXattr splits a full name and brings ACLs into ext4's form.
func parseXattr(full string, value []byte, isDir bool) (attribute, error) {
	for _, p := range xattrPrefixes {
		name, ok := strings.CutPrefix(full, p.prefix)
		if !ok {
			continue
		}
		a := attribute{p.index, name, value}
		if p.index == format.XattrACLAccess || p.index == format.XattrACLDefault {
			if name != "" {
				break
			}
			if p.index == format.XattrACLDefault && !isDir {
				return a, fmt.Errorf("attribute %s: %w: only directories have one", full, unix.EACCES)
			}
			acl, err := encodeACL(value)
			if err != nil {
				return a, fmt.Errorf("attribute %s: %w", full, err)
			}
			a.value = acl
			return a, nil
		}
		if name == "" || len(name) > 255 || hasNUL(name) {
			return a, fmt.Errorf("attribute %q: %w: a name has 1 to 255 bytes after its prefix", full, unix.EINVAL)
		}
		return a, nil
	}
	return attribute{}, fmt.Errorf("attribute %q: %w: ext4 has no such kind", full, unix.EOPNOTSUPP)
}

// encodeXattrs lays out the attributes of an inode: in its own space what goes there, the rest in
// a block that inodes with the same rest share.
func (b *Builder) encodeXattrs(h *Header) (body []byte, block *xattrBlock, err error) {
	if len(h.Xattrs) == 0 {
		return nil, nil, nil
	}
	if b.o.f.compat&format.CompatExtAttr == 0 {
		return nil, nil, fmt.Errorf("extended attributes: %w: the feature ext_attr is off", unix.EOPNOTSUPP)
	}
	isDir := h.Mode&format.ModeType == format.ModeDir
	list := make([]attribute, 0, len(h.Xattrs))
	for name, value := range h.Xattrs {
		a, err := parseXattr(name, value, isDir)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, a)
	}
	// The order that kernels expect in a block.
	slices.SortFunc(list, func(x, y attribute) int {
		return cmp.Or(cmp.Compare(x.index, y.index), cmp.Compare(len(x.name), len(y.name)), cmp.Compare(x.name, y.name))
	})

	room := b.o.inodeSize - format.InodeBaseSize - format.InodeExtraSize - format.XattrInodeHeaderSize - 4
	var inBody, inBlock []attribute
	for _, a := range list {
		if room >= a.size() {
			room -= a.size()
			inBody = append(inBody, a)
		} else {
			inBlock = append(inBlock, a)
		}
	}
	if len(inBody) > 0 {
		body = make([]byte, b.o.inodeSize-format.InodeBaseSize-format.InodeExtraSize)
		le.PutUint32(body, format.XattrMagic)
		putXattrs(body[format.XattrInodeHeaderSize:], 0, inBody)
	}
	if len(inBlock) > 0 {
		need := format.XattrHeaderSize + 4
		for _, a := range inBlock {
			need += a.size()
		}
		if need > b.o.blockSize {
			return nil, nil, fmt.Errorf("extended attributes: %w: they take %d bytes beside the inode, a block has %d",
				unix.ENOSPC, need, b.o.blockSize)
		}
		content := make([]byte, b.o.blockSize)
		hashes := putXattrs(content, format.XattrHeaderSize, inBlock)
		head := format.XattrHeader{Magic: format.XattrMagic, Refcount: 1, Blocks: 1, Hash: format.XattrBlockHash(hashes)}
		if err := head.Encode(content); err != nil {
			return nil, nil, err
		}
		block = b.xattrs.share(content)
	}
	return body, block, nil
}

// putXattrs writes entries from offset at on and values from the end of area backwards. Offsets
// of values count from area's start. It returns the entries' hashes.
func putXattrs(area []byte, at int, list []attribute) []uint32 {
	hashes := make([]uint32, 0, len(list))
	end := len(area)
	for _, a := range list {
		e := format.XattrEntry{
			NameLen: uint8(len(a.name)), NameIndex: a.index,
			ValueSize: uint32(len(a.value)), Hash: format.XattrHash(a.name, a.value),
		}
		if len(a.value) > 0 {
			end -= format.XattrValueLen(len(a.value))
			copy(area[end:], a.value)
			e.ValueOffset = uint16(end)
		}
		_ = e.Encode(area[at:]) // there is room: the caller has counted
		copy(area[at+format.XattrEntrySize:], a.name)
		at += format.XattrEntryLen(len(a.name))
		hashes = append(hashes, e.Hash)
	}
	return hashes
}

// xattrBlock is a block of attributes, without its place and checksum.
type xattrBlock struct {
	content []byte
	refs    uint32
	block   uint64 // where it lies, from Close on
}

// sharedXattrs are the blocks by content, in the order in which they came up.
type sharedXattrs struct {
	list   []*xattrBlock
	latest map[string]*xattrBlock
}

// share is a block of that content with one more user.
func (s *sharedXattrs) share(content []byte) *xattrBlock {
	x := s.latest[string(content)]
	if x == nil || x.refs >= format.XattrMaxRefcount {
		x = &xattrBlock{content: bytes.Clone(content)}
		if s.latest == nil {
			s.latest = make(map[string]*xattrBlock)
		}
		s.latest[string(content)] = x
		s.list = append(s.list, x)
	}
	x.refs++
	return x
}

// drop takes one user away.
func (s *sharedXattrs) drop(x *xattrBlock) {
	if x != nil {
		x.refs--
	}
}

// live is the number of blocks that have users.
func (s *sharedXattrs) live() uint64 {
	n := uint64(0)
	for _, x := range s.list {
		if x.refs > 0 {
			n++
		}
	}
	return n
}
