package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// mnode is a file of the naive model: everything in maps and slices.
type mnode struct {
	typ      uint16
	perm     uint16
	links    int
	data     []byte
	target   string
	children map[string]*mnode
	parent   *mnode
	xattrs   map[string]string
	rdev     uint32
}

func newMnode(typ uint16) *mnode {
	m := &mnode{typ: typ, links: 1, xattrs: map[string]string{}}
	if typ == format.ModeDir {
		m.children = map[string]*mnode{}
	}
	return m
}

func (m *mnode) isDir() bool { return m.typ == format.ModeDir }

// tree describes the model as describe does, without times and owners.
func (m *mnode) tree(path string, out *[]string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %#o", path, m.typ|m.perm)
	if !m.isDir() {
		fmt.Fprintf(&b, " links %d", m.links)
	} else {
		sub := 2
		for _, c := range m.children {
			if c.isDir() {
				sub++
			}
		}
		if path == "" {
			sub++ // lost+found
		}
		fmt.Fprintf(&b, " links %d", sub)
	}
	switch m.typ {
	case format.ModeRegular:
		fmt.Fprintf(&b, " size %d sum %#x", len(m.data), format.CRC32C(0, m.data))
	case format.ModeSymlink:
		fmt.Fprintf(&b, " -> %s", m.target)
	case format.ModeChar:
		fmt.Fprintf(&b, " dev %d", m.rdev)
	}
	var names []string
	for k := range m.xattrs {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		fmt.Fprintf(&b, " %s=%#x", k, format.CRC32C(0, []byte(m.xattrs[k])))
	}
	*out = append(*out, b.String())
	for name, c := range m.children {
		c.tree(path+"/"+name, out)
	}
}

func modelOf(t testing.TB, fs *FS) []string {
	var out []string
	var walk func(path string, n *Inode)
	walk = func(path string, n *Inode) {
		a := n.Attr()
		var b strings.Builder
		fmt.Fprintf(&b, "%s %#o links %d", path, a.Mode, a.Links)
		switch a.Mode & format.ModeType {
		case format.ModeRegular:
			data := make([]byte, a.Size)
			if _, err := n.ReadAt(data, 0); err != nil && a.Size > 0 {
				t.Fatalf("%s: %v", path, err)
			}
			fmt.Fprintf(&b, " size %d sum %#x", a.Size, format.CRC32C(0, data))
		case format.ModeSymlink:
			fmt.Fprintf(&b, " -> %s", must(n.Readlink()))
		case format.ModeChar:
			fmt.Fprintf(&b, " dev %d", a.Minor)
		}
		names := must(n.Xattrs())
		sort.Strings(names)
		for _, k := range names {
			fmt.Fprintf(&b, " %s=%#x", k, format.CRC32C(0, must(n.Xattr(k))))
		}
		out = append(out, b.String())
		if a.Mode&format.ModeType != format.ModeDir {
			return
		}
		seen := map[string]bool{}
		for _, e := range readDir(t, n) {
			if seen[e.Name] {
				t.Fatalf("%s/%s twice", path, e.Name)
			}
			seen[e.Name] = true
			if e.Name == "." || e.Name == ".." || e.Name == "lost+found" && path == "" {
				continue
			}
			c := must(n.Lookup(e.Name))
			walk(path+"/"+e.Name, c)
			check(t, c.Put())
		}
	}
	root := must(fs.Root())
	walk("", root)
	check(t, root.Put())
	sort.Strings(out)
	return out
}

// modelRun holds a filesystem and the model against each other under random steps.
type modelRun struct {
	t    testing.TB
	r    *rand.Rand
	fs   *FS
	root *mnode
	full bool // ENOSPC was met

	prefix string // of all names that it makes and takes: others work beside it
}

func (m *modelRun) dirs() (paths []string, nodes []*mnode) {
	var walk func(string, *mnode)
	walk = func(p string, n *mnode) {
		paths, nodes = append(paths, p), append(nodes, n)
		var names []string
		for name, c := range n.children {
			if c.isDir() {
				names = append(names, name)
			}
		}
		sort.Strings(names)
		for _, name := range names {
			walk(p+"/"+name, n.children[name])
		}
	}
	walk("", m.root)
	return
}

