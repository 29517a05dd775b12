package ext4

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

var nightly = os.Getenv("UMLKIT_NIGHTLY") != ""

// formArgs gives the mke2fs options of a form by its name, which modeOf also looks at.
func formArgs(name string) []string {
	name, _, _ = strings.Cut(name, " data=")
	for _, f := range forms {
		if f.name == name {
			return f.args
		}
	}
	panic("no form " + name)
}

// cline is one name of a tree as the crash test compares it: everything but the size and
// the content of a file in text.
type cline struct {
	path, text string
	size       int64
	id         int // in the model
}

// lines describes a state of the model.
func (c *crashRun) lines(k int) []cline {
	if l := c.flat[k]; l != nil {
		return l
	}
	s := c.states[k]
	all := append(s.places(), cplace{"", 0, "", croot})
	links := map[int]int{}
	for _, p := range all {
		links[p.id]++
	}
	var list []cline
	for _, p := range all {
		n := s[p.id]
		count := links[p.id]
		if n.typ == format.ModeDir {
			count = 2
			for _, id := range n.children {
				if s[id].typ == format.ModeDir {
					count++
				}
			}
		}
		size := int64(0)
		if n.typ == format.ModeRegular {
			size = int64(len(n.data))
		}
		list = append(list, cline{p.path, lineText(n.typ|n.perm, count, n.target, n.xattrs), size, p.id})
	}
	slices.SortFunc(list, func(a, b cline) int { return strings.Compare(a.path, b.path) })
	c.flat[k] = list
	return list
}

func lineText(mode uint16, links int, target string, xattrs map[string]string) string {
	text := fmt.Sprintf("%#o links %d %s", mode, links, target)
	for _, k := range slices.Sorted(maps.Keys(xattrs)) {
		text += " " + k + "=" + xattrs[k]
	}
	return text
}

// linesOf describes the filesystem, and gives the content of its files.
func linesOf(fs *FS) (list []cline, data map[string][]byte, err error) {
	data = map[string][]byte{}
	var walk func(path string, n *Inode, parent uint32) error
	walk = func(path string, n *Inode, parent uint32) error {
		a := n.Attr()
		xattrs := map[string]string{}
		names, err := n.Xattrs()
		if err != nil {
			return err
		}
		for _, x := range names {
			v, err := n.Xattr(x)
			if err != nil {
				return err
			}
			xattrs[x] = string(v)
		}
		l := cline{path: path}
		target := ""
		links := int(a.Links)
		switch a.Mode & format.ModeType {
		case format.ModeSymlink:
			if target, err = n.Readlink(); err != nil {
				return err
			}
		case format.ModeRegular:
			l.size = a.Size
			p := make([]byte, a.Size)
			if c, err := n.ReadAt(p, 0); c != len(p) || err != nil && err != io.EOF {
				return fmt.Errorf("%s: read %d of %d: %w", path, c, len(p), err)
			}
			data[path] = p
		case format.ModeDir:
			if path == "" {
				links-- // lost+found
			}
			up, err := n.Lookup("..")
			if err != nil {
				return err
			}
			if up.Number() != parent {
				return fmt.Errorf("%s: parent is %d, not %d", path, up.Number(), parent)
			}
			up.unref()
			var entries []DirEntry
			if err := n.ReadDir(0, func(e DirEntry) bool { entries = append(entries, e); return true }); err != nil {
				return err
			}
			for _, e := range entries {
				if e.Name == "." || e.Name == ".." || path == "" && e.Name == "lost+found" {
					continue
				}
				child, err := n.Lookup(e.Name)
				if err != nil {
					return err
				}
				if child.Number() != e.Ino {
					return fmt.Errorf("%s/%s: inode %d by name, %d in the list", path, e.Name, child.Number(), e.Ino)
				}
				if err := walk(path+"/"+e.Name, child, n.Number()); err != nil {
					return err
				}
				child.unref()
			}
		}
		l.text = lineText(a.Mode, links, target, xattrs)
		list = append(list, l)
		return nil
	}
	root, err := fs.Root()
	if err != nil {
		return nil, nil, err
	}
	defer root.unref()
	err = walk("", root, root.Number())
	slices.SortFunc(list, func(a, b cline) int { return strings.Compare(a.path, b.path) })
	return list, data, err
}

