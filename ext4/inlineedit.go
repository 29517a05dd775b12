package ext4

import (
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
)

// convertInline moves inline content to a block, before it changes. mu is held for
// writing and no handle is open.
func (n *Inode) convertInline() error {
	if n.fs.readOnly.Load() {
		return n.fs.refuse()
	}
	if n.isDir() {
		return n.convertInlineDir()
	}
	fs := n.fs
	size := int(min(n.d.Size, uint64(fs.bs)))
	data := make([]byte, fs.bs)
	if _, err := n.readInlineFile(data[:size], 0); err != nil {
		return err
	}
	var r run
	if size > 0 {
		var err error
		if r, err = fs.setAside(fs.fileGoal(n), 1); err != nil {
			return err
		}
		if err := n.writeData(data, int64(r.start<<fs.bsBits)); err != nil {
			fs.giveBack(r)
			return err
		}
	}
	h, err := fs.begin()
	if err != nil {
		fs.giveBack(r)
		return err
	}
	defer h.end()
	if err := n.leaveInline(h); err != nil || size == 0 {
		return err
	}
	return n.insert(h, 0, r, false)
}

// leaveInline takes the inline content out of the inode.
func (n *Inode) leaveInline(h *handle) error {
	body, err := n.bodyXattrs()
	if err != nil {
		return err
	}
	body = slices.DeleteFunc(body, func(x xattr) bool {
		return x.index == format.XattrSystem && x.name == format.XattrInlineDataName
	})
	return n.update(h, true, func(d *format.Inode) {
		n.putBodyXattrs(body)
		d.Flags &^= format.FlagInlineData
		n.initMap()
	})
}

func (n *Inode) convertInlineDir() error {
	parent, all, err := n.inlineEntries()
	if err != nil {
		return err
	}
	for i := range all { // their names lie in what leaveInline clears
		all[i].name = slices.Clone(all[i].name)
	}
	h, err := n.fs.begin()
	if err != nil {
		return err
	}
	defer h.end()
	r, err := n.fs.setAside(n.fs.fileGoal(n), 1)
	if err != nil {
		return err
	}
	if err := n.leaveInline(h); err != nil {
		n.fs.giveBack(r)
		return err
	}
	if err := n.insert(h, 0, r, false); err != nil {
		return err
	}
	b := n.fs.cache.fresh(r.start)
	b.seen.Store(uint64(kindDirLeaf)<<32 | uint64(n.ino))
	dots := []dirent{
		{ino: n.ino, name: []byte("."), typ: format.TypeDir},
		{ino: parent, name: []byte(".."), typ: format.TypeDir},
	}
	n.pack(b.data, append(dots, all...))
	if err := n.dirtyDir(h, b, kindDirLeaf); err != nil {
		return err
	}
	return n.update(h, true, func(d *format.Inode) { d.Size = uint64(n.fs.bs) })
}
