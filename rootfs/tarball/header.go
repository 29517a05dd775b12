package tarball

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Clean makes a path inside the tree of an entry's name: without slashes at its ends,
// and without "." parts. The root is "". A part ".." is refused.
func Clean(name string) (string, error) {
	var parts []string
	for _, part := range strings.Split(name, "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			return "", fmt.Errorf("path %.200q holds \"..\"", name)
		}
		if err := tree.CheckName(part); err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/"), nil
}

// checkGlobal takes a global header that says nothing of the entries after it, such as
// git's comment.
func checkGlobal(hdr *tar.Header) error {
	for key := range hdr.PAXRecords {
		switch key {
		case "path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime":
			return fmt.Errorf("global pax header sets %s of all entries, which is not supported", key)
		}
		if strings.HasPrefix(key, "SCHILY.xattr.") || strings.HasPrefix(key, "GNU.sparse.") {
			return fmt.Errorf("global pax header sets %.80q of all entries, which is not supported", key)
		}
	}
	return nil
}

// Keys of pax records that hold extended attributes.
const (
	schilyXattr = "SCHILY.xattr."        // star, GNU tar, bsdtar: name=value, bytes as they are
	libarchive  = "LIBARCHIVE.xattr."    // bsdtar: name escaped like a URL, value in base64
	schilyACL   = "SCHILY.acl.access"    // text form of acl(5)
	schilyACLd  = "SCHILY.acl.default"   // the same
	rhSELinux   = "RHT.security.selinux" // GNU tar: without the NUL that the kernel counts
)

// xattrs are the extended attributes of an entry.
func (s *Source) xattrs(hdr *tar.Header, n *tree.Node) (map[string][]byte, error) {
	var attrs map[string][]byte
	set := func(name string, value []byte) {
		if !tree.StorableXattr(name) {
			return
		}
		if attrs == nil {
			attrs = make(map[string][]byte)
		}
		attrs[name] = value
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, libarchive); ok {
			name, err := unescape(name)
			if err != nil {
				return nil, err
			}
			raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, fmt.Errorf("extended attribute %.80q: %w", name, err)
			}
			if _, twice := hdr.PAXRecords[schilyXattr+name]; !twice {
				set(name, raw)
			}
		}
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, schilyXattr); ok {
			set(unescapeGNU(name), []byte(value))
		}
	}
	if label, ok := hdr.PAXRecords[rhSELinux]; ok {
		set("security.selinux", append([]byte(strings.TrimRight(label, "\x00")), 0))
	}
	for key, name := range map[string]string{schilyACL: tree.ACLAccess, schilyACLd: tree.ACLDefault} {
		text, ok := hdr.PAXRecords[key]
		if !ok || attrs[name] != nil {
			continue
		}
		acl, err := parseACL(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if name == tree.ACLAccess && len(acl) <= 3 {
			continue // says no more than the mode
		}
		if len(acl) > 0 {
			s.acls = append(s.acls, namedACL{n, name, acl})
		}
	}
	return attrs, nil
}

// unescapeGNU undoes what GNU tar does to "%" and "=" in names of attributes.
func unescapeGNU(name string) string {
	return strings.NewReplacer("%25", "%", "%3D", "=").Replace(name)
}

func unescape(name string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			b.WriteByte(name[i])
			continue
		}
		if i+2 >= len(name) {
			return "", fmt.Errorf("extended attribute %.80q: bad escape", name)
		}
		c, err := strconv.ParseUint(name[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("extended attribute %.80q: bad escape", name)
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), nil
}

// namedACL is an access control list that may name users and groups, which the
// archive's own passwd and group files number, once they are known.
type namedACL struct {
	node    *tree.Node
	attr    string
	entries []aclEntry
}

type aclEntry struct {
	tag, perm uint16
	name      string // of users and groups, a number or a name
	id        string // a number behind it, as star adds it
}

// aclMax bounds the entries of one list: ext4 holds some hundred in a block of 4 KiB.
const aclMax = 8192