// sameAs compares a tree with the state after operation k, and says what differs. The
// file of an operation that takes several transactions can be between two sizes.
func (c *crashRun) sameAs(list []cline, k, hi int) string {
	want := c.lines(k)
	for i := range max(len(list), len(want)) {
		switch {
		case i == len(list):
			return fmt.Sprintf("%q is missing", want[i].path)
		case i == len(want) || list[i].path != want[i].path:
			return fmt.Sprintf("%q should not be there", list[i].path)
		case list[i].text != want[i].text:
			return fmt.Sprintf("%q is %.200s, not %.200s", list[i].path, list[i].text, want[i].text)
		case list[i].size != want[i].size:
			if k < hi && k+1 < len(c.states) {
				if n := c.states[k+1][want[i].id]; n != nil {
					a, b := want[i].size, int64(len(n.data))
					if list[i].size >= min(a, b) && list[i].size <= max(a, b) {
						continue
					}
				}
			}
			return fmt.Sprintf("%q has size %d, not %d", list[i].path, list[i].size, want[i].size)
		}
	}
	return ""
}

// verify says what is wrong with what a crash left: the tree must be that of one moment
// between what was stable and what had begun, and each byte of a file what the file held
// at that moment or later: data does not wait for the log.
func (c *crashRun) verify(fs *FS, p point) error {
	hi := min(p.hi, len(c.states)-1)
	list, data, err := linesOf(fs)
	if err != nil {
		return err
	}
	at, torn := -1, ""
	for k := p.lo; k <= hi && at < 0; k++ {
		if c.sameAs(list, k, hi) != "" {
			continue
		}
		if torn = c.torn(data, k, hi); c.mode != DataJournal || torn == "" {
			at = k
		}
	}
	if at < 0 && torn != "" {
		return fmt.Errorf("no moment from %d to %d had this tree with this data: %s", p.lo, hi, torn)
	}
	if at < 0 {
		why := ""
		for _, k := range []int{p.lo, (p.lo + hi) / 2, hi} {
			why += fmt.Sprintf("; after %d %s", k, c.sameAs(list, k, hi))
		}
		return fmt.Errorf("the tree is that of no moment from %d to %d%s", p.lo, hi, why)
	}
	for _, l := range c.lines(at) {
		got, ok := data[l.path]
		if !ok || bytes.Equal(got, c.states[at][l.id].data) && p.fileLo[l.id] <= at {
			continue
		}
		var versions [][]byte
		var last *cnode
		since := max(at, p.fileLo[l.id])
		if c.mode == DataWriteback { // data can be older than the tree, but not than an fsync
			since = p.fileLo[l.id]
		}
		for k := since; k <= hi; k++ {
			if n := c.states[k][l.id]; n != nil && n != last {
				versions, last = append(versions, n.data), n
			}
		}
		if c.mode == DataWriteback && (since == 0 || len(versions) > 1) {
			continue // it may hold what its blocks held before
		}
		for x, b := range got {
			if !slices.ContainsFunc(versions, func(v []byte) bool {
				return x < len(v) && v[x] == b || x >= len(v) && b == 0
			}) {
				return fmt.Errorf("%q holds %#x at %d of %d, which it never held from operation %d to %d (tree of %d)",
					l.path, b, x, len(got), since, hi, at)
			}
		}
	}
	return nil
}

// torn says which byte of a file is not what it was after operation k, nor what the next
// one, if it had begun, was making of it.
func (c *crashRun) torn(data map[string][]byte, k, hi int) string {
	for _, l := range c.lines(k) {
		got, ok := data[l.path]
		if !ok {
			continue
		}
		was := c.states[k][l.id].data
		next := was
		if n := c.states[min(k+1, hi)][l.id]; n != nil {
			next = n.data
		}
		for x, b := range got {
			if b != byteAt(was, x) && b != byteAt(next, x) {
				return fmt.Sprintf("%q holds %#x at %d of %d, not %#x as after %d", l.path, b, x, len(got), byteAt(was, x), k)
			}
		}
	}
	return ""
}

// byteAt is the byte of a file at x, which reads as zero behind the end.
func byteAt(p []byte, x int) byte {
	if x < len(p) {
		return p[x]
	}
	return 0
}

// Ways to lose the writes since the last sync.
const (
	loseNone = iota
	loseAll
	loseSome
	loseSupers // the two superblocks' only
	keepSupers // all but those
	loseMost   // those, and some of the others
	loseModes
)

// survivors puts those of the unsynced writes that survive on a device, whole blocks as
// jbd2 takes for granted.
func survivors(d *memory, pending []event, mode, unit int, supers []int64, r *rand.Rand) {
	for _, e := range pending {
		super := slices.Contains(supers, e.off)
		for at := 0; at < len(e.data); {
			end := min(at+unit-int(e.off+int64(at))%unit, len(e.data))
			keep := e.alone || mode == loseNone || mode == loseSome && r.IntN(2) == 0 || mode == loseSupers && !super || mode == keepSupers && super ||
				mode == loseMost && !super && r.IntN(2) == 0
			if keep {
				must(d.WriteAt(e.data[at:end], e.off+int64(at)))
			}
			at = end
		}
	}
}

