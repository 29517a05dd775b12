package ext4

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// cnode is a file in the model of the crash test. It never changes: an operation puts a
// changed copy in its place, so that the state after each operation stays known.
type cnode struct {
	typ, perm uint16
	data      []byte
	target    string
	xattrs    map[string]string
	children  map[string]int // node numbers
}

type cstate map[int]*cnode

const croot = 1

// point is what is known when something was written: operations up to hi have begun,
// those up to lo are stable, and the data of a file is as of fileLo at least.
type point struct {
	hi, lo int
	fileLo map[int]int
}

// crashRun makes random changes, remembers the state after each, and puts points into
// the recorder's log.
type crashRun struct {
	t      testing.TB
	r      *rand.Rand
	d      *recorder
	fs     *FS
	states []cstate
	points []point
	lo     int
	fileLo map[int]int
	core   map[int]int    // the operation that last changed what fdatasync must save
	open   map[int]*Inode // without a name
	next   int
	named  bool // every file has a name
	mode   DataMode
	flat   map[int][]cline
	dir    string // for images
}

// change is the state that an operation makes.
func (c *crashRun) change(f func(s cstate)) {
	s := maps.Clone(c.states[len(c.states)-1])
	f(s)
	c.states = append(c.states, s)
}

func (c *crashRun) state() cstate { return c.states[len(c.states)-1] }

func (s cstate) edit(id int, f func(n *cnode)) {
	n := *s[id]
	n.children, n.xattrs = maps.Clone(n.children), maps.Clone(n.xattrs)
	f(&n)
	s[id] = &n
}

func (c *crashRun) mark() {
	c.points = append(c.points, point{len(c.states), c.lo, maps.Clone(c.fileLo)})
	c.d.mark(len(c.points))
}

// cplace is a name in the model.
type cplace struct {
	path string
	dir  int
	name string
	id   int
}

func (s cstate) places() (all []cplace) {
	var walk func(path string, id int)
	walk = func(path string, id int) {
		for _, name := range slices.Sorted(maps.Keys(s[id].children)) {
			p := cplace{path + "/" + name, id, name, s[id].children[name]}
			all = append(all, p)
			if s[p.id].typ == format.ModeDir {
				walk(p.path, p.id)
			}
		}
	}
	walk("", croot)
	return all
}

func (c *crashRun) lookup(path string) *Inode {
	n := must(c.fs.Root())
	for _, name := range strings.Split(path, "/")[1:] {
		next, err := n.Lookup(name)
		if err != nil {
			c.t.Fatalf("operation %d: lookup %q: %v", len(c.states), path, err)
		}
		check(c.t, n.Put())
		n = next
	}
	return n
}

// fill is content that tells operation and place.
func fill(op, off, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(1 + (op*37+(off+i)/64*11)%255)
	}
	return p
}

// crashRunOn makes the changes. every is how many blocks start a commit.
func crashRunOn(t testing.TB, image []byte, mode DataMode, seed uint64, steps, every int) *crashRun {
	c := newCrashRun(t, image, mode, seed, every)
	for range steps {
		c.mark()
		c.step()
	}
	for _, id := range slices.Sorted(maps.Keys(c.open)) {
		if c.r.IntN(2) == 0 {
			check(t, c.open[id].Put())
		}
	}
	check(t, c.fs.Close())
	return c
}

func newCrashRun(t testing.TB, image []byte, mode DataMode, seed uint64, every int) *crashRun {
	d := &recorder{data: slices.Clone(image)}
	c := &crashRun{
		t: t, r: rand.New(rand.NewPCG(seed, 77)), d: d, next: croot + 1, mode: mode,
		fileLo: map[int]int{}, core: map[int]int{}, open: map[int]*Inode{}, flat: map[int][]cline{}, dir: t.TempDir(),
		states: []cstate{{croot: {typ: format.ModeDir, perm: 0o755, children: map[string]int{}}}},
	}
	var err error
	if c.fs, err = Open(d, Options{Discard: true, CommitEvery: time.Hour, CacheBytes: 1 << 17, Data: mode}); err != nil {
		t.Fatal(err)
	}
	c.fs.txn.limit = every
	return c
}

