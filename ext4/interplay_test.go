package ext4

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// more is a step of the model that goes across features: owners, values in inodes,
// and ranges taken out of files and put in.
func (m *modelRun) more(i int) {
	paths, dirs := m.dirs()
	k := m.r.IntN(len(dirs))
	dir := m.open(paths[k])
	defer func() { check(m.t, dir.Put()) }()
	name, c := m.pick(dirs[k])
	if c == nil {
		return
	}
	n := must(dir.Lookup(name))
	defer func() { check(m.t, n.Put()) }()
	ok := func(what string, err error, may ...unix.Errno) bool {
		m.t.Helper()
		for _, e := range append(may, unix.ENOSPC) {
			if unixIs(err, e) {
				return false
			}
		}
		if err != nil {
			m.t.Fatalf("step %d: %s: %v", i, what, err)
		}
		return true
	}
	switch m.r.IntN(8) {
	case 0, 1:
		ok("chown", n.SetAttr(AttrUID|AttrGID, Attr{UID: m.r.Uint32N(1<<20) * 4093, GID: m.r.Uint32N(50)}))
	case 2:
		if m.fs.projects {
			ok("project", n.SetAttr(AttrProject, Attr{Project: m.r.Uint32N(400)}))
		}
	case 3:
		x := fmt.Sprintf("user.x%d", m.r.IntN(6))
		v := strings.Repeat(string(rune('a'+i%7)), m.r.IntN(20000))
		if ok("large value", n.SetXattr(x, []byte(v), XattrFlags{}), unix.E2BIG) {
			c.xattrs[x] = v
		}
	default:
		if c.typ != format.ModeRegular {
			return
		}
		bs := m.fs.bs
		off, length := m.r.IntN(60)*bs, (1+m.r.IntN(30))*bs
		switch m.r.IntN(4) {
		case 0:
			if ok("collapse", n.Collapse(int64(off), int64(length)), unix.EINVAL, unix.EOPNOTSUPP) {
				c.data = append(c.data[:off:off], c.data[off+length:]...)
			}
		case 1:
			if ok("insert", n.Insert(int64(off), int64(length)), unix.EINVAL, unix.EOPNOTSUPP) {
				c.data = append(append(c.data[:off:off], make([]byte, length)...), c.data[off:]...)
			}
		case 2:
			ok("chattr", n.SetExtents(m.r.IntN(2) == 0), unix.EOPNOTSUPP)
		case 3: // many extents
			p := []byte{byte(i) | 1}
			for k := range 60 {
				at := k * 3 * bs
				w, err := n.WriteAt(p, int64(at))
				if !ok("write", err) {
					return
				}
				if at+w > len(c.data) {
					c.data = append(c.data, make([]byte, at+w-len(c.data))...)
				}
				copy(c.data[at:], p)
			}
		}
	}
}

// interForms are forms in which features meet.
var interForms = [][]string{
	{"-t", "ext4", "-b", "1024", "-N", "4000", "-J", "size=1", "-O", "quota,project,ea_inode,inline_data,orphan_file", "-E", "quotatype=usrquota:grpquota:prjquota"},
	{"-t", "ext4", "-b", "1024", "-N", "4000", "-O", "quota,project,meta_bg,^resize_inode", "-J", "size=1"},
	{"-t", "ext4", "-b", "1024", "-N", "4000", "-O", "quota,sparse_super2,^resize_inode,inline_data", "-J", "size=1"},
	{"-t", "ext4", "-b", "1024", "-N", "4000", "-I", "128", "-O", "quota,^metadata_csum,uninit_bg", "-J", "size=1"},
	{"-t", "ext4", "-b", "1024", "-N", "4000", "-O", "quota,^has_journal"},
	{"-t", "ext4", "-b", "1024", "-N", "4000", "-g", "1024", "-O", "quota,project,orphan_file", "-J", "size=1"},
	{"-t", "ext3", "-b", "1024", "-N", "4000", "-O", "quota", "-J", "size=1"},
	{"-t", "ext4", "-b", "4096", "-N", "4000", "-g", "2048", "-O", "quota,project,ea_inode", "-J", "size=4"},
}

// Random operations of every kind meet growing in use, remounts and shrinking, with quota
// files, a small log and a cache that evicts all the time: engine, model and e2fsck, which
// counts the usage too, agree after each.
func TestInterplay(t *testing.T) {
	seed, cycles := uint64(1), 1
	if nightly {
		seed, cycles = uint64(time.Now().UnixNano())%1e9, 3
	}
	for fi, f := range interForms {
		t.Run(fmt.Sprint(fi), func(t *testing.T) {
			t.Logf("seed %d", seed)
			image := makeImage(t, 24<<20, f...)
			check(t, os.Truncate(image, 120<<20))
			o := Options{CommitEvery: 3 * time.Millisecond, CacheBytes: 1 << 16}
			fs := openFS(t, image, o)
			m := &modelRun{t: t, r: rand.New(rand.NewPCG(seed, uint64(fi))), fs: fs, root: newMnode(format.ModeDir)}
			m.root.perm = 0o755
			work := func(k int) {
				for i := range k {
					if m.r.IntN(3) == 0 {
						m.more(i)
					} else {
						m.step(i)
					}
				}
			}
			same := func(what string) {
				t.Helper()
				var want []string
				m.root.tree("", &want)
				sort.Strings(want)
				sameModels(t, m.fs, want)
				closeFS(t, m.fs)
				fsckQuota(t, image)
				m.fs = openFS(t, image, o)
				sameModels(t, m.fs, want)
			}
			size := int64(24 << 20)
			for cycle := range cycles {
				work(250)
				same("work")
				size = []int64{60, 110, 90}[cycle] << 20
				var wg sync.WaitGroup
				fs := m.fs
				if uint64(size)>>fs.bsBits > fs.blocks.Load() {
					wg.Go(func() {
						if err := fs.Grow(uint64(size) >> fs.bsBits); err != nil {
							t.Errorf("grow: %v", err)
						}
					})
				}
				work(150)
				wg.Wait()
				if m.r.IntN(2) == 0 {
					check(t, m.fs.Remount(true))
					check(t, m.fs.Remount(false))
				}
				same("grow")
				work(100)
				same("after")
				least := must(m.fs.Least())
				to := least + m.r.Uint64N(m.fs.blocks.Load()-least)
				_, err := m.fs.Shrink(t.Context(), to)
				if err != nil && !unixIs(err, unix.EOPNOTSUPP) && !unixIs(err, unix.ENOSPC) {
					t.Fatalf("shrink: %v", err)
				}
				t.Logf("shrink to %d of least %d: %v, has %d", to, least, err, m.fs.blocks.Load())
				same("shrink")
				work(150)
				same("after shrink")
			}
			closeFS(t, m.fs)
		})
	}
}
