package ext4

import (
	"github.com/umlkit/umlkit/ext4/format"
)

// With inline data a small file's content lies in its inode: the first bytes in the
// block array, the rest as the value of the attribute system.data. A directory has its
// parent's number first, and no dots.

// inlineParts gives the two parts of inline content. mu is held.
func (n *Inode) inlineParts() (head, rest []byte, err error) {
	body, err := n.bodyXattrs()
	if err != nil {
		return nil, nil, err
	}
	for _, x := range body {
		if x.index == format.XattrSystem && x.name == format.XattrInlineDataName {
			return n.d.Block[:], x.value, nil
		}
	}
	return nil, nil, n.bad("inline data without attribute", "system.data")
}

// readInlineFile reads inline content. mu is held.
func (n *Inode) readInlineFile(p []byte, off int64) (int, error) {
	head, rest, err := n.inlineParts()
	if err != nil {
		return 0, err
	}
	clear(p)
	all := append(append([]byte(nil), head...), rest...)
	if n.d.Size > uint64(len(all)) {
		return 0, n.bad("inline size", n.d.Size)
	}
	if off < int64(len(all)) {
		copy(p, all[off:])
	}
	return len(p), nil
}

// inlineEntries checks and decodes the entries of an inline directory.
func (n *Inode) inlineEntries() (parent uint32, all []dirent, err error) {
	head, rest, err := n.inlineParts()
	if err != nil {
		return 0, nil, err
	}
	for _, part := range [][]byte{head[4:], rest} {
		if len(part) == 0 {
			continue
		}
		if err := n.checkLeaf(0, part); err != nil {
			return 0, nil, err
		}
		for off := 0; off < len(part); {
			e := direntAt(part, off)
			off += e.rec
			if e.ino != 0 {
				all = append(all, e)
			}
		}
	}
	return le.Uint32(head), all, nil
}

// findInline looks a name up. Inline directories are converted before they change, so
// the place it returns has no buffer.
func (n *Inode) findInline(name string) (p place, ok bool, err error) {
	parent, all, err := n.inlineEntries()
	if err != nil {
		return p, false, err
	}
	switch name {
	case ".":
		return place{dirent: dirent{ino: n.ino, typ: format.TypeDir}}, true, nil
	case "..":
		return place{dirent: dirent{ino: parent, typ: format.TypeDir}}, true, nil
	}
	for _, e := range all {
		if string(e.name) == name {
			return place{dirent: e}, true, nil
		}
	}
	return p, false, nil
}

// readInline collects the entries of an inline directory, by hash.
func (n *Inode) readInline(cookie uint64, batch []DirEntry) ([]DirEntry, uint64, error) {
	parent, entries, err := n.inlineEntries()
	if err != nil {
		return batch, 0, err
	}
	if cookie < cookieDot {
		batch = append(batch, DirEntry{".", n.ino, format.ModeDir, cookieDot})
	}
	if cookie < cookieDotDot {
		batch = append(batch, DirEntry{"..", parent, format.ModeDir, cookieDotDot})
	}
	version := n.fs.hashVersion(n.fs.sb.DefHashVersion)
	var all []hashed
	for _, e := range entries {
		h, err := n.hashEntry(e, version)
		if err != nil {
			return batch, 0, err
		}
		all = append(all, h)
	}
	return n.inOrder(all, cookie, batch), cookieEnd, nil
}