// ok says whether an operation succeeded; it may find no room, or no support.
func (c *crashRun) ok(what string, err error) bool {
	if err != nil && !unixIs(err, unix.ENOSPC) && !unixIs(err, unix.EOPNOTSUPP) && !unixIs(err, unix.ENAMETOOLONG) {
		c.t.Fatalf("operation %d: %s: %v", len(c.states), what, err)
	}
	return err == nil
}

func (c *crashRun) step() {
	s, r, op := c.state(), c.r, len(c.states)
	all := s.places()
	dirs := []cplace{{"", 0, "", croot}}
	var files []cplace
	for _, p := range all {
		switch s[p.id].typ {
		case format.ModeDir:
			dirs = append(dirs, p)
		case format.ModeRegular:
			files = append(files, p)
		}
	}
	d := dirs[r.IntN(len(dirs))]
	name := fmt.Sprintf("n%d", r.IntN(30))
	if r.IntN(4) == 0 {
		name = strings.Repeat("long", 40) + name
	}
	kind := r.IntN(100)
	switch {
	case kind < 18 || len(files) == 0:
		c.create(d, name)
		return
	case kind < 20 && !c.named:
		c.tmpfile(d, name)
		return
	case kind < 62:
		c.content(files[r.IntN(len(files))], kind)
		return
	case kind < 76:
		c.remove(all[r.IntN(len(all))])
		return
	case kind < 84:
		c.rename(all[r.IntN(len(all))], d, name)
		return
	case kind < 93:
		c.attributes(all[r.IntN(len(all))], d, name)
		return
	}
	// What becomes stable changes nothing else.
	f := files[r.IntN(len(files))]
	switch r.IntN(4) {
	case 0:
		check(c.t, c.fs.Sync())
		c.lo = op - 1
		for id := range s {
			c.fileLo[id] = op - 1
		}
	case 1:
		n := c.lookup(d.path)
		check(c.t, n.Sync(false))
		check(c.t, n.Put())
		c.lo = max(c.lo, c.core[d.id])
	case 2:
		n := c.lookup(f.path)
		check(c.t, n.Sync(false))
		check(c.t, n.Put())
		c.lo, c.fileLo[f.id] = max(c.lo, c.core[f.id]), op-1
	case 3:
		n := c.lookup(f.path)
		check(c.t, n.Sync(true))
		check(c.t, n.Put())
		c.lo, c.fileLo[f.id] = max(c.lo, c.core[f.id]), op-1
	}
	c.mark()
}

func (c *crashRun) create(d cplace, name string) {
	if _, exists := c.state()[d.id].children[name]; exists {
		return
	}
	n := &cnode{typ: format.ModeRegular, perm: uint16(c.r.IntN(0o1000))}
	in := NewInode{}
	switch c.r.IntN(10) {
	case 0, 1:
		n.typ, n.children = format.ModeDir, map[string]int{}
	case 2:
		n.typ, n.target = format.ModeSymlink, strings.Repeat("t", 1+c.r.IntN(200))
		in.Target = n.target
	case 3:
		n.typ = format.ModeFIFO
	}
	c.make(d, name, n, in)
}

func (c *crashRun) mkdir(d cplace, name string) {
	c.make(d, name, &cnode{typ: format.ModeDir, perm: 0o755, children: map[string]int{}}, NewInode{})
}

func (c *crashRun) make(d cplace, name string, n *cnode, in NewInode) {
	op := len(c.states)
	in.Mode = n.typ | n.perm
	dir := c.lookup(d.path)
	defer func() { check(c.t, dir.Put()) }()
	i, err := dir.Create(name, in)
	if !c.ok("create", err) {
		return
	}
	check(c.t, i.Put())
	id := c.next
	c.next++
	c.core[id], c.core[d.id] = op, op
	c.change(func(s cstate) {
		s[id] = n
		s.edit(d.id, func(n *cnode) { n.children[name] = id })
	})
}

