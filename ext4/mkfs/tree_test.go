package mkfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// item is a name of a model tree. Items with one link number are one inode.
type item struct {
	path    string
	h       Header
	data    func(off int64, p []byte) // fills p with the file's bytes; nil: zeros
	regions []Region                  // as for Place
	link    string                    // the path of which it is a hard link
}

// model is a tree in the order of its Add calls.
type model struct {
	items []item
	index map[string]int
}

func (m *model) add(it item) {
	if m.index == nil {
		m.index = map[string]int{}
	}
	if it.h.Mode&format.ModeType == format.ModeSymlink {
		it.h.Size = int64(len(it.h.Target))
	}
	m.index[it.path] = len(m.items)
	m.items = append(m.items, it)
}

func (m *model) dir(p string) {
	m.add(item{path: p, h: Header{Mode: format.ModeDir | 0o755, Mtime: Time{Sec: 1e9, Nsec: 5}}})
}

// noise fills p with bytes that depend on a seed and the place.
func noise(seed uint64) func(int64, []byte) {
	return func(off int64, p []byte) {
		for i := range p {
			at := uint64(off) + uint64(i)
			x := at/8*0x9E3779B97F4A7C15 ^ seed*0xD6E8FEB86659FD93
			x ^= x >> 29
			p[i] = byte(x>>(at%8*8)) | 1
		}
	}
}

func (m *model) file(p string, size int64, seed uint64) {
	m.add(item{path: p, data: noise(seed), h: Header{Mode: format.ModeRegular | 0o644, Size: size, Mtime: Time{Sec: 1e9, Nsec: 7}}})
}

// build makes the tree.
func (m *model) build(t testing.TB, b *Builder) {
	t.Helper()
	nodes := m.describe(t, b)
	if b.dev != nil {
		m.fillIn(t, b, nodes)
	}
}