// parseACL reads the text form: entries "user:joe:rw-" with commas or line ends
// between them, comments after "#".
func parseACL(text string) ([]aclEntry, error) {
	var entries []aclEntry
	for _, item := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		item, _, _ = strings.Cut(item, "#")
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		f := strings.Split(item, ":")
		if len(f) == 2 && (f[0] == "mask" || f[0] == "other" || f[0] == "m" || f[0] == "o") {
			f = []string{f[0], "", f[1]}
		}
		if len(f) < 3 || len(f) > 4 {
			return nil, fmt.Errorf("entry %.80q", item)
		}
		e := aclEntry{name: f[1]}
		if len(f) == 4 {
			e.id = f[3]
		}
		switch f[0] {
		case "user", "u":
			e.tag = tree.ACLUserObj
			if e.name != "" {
				e.tag = tree.ACLUser
			}
		case "group", "g":
			e.tag = tree.ACLGroupObj
			if e.name != "" {
				e.tag = tree.ACLGroup
			}
		case "mask", "m":
			e.tag = tree.ACLMask
		case "other", "o":
			e.tag = tree.ACLOther
		default:
			return nil, fmt.Errorf("entry %.80q", item)
		}
		for _, c := range f[2] {
			switch c {
			case 'r':
				e.perm |= 4
			case 'w':
				e.perm |= 2
			case 'x':
				e.perm |= 1
			case '-':
			default:
				return nil, fmt.Errorf("entry %.80q", item)
			}
		}
		if entries = append(entries, e); len(entries) > aclMax {
			return nil, fmt.Errorf("more than %d entries", aclMax)
		}
	}
	return entries, nil
}

// finish does what needs the whole tree: it numbers the names in access control lists.
func (s *Source) finish(t *tree.Tree) error {
	if len(s.acls) == 0 {
		return nil
	}
	users, groups := numbers(t, "/etc/passwd"), numbers(t, "/etc/group")
	for _, a := range s.acls {
		list := make([]tree.ACLEntry, 0, len(a.entries))
		for _, e := range a.entries {
			out := tree.ACLEntry{Tag: e.tag, Perm: e.perm, ID: tree.ACLNoID}
			var err error
			switch e.tag {
			case tree.ACLUser:
				out.ID, err = number(users, e)
			case tree.ACLGroup:
				out.ID, err = number(groups, e)
			}
			if err != nil {
				return fmt.Errorf("%s: access control list: %w", s, err)
			}
			list = append(list, out)
		}
		if a.node.Xattrs == nil {
			a.node.Xattrs = make(map[string][]byte)
		}
		a.node.Xattrs[a.attr] = tree.EncodeACL(tree.SortACL(list))
	}
	s.acls = nil
	return nil
}

// numbers reads names and their numbers from a passwd or group file of the archive.
// Without one there are none.
func numbers(t *tree.Tree, path string) map[string]uint32 {
	data, err := t.ReadFile(path, 4<<20)
	if err != nil {
		return nil
	}
	ids := make(map[string]uint32)
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.SplitN(line, ":", 4)
		if len(f) < 3 {
			continue
		}
		if id, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			ids[f[0]] = uint32(id)
		}
	}
	return ids
}

func number(ids map[string]uint32, e aclEntry) (uint32, error) {
	for _, text := range []string{e.id, e.name} {
		if id, err := strconv.ParseUint(text, 10, 32); err == nil {
			return uint32(id), nil
		}
	}
	if id, ok := ids[e.name]; ok {
		return id, nil
	}
	return 0, fmt.Errorf("%.80q is neither a number nor in the archive's passwd or group file", e.name)
}

