package mkfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// sparse is a Device in memory that keeps what is written, by blocks of 4 KiB. A write that is
// due to fail after failAfter others fails.
type sparse struct {
	size      int64
	blocks    map[int64]*[4096]byte
	writes    int
	failAfter int
}

func newSparse(size int64) *sparse {
	return &sparse{size: size, blocks: map[int64]*[4096]byte{}, failAfter: -1}
}

func (s *sparse) Size() int64 { return s.size }

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	if s.writes == s.failAfter {
		return 0, unix.ENOSPC
	}
	s.writes++
	if off < 0 || off+int64(len(p)) > s.size {
		return 0, io.ErrShortWrite
	}
	n := len(p)
	for len(p) > 0 {
		b := s.blocks[off>>12]
		if b == nil {
			b = new([4096]byte)
			s.blocks[off>>12] = b
		}
		k := copy(b[off&4095:], p)
		p, off = p[k:], off+int64(k)
	}
	return n, nil
}

func (s *sparse) sum() string {
	h := sha256.New()
	for i := range s.size >> 12 {
		if b := s.blocks[i]; b != nil {
			fmt.Fprint(h, i, ":")
			h.Write(b[:])
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestEmptyIsSmall(t *testing.T) {
	for _, size := range []int64{1 << 30, 16 << 30} {
		dev, path := newFile(t, size)
		if err := Format(dev, Options{}); err != nil {
			t.Fatal(err)
		}
		if err := dev.File.Sync(); err != nil {
			t.Fatal(err)
		}
		if got := allocated(t, path); got > 5_000_000 {
			t.Errorf("an empty filesystem of %d bytes takes %d on the host, more than 5,000,000", size, got)
		} else {
			t.Logf("an empty filesystem of %d bytes takes %d on the host", size, got)
		}
	}
}

func TestOptionsReachTheSuperblock(t *testing.T) {
	dev, path := newFile(t, 64<<20)
	o := Options{
		Label: "sixteen bytes ok", UUID: [16]byte{0: 0xaa, 15: 0xbb}, HashSeed: [16]byte{0: 0xcc, 15: 0xdd}, Time: time.Unix(1<<32+99, 0),
		InodeSize: 512, Inodes: 5000, ReservedPercent: 2.5, JournalBlocks: 2000,
		MountOptions: []string{"discard", "^acl", "journal_data_writeback"}, Errors: "remount-ro", LastMounted: "/",
		Features: []string{"large_dir", "^huge_file", "project", "^encrypt", "stable_inodes", "ea_inode", "inline_data", "metadata_csum_seed"},
	}
	if err := Format(dev, o); err != nil {
		t.Fatal(err)
	}
	oracle.Fsck(t, path)
	got := header(t, path)
	for name, want := range map[string]string{
		"Filesystem volume name": "sixteen bytes ok", "Filesystem UUID": "aa000000-0000-0000-0000-0000000000bb",
		"Directory Hash Seed": "cc000000-0000-0000-0000-0000000000dd", "Inode size": "512", "Inode count": "5000",
		"Reserved block count": "409", "Total journal blocks": "2000", "Errors behavior": "Remount read-only", "Last mounted on": "/",
		"Default mount options": "journal_data_writeback user_xattr discard",
		"Filesystem features": "has_journal ext_attr resize_inode dir_index stable_inodes filetype extent 64bit flex_bg ea_inode metadata_csum_seed " +
			"large_dir inline_data sparse_super large_file dir_nlink extra_isize metadata_csum project",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
}

func TestWrongOptions(t *testing.T) {
	for _, c := range []struct {
		size int64
		o    Options
		want string
	}{
		{64 << 20, Options{Label: "seventeen bytes!!"}, `ext4 options: label "seventeen bytes!!" has 17 bytes: at most 16`},
		{64 << 20, Options{Label: "a\x00b"}, `a zero byte`},
		{64 << 20, Options{LastMounted: strings.Repeat("x", 65)}, `has 65 bytes: at most 64`},
		{64 << 20, Options{BlockSize: 8192}, "ext4 options: block size 8192: it is 1024, 2048 or 4096"},
		{64 << 20, Options{BlockSize: -1}, "block size -1"},
		{64 << 20, Options{InodeSize: 64}, "ext4 options: inode size 64: a power of two from 128 to the block size, 4096"},
		{64 << 20, Options{InodeSize: 300}, "inode size 300"},
		{64 << 20, Options{InodeSize: 2048, BlockSize: 1024}, "inode size 2048"},
		{64 << 20, Options{InodeRatio: 1}, "inode ratio 1: it is from 1024"},
		{64 << 20, Options{InodeRatio: -4096}, "inode ratio -4096"},
		{64 << 20, Options{InodeRatio: 1 << 40}, "inode ratio 1099511627776"},
		{64 << 20, Options{Inodes: -1}, "-1 inodes"},
		{64 << 20, Options{Inodes: 1 << 40}, "1099511627776 inodes"},
		{64 << 20, Options{Inodes: 1<<32 - 1}, "4294967295 inodes are too many for 67108864 bytes"},
		{64 << 20, Options{Inodes: 10 << 20}, "10485760 inodes are too many for 67108864 bytes"},
		{64 << 20, Options{Inodes: 100, InodeRatio: 4096}, "one of the two"},
		{64 << 20, Options{ReservedPercent: 51}, "reserved blocks 51%: from 0 to 50"},
		{64 << 20, Options{ReservedPercent: -1}, "reserved blocks -1%"},
		{64 << 20, Options{ReservedPercent: nan()}, "reserved blocks NaN%"},
		{64 << 20, Options{ReservedPercent: 1, NoReserve: true}, "one of the two"},
		{64 << 20, Options{JournalBlocks: 1023}, "journal of 1023 blocks: from 1024 to 10240000"},
		{64 << 20, Options{JournalBlocks: 10000}, "a journal of 10000 blocks is too large: at most half of the 15"},
		{64 << 20, Options{JournalBlocks: -1}, "journal of -1 blocks"},
		{64 << 20, Options{Features: []string{"orphan_file"}, NoJournal: true}, "orphan_file needs has_journal"},
		{64 << 20, Options{Features: []string{"orphan_file"}, Type: "ext2"}, "orphan_file needs has_journal"},
		{64 << 20, Options{JournalBlocks: 1024, NoJournal: true}, "one of the two"},
		{64 << 20, Options{Features: []string{"hastojournal"}}, `ext4 options: feature "hastojournal": there is none of that name`},
		{64 << 20, Options{Features: []string{""}}, `feature "": there is none`},
		{64 << 20, Options{Features: []string{"FEATURE_C31"}}, `feature "FEATURE_C31": there is none`},
		{64 << 20, Options{Features: []string{"mmp"}}, `feature "mmp": not made by this program, which makes has_journal`},
		{64 << 20, Options{Features: []string{"bigalloc"}}, `feature "bigalloc": not made by this program: a guest could only read the filesystem, for the machine does not allocate clusters`},
		{64 << 20, Options{Features: []string{"encrypt"}}, `feature "encrypt": not made by this program: a guest could not mount the filesystem, for the machine does not encrypt`},
		{64 << 20, Options{Features: []string{"verity"}}, `feature "verity": not made by this program: a guest could only read the filesystem`},
		{64 << 20, Options{Features: []string{"casefold"}}, `feature "casefold": not made by this program: a guest could not mount the filesystem, for the machine does not fold case`},
		{64 << 20, Options{Features: []string{"^extent"}}, "feature 64bit needs extent: add ^64bit"},
		{64 << 20, Options{Features: []string{"^sparse_super"}}, "feature resize_inode needs sparse_super"},
		{64 << 20, Options{Features: []string{"^metadata_csum", "metadata_csum_seed"}}, "metadata_csum_seed needs metadata_csum"},
		{64 << 20, Options{Features: []string{"large_dir", "^dir_index"}}, "large_dir needs dir_index"},
		{64 << 20, Options{Features: []string{"project"}, InodeSize: 128}, "project needs inodes"},
		{64 << 20, Options{MountOptions: []string{"noatime"}}, `default mount option "noatime": there is none`},
		{64 << 20, Options{Errors: "explode"}, `errors behaviour "explode": continue, remount-ro or panic`},
		{64 << 20, Options{Time: time.Unix(-1, 0)}, "a filesystem's is from 1970"},
		{64 << 20, Options{Time: time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC)}, "a filesystem's is from 1970 to 2446"},
		{0, Options{}, "ext4: a device of 0 bytes is too small"},
		{-5, Options{}, "too small"},
		{4096, Options{}, "ext4: a device of 4096 bytes is too small"},
		{100 << 10, Options{}, "too small"},
		{1 << 45, Options{}, "ext4: a device of 35184372088832 bytes is too large"},
		{8 << 20, Options{Inodes: 40}, ""},
		{1 << 20, Options{}, ""},
		{300 << 10, Options{BlockSize: 1024}, ""},
	} {
		_, err := NewBuilder(newSparse(c.size), c.o)
		if c.want == "" {
			if err != nil {
				t.Errorf("%d bytes, %+v: %v", c.size, c.o, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d bytes, %+v: %v, want %q", c.size, c.o, err, c.want)
		}
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

func TestWrongCalls(t *testing.T) {
	b, err := NewBuilder(newSparse(64<<20), fixed())
	if err != nil {
		t.Fatal(err)
	}
	reg := Header{Mode: format.ModeRegular | 0o644}
	file, err := b.Add(b.Root(), "file", reg)
	if err != nil {
		t.Fatal(err)
	}
	sized, err := b.Add(b.Root(), "sized", Header{Mode: format.ModeRegular, Size: 10000})
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, h Header) error {
		_, err := b.Add(b.Root(), name, h)
		return err
	}
	xattr := func(mode uint16, name string, value []byte) error {
		return add("new", Header{Mode: mode, Xattrs: map[string][]byte{name: value}})
	}
	place := func(n *Node, r ...Region) error {
		_, err := b.Place(n, r)
		return err
	}
	child := func() error { _, err := b.Add(file, "child", reg); return err }
	for i, c := range []struct {
		err  error
		want error
		text string
	}{
		{add("file", reg), unix.EEXIST, `add "file"`},
		{add("lost+found", reg), unix.EEXIST, "lost+found"},
		{add("", reg), unix.EINVAL, `name ""`},
		{add("..", reg), unix.EINVAL, ""},
		{add(".", reg), unix.EINVAL, ""},
		{add("a/b", reg), unix.EINVAL, "a slash"},
		{add("a\x00", reg), unix.EINVAL, ""},
		{add(strings.Repeat("n", 256), reg), unix.ENAMETOOLONG, "256 bytes"},
		{child(), unix.ENOTDIR, ""},
		{add("new", Header{Mode: 0o644}), unix.EINVAL, "no such file type"},
		{add("new", Header{Mode: 0xF000}), unix.EINVAL, "no such file type"},
		{add("new", Header{Mode: format.ModeRegular, Size: -1}), unix.EFBIG, ""},
		{add("new", Header{Mode: format.ModeRegular, Size: 1 << 60}), unix.EFBIG, "at most 17592186"},
		{add("new", Header{Mode: format.ModeSymlink}), unix.ENAMETOOLONG, ""},
		{add("new", Header{Mode: format.ModeSymlink, Target: strings.Repeat("x", 4096)}), unix.ENAMETOOLONG, "4096 bytes"},
		{add("new", Header{Mode: format.ModeSymlink, Target: "a\x00"}), unix.EINVAL, ""},
		{add("new", Header{Mode: format.ModeChar, Major: 4096}), unix.EINVAL, "device 4096:0"},
		{add("new", Header{Mode: format.ModeBlock, Minor: 1 << 20}), unix.EINVAL, ""},
		{add("new", Header{Mode: format.ModeRegular, Flags: format.FlagExtents}), unix.EINVAL, "cannot be set"},
		{add("new", Header{Mode: format.ModeRegular, Mtime: at(1, 1e9)}), unix.EINVAL, "nanoseconds"},
		{add("new", Header{Mode: format.ModeRegular, Project: 5}), unix.EOPNOTSUPP, "project"},
		{xattr(format.ModeRegular, "bare", nil), unix.EOPNOTSUPP, `attribute "bare"`},
		{xattr(format.ModeRegular, "user.", nil), unix.EINVAL, ""},
		{xattr(format.ModeRegular, "system.data", nil), unix.EOPNOTSUPP, ""},
		{xattr(format.ModeRegular, "user."+strings.Repeat("n", 256), nil), unix.EINVAL, ""},
		{xattr(format.ModeRegular, "user.a\x00b", nil), unix.EINVAL, ""},
		{xattr(format.ModeRegular, "user.v", make([]byte, 4096)), unix.ENOSPC, "a block has 4096"},
		{xattr(format.ModeRegular, aclAccess, nil), unix.EINVAL, "0 bytes are no ACL"},
		{xattr(format.ModeRegular, aclAccess+"x", acl()), unix.EOPNOTSUPP, ""},
		{xattr(format.ModeRegular, aclAccess, acl()), unix.EINVAL, "without entries for owner"},
		{xattr(format.ModeRegular, aclAccess, []byte{1, 0, 0, 0}), unix.EINVAL, "version 1"},
		{xattr(format.ModeRegular, aclAccess, make([]byte, 11)), unix.EINVAL, "11 bytes"},
		{xattr(format.ModeRegular, aclAccess, acl([3]uint32{aclUserObj, 8, 0})), unix.EINVAL, "permissions"},
		{xattr(format.ModeRegular, aclAccess, acl([3]uint32{3, 7, 0})), unix.EINVAL, "of no kind"},
		{xattr(format.ModeRegular, aclAccess, acl([3]uint32{aclUserObj, 7, 0}, [3]uint32{aclUserObj, 7, 0})), unix.EINVAL, "out of order"},
		{xattr(format.ModeRegular, aclAccess, acl([3]uint32{aclGroupObj, 7, 0}, [3]uint32{aclUserObj, 7, 0})), unix.EINVAL, "out of order"},
		{xattr(format.ModeRegular, aclAccess, acl([3]uint32{aclUserObj, 7, 0}, [3]uint32{aclUser, 7, 0}, [3]uint32{aclGroupObj, 7, 0}, [3]uint32{aclOther, 7, 0})), unix.EINVAL, "mask"},
		{xattr(format.ModeRegular, aclDefault, acl()), unix.EACCES, "only directories"},
		{b.Link(b.Root(), "x", b.Root()), unix.EPERM, ""},
		{b.Link(b.Root(), "file", file), unix.EEXIST, ""},
		{b.Link(b.Root(), "x", nil), unix.ENOENT, ""},
		{b.Remove(b.Root(), "nothing"), unix.ENOENT, ""},
		{b.Remove(b.Root(), "lost+found"), unix.EPERM, ""},
		{b.SetHeader(file, Header{Mode: format.ModeDir}), unix.EINVAL, "changes its type"},
		{place(b.Root()), unix.EINVAL, "no regular file"},
		{place(sized, Region{-1, 5}), unix.EINVAL, ""},
		{place(sized, Region{0, 10001}), unix.EINVAL, "in a file of 10000 bytes"},
		{place(sized, Region{10001, 0}), unix.EINVAL, ""},
		{place(sized, Region{5, -1}), unix.EINVAL, ""},
		{place(sized, Region{1 << 62, 1 << 62}), unix.EINVAL, ""},
		{place(sized, Region{100, 100}, Region{150, 10}), unix.EINVAL, ""},
		{b.Data(sized, strings.NewReader("short")), io.ErrUnexpectedEOF, "10000 bytes"},
		{place(sized), unix.EEXIST, "placed already"},
		{b.SetHeader(sized, Header{Mode: format.ModeRegular, Size: 5}), unix.EINVAL, "not 5"},
	} {
		if !errors.Is(c.err, c.want) || !strings.Contains(c.err.Error(), c.text) || strings.Contains(c.err.Error(), "\n") {
			t.Errorf("case %d: %v, want %v and %q", i, c.err, c.want, c.text)
		}
	}
	if _, err := b.Add(b.Root(), "unplaced", Header{Mode: format.ModeRegular, Size: 1}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); !errors.Is(err, unix.ENODATA) {
		t.Errorf("Close with a file that was never placed: %v", err)
	}
	if err := b.Close(); !errors.Is(err, errClosed) {
		t.Errorf("second Close: %v", err)
	}
}

// TestDeterminism makes everything twice and in files and memory, into the same bytes.
func TestDeterminism(t *testing.T) {
	sum := func(o Options) string {
		o.Features = []string{"orphan_file", "quota"}
		dev := newSparse(512 << 20)
		b, err := NewBuilder(dev, o)
		if err != nil {
			t.Fatal(err)
		}
		everything(20000).build(t, b)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		return dev.sum()
	}
	first := sum(fixed())
	for range 3 {
		if again := sum(fixed()); again != first {
			t.Fatal("the same calls made other bytes")
		}
	}
	other := fixed()
	other.UUID[3]++
	if sum(other) == first {
		t.Error("another UUID made the same bytes: the sum is no test")
	}
}

// TestFailingDevice fails each write once: the error comes out, and no superblock is left.
func TestFailingDevice(t *testing.T) {
	m := &model{}
	m.dir("d")
	for i := range 2000 {
		m.file(fmt.Sprintf("d/%d", i), int64(i), 1)
	}
	for fail := 0; ; fail += 1 + fail/20 {
		dev := newSparse(256 << 20)
		b, err := NewBuilder(dev, fixed())
		if err != nil {
			t.Fatal(err)
		}
		nodes := m.describe(t, b)
		dev.failAfter = fail
		err = func() error {
			for _, it := range m.items[1:] {
				if it.h.Size == 0 {
					continue
				}
				if err := b.Data(nodes[it.path], &reader{it: it}); err != nil {
					return err
				}
			}
			return b.Close()
		}()
		if err == nil {
			if fail < 2000 {
				t.Fatalf("only %d writes", fail)
			}
			return
		}
		if !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("write %d failed with %v", fail, err)
		}
		if s := dev.blocks[0]; s != nil {
			t.Fatalf("write %d failed, and there is a superblock", fail)
		}
	}
}

// TestNeed builds trees on devices of exactly the size that a plan asks for, and on the next
// smaller ones, which must refuse them in one line and by the same number.
func TestNeed(t *testing.T) {
	trees := map[string]*model{"everything": everything(20000), "empty": {}}
	large := &model{}
	large.file("large", 700<<20, 1)
	trees["large"] = large
	inodes := &model{}
	inodes.dir("d")
	for i := range 40000 {
		inodes.add(item{path: fmt.Sprintf("d/%d", i), h: Header{Mode: format.ModeFIFO}})
	}
	trees["inodes"] = inodes
	attributes := &model{}
	for i := range 3000 {
		attributes.add(item{path: fmt.Sprint(i), h: Header{Mode: format.ModeFIFO, Xattrs: map[string][]byte{"user.x": bytes.Repeat([]byte(fmt.Sprint(i)), 100)}}})
	}
	trees["attributes"] = attributes
	for name, m := range trees {
		for _, o := range []Options{{}, {BlockSize: 1024}, {Features: []string{"^extent", "^64bit"}}, {NoJournal: true, Features: []string{"^resize_inode"}},
			{BlockSize: 1024, Features: []string{"orphan_file", "quota", "project"}}} {
			t.Run(fmt.Sprintf("%s/%d%v", name, o.BlockSize, o.Features), func(t *testing.T) {
				m := m
				if name == "everything" {
					m = smaller(m, max(o.BlockSize, 1024), true) // no hole of 1 TiB: the plan counts it
				}
				plan, err := NewBuilder(nil, o)
				if err != nil {
					t.Fatal(err)
				}
				m.build(t, plan)
				need, err := plan.Need()
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("needs %s", sizeString(need))
				build := func(size int64) error {
					b, err := NewBuilder(discard(size), o)
					if err != nil {
						return err
					}
					nodes := m.describe(t, b)
					fits := b.Fits()
					for _, it := range m.items {
						if it.h.Mode&format.ModeType == format.ModeRegular && it.h.Size > 0 && err == nil && it.link == "" {
							_, err = b.Place(nodes[it.path], nil)
						}
					}
					if err == nil {
						err = b.Close()
					}
					if fits == nil && err != nil {
						t.Errorf("Fits saw no problem, but %v", err)
					}
					return fits
				}
				if err := build(need); err != nil {
					t.Errorf("a device of the size that the plan asks for: %v", err)
				}
				err = build(need - 8<<20)
				var space *SpaceError
				var small *tooSmall
				if !errors.Is(err, unix.ENOSPC) && !errors.As(err, &small) {
					t.Errorf("8 MiB less: %v", err)
				}
				want := fmt.Sprintf("does not fit in %s: needs at least %s", sizeString(need-8<<20), sizeString(need))
				if errors.As(err, &space) && (space.Need != need || space.Error() != want) {
					t.Errorf("8 MiB less: %v, want %s", err, want)
				}
			})
		}
	}
}

// discard is a Device of that size that keeps nothing.
type discard int64

func (d discard) Size() int64                            { return int64(d) }
func (d discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// TestNeedIsLargerThanWhatFailed asks for inodes that a smaller device would have: mke2fs gives
// devices below 512 MiB four times as many for their size.
func TestNeedIsLargerThanWhatFailed(t *testing.T) {
	b, err := NewBuilder(discard(600<<20), fixed())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60000 {
		if _, err := b.Add(b.Root(), fmt.Sprint(i), Header{Mode: format.ModeFIFO}); err != nil {
			t.Fatal(err)
		}
	}
	var space *SpaceError
	if err := b.Fits(); !errors.As(err, &space) || space.Need <= space.Have || space.Need != 937<<20 {
		t.Errorf("60,011 inodes on 600 MiB: %v", err)
	}
}

func BenchmarkBuilder(b *testing.B) {
	names := make([]string, 7000)
	for i := range names {
		names[i] = fmt.Sprintf("some-file-name-%d", i)
	}
	for b.Loop() {
		builder, err := NewBuilder(discard(16<<30), fixed())
		if err != nil {
			b.Fatal(err)
		}
		dir := builder.Root()
		for i, name := range names {
			h := Header{Mode: format.ModeRegular | 0o644, Size: 30000}
			if i%10 == 0 {
				if dir, err = builder.Add(builder.Root(), name, Header{Mode: format.ModeDir | 0o755}); err != nil {
					b.Fatal(err)
				}
				continue
			}
			n, err := builder.Add(dir, name, h)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := builder.Place(n, nil); err != nil {
				b.Fatal(err)
			}
		}
		if err := builder.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTooFewInodes(t *testing.T) {
	b, err := NewBuilder(newSparse(64<<20), Options{Inodes: 32})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := b.Add(b.Root(), fmt.Sprint(i), Header{Mode: format.ModeFIFO}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "32 inodes") {
		t.Errorf("111 inodes of 32: %v", err)
	}
}

// fsck runs e2fsck -fn.
func fsck(t testing.TB, image string) (string, error) {
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", image).CombinedOutput()
	return string(out), err
}

func FuzzACL(f *testing.F) {
	f.Add(acl([3]uint32{aclUserObj, 7, nobody}, [3]uint32{aclUser, 5, 1000}, [3]uint32{aclGroupObj, 5, nobody}, [3]uint32{aclMask, 5, nobody}, [3]uint32{aclOther, 1, nobody}))
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, wire []byte) {
		disk, err := encodeACL(wire)
		if err != nil {
			return
		}
		// Back into the wire form, the way a kernel reads it.
		back := le.AppendUint32(nil, 2)
		for d := disk[4:]; len(d) > 0; {
			id, n := uint32(nobody), 4
			if tag := le.Uint16(d); tag == aclUser || tag == aclGroup {
				id, n = le.Uint32(d[4:]), 8
			} else {
				id = le.Uint32(wire[len(back)+4:]) // not kept: any will do
			}
			back = append(append(back, d[:4]...), le.AppendUint32(nil, id)...)
			d = d[n:]
		}
		if !bytes.Equal(back, wire) {
			t.Errorf("%x became %x", wire, disk)
		}
	})
}
