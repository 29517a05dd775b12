package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

// fsckQuota is fsck, and e2fsck agrees with the usage in the quota files.
func fsckQuota(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", image).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("QUOTA")) {
		t.Fatalf("e2fsck -fn: %v\n%.4000s", err, out)
	}
}

var quotaForms = [][]string{
	{"-b", "4096", "-O", "quota"},
	{"-b", "1024", "-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota"},
	{"-b", "4096", "-O", "quota,project,ea_inode,orphan_file", "-E", "quotatype=usrquota:grpquota:prjquota"},
	{"-b", "2048", "-O", "quota,^extent,^64bit,^metadata_csum,^has_journal"},
	{"-b", "4096", "-I", "512", "-O", "quota,inline_data", "-E", "quotatype=grpquota"},
}

// Every change of what an owner has, and every change of the owner, reaches the quota
// files: e2fsck counts the same. There are owners enough for several blocks of entries
// and several branches of the tree.
func TestQuota(t *testing.T) {
	for _, f := range quotaForms {
		t.Run(fmt.Sprint(f[3:]), func(t *testing.T) {
			seed := uint64(oracle.Seed(t))
			r := rand.New(rand.NewPCG(seed, 2))
			image := makeImage(t, 64<<20, append([]string{"-t", "ext4", "-N", "4000"}, f...)...)
			fsckQuota(t, image)
			quotaWork(t, image, r, 1500)
			fsckQuota(t, image)
			quotaWork(t, image, r, 500) // the entries are found again
			fsckQuota(t, image)
		})
	}
}

func quotaWork(t *testing.T, image string, r *rand.Rand, steps int) {
	ids := make([]uint32, 60)
	for i := range ids {
		ids[i] = []uint32{uint32(i), uint32(1000 + i), r.Uint32(), r.Uint32() &^ 0xFFFFFF}[i%4]
	}
	id := func() uint32 { return ids[r.IntN(len(ids))] }
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	dirs := []*Inode{root}
	for i := range 5 {
		name := fmt.Sprint("d", i)
		d, err := root.Create(name, NewInode{Mode: format.ModeDir | 0o755, UID: id(), GID: id()})
		if unixIs(err, unix.EEXIST) {
			d = must(root.Lookup(name))
		}
		check(t, d.SetAttr(AttrProject|AttrFlags, Attr{Project: uint32(i * 7), Flags: format.FlagProjInherit}))
		dirs = append(dirs, d)
	}
	soft := func(err error) {
		t.Helper()
		for _, ok := range []unix.Errno{unix.ENOENT, unix.EEXIST, unix.EXDEV, unix.ENOSPC, unix.EISDIR, unix.ENOTEMPTY, unix.ENODATA, unix.EFBIG} {
			if err == nil || errors.Is(err, ok) {
				return
			}
		}
		t.Fatal(err)
	}
	for range steps {
		d := dirs[r.IntN(len(dirs))]
		name := fmt.Sprint(r.IntN(30))
		n, err := d.Lookup(name)
		if err != nil {
			m := NewInode{Mode: format.ModeRegular | 0o644, UID: id(), GID: id()}
			if r.IntN(4) == 0 {
				m.Mode, m.Target = format.ModeSymlink|0o777, strings.Repeat("t", 1+r.IntN(200))
			}
			if n, err = d.Create(name, m); err != nil {
				soft(err)
				continue
			}
		}
		switch r.IntN(9) {
		case 0:
			soft(d.Unlink(name))
		case 1, 2:
			soft(n.SetAttr(AttrUID|AttrGID, Attr{UID: id(), GID: id()}))
		case 3:
			soft(n.SetAttr(AttrProject, Attr{Project: id()}))
		case 4, 5:
			if n.isRegular() {
				_, err := n.WriteAt(make([]byte, 1+r.IntN(30000)), int64(r.IntN(1<<20)))
				soft(err)
			}
		case 6:
			if n.isRegular() {
				soft(n.Truncate(int64(r.IntN(1 << 19))))
			}
		case 7:
			soft(n.SetXattr("user.x", value(r.IntN(3), r.IntN(60000)), XattrFlags{}))
		case 8:
			soft(fs.Rename(d, name, dirs[r.IntN(len(dirs))], fmt.Sprint(r.IntN(30)), RenameFlags{}))
		}
		check(t, n.Put())
	}
	for _, d := range dirs {
		check(t, d.Put())
	}
	closeFS(t, fs)
}

// The quota files that package mkfs makes are found and kept right as mke2fs's are, in a tree of
// owners enough for several blocks of entries from the start.
func TestQuotaOfMkfs(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	r := rand.New(rand.NewPCG(seed, 3))
	path := mkfsImage(t, 64<<20, []string{"orphan_file", "quota", "project", "ea_inode"}, func(b *mkfs.Builder) {
		for i := range uint32(40) {
			must(b.Add(b.Root(), fmt.Sprint("built", i), mkfs.Header{Mode: format.ModeDir | 0o755, UID: i, GID: 1000 + i, Project: i << 20}))
		}
	})
	fsckQuota(t, path)
	quotaWork(t, path, r, 1500)
	fsckQuota(t, path)
}