// sparseRuns are the runs of data of a sparse file, from pax records (GNU's formats 0.0
// and 0.1), from the beginning of the content (1.0) or from an old GNU header, which
// archive/tar has read and checked and does not tell. headers is what it read.
func sparseRuns(hdr *tar.Header, headers []byte) (runs []tree.Region, sparse bool, err error) {
	var pairs []string
	switch {
	case hdr.Typeflag == tar.TypeGNUSparse:
		at, err := mainHeader(headers)
		if err != nil {
			return nil, false, err
		}
		runs, err := oldGNU(headers[at:])
		return runs, true, err
	case hdr.PAXRecords["GNU.sparse.major"] == "1" && hdr.PAXRecords["GNU.sparse.minor"] == "0":
		at, err := mainHeader(headers)
		if err != nil {
			return nil, false, err
		}
		lines := strings.Split(string(headers[at+blockSize:]), "\n")
		count, err := strconv.ParseInt(lines[0], 10, 32)
		if err != nil || count < 0 || int(count)*2 > len(lines)-1 {
			return nil, false, errSparse
		}
		pairs = lines[1 : 1+2*count]
	case hdr.PAXRecords["GNU.sparse.map"] != "":
		pairs = strings.Split(hdr.PAXRecords["GNU.sparse.map"], ",")
	case hdr.PAXRecords["GNU.sparse.size"] != "" || hdr.PAXRecords["GNU.sparse.realsize"] != "":
		return nil, true, nil // one hole
	default:
		return nil, false, nil
	}
	if len(pairs)%2 != 0 {
		return nil, false, errSparse
	}
	for i := 0; i < len(pairs); i += 2 {
		off, err1 := strconv.ParseInt(pairs[i], 10, 64)
		n, err2 := strconv.ParseInt(pairs[i+1], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, false, errSparse
		}
		if runs, err = addRun(runs, off, n); err != nil {
			return nil, false, err
		}
	}
	return runs, true, nil
}

var errSparse = errors.New("the map of a sparse file makes no sense")

// addRun adds a run after those before it; empty ones are left out, touching ones
// joined.
func addRun(runs []tree.Region, off, n int64) ([]tree.Region, error) {
	if off < 0 || n < 0 || off+n < off {
		return nil, errSparse
	}
	if n == 0 {
		return runs, nil
	}
	if len(runs) > 0 {
		last := &runs[len(runs)-1]
		if off < last.Off+last.Len {
			return nil, errSparse
		}
		if off == last.Off+last.Len {
			last.Len += n
			return runs, nil
		}
	}
	return append(runs, tree.Region{Off: off, Len: n}), nil
}

// mainHeader is where, in the headers of an entry, its own one is: after those that
// only extend it.
func mainHeader(headers []byte) (int, error) {
	at := 0
	for at+blockSize <= len(headers) {
		switch headers[at+156] {
		case 'x', 'X', 'L', 'K':
			size, err := numeric(headers[at+124 : at+136])
			if err != nil || size > headersMax {
				return 0, errSparse
			}
			at += blockSize + int(size+blockSize-1)/blockSize*blockSize
		default:
			return at, nil
		}
	}
	return 0, errSparse
}

// numeric reads a number of a header: octal, or binary with the first bit set.
func numeric(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		v := int64(field[0] & 0x7f)
		for _, c := range field[1:] {
			if v >= 1<<55 {
				return 0, errSparse
			}
			v = v<<8 | int64(c)
		}
		return v, nil
	}
	text := strings.Trim(string(field), " \x00")
	if text == "" {
		return 0, nil
	}
	return strconv.ParseInt(text, 8, 64)
}

// oldGNU reads the map in an old GNU header and the blocks that continue it.
func oldGNU(headers []byte) (runs []tree.Region, err error) {
	part, count, more := headers[386:482], 4, headers[482] != 0
	for next := blockSize; ; next += blockSize {
		for i := range count {
			pair := part[24*i : 24*i+24]
			if pair[0] == 0 {
				break
			}
			off, err1 := numeric(pair[:12])
			n, err2 := numeric(pair[12:])
			if err1 != nil || err2 != nil {
				return nil, errSparse
			}
			if runs, err = addRun(runs, off, n); err != nil {
				return nil, err
			}
		}
		if !more {
			return runs, nil
		}
		if next+blockSize > len(headers) {
			return nil, errSparse
		}
		part, count, more = headers[next:next+504], 21, headers[next+504] != 0
	}
}