// tmpfile makes a file without a name, writes to it, and may name it later or leave it.
func (c *crashRun) tmpfile(d cplace, name string) {
	op := len(c.states)
	dir := c.lookup(d.path)
	defer func() { check(c.t, dir.Put()) }()
	if _, exists := c.state()[d.id].children[name]; !exists && len(c.open) >= 3 {
		id := slices.Min(slices.Collect(maps.Keys(c.open)))
		i := c.open[id]
		if !c.ok("link", dir.Link(name, i)) {
			return
		}
		check(c.t, i.Put())
		delete(c.open, id)
		c.core[id], c.core[d.id] = op, op
		c.change(func(s cstate) { s.edit(d.id, func(n *cnode) { n.children[name] = id }) })
		return
	}
	i, err := dir.CreateUnlinked(NewInode{Mode: format.ModeRegular | 0o600})
	if !c.ok("create unlinked", err) {
		return
	}
	p := fill(op, 0, 1+c.r.IntN(9000))
	w, err := i.WriteAt(p, 0)
	c.ok("write", err)
	id := c.next
	c.next++
	c.open[id], c.core[id] = i, op
	c.change(func(s cstate) { s[id] = &cnode{typ: format.ModeRegular, perm: 0o600, data: p[:w]} })
}

// content changes what a file holds.
func (c *crashRun) content(f cplace, kind int) {
	r, op := c.r, len(c.states)
	n := c.lookup(f.path)
	defer func() { check(c.t, n.Put()) }()
	old := c.state()[f.id].data
	off, length := r.IntN(30000), 1+r.IntN(12000)
	set := func(size int, from int, p []byte) {
		data := make([]byte, size)
		copy(data, old)
		copy(data[min(from, size):], p)
		// What changes neither size nor data need not be saved, and data alone is up to
		// fileLo: only with data=journal it comes with a commit.
		if size != len(old) || c.mode == DataJournal && !bytes.Equal(data, old) {
			c.core[f.id] = op
		}
		c.change(func(s cstate) { s.edit(f.id, func(n *cnode) { n.data = data }) })
	}
	switch {
	case kind < 45: // write: append, over, or behind
		if kind < 30 {
			off = len(old)
		}
		p := fill(op, off, length)
		w, err := n.WriteAt(p, int64(off))
		c.ok("write", err)
		if w > 0 {
			set(max(len(old), off+w), off, p[:w])
		}
	case kind < 50:
		if r.IntN(3) > 0 && len(old) > 0 {
			off = r.IntN(len(old))
		}
		if c.ok("truncate", n.Truncate(int64(off))) {
			set(off, off, nil)
		}
	case kind < 55:
		if c.ok("punch", n.Punch(int64(off), int64(length))) {
			set(len(old), off, make([]byte, min(length, max(len(old)-off, 0))))
		}
	case kind < 58:
		keep := r.IntN(2) == 0
		if c.ok("zero", n.Zero(int64(off), int64(length), keep)) {
			size := len(old)
			if !keep {
				size = max(size, off+length)
			}
			set(size, off, make([]byte, min(length, max(size-off, 0))))
		}
	default:
		keep := r.IntN(2) == 0
		if c.ok("fallocate", n.Fallocate(int64(off), int64(length), keep)) {
			size := len(old)
			if !keep {
				size = max(size, off+length)
			}
			set(size, 0, nil)
		}
	}
}

func (c *crashRun) remove(p cplace) {
	s, op := c.state(), len(c.states)
	dir := c.lookup(c.dirPath(p))
	defer func() { check(c.t, dir.Put()) }()
	if s[p.id].typ == format.ModeDir {
		if len(s[p.id].children) > 0 {
			return
		}
		check(c.t, dir.Rmdir(p.name))
	} else {
		var held *Inode
		if c.r.IntN(4) == 0 && !c.named && s[p.id].typ == format.ModeRegular && s.links(p.id) == 1 {
			held = c.lookup(p.path)
		}
		check(c.t, dir.Unlink(p.name))
		if held != nil {
			c.open[p.id] = held
		}
	}
	c.core[p.id], c.core[p.dir] = op, op
	c.change(func(s cstate) { s.edit(p.dir, func(n *cnode) { delete(n.children, p.name) }) })
}

func (c *crashRun) dirPath(p cplace) string { return strings.TrimSuffix(p.path, "/"+p.name) }