// crashCuts crashes a run at cut points: in one of about every, and around each move of
// the log's tail.
func crashCuts(t *testing.T, image []byte, c *crashRun, system *usage, seed uint64, every int) (cuts int) {
	r := rand.New(rand.NewPCG(seed, 5))
	supers := []int64{format.SuperblockOffset}
	if j := c.fs.jnl; j != nil {
		supers = append(supers, int64(j.home(0))<<c.fs.bsBits)
	}
	base := slices.Clone(image)
	var pending []event
	var p point
	aimed := 0
	for i, e := range c.d.log {
		if len(supers) > 1 && e.off == supers[1] {
			aimed = 4
		}
		switch {
		case e.off == -2:
			p = c.points[e.mark-1]
			continue
		case e.off == -1 || e.off == alone:
			// Before a sync the most can be lost.
			if every == 1 || aimed > 0 || r.IntN(max(every/4, 1)) == 0 {
				for mode := range loseModes {
					tries := 0
					switch {
					case aimed > 0 && (mode == loseSome || mode == loseMost):
						tries = 6
					case aimed > 0 || every <= 4 || mode == loseSome:
						tries = 1
					}
					for range tries {
						cuts++
						c.crash(t, base, pending, mode, supers, r, p, system, fmt.Sprintf("seed %d, cut at %d of %d, mode %d", seed, i, len(c.d.log), mode))
					}
				}
			}
			if e.off == alone {
				pending[len(pending)-1].alone = true
				continue
			}
			for _, e := range pending {
				copy(base[e.off:], e.data)
			}
			pending = pending[:0]
			continue
		}
		pending = append(pending, e)
		aimed--
		if r.IntN(every) == 0 {
			cuts++
			mode := r.IntN(loseModes)
			c.crash(t, base, pending, mode, supers, r, p, system, fmt.Sprintf("seed %d, cut after %d of %d, mode %d", seed, i, len(c.d.log), mode))
		}
	}
	return cuts
}

var crashes int // counts them: some are shown to e2fsck

func (c *crashRun) crash(t *testing.T, base []byte, pending []event, mode int, supers []int64, r *rand.Rand, p point, system *usage, what string) {
	t.Helper()
	d := &memory{base: base, pages: map[int64][]byte{}}
	survivors(d, pending, mode, c.fs.bs, supers, r)
	crashes++
	ask := crashes%40 == 0
	if c.fs.jnl == nil {
		c.repaired(t, d, what)
		return
	}
	var log []string
	fail := func(err error) {
		t.Helper()
		t.Fatalf("%s: %v\n%s", what, err, strings.Join(log, "\n"))
	}
	// Read only first: that replays, and leaves the orphans.
	fs, err := Open(d, Options{ReadOnly: true, Logf: func(f string, a ...any) { log = append(log, fmt.Sprintf(f, a...)) }})
	if err != nil {
		fail(err)
	}
	if free := fs.sb.FreeBlocksCount(); free != uint64(fs.freeBlocks.Load()) {
		fail(fmt.Errorf("superblock has %d blocks free, groups %d", free, fs.freeBlocks.Load()))
	}
	if err := fs.Remount(false); err != nil {
		fail(err)
	}
	if err := c.verify(fs, p); err != nil {
		fail(err)
	}
	if err := system.check(fs); err != nil {
		fail(err)
	}
	if err := fs.Close(); err != nil {
		fail(err)
	}
	if !ask {
		return
	}
	path := filepath.Join(c.dir, "crashed.img")
	writeSparse(t, path, d.whole())
	if out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", path).CombinedOutput(); err != nil {
		fail(fmt.Errorf("e2fsck -fn: %w\n%.3000s", err, out))
	}
	check(t, os.Remove(path))
}

// repaired holds e2fsck to what it can do for a filesystem without a journal.
func (c *crashRun) repaired(t *testing.T, d *memory, what string) {
	t.Helper()
	path := filepath.Join(c.dir, "crashed.img")
	writeSparse(t, path, d.whole())
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fy", path).CombinedOutput()
	if ee, ok := err.(*exec.ExitError); err != nil && (!ok || ee.ExitCode() > 1) {
		t.Fatalf("%s: e2fsck -fy: %v\n%.3000s", what, err, out)
	}
	fsck(t, path)
	fixed := must(os.Open(path))
	defer fixed.Close() // not at the end of the test, where there would be too many
	fs, err := Open(&fileDevice{fixed, int64(len(d.base))}, Options{ReadOnly: true})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if _, _, err := linesOf(fs); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	check(t, fs.Close())
	check(t, os.Remove(path))
}