func (m *model) describe(t testing.TB, b *Builder) map[string]*Node {
	t.Helper()
	nodes := map[string]*Node{".": b.Root()}
	for _, it := range m.items {
		parent := nodes[path.Dir(it.path)]
		if it.link != "" {
			if err := b.Link(parent, path.Base(it.path), nodes[it.link]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		n, err := b.Add(parent, path.Base(it.path), it.h)
		if err != nil {
			t.Fatal(err)
		}
		nodes[it.path] = n
	}
	return nodes
}

func (m *model) fillIn(t testing.TB, b *Builder, nodes map[string]*Node) {
	t.Helper()
	for _, it := range m.items {
		if it.link != "" || it.h.Mode&format.ModeType != format.ModeRegular || it.h.Size == 0 {
			continue
		}
		if it.regions == nil {
			if err := b.Data(nodes[it.path], &reader{it: it}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		extents, err := b.Place(nodes[it.path], it.regions)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range extents {
			p := make([]byte, e.Length)
			it.read(e.Offset, p)
			if _, err := b.dev.WriteAt(p, e.Disk); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// read gives the file's bytes, zeros outside of its regions.
func (it *item) read(off int64, p []byte) {
	clear(p)
	if it.regions == nil {
		it.data(off, p)
		return
	}
	for _, r := range it.regions {
		from, to := max(off, r.Offset), min(off+int64(len(p)), r.Offset+r.Length)
		if from < to {
			it.data(from, p[from-off:to-off])
		}
	}
}

type reader struct {
	it  item
	off int64
}

func (r *reader) Read(p []byte) (int, error) {
	n := min(int64(len(p)), r.it.h.Size-r.off, 65537)
	if n == 0 {
		return 0, io.EOF
	}
	r.it.read(r.off, p[:n])
	r.off += n
	return int(n), nil
}

// compare holds a mounted tree against the model.
func (m *model) compare(t testing.TB, root string) {
	t.Helper()
	links := map[string]uint32{}
	children := map[string][]string{".": {lostFoundName}}
	for _, it := range m.items {
		if path.Base(it.path) != lostFoundName || path.Dir(it.path) != "." {
			children[path.Dir(it.path)] = append(children[path.Dir(it.path)], path.Base(it.path))
		}
		if it.link != "" {
			links[it.link]++
		} else {
			links[it.path]++
		}
	}
	inodes := map[string]uint64{}
	for _, it := range m.items {
		full := filepath.Join(root, it.path)
		if it.link != "" {
			var a, b unix.Stat_t
			if err := errors.Join(unix.Lstat(full, &a), unix.Lstat(filepath.Join(root, it.link), &b)); err != nil {
				t.Error(err)
			} else if a.Ino != b.Ino {
				t.Errorf("%s: inode %d, its other name %s has %d", it.path, a.Ino, it.link, b.Ino)
			}
			continue
		}
		m.compareInode(t, full, &it, links[it.path], inodes)
		if it.h.Mode&format.ModeType == format.ModeDir {
			compareNames(t, full, children[it.path])
		}
	}
	compareNames(t, root, children["."])
}

func (m *model) compareInode(t testing.TB, full string, it *item, links uint32, inodes map[string]uint64) {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, full, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		t.Error(err)
		return
	}
	check := func(what string, got, want any) {
		if got != want {
			t.Errorf("%s: %s is %v, want %v", it.path, what, got, want)
		}
	}
	h := &it.h
	check("mode", st.Mode, h.Mode)
	check("uid", st.Uid, h.UID)
	check("gid", st.Gid, h.GID)
	stamp := func(s unix.StatxTimestamp) Time { return Time{Sec: s.Sec, Nsec: s.Nsec} }
	check("atime", stamp(st.Atime), h.Atime)
	check("mtime", stamp(st.Mtime), h.Mtime)
	check("ctime", stamp(st.Ctime), h.Ctime)
	if h.Btime != (Time{}) {
		check("btime", stamp(st.Btime), h.Btime)
	}
	switch h.Mode & format.ModeType {
	case format.ModeChar, format.ModeBlock:
		check("major", st.Rdev_major, h.Major)
		check("minor", st.Rdev_minor, h.Minor)
	case format.ModeSymlink:
		target, err := os.Readlink(full)
		check("readlink", err, nil)
		check("target", target, h.Target)
	case format.ModeRegular:
		check("size", int64(st.Size), h.Size)
		compareData(t, full, it)
	}
	if h.Mode&format.ModeType != format.ModeDir {
		check("links", st.Nlink, links)
	}
	got := map[string]string{}
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(full, list)
	check("listxattr", err, nil)
	for _, name := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 1<<16)
		k, err := unix.Lgetxattr(full, name, value)
		check(name, err, nil)
		got[name] = string(value[:k])
	}
	want := map[string]string{}
	for name, value := range h.Xattrs {
		want[name] = string(value)
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s: attributes %q, want %q", it.path, got, want)
	}
}

func compareData(t testing.TB, full string, it *item) {
	t.Helper()
	f, err := os.Open(full)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for _, r := range head(it.regions) {
		got, want := make([]byte, r.Length), make([]byte, r.Length)
		it.read(r.Offset, want)
		if _, err := f.ReadAt(got, r.Offset); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes at %d (%v)", it.path, r.Offset, err)
		}
	}
	if it.regions == nil || it.h.Size <= 64<<20 {
		got, want := sha256.New(), sha256.New()
		if _, err := io.Copy(got, f); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(want, &reader{it: *it})
		if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Errorf("%s: other bytes", it.path)
		}
	}
	if it.regions == nil {
		return
	}
	// Holes are where the model has no data, whole blocks of 4 KiB.
	var want, got []Region
	for _, r := range it.regions {
		if r.Length == 0 {
			continue
		}
		from, to := r.Offset&^4095, min((r.Offset+r.Length+4095)&^4095, it.h.Size)
		if k := len(want); k > 0 && want[k-1].Offset+want[k-1].Length >= from {
			want[k-1].Length = max(want[k-1].Length, to-want[k-1].Offset)
		} else {
			want = append(want, Region{from, to - from})
		}
	}
	for off := int64(0); off < it.h.Size; {
		from, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err != nil {
			break
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			t.Error(err)
		}
		got = append(got, Region{from, to - from})
		off = to
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: data at %v, want %v", it.path, head(got), head(want))
	}
}

func head[T any](s []T) []T { return s[:min(len(s), 8)] }

func compareNames(t testing.TB, full string, want []string) {
	t.Helper()
	f, err := os.Open(full)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	got, err := f.Readdirnames(-1)
	if err != nil {
		t.Error(err)
	}
	want = slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %d names, want %d: %q... %q...", full, len(got), len(want), head(got), head(want))
	}
}

func at(sec int64, nsec uint32) Time { return Time{Sec: sec, Nsec: nsec} }

// acl makes an ACL's wire form.
func acl(entries ...[3]uint32) []byte {
	b := le.AppendUint32(nil, 2)
	for _, e := range entries {
		b = le.AppendUint16(b, uint16(e[0]))
		b = le.AppendUint16(b, uint16(e[1]))
		b = le.AppendUint32(b, e[2])
	}
	return b
}

const nobody = 0xFFFFFFFF // the id of ACL entries that name nobody

// everything is a tree with one of each, and a directory of so many files.
func everything(count int) *model {
	m := &model{}
	m.add(item{path: "lost+found", h: Header{Mode: format.ModeDir | 0o711, UID: 7, Mtime: Time{Sec: 5, Nsec: 6}}})
	m.dir("etc")
	m.file("etc/empty", 0, 1)
	for i, size := range []int64{1, 1023, 1024, 1025, 4095, 4096, 4097, 12 * 4096, 12*4096 + 1, 1 << 20, 5<<20 + 3} {
		m.file(fmt.Sprintf("etc/size%d", size), size, uint64(i))
	}
	p := "deep"
	m.dir(p)
	for range 200 {
		p += "/d"
		m.dir(p)
	}
	m.file(p+"/end", 10, 3)
	for i, target := range []string{"x", strings.Repeat("f", 59), strings.Repeat("s", 60), strings.Repeat("l/", 500), strings.Repeat("/m", 511) + "n"} {
		m.add(item{path: fmt.Sprintf("link%d", i), h: Header{Mode: format.ModeSymlink | 0o777, Target: target, UID: uint32(i)}})
	}
	m.add(item{path: "link-user", h: Header{Mode: format.ModeSymlink | 0o777, Target: strings.Repeat("q", 70),
		Xattrs: map[string][]byte{"trusted.t": bytes.Repeat([]byte("v"), 300), "security.s": []byte("w")}}})
	m.dir("dev")
	for _, d := range []struct{ major, minor uint32 }{{1, 3}, {0, 0}, {255, 255}, {256, 0}, {8, 256}, {4095, 1<<20 - 1}} {
		m.add(item{path: fmt.Sprintf("dev/c%d-%d", d.major, d.minor), h: Header{Mode: format.ModeChar | 0o600, Major: d.major, Minor: d.minor}})
		m.add(item{path: fmt.Sprintf("dev/b%d-%d", d.major, d.minor), h: Header{Mode: format.ModeBlock | 0o660, Major: d.major, Minor: d.minor}})
	}
	m.add(item{path: "dev/fifo", h: Header{Mode: format.ModeFIFO | 0o600}})
	m.add(item{path: "dev/socket", h: Header{Mode: format.ModeSocket | 0o600, Xattrs: map[string][]byte{"trusted.x": []byte("1")}}})
	m.add(item{path: "etc/hard-device", link: "dev/fifo"})
	m.add(item{path: "etc/hard", link: "etc/size4097"})
	m.add(item{path: "hard-link", link: "link3"})

	for i, stamp := range []Time{at(-1<<31, 0), at(-1, 999999999), at(0, 1), at(1<<31-1, 1), at(1<<31, 2), at(1<<32, 3), at(1<<33+7, 4), at(format.MaxTimeSec, 999999999)} {
		m.add(item{path: fmt.Sprintf("time%d", i), h: Header{Mode: format.ModeRegular | 0o4755, UID: 70000 * uint32(i), GID: 1<<32 - 2,
			Atime: stamp, Mtime: at(stamp.Sec, 17), Ctime: at(stamp.Sec, 18), Btime: at(stamp.Sec, 19)}})
	}
	m.dir("mode")
	for _, mode := range []uint16{0, 0o7777, 0o2755, 0o1777, 0o4000} {
		m.add(item{path: fmt.Sprintf("mode/f%o", mode), h: Header{Mode: format.ModeRegular | mode}})
		m.add(item{path: fmt.Sprintf("mode/d%o", mode), h: Header{Mode: format.ModeDir | mode}})
	}

	const far = 1 << 40
	for name, regions := range map[string][]Region{
		"all-hole":     {},
		"begin":        {{8192, 100}},
		"middle":       {{0, 100}, {40960, 4096}, {99999, 1}},
		"end":          {{0, 4097}},
		"same-block":   {{100, 1}, {200, 1}, {4095, 2}, {8191, 1}, {8192, 0}, {8193, 4}},
		"whole-blocks": {{4096, 4096}, {8192, 4096}, {16384, 8192}},
	} {
		m.add(item{path: "sparse-" + name, data: noise(9), regions: regions, h: Header{Mode: format.ModeRegular | 0o600, Size: 100001}})
	}
	slices.SortFunc(m.items[len(m.items)-6:], func(a, b item) int { return strings.Compare(a.path, b.path) })
	m.add(item{path: "sparse-far", data: noise(9), regions: []Region{{4096, 1}, {far - 4096, 4096}}, h: Header{Mode: format.ModeRegular | 0o600, Size: far}})
	for _, n := range []int64{4, 5, 340, 341, 3000} {
		var regions []Region
		for i := range n {
			regions = append(regions, Region{i * 8192, 10})
		}
		m.add(item{path: fmt.Sprintf("sparse-%d", n), data: noise(uint64(n)), regions: regions,
			h: Header{Mode: format.ModeRegular | 0o600, Size: n * 8192}})
	}
	for i := range m.items {
		m.index[m.items[i].path] = i
	}

	m.dir("x")
	xattr := func(name string, mode uint16, x map[string][]byte) {
		m.add(item{path: "x/" + name, h: Header{Mode: mode, Xattrs: x}})
	}
	for _, size := range []int{0, 1, 2, 3, 4, 5, 60, 64, 65, 68, 69, 72, 80, 88, 100, 500, 900} {
		xattr(fmt.Sprintf("one%d", size), format.ModeRegular|0o644, map[string][]byte{"user.v": bytes.Repeat([]byte{'a'}, size)})
	}
	for i := range 3 {
		xattr(fmt.Sprintf("shared%d", i), format.ModeRegular|0o644, map[string][]byte{"user.v": bytes.Repeat([]byte{'s'}, 700)})
	}
	many := map[string][]byte{}
	for i := range 20 {
		many[fmt.Sprintf("user.%s%d", strings.Repeat("n", i), i)] = bytes.Repeat([]byte{byte(i)}, i)
	}
	xattr("many", format.ModeDir|0o755, many)
	xattr("kinds", format.ModeRegular|0o755, map[string][]byte{
		"user.u": []byte("u"), "trusted.overlay.opaque": []byte("y"), "security.selinux": []byte("system_u:object_r:bin_t:s0\x00"),
		"security.capability": {1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"user.caf\xc3\xa9":    []byte("\xff\xfe"),
	})
	named := acl([3]uint32{aclUserObj, 7, nobody}, [3]uint32{aclUser, 5, 1000}, [3]uint32{aclUser, 4, 70000}, [3]uint32{aclGroupObj, 5, nobody},
		[3]uint32{aclGroup, 1, 33}, [3]uint32{aclMask, 5, nobody}, [3]uint32{aclOther, 1, nobody})
	xattr("acl", format.ModeRegular|0o751, map[string][]byte{aclAccess: named})
	xattr("acl-default", format.ModeDir|0o751, map[string][]byte{aclAccess: named,
		aclDefault: acl([3]uint32{aclUserObj, 7, nobody}, [3]uint32{aclGroupObj, 5, nobody}, [3]uint32{aclOther, 0, nobody})})
	m.add(item{path: "x/hard", link: "x/acl"})
	m.file("x/data", 10000, 77)
	m.items[len(m.items)-1].h.Xattrs = map[string][]byte{"user.v": bytes.Repeat([]byte{'s'}, 700)}

	m.dir("names")
	for _, name := range []string{strings.Repeat("n", 255), "\xff\xfe\x80", "ünïcödé", " ", "a\nb", "...", "-rf"} {
		m.file("names/"+name, 3, 5)
	}
	for _, n := range []int{150, 400} {
		dir := fmt.Sprintf("dir%d", n)
		m.dir(dir)
		for i := range n {
			m.file(fmt.Sprintf("%s/\xc3\xa9ntry number %d", dir, i), 0, 0)
		}
	}
	m.dir("big")
	for i := range count {
		m.add(item{path: fmt.Sprintf("big/file-%d", i), h: Header{Mode: format.ModeRegular | 0o644}})
	}
	return m
}

// image makes an image of a model and checks it.
func image(t testing.TB, size int64, o Options, m *model) string {
	t.Helper()
	dev, path := newFile(t, size)
	b, err := NewBuilder(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	m.build(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.Fsck(t, path)
	return path
}

func TestEverythingMounted(t *testing.T) {
	for _, features := range [][]string{nil, {"^metadata_csum"}, {"uninit_bg"}, {"^flex_bg", "^resize_inode"}, {"metadata_csum_seed", "large_dir"}, {"^dir_index"},
		{"^has_journal", "^64bit"}, {"^64bit", "^extent"}, {"^filetype"}, {"^extra_isize", "^huge_file", "^dir_nlink", "^large_file"}} {
		for _, blockSize := range []int{1024, 2048, 4096} {
			t.Run(fmt.Sprintf("%d%s", blockSize, strings.Join(features, ",")), func(t *testing.T) {
				o := fixed()
				o.Features, o.BlockSize = features, blockSize
				m := everything(2000)
				if features == nil {
					m = everything(20000)
				}
				if blockSize != 4096 || slices.Contains(features, "^extent") {
					m = smaller(m, blockSize, slices.Contains(features, "^extent"))
				}
				path := image(t, 512<<20, o, m)
				if os.Geteuid() == 0 {
					dir := oracle.Mount(t, path, "ro")
					m.compare(t, dir)
					oracle.Unmount(t, dir)
				}
			})
		}
	}
	oracle.NeedsRoot(t)
}

// smaller leaves out what smaller blocks or block maps cannot hold, and what compareData cannot
// compare.
func smaller(m *model, blockSize int, indirect bool) *model {
	s := &model{}
	for _, it := range m.items {
		if it.h.Size > 1<<34 && indirect {
			continue
		}
		if it.regions != nil && blockSize < 4096 {
			it.h.Size, it.regions = min(it.h.Size, 100001), nil
		}
		s.add(it)
	}
	return s
}