// open walks to a path; the caller puts what it gets.
func (m *modelRun) open(path string) *Inode {
	n := must(m.fs.Root())
	for _, name := range strings.Split(path, "/")[1:] {
		c, err := n.Lookup(name)
		if err != nil {
			m.t.Fatalf("lookup %q in %q: %v", name, path, err)
		}
		check(m.t, n.Put())
		n = c
	}
	return n
}

func (m *modelRun) name() string {
	switch m.r.IntN(20) {
	case 0:
		return m.prefix + strings.Repeat("n", 255-len(m.prefix)-m.r.IntN(3))
	case 1:
		return fmt.Sprintf("%sü%d", m.prefix, m.r.IntN(40))
	}
	return fmt.Sprintf("%sname-%d", m.prefix, m.r.IntN(400))
}

func (m *modelRun) pick(d *mnode) (string, *mnode) {
	var names []string
	for n := range d.children {
		if strings.HasPrefix(n, m.prefix) {
			names = append(names, n)
		}
	}
	if len(names) == 0 || m.r.IntN(10) == 0 {
		n := m.name()
		return n, d.children[n]
	}
	sort.Strings(names)
	n := names[m.r.IntN(len(names))]
	return n, d.children[n]
}

func below(n, dir *mnode) bool {
	for ; n != nil; n = n.parent {
		if n == dir {
			return true
		}
	}
	return false
}