// whole is the content of the device.
func (d *memory) whole() []byte {
	p := slices.Clone(d.base)
	for page, b := range d.pages {
		copy(p[page*memoryPage:], b)
	}
	return p
}

// Random operations of every kind, cut anywhere, with any of the writes since the last
// sync lost: after a replay the tree is that of one moment, not before what was synced,
// no byte of a file is one it never held, and nothing leaks. With data=journal each byte
// is what the file held at the very moment that the tree is of. At night every cut of
// many runs, others each night, is tried; UMLKIT_SEED repeats the run of one seed.
func TestCrashModel(t *testing.T) {
	runs, steps, every := 3, 200, 12
	if testing.Short() {
		runs, steps, every = 3, 60, 40
	}
	seed := uint64(0) // by day the same runs every time
	if nightly {
		runs, steps, every = 400, 80, 1
	}
	one := os.Getenv("UMLKIT_SEED") != ""
	if nightly || one {
		seed = uint64(oracle.Seed(t))
	}
	if one {
		runs = 1
	}
	for _, f := range []struct {
		name string
		args []string
	}{
		{"4k", formArgs("4k")}, {"1k", formArgs("default")}, {"nocsum", formArgs("nocsum")}, {"32bit", formArgs("32bit")},
		{"ext3", formArgs("ext3")}, {"ext2", formArgs("ext2")}, {"orphan_file", formArgs("orphan_file")},
		{"inline_data", []string{"-t", "ext4", "-b", "1024", "-I", "256", "-O", "inline_data"}},
		{"4k data=journal", formArgs("4k")}, {"1k data=journal", formArgs("default")}, {"ext3 data=journal", formArgs("ext3")},
		{"nocsum data=journal", formArgs("nocsum")}, {"4k data=writeback", formArgs("4k")}, {"ext3 data=writeback", formArgs("ext3")},
	} {
		t.Run(f.name, func(t *testing.T) {
			image := must(os.ReadFile(makeImage(t, 16<<20, f.args...)))
			system := usageOf(t, image)
			run := func(s uint64, steps, every int) {
				limit := []int{1, 30, 4}[(s+uint64(len(f.name)))%3]
				c := crashRunOn(t, image, modeOf(f.name), s, steps, limit)
				if f.name == "ext2" { // e2fsck each time
					every *= 12
				}
				cuts := crashCuts(t, image, c, system, s, every)
				t.Logf("seed %d: %d operations, %d events, %d cuts", s, len(c.states), len(c.d.log), cuts)
			}
			for s := seed; s < seed+uint64(runs); s++ {
				run(s, steps, every)
			}
			if f.name == "1k" && !one { // an fsync after a change that leaves nothing to commit
				run(996224702, 80, 1)
			}
		})
	}
}

func modeOf(name string) DataMode {
	switch {
	case strings.HasSuffix(name, "data=journal"):
		return DataJournal
	case strings.HasSuffix(name, "data=writeback"):
		return DataWriteback
	}
	return DataOrdered
}

// The log's tail moves many times: every cut around it. Large transactions make each
// the one that gives way to the next.
func TestCrashTail(t *testing.T) {
	steps, seed, list := 600, uint64(1), []string{"32bit"}
	if nightly {
		steps, seed, list = 10000, uint64(time.Now().UnixNano())%1e9, []string{"32bit", "nocsum"}
	}
	for _, f := range list {
		t.Run(f, func(t *testing.T) {
			args := []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"} // nothing tells old blocks of the log from new
			if f == "32bit" {
				args = formArgs(f)
			}
			image := must(os.ReadFile(makeImage(t, 16<<20, args...)))
			c := crashRunOn(t, image, DataOrdered, seed, steps, 1)
			crashTail(t, image, c, seed)
			crashTail(t, image, crashRunLarge(t, image, DataOrdered), seed)
			crashTail(t, image, crashRunOn(t, image, DataJournal, seed, steps/2, 1), seed)
		})
	}
}

func crashTail(t *testing.T, image []byte, c *crashRun, seed uint64) {
	super := int64(c.fs.jnl.home(0)) << c.fs.bsBits
	moves := 0
	for _, e := range c.d.log {
		if e.off == super {
			moves++
		}
	}
	if moves < 5 {
		t.Fatalf("seed %d: the journal's superblock was written %d times: the test proves little", seed, moves)
	}
	cuts := crashCuts(t, image, c, usageOf(t, image), seed, 1<<20)
	t.Logf("seed %d: %d writes of the journal's superblock, %d cuts", seed, moves, cuts)
}
