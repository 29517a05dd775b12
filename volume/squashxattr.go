package volume

import "github.com/umlkit/umlkit/rootfs/tree"

const (
	squashXattrs   = 1024      // attributes of one file
	squashXattrMax = 64 << 10  // bytes of a value
	squashXattrAll = 512 << 10 // of all of a file's
)

// xattrs reads the extended attributes with a number.
func (f *squash) xattrs(id uint32) (map[string][]byte, error) {
	if id >= f.xattrIDs {
		return nil, corrupt("squashfs", "attributes %d of %d", id, f.xattrIDs)
	}
	e, err := f.indexed(f.xattrTable, uint64(id), 16)
	if err != nil {
		return nil, err
	}
	ref, count := le.Uint64(e), le.Uint32(e[8:])
	if count > squashXattrs {
		return nil, corrupt("squashfs", "%d attributes of one file", count)
	}
	attrs, total := make(map[string][]byte), 0
	r := f.metaAt(f.xattrStart, ref>>16, ref&0xFFFF)
	for range count {
		h, err := r.read(4)
		if err != nil {
			return nil, err
		}
		kind, length := le.Uint16(h), int(le.Uint16(h[2:]))
		if length > tree.NameMax {
			return nil, corrupt("squashfs", "an attribute's name of %d bytes", length)
		}
		name, err := r.read(length)
		if err != nil {
			return nil, err
		}
		value, err := f.xattrValue(r, kind&0x100 != 0)
		if err != nil {
			return nil, err
		}
		if total += len(value); total > squashXattrAll {
			return nil, corrupt("squashfs", "attributes of more than %d bytes", squashXattrAll)
		}
		if prefix := [3]string{"user.", "trusted.", "security."}; int(kind&0xFF) < len(prefix) {
			attrs[prefix[kind&0xFF]+string(name)] = value
		}
	}
	return attrs, nil
}

// xattrValue reads a value, which outside says lies elsewhere.
func (f *squash) xattrValue(r *metaReader, outside bool) ([]byte, error) {
	for range 2 {
		b, err := r.read(4)
		if err != nil {
			return nil, err
		}
		size := le.Uint32(b)
		if size > squashXattrMax {
			return nil, corrupt("squashfs", "an attribute's value of %d bytes", size)
		}
		value, err := r.read(int(size))
		if err != nil || !outside {
			return value, err
		}
		if size != 8 {
			return nil, corrupt("squashfs", "the place of an attribute's value of %d bytes", size)
		}
		ref := le.Uint64(value)
		r, outside = f.metaAt(f.xattrStart, ref>>16, ref&0xFFFF), false
	}
	return nil, corrupt("squashfs", "an attribute's value")
}