func (m *modelRun) step(i int) {
	paths, dirs := m.dirs()
	k := m.r.IntN(len(dirs))
	if m.r.IntN(2) == 0 {
		k = 0 // let one grow large
	}
	dpath, d := paths[k], dirs[k]
	dir := m.open(dpath)
	defer func() { check(m.t, dir.Put()) }()
	expect := func(what string, err error, want unix.Errno) bool {
		m.t.Helper()
		if unixIs(err, unix.ENOSPC) {
			m.full = true
			return false
		}
		if want == 0 && err != nil || want != 0 && !unixIs(err, want) {
			m.t.Fatalf("step %d: %s: error %v, want %v", i, what, err, want)
		}
		return err == nil
	}
	switch op := m.r.IntN(20); {
	case op < 6: // create
		name := m.name()
		types := []uint16{format.ModeRegular, format.ModeRegular, format.ModeRegular, format.ModeDir, format.ModeSymlink, format.ModeChar, format.ModeFIFO}
		c := newMnode(types[m.r.IntN(len(types))])
		c.perm, c.parent = uint16(m.r.IntN(0o1000)), d
		in := NewInode{Mode: c.typ | c.perm}
		switch c.typ {
		case format.ModeSymlink:
			c.target = strings.Repeat("t", 1+m.r.IntN(200))
			in.Target = c.target
		case format.ModeChar:
			c.rdev = uint32(m.r.IntN(100000))
			in.Minor = c.rdev
		}
		want := unix.Errno(0)
		if d.children[name] != nil {
			want = unix.EEXIST
		}
		n, err := dir.Create(name, in)
		if expect("create "+name, err, want) {
			d.children[name] = c
			check(m.t, n.Put())
		}
	case op < 9: // unlink, rmdir
		name, c := m.pick(d)
		if m.r.IntN(4) == 0 {
			want := unix.Errno(0)
			switch {
			case c == nil:
				want = unix.ENOENT
			case !c.isDir():
				want = unix.ENOTDIR
			case len(c.children) > 0:
				want = unix.ENOTEMPTY
			}
			if expect("rmdir "+name, dir.Rmdir(name), want) {
				delete(d.children, name)
			}
			return
		}
		want := unix.Errno(0)
		switch {
		case c == nil:
			want = unix.ENOENT
		case c.isDir():
			want = unix.EISDIR
		}
		if expect("unlink "+name, dir.Unlink(name), want) {
			delete(d.children, name)
			c.links--
		}
	case op < 11: // link
		name, c := m.pick(d)
		if c == nil {
			return
		}
		k2 := m.r.IntN(len(dirs))
		to, newName := dirs[k2], m.name()
		toDir := m.open(paths[k2])
		n := must(dir.Lookup(name))
		want := unix.Errno(0)
		switch {
		case c.isDir():
			want = unix.EPERM
		case to.children[newName] != nil:
			want = unix.EEXIST
		}
		if expect("link "+newName, toDir.Link(newName, n), want) {
			to.children[newName] = c
			c.links++
		}
		check(m.t, n.Put())
		check(m.t, toDir.Put())
	case op < 15: // rename
		m.rename(i, dir, d, paths, dirs, expect)
	case op < 18: // write, truncate
		name, c := m.pick(d)
		if c == nil || c.typ != format.ModeRegular {
			return
		}
		n := must(dir.Lookup(name))
		off := m.r.IntN(100000)
		if m.r.IntN(4) == 0 {
			m.space(n, c, int64(off), expect)
		} else if m.r.IntN(3) == 0 {
			if expect("truncate", n.Truncate(int64(off)), 0) {
				if off < len(c.data) {
					c.data = c.data[:off:off]
				} else {
					c.data = append(c.data[:len(c.data):len(c.data)], make([]byte, off-len(c.data))...)
				}
			}
		} else {
			p := bytes.Repeat([]byte{byte(i) | 1}, 1+m.r.IntN(20000))
			old := len(c.data)
			w, err := n.WriteAt(p, int64(off))
			expect("write", err, 0)
			if w > 0 {
				if off+w > old {
					c.data = append(c.data, make([]byte, off+w-old)...)
				}
				copy(c.data[off:], p[:w])
			}
		}
		check(m.t, n.Put())
	default: // attributes
		name, c := m.pick(d)
		if c == nil {
			return
		}
		n := must(dir.Lookup(name))
		if m.r.IntN(2) == 0 {
			c.perm = uint16(m.r.IntN(0o7777))
			check(m.t, n.SetAttr(AttrMode, Attr{Mode: c.perm}))
		} else {
			x := fmt.Sprintf("user.x%d", m.r.IntN(6))
			if _, ok := c.xattrs[x]; ok && m.r.IntN(2) == 0 {
				if expect("remove xattr", n.RemoveXattr(x), 0) {
					delete(c.xattrs, x)
				}
			} else {
				v := strings.Repeat(string(rune('a'+i%26)), m.r.IntN(200))
				if expect("set xattr", n.SetXattr(x, []byte(v), XattrFlags{}), 0) {
					c.xattrs[x] = v
				}
			}
		}
		check(m.t, n.Put())
	}
}

// space punches, zeroes or allocates a range.
func (m *modelRun) space(n *Inode, c *mnode, off int64, expect func(string, error, unix.Errno) bool) {
	length := int64(1 + m.r.IntN(30000))
	want := unix.Errno(0)
	if !n.extents() && !n.inline() {
		want = unix.EOPNOTSUPP
	}
	zero := func(end int64) {
		if end > int64(len(c.data)) {
			c.data = append(c.data[:len(c.data):len(c.data)], make([]byte, end-int64(len(c.data)))...)
		}
		clear(c.data[min(off, int64(len(c.data))):min(off+length, int64(len(c.data)))])
	}
	switch m.r.IntN(4) {
	case 0, 1:
		if expect("punch", n.Punch(off, length), 0) {
			zero(0)
		}
	case 2:
		if expect("zero", n.Zero(off, length, true), want) {
			zero(0)
		} else { // without room it can have zeroed a part
			c.data = make([]byte, len(c.data))
			_, _ = n.ReadAt(c.data, 0)
		}
	case 3:
		if expect("fallocate", n.Fallocate(off, length, false), want) && off+length > int64(len(c.data)) {
			c.data = append(c.data[:len(c.data):len(c.data)], make([]byte, off+length-int64(len(c.data)))...)
		}
	}
}