// Many at once: what each adds and takes is counted.
func TestQuotaAtOnce(t *testing.T) {
	image := makeImage(t, 64<<20, append([]string{"-t", "ext4"}, quotaForms[2]...)...)
	fs := openFS(t, image, Options{CommitEvery: 5 * time.Millisecond})
	root := must(fs.Root())
	shared := must(root.Create("shared", regular))
	var all sync.WaitGroup
	for g := range uint32(8) {
		all.Add(1)
		go func() {
			defer all.Done()
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 150 {
				name := fmt.Sprint(g, "-", i%7)
				n, err := root.Create(name, NewInode{Mode: format.ModeRegular | 0o644, UID: uint32(i) * 977, GID: g})
				if unixIs(err, unix.EEXIST) {
					n, err = root.Lookup(name)
				}
				if err == nil {
					_, err = n.WriteAt(make([]byte, 1+r.IntN(20000)), 0)
				}
				for _, c := range []*Inode{n, shared} {
					if err == nil {
						err = c.SetAttr(AttrUID|AttrProject, Attr{UID: r.Uint32N(40), Project: r.Uint32N(4)})
					}
					if err == nil {
						err = c.SetXattr(fmt.Sprint("user.", g), value(r.IntN(3), 6000), XattrFlags{})
					}
				}
				if err == nil {
					_, err = shared.WriteAt([]byte{1}, int64(r.IntN(1<<20)))
				}
				if err == nil && i%3 == 0 {
					err = root.Unlink(name)
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				_ = n.Put()
			}
		}()
	}
	all.Wait()
	check(t, shared.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsckQuota(t, image)
}

// Thousands of owners, each new entry on a disk that is full too: it is refused and
// nothing is wrong afterwards.
func TestQuotaOfManyOwners(t *testing.T) {
	image := makeImage(t, 8<<20, "-t", "ext4", "-b", "1024", "-N", "5000", "-O", "quota", "-J", "size=1")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	for i := range uint32(1200) { // one file, one owner after the other
		check(t, n.SetAttr(AttrUID, Attr{UID: i * 70001}))
	}
	fill := must(root.Create("fill", regular))
	var err error
	for off := int64(0); err == nil; off += 512 << 10 {
		_, err = fill.WriteAt(make([]byte, 512<<10), off)
	}
	wantErr(t, err, unix.ENOSPC)
	for i := uint32(0); err == nil || unixIs(err, unix.ENOSPC) && i < 20; i++ {
		err = n.SetAttr(AttrUID|AttrGID, Attr{UID: 1<<31 + i*70001, GID: 1<<31 + i*70001})
	}
	wantErr(t, err, unix.ENOSPC)
	check(t, n.Put())
	check(t, fill.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsckQuota(t, image)
}

// A file of a directory that hands its project down stays with its project.
func TestProjectBorders(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-O", "quota,project")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	dir := func(name string, project uint32) *Inode {
		d := must(root.Create(name, NewInode{Mode: format.ModeDir | 0o755}))
		check(t, d.SetAttr(AttrProject|AttrFlags, Attr{Project: project, Flags: format.FlagProjInherit}))
		return d
	}
	a, b := dir("a", 5), dir("b", 6)
	f := must(a.Create("f", regular))
	sub := must(a.Create("sub", NewInode{Mode: format.ModeDir | 0o755}))
	if f.Attr().Project != 5 || sub.Attr().Project != 5 || sub.Attr().Flags&format.FlagProjInherit == 0 {
		t.Errorf("the project is not handed down: %+v %+v", f.Attr(), sub.Attr())
	}
	wantErr(t, b.Link("f", f), unix.EXDEV)
	wantErr(t, fs.Rename(a, "f", b, "f", RenameFlags{}), unix.EXDEV)
	wantErr(t, fs.Rename(a, "sub", b, "sub", RenameFlags{}), unix.EXDEV)
	check(t, root.Link("out", f)) // the root hands nothing down
	check(t, must(b.Create("g", regular)).Put())
	wantErr(t, fs.Rename(root, "out", b, "g", RenameFlags{Exchange: true}), unix.EXDEV)
	check(t, f.SetAttr(AttrProject, Attr{Project: 6}))
	check(t, b.Link("f", f))
	for _, n := range []*Inode{a, b, f, sub, root} {
		check(t, n.Put())
	}
	closeFS(t, fs)
	fsckQuota(t, image)
}

// A quota file that is damaged is refused when it is to be written, by its name.
func TestQuotaDamaged(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "4096", "-O", "quota")
	fs := openFS(t, image, Options{})
	q := fs.quotas.files[0]
	header := int64(must(q.n.mapBlock(0)).disk) << fs.bsBits
	closeFS(t, fs)
	dev := openDevice(t, image)
	good := make([]byte, 8192)
	must(dev.ReadAt(good, header))
	for _, c := range []struct {
		off  int64
		put  []byte
		text string
	}{
		{0, []byte{1}, "magic"},
		{format.QuotaBlocksOffset, []byte{0, 0, 0, 0x10}, "number of blocks"},
	} {
		must(dev.WriteAt(good, header))
		must(dev.WriteAt(c.put, header+c.off))
		_, err := Open(dev, Options{})
		if err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "user quota") {
			t.Errorf("%s: %v", c.text, err)
		}
		fs, err := Open(dev, Options{ReadOnly: true})
		check(t, err)
		closeFS(t, fs)
	}
	// References that lead anywhere end, and are told.
	r := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		must(dev.WriteAt(good, header))
		for range 3 {
			must(dev.WriteAt([]byte{byte(r.Uint32())}, header+1024+r.Int64N(7168)))
		}
		fs, err := Open(dev, Options{Errors: ErrorsContinue})
		if err != nil {
			continue
		}
		root := must(fs.Root())
		for i := range uint32(5) {
			n, err := root.Create(fmt.Sprint(i), NewInode{Mode: format.ModeRegular, UID: i << (8 * i)})
			if err == nil {
				_ = n.Put()
				_ = root.Unlink(fmt.Sprint(i))
			}
		}
		_ = root.Put()
		_ = fs.Close()
	}
	check(t, dev.Close())
}