func (s cstate) links(id int) (n int) {
	for _, p := range s.places() {
		if p.id == id {
			n++
		}
	}
	return n
}

func (c *crashRun) rename(p, d cplace, name string) {
	s, op := c.state(), len(c.states)
	if strings.HasPrefix(d.path+"/", p.path+"/") {
		return // below itself
	}
	var f RenameFlags
	old, exists := s[d.id].children[name]
	switch {
	case exists && old == p.id:
		return
	case exists && s[old].typ == format.ModeDir && strings.HasPrefix(p.path+"/", d.path+"/"+name+"/"):
		return
	case exists && c.r.IntN(2) == 0:
		f.Exchange = true
	case exists && (s[old].typ == format.ModeDir || s[p.id].typ == format.ModeDir):
		return
	case c.r.IntN(4) == 0:
		f.Whiteout = true
	}
	from, to := c.lookup(c.dirPath(p)), c.lookup(d.path)
	err := c.fs.Rename(from, p.name, to, name, f)
	check(c.t, from.Put())
	check(c.t, to.Put())
	if !c.ok("rename", err) {
		return
	}
	white := c.next
	c.next++
	for _, id := range []int{p.id, p.dir, d.id, old} {
		c.core[id] = op
	}
	c.change(func(s cstate) {
		s.edit(p.dir, func(n *cnode) { delete(n.children, p.name) })
		s.edit(d.id, func(n *cnode) { n.children[name] = p.id })
		if f.Exchange {
			s.edit(p.dir, func(n *cnode) { n.children[p.name] = old })
		}
		if f.Whiteout {
			s[white] = &cnode{typ: format.ModeChar}
			s.edit(p.dir, func(n *cnode) { n.children[p.name] = white })
		}
	})
}

// attributes links, sets an extended attribute, or changes the mode.
func (c *crashRun) attributes(p, d cplace, name string) {
	s, op := c.state(), len(c.states)
	n := c.lookup(p.path)
	defer func() { check(c.t, n.Put()) }()
	switch c.r.IntN(4) {
	case 0:
		if _, exists := s[d.id].children[name]; exists || s[p.id].typ == format.ModeDir {
			return
		}
		dir := c.lookup(d.path)
		defer func() { check(c.t, dir.Put()) }()
		if !c.ok("link", dir.Link(name, n)) {
			return
		}
		c.change(func(s cstate) { s.edit(d.id, func(n *cnode) { n.children[name] = p.id }) })
		c.core[d.id] = op
	case 1, 2:
		x := fmt.Sprintf("user.x%d", c.r.IntN(3))
		if _, exists := s[p.id].xattrs[x]; exists && c.r.IntN(2) == 0 {
			check(c.t, n.RemoveXattr(x))
			c.change(func(s cstate) { s.edit(p.id, func(n *cnode) { delete(n.xattrs, x) }) })
			break
		}
		v := strings.Repeat(string(rune('a'+op%26)), c.r.IntN(250))
		if !c.ok("set attribute", n.SetXattr(x, []byte(v), XattrFlags{})) {
			return
		}
		c.change(func(s cstate) {
			s.edit(p.id, func(n *cnode) {
				if n.xattrs == nil {
					n.xattrs = map[string]string{}
				}
				n.xattrs[x] = v
			})
		})
	case 3:
		perm := uint16(c.r.IntN(0o7777))
		check(c.t, n.SetAttr(AttrMode, Attr{Mode: perm}))
		c.change(func(s cstate) { s.edit(p.id, func(n *cnode) { n.perm = perm }) })
		return // fdatasync skips it
	}
	c.core[p.id] = op
}

// crashRunLarge makes transactions of more than half the log: directories, of which each
// has a block of its own.
func crashRunLarge(t testing.TB, image []byte, mode DataMode) *crashRun {
	c := newCrashRun(t, image, mode, 1, 1<<20)
	for round := range 6 {
		for i := range 400 {
			c.mark()
			c.mkdir(cplace{id: croot}, fmt.Sprintf("%d-%d", round, i))
		}
		check(t, c.fs.Sync())
		c.lo = len(c.states) - 1
		c.mark()
	}
	check(t, c.fs.Close())
	return c
}