func (m *modelRun) rename(i int, dir *Inode, d *mnode, paths []string, dirs []*mnode, expect func(string, error, unix.Errno) bool) {
	name, c := m.pick(d)
	k2 := m.r.IntN(len(dirs))
	to := dirs[k2]
	newName, old := m.pick(to)
	if m.r.IntN(2) == 0 {
		newName = m.name()
		old = to.children[newName]
	}
	var f RenameFlags
	switch m.r.IntN(6) {
	case 0:
		f.NoReplace = true
	case 1:
		f.Exchange = true
	case 2:
		f.Whiteout = true
	}
	want := unix.Errno(0)
	switch {
	case c == nil:
		want = unix.ENOENT
	case c == old:
	case old != nil && f.NoReplace:
		want = unix.EEXIST
	case old == nil && f.Exchange:
		want = unix.ENOENT
	case c.isDir() && below(to, c):
		want = unix.EINVAL
	case f.Exchange && old.isDir() && below(d, old):
		want = unix.EINVAL
	case f.Exchange || old == nil:
	case old.isDir() && below(d, old):
		want = unix.ENOTEMPTY
		if !c.isDir() && old != d {
			want = unix.EISDIR
		}
	case c.isDir() && !old.isDir():
		want = unix.ENOTDIR
	case !c.isDir() && old.isDir():
		want = unix.EISDIR
	case old.isDir() && len(old.children) > 0:
		want = unix.ENOTEMPTY
	}
	if c != nil && c == old && f.NoReplace {
		want = unix.EEXIST
	}
	toDir := m.open(paths[k2])
	err := m.fs.Rename(dir, name, toDir, newName, f)
	check(m.t, toDir.Put())
	if !expect(fmt.Sprintf("rename %q to %q %+v (%v, %v)", name, newName, f, c, old), err, want) || c == old {
		return
	}
	if f.Exchange {
		d.children[name], to.children[newName] = old, c
		c.parent, old.parent = to, d
		return
	}
	if old != nil {
		old.links--
	}
	delete(d.children, name)
	to.children[newName] = c
	c.parent = to
	if f.Whiteout {
		w := newMnode(format.ModeChar)
		w.parent = d
		d.children[name] = w
	}
}

func (m *mnode) String() string {
	if m == nil {
		return "nothing"
	}
	return fmt.Sprintf("%#o", m.typ)
}

// The engine and a model of maps agree under random operations, before and after
// closing, and e2fsck agrees with both.
func TestTreeModel(t *testing.T) {
	steps := 4000
	if testing.Short() {
		steps = 500
	}
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			size := int64(48 << 20)
			if f.name == "default" || f.name == "ext2" {
				size = 9 << 20 // ENOSPC is met
			}
			image := makeImage(t, size, f.args...)
			seed := uint64(len(f.name)) * 31
			m := &modelRun{t: t, r: rand.New(rand.NewPCG(seed, 1)), fs: openFS(t, image, Options{}), root: newMnode(format.ModeDir)}
			m.root.perm = 0o755
			for i := range steps {
				m.step(i)
				if i%(steps/4) == steps/4-1 {
					var want []string
					m.root.tree("", &want)
					sort.Strings(want)
					sameModels(t, m.fs, want)
					closeFS(t, m.fs)
					fsck(t, image)
					m.fs = openFS(t, image, Options{})
					sameModels(t, m.fs, want)
				}
			}
			closeFS(t, m.fs)
			fsck(t, image)
			if m.full {
				t.Log("met ENOSPC")
			}
		})
	}
}

func without(list []string, prefix string) []string {
	out := list[:0]
	for _, l := range list {
		if !strings.HasPrefix(l, prefix) {
			out = append(out, l)
		}
	}
	return out
}

func sameModels(t testing.TB, fs *FS, want []string) {
	t.Helper()
	sameTrees(t, "model", without(modelOf(t, fs), "/lost+found"), want)
}
