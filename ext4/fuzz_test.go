package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// memory is a Device in memory whose unwritten parts are those of an image that several
// share.
type memory struct {
	mu    sync.Mutex
	base  []byte
	pages map[int64][]byte
}

const memoryPage = 4096

func (d *memory) each(off int64, n int, f func(page int64, in, at, c int)) {
	for at := 0; at < n; {
		pos := off + int64(at)
		in := int(pos % memoryPage)
		c := min(memoryPage-in, n-at)
		f(pos/memoryPage, in, at, c)
		at += c
	}
}

func (d *memory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.Size() {
		return 0, io.ErrUnexpectedEOF
	}
	short := int64(len(p)) > d.Size()-off
	if short {
		p = p[:d.Size()-off]
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.each(off, len(p), func(page int64, in, at, c int) {
		if b := d.pages[page]; b != nil {
			copy(p[at:at+c], b[in:])
		} else {
			copy(p[at:at+c], d.base[page*memoryPage+int64(in):])
		}
	})
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

func (d *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.Size() {
		return 0, unix.ENOSPC
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.each(off, len(p), func(page int64, in, at, c int) {
		b := d.pages[page]
		if b == nil {
			b = bytes.Clone(d.base[page*memoryPage:][:memoryPage])
			d.pages[page] = b
		}
		copy(b[in:], p[at:at+c])
	})
	return len(p), nil
}

func (d *memory) Size() int64             { return int64(len(d.base)) }
func (d *memory) Sync() error             { return nil }
func (d *memory) Trim(off, n int64) error { return nil }

// victim is an image with something of everything, and where its structures lie.
type victim struct {
	data  []byte // as a crash leaves it: the journal has something to replay
	clean []byte // as Close leaves it: nothing undoes an attack
	at    map[string][]place2
}

// place2 is a structure on disk.
type place2 struct {
	off, size int64
	fix       func(b []byte)            // makes its checksum right
	around    func(d *memory, b []byte) // makes right what others say of it; nil: nothing
}

var victims struct {
	sync.Mutex
	m map[string]*victim
}

func getVictim(t testing.TB, form string) *victim {
	victims.Lock()
	defer victims.Unlock()
	if v := victims.m[form]; v != nil {
		return v
	}
	var args []string
	switch form {
	case "inline_data":
		args = []string{"-t", "ext4", "-I", "256", "-O", "inline_data", "-d", inlineTree(t)}
	case "quota":
		args = []string{"-t", "ext4", "-O", "quota,project,ea_inode", "-E", "quotatype=usrquota:grpquota:prjquota"}
	default:
		args = formArgs(form)
	}
	image := makeImage(t, 8<<20, append(slices.Clone(args), "-b", "1024")...)
	fs := openFS(t, image, Options{CommitEvery: time.Hour})
	root := must(fs.Root())
	d := must(root.Create("dir", NewInode{Mode: format.ModeDir | 0o755}))
	for i := range 300 {
		check(t, must(d.Create(fmt.Sprintf("name-%d-%s", i, strings.Repeat("x", i%50)), regular)).Put())
	}
	small := must(root.Create("small", NewInode{Mode: format.ModeDir | 0o755}))
	check(t, must(small.Create("one", regular)).Put())
	n := must(root.Create("many-extents", regular))
	for i := range 400 {
		must(n.WriteAt([]byte("extent"), int64(i)*2048))
	}
	f := must(root.Create("file", regular))
	must(f.WriteAt(bytes.Repeat([]byte("data"), 5000), 0))
	check(t, f.SetXattr("user.a", []byte("in the inode"), XattrFlags{}))
	check(t, f.SetXattr("user.b", bytes.Repeat([]byte("b"), 600), XattrFlags{}))
	list := []*Inode{root, d, small, n, f, must(fs.igetSpecial(fs.sb.JournalInum))}
	if fs.hasEAInode {
		check(t, f.SetXattr("user.c", value(1, 3000), XattrFlags{}))
		check(t, d.SetXattr("user.c", value(1, 3000), XattrFlags{}))
		check(t, d.SetXattr("user.d", value(2, 9000), XattrFlags{}))
		for _, x := range must(d.allXattrs()) {
			list = append(list, must(fs.igetSpecial(x.inode)))
		}
	}
	for _, q := range fs.quotas.files {
		list = append(list, q.n)
	}
	s := must(root.Create("slow", NewInode{Mode: format.ModeSymlink | 0o777, Target: strings.Repeat("t", 200)}))
	gone := must(root.Create("gone", NewInode{Mode: format.ModeDir | 0o755}))
	check(t, must(gone.Create("file", regular)).Put())
	check(t, fs.Sync())
	check(t, gone.Unlink("file"))
	check(t, gone.Put())
	check(t, root.Rmdir("gone")) // a revoke record
	check(t, fs.Sync())

	v := &victim{at: map[string][]place2{}}
	add := func(kind string, off, size int64, fix func([]byte)) {
		v.at[kind] = append(v.at[kind], place2{off, size, fix, nil})
	}
	add("super", format.SuperblockOffset, format.SuperblockSize, func(b []byte) {
		le.PutUint32(b[format.SuperblockSize-4:], format.SuperblockChecksum(b))
	})
	for g := range int(fs.groupCount()) {
		off := int64(fs.descBlock(0))<<fs.bsBits + int64(g*fs.descSize)
		add("group", off, int64(fs.descSize), func(b []byte) {
			le.PutUint16(b[0x1E:], fs.descSum(uint32(g), b))
		})
	}
	bs := int64(fs.bs)
	v.addBitmaps(fs)
	v.addLog(t, fs)
	if fs.sb.OrphanFileInum != 0 {
		v.addOrphanFile(fs)
	}
	list = append(list, s)
	if form == "inline_data" {
		for _, name := range []string{"inline-file", "inline-dir"} {
			n := must(root.Lookup(name))
			if !n.inline() {
				t.Fatalf("%s is not inline", name)
			}
			list = append(list, n)
			defer n.unref()
		}
	}
	for _, n := range list {
		block, off, _ := fs.inodePlace(n.ino)
		iseed := n.iseed
		add("inode", int64(block)*bs+int64(off), int64(fs.inodeSize), func(b []byte) {
			if fs.csum {
				format.SetInodeChecksum(iseed, b)
			}
		})
		if nr := n.d.FileACL; nr != 0 {
			add("xattr", int64(nr)*bs, bs, func(b []byte) {
				le.PutUint32(b[0x10:], format.XattrBlockChecksum(fs.seed, nr, b))
			})
		}
		if n.extents() && n.hasBlocks() {
			if e := must(n.extentRoot()); e.depth() > 0 {
				for i := range e.entries() {
					c := must(n.extentChild(e, i))
					add("extent", int64(c.b.nr)*bs, bs, func(b []byte) { format.SetExtentChecksum(iseed, b) })
				}
			}
		} else if n.hasBlocks() && !n.extents() && le.Uint32(n.d.Block[48:]) != 0 {
			add("extent", int64(le.Uint32(n.d.Block[48:]))*bs, bs, func([]byte) {})
		}
		if n.isDir() {
			for i := range n.dirBlocks() {
				m := must(n.mapBlock(i))
				kind := "dir"
				if i == 0 && n.indexed() {
					kind = "htree"
				}
				add(kind, int64(m.disk)*bs, bs, func(b []byte) {
					if !fs.csum {
						return
					}
					switch {
					case i == 0 && n.indexed():
						format.SetDxChecksum(iseed, b, format.DxRootEntries)
					default:
						if !format.HasDirTail(b) {
							format.InitDirTail(b)
						}
						format.SetDirChecksum(iseed, b)
					}
				})
			}
		}
	}
	for _, q := range fs.quotas.files {
		for i := range q.n.d.Size / uint64(bs) {
			if m := must(q.n.mapBlock(i)); m.state == Written {
				add("quota", int64(m.disk)*bs, bs, func([]byte) {})
			}
		}
	}
	for _, r := range fs.jnl.blocks {
		add("journal", int64(r.start)*bs, min(int64(r.count), 40)*bs, func([]byte) {})
	}
	v.data = must(os.ReadFile(image))
	for _, n := range []*Inode{root, d, small, n, f, s} {
		check(t, n.Put())
	}
	closeFS(t, fs)
	fsck(t, image)
	v.clean = must(os.ReadFile(image))
	if victims.m == nil {
		victims.m = map[string]*victim{}
	}
	victims.m[form] = v
	return v
}

// attack changes a structure and uses the filesystem. Errors are right, panics and
// hangs are not.
func attack(t testing.TB, form, kind string, which uint8, fixSum bool, edits []byte) {
	v := getVictim(t, form)
	base := v.clean
	if kind == "journal" || strings.HasPrefix(kind, "log ") {
		base = v.data
	}
	d := &memory{base: base, pages: map[int64][]byte{}}
	list := v.at[kind]
	if len(list) == 0 {
		return
	}
	p := list[int(which)%len(list)]
	b := make([]byte, p.size)
	must(d.ReadAt(b, p.off))
	for len(edits) >= 3 { // place (16 bits), value
		at := (int(edits[0])<<8 | int(edits[1])) % len(b)
		b[at] = edits[2]
		edits = edits[3:]
	}
	if fixSum {
		p.fix(b)
	}
	must(d.WriteAt(b, p.off))
	if fixSum && p.around != nil {
		p.around(d, b)
	}
	done := make(chan struct{})
	timer := time.AfterFunc(20*time.Second, func() {
		select {
		case <-done:
		default:
			panic("hang: " + form + " " + kind)
		}
	})
	exercise(d)
	close(done)
	timer.Stop()
}

// exercise does a little of everything and does not care for errors, but for those that
// no error may be.
func exercise(d Device) {
	fs, err := Open(d, Options{})
	if err != nil {
		var ce *CorruptError
		if errors.As(err, &ce) && !errors.Is(err, unix.EIO) {
			panic("a CorruptError that is not EIO")
		}
		fs, err = Open(d, Options{ReadOnly: true, NoWrite: true})
		if err != nil {
			return
		}
	}
	defer fs.Close()
	root, err := fs.Root()
	if err != nil {
		return
	}
	budget := 600
	var walk func(n *Inode, depth int)
	walk = func(n *Inode, depth int) {
		var names []string
		_ = n.ReadDir(0, func(e DirEntry) bool {
			names = append(names, e.Name)
			return len(names) < 400
		})
		for _, name := range names {
			if budget--; budget < 0 {
				return
			}
			c, err := n.Lookup(name)
			if err != nil {
				continue
			}
			_ = c.Attr()
			p := make([]byte, 8192)
			_, _ = c.ReadAt(p, 0)
			_, _ = c.ReadAt(p, 500_000)
			_, _ = c.Readlink()
			if list, err := c.Xattrs(); err == nil {
				for _, x := range list {
					_, _ = c.Xattr(x)
				}
			}
			extents := 0
			_ = c.Map(0, 1<<21, func(Extent) bool { extents++; return extents < 1000 })
			if c.isDir() && depth < 4 && name != "." && name != ".." {
				walk(c, depth+1)
			}
			_ = c.Put()
		}
	}
	walk(root, 0)
	for i := range 12 {
		if c, err := root.Create(fmt.Sprintf("new-%d", i), regular); err == nil {
			_, _ = c.WriteAt(bytes.Repeat([]byte("n"), 3000), int64(i)*1000)
			_ = c.SetXattr("user.n", make([]byte, i*60), XattrFlags{})
			_ = c.SetXattr("user.big", value(i/3, 3000), XattrFlags{})
			_ = c.SetAttr(AttrUID|AttrProject, Attr{UID: uint32(i) << (2 * i), Project: uint32(i)})
			_ = c.Put()
		}
	}
	for _, name := range []string{"file", "many-extents", "slow", "dir", "small"} {
		c, err := root.Lookup(name)
		if err != nil {
			continue
		}
		if c.isDir() {
			for i := range 40 {
				if x, err := c.Create(fmt.Sprintf("%s-%d", strings.Repeat("long", 10), i), regular); err == nil {
					_ = x.Put()
				}
			}
			for i := range 60 {
				_ = c.Unlink(fmt.Sprintf("name-%d-%s", i, strings.Repeat("x", i%50)))
			}
			_ = fs.Rename(c, "one", root, "moved", RenameFlags{})
			_ = fs.Rename(root, "moved", c, "name-70-"+strings.Repeat("x", 20), RenameFlags{Exchange: true})
		} else {
			_, _ = c.WriteAt(make([]byte, 10000), 300_000)
			_ = c.Punch(100_000, 100_000)
			_ = c.Zero(1000, 50_000, true)
			_ = c.Fallocate(0, 600_000, true)
			_ = c.Insert(8192, 16384)
			_ = c.Collapse(4096, 8192)
			_ = c.SetExtents(!c.extents())
			_ = c.SetXattr("user.b", []byte("other"), XattrFlags{})
			_ = c.RemoveXattr("user.a")
			_ = c.RemoveXattr("user.c")
			_ = c.Sync(false)
			_ = c.Truncate(7000)
		}
		_ = c.Put()
	}
	_, _ = fs.Trim(context.Background(), 0, 1<<40, 0)
	for _, name := range []string{"file", "many-extents", "slow", "new-1"} {
		_ = root.Unlink(name)
	}
	_ = fs.Rename(root, "small", root, "dir", RenameFlags{})
	_ = root.Rmdir("small")
	_ = fs.Sync()
	_ = root.Put()
	// Smaller, and as large again.
	blocks := fs.Info().Blocks
	if least, err := fs.Least(); err == nil {
		_, _ = fs.Shrink(context.Background(), (least+blocks)/2)
		_, _ = fs.Shrink(context.Background(), least)
	}
	_ = fs.Grow(blocks)
}

var fuzzForms = []string{"32bit", "default", "ext3", "orphan_file", "inline_data", "quota"}

// fuzzKinds are the structures that are attacked.
var fuzzKinds = []string{
	"super", "group", "bitmap", "inode", "extent", "dir", "htree", "xattr", "journal",
	"log super", "log descriptor", "log revoke", "log commit", "orphans", "quota",
}

func fuzz(f *testing.F, kind string) {
	f.Add(uint8(0), uint8(0), true, []byte{0, 0, 0})
	f.Add(uint8(1), uint8(1), true, []byte{0, 4, 255, 0, 5, 255})
	f.Add(uint8(2), uint8(2), false, []byte{0, 40, 1, 0, 32, 8, 0, 6, 200})
	f.Fuzz(func(t *testing.T, form, which uint8, fix bool, edits []byte) {
		attack(t, fuzzForms[int(form)%len(fuzzForms)], kind, which, fix, edits)
	})
}

func FuzzSuperblock(f *testing.F) { fuzz(f, "super") }
func FuzzGroup(f *testing.F)      { fuzz(f, "group") }
func FuzzInode(f *testing.F)      { fuzz(f, "inode") }
func FuzzExtent(f *testing.F)     { fuzz(f, "extent") }
func FuzzDirectory(f *testing.F)  { fuzz(f, "dir") }
func FuzzXattr(f *testing.F)      { fuzz(f, "xattr") }
func FuzzJournal(f *testing.F)    { fuzz(f, "journal") }
func FuzzBitmap(f *testing.F)     { fuzz(f, "bitmap") }
func FuzzHtree(f *testing.F)      { fuzz(f, "htree") }
func FuzzLogSuper(f *testing.F)   { fuzz(f, "log super") }
func FuzzDescriptor(f *testing.F) { fuzz(f, "log descriptor") }
func FuzzRevoke(f *testing.F)     { fuzz(f, "log revoke") }
func FuzzCommit(f *testing.F)     { fuzz(f, "log commit") }
func FuzzOrphans(f *testing.F)    { fuzz(f, "orphans") }
func FuzzQuota(f *testing.F)      { fuzz(f, "quota") }

// The fuzzers' attacks with edits of a fixed seed, and of others at night.
func TestHostile(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 10
	}
	seed := uint64(0)
	if nightly {
		rounds, seed = 3000, uint64(time.Now().UnixNano())%1e9
		fmt.Fprintln(os.Stderr, "TestHostile: seed", seed) // a hang prints no log
	}
	for _, form := range fuzzForms {
		for _, kind := range fuzzKinds {
			t.Run(form+"/"+kind, func(t *testing.T) {
				v := getVictim(t, form)
				if len(v.at[kind]) == 0 && (kind != "orphans" || form == "orphan_file") && (kind != "quota" || form == "quota") && kind != "xattr" {
					t.Fatal("the image has none")
				}
				r := rand.New(rand.NewPCG(seed+uint64(len(form)), uint64(len(kind))))
				for range rounds {
					edits := make([]byte, 3*(1+r.IntN(6)))
					for i := range edits {
						edits[i] = byte(r.Uint32())
						if i%3 == 0 && r.IntN(2) == 0 {
							edits[i] = 0 // the start of a block holds most
						}
						if i%3 == 2 && r.IntN(2) == 0 {
							edits[i] = []byte{0, 1, 255, 128, 4, 12}[r.IntN(6)]
						}
					}
					attack(t, form, kind, uint8(r.Uint32()), r.IntN(8) != 0, edits)
				}
			})
		}
	}
}

// An inode that a filesystem cannot do without and that is not in use is damage.
func TestOwnInodeMissing(t *testing.T) {
	for _, damage := range []string{"clri <2>", "sif <2> flags 0x280000", "clri <8>"} {
		image := makeImage(t, 16<<20, "-t", "ext4")
		tool(t, "debugfs", "-w", "-R", damage, image)
		if _, err := Open(openDevice(t, image), Options{}); !errors.Is(err, unix.EUCLEAN) {
			t.Errorf("%s: %v", damage, err)
		}
	}
}
