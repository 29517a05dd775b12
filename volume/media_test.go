package volume

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/tree"
	"github.com/umlkit/umlkit/ubdfmt"
)

// memory is a disk in memory that refuses to be written.
type memory struct{ *bytes.Reader }

func (m memory) Size() int64                        { return m.Reader.Size() }
func (m memory) WriteAt([]byte, int64) (int, error) { return 0, unix.EROFS }
func (m memory) Sync() error                        { return nil }
func (m memory) Trim(int64, int64) error            { return unix.EROFS }
func (m memory) Close() error                       { return nil }
func (m memory) Extents(_, _ int64, _ func(ubdfmt.Extent) bool) error {
	return unix.EOPNOTSUPP
}

func inMemory(b []byte) ubdfmt.Device { return memory{bytes.NewReader(b)} }

// mediaTree is a tree with what the filesystems can hold.
func mediaTree(t testing.TB, plain bool) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(dir, "dir", "deep", "deeper"), 0o755))
	for name, size := range map[string]int{"empty": 0, "small": 10, "dir/A long name, with Ümläuts and more than thirteen letters.text": 5000, "dir/deep/deeper/big": 700_000, "UPPER.TXT": 3} {
		b := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(len(name))}).Read(b)
		check(os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	for i := range 300 { // more than a block of directory
		check(os.WriteFile(filepath.Join(dir, "dir", fmt.Sprintf("file %03d", i)), fmt.Append(nil, i), 0o644))
	}
	if plain {
		return dir
	}
	check(os.WriteFile(filepath.Join(dir, ".dot"), []byte("dot"), 0o600))
	check(os.Symlink("dir/deep", filepath.Join(dir, "link")))
	check(os.Symlink("/"+strings.Repeat("very/", 80)+"../long", filepath.Join(dir, "longlink")))
	check(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o640))
	check(unix.Truncate(filepath.Join(dir, "empty"), 1_000_000)) // one hole
	check(os.Chmod(filepath.Join(dir, "small"), 0o755|os.ModeSetuid))
	if os.Geteuid() == 0 {
		check(unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 300))))
		check(os.Lchown(filepath.Join(dir, "dir"), 7, 70000))
	}
	check(os.Chtimes(filepath.Join(dir, "small"), time.Unix(1e9, 0), time.Unix(1e9, 0)))
	return dir
}

func hostTree(t testing.TB, dir string) *tree.Tree {
	t.Helper()
	src := &hostdir.Source{Path: dir}
	tr := tree.New()
	if err := src.Fill(context.Background(), tr, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return tr
}

func volumeTree(t testing.TB, v *Volume) *tree.Tree {
	t.Helper()
	root, err := v.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	n, err := v.Read(context.Background(), root, "/")
	if err != nil {
		t.Fatal(err)
	}
	return &tree.Tree{Root: n}
}

// describe lists a tree, a line a file.
func describe(t testing.TB, tr *tree.Tree, plain bool) string {
	t.Helper()
	var b strings.Builder
	err := tr.Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, _ bool) error {
		if path == "/lost+found" {
			return nil
		}
		fmt.Fprintf(&b, "%s %#o", path, n.Type())
		if !plain {
			fmt.Fprintf(&b, " %#o %d:%d", n.Mode, n.UID, n.GID)
			if !n.IsSymlink() {
				fmt.Fprintf(&b, " %d", n.Mtime.Unix())
			}
			fmt.Fprintf(&b, " %d,%d %q %v", n.Major, n.Minor, n.Target, n.Xattrs)
		}
		if n.IsRegular() {
			data, err := n.Read()
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			fmt.Fprintf(&b, " %d %x", n.Size, hash(data))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

var made struct {
	once   sync.Once
	images map[string][]byte
}

// mediaImages are images of every kind, made once.
func mediaImages(t testing.TB) map[string][]byte {
	t.Helper()
	made.once.Do(func() { made.images = makeMedia(t) })
	if made.images == nil {
		t.Fatal("the images could not be made")
	}
	return made.images
}

func makeMedia(t testing.TB) map[string][]byte {
	t.Helper()
	full, plain := mediaTree(t, false), mediaTree(t, true)
	dir := t.TempDir()
	images := map[string][]byte{}
	take := func(name string) string {
		return filepath.Join(dir, name)
	}
	keep := func(name string) {
		b, err := os.ReadFile(take(name))
		if err != nil {
			t.Fatal(err)
		}
		images[name] = b
	}
	for _, pack := range []string{"gzip", "xz", "lz4", "zstd"} {
		oracle.Run(t, "mksquashfs", full, take("squashfs "+pack), "-comp", pack, "-quiet", "-no-progress", "-processors", "1")
		keep("squashfs " + pack)
	}
	oracle.Run(t, "mksquashfs", full, take("squashfs plain"), "-noI", "-noD", "-noF", "-noX", "-b", "4096", "-no-fragments", "-quiet", "-no-progress")
	keep("squashfs plain")
	for name, args := range map[string][]string{"iso rock": {"-R"}, "iso joliet": {"-J", "-joliet-long"}, "iso bare": {"-iso-level", "3"}} {
		from := plain
		if name == "iso rock" {
			from = full
		}
		oracle.Run(t, "xorriso", append(append([]string{"-as", "mkisofs", "-quiet"}, args...), "-o", take(name), from)...)
		keep(name)
	}
	for name, args := range map[string][]string{"fat12": {"-F", "12", "-s", "8"}, "fat16": {"-F", "16"}, "fat32": {"-F", "32", "-s", "1"}} {
		size := map[string]string{"fat12": "4096", "fat16": "9000", "fat32": "40000"}[name]
		oracle.Run(t, "mkfs.vfat", append(args, "-n", "LABEL", "-C", take(name), size)...)
		entries, err := filepath.Glob(plain + "/*")
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("MTOOLS_SKIP_CHECK", "1")
		t.Setenv("LC_ALL", "C.UTF-8")
		oracle.Run(t, "mcopy", append(append([]string{"-i", take(name), "-s", "-m"}, entries...), "::/")...)
		keep(name)
	}
	return images
}

// What the tools of others put into a filesystem comes out as it was.
func TestMedia(t *testing.T) {
	full, plain := describe(t, hostTree(t, mediaTree(t, false)), false), describe(t, hostTree(t, mediaTree(t, true)), true)
	full = dropTimes(full)
	for name, image := range mediaImages(t) {
		v, err := Open(inMemory(image), false)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		u, err := v.Usage()
		if err != nil || u.Blocks == 0 || u.Free > u.Blocks {
			t.Errorf("%s: usage %+v, %v", name, u, err)
		}
		rich := strings.HasPrefix(name, "squashfs") || name == "iso rock"
		got := describe(t, volumeTree(t, v), !rich)
		want := plain
		switch {
		case rich:
			want = full
			got = dropTimes(got)
		case name == "iso bare": // names are cut and in one case
			if strings.Count(got, "\n") != strings.Count(want, "\n") || !strings.Contains(got, "/dir/deep/deeper/big 0100000 700000 ") {
				t.Errorf("%s: %s", name, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%s: %s", name, firstDifference(got, want))
		}
		if rich {
			n, err := v.Find("/small", true)
			if err != nil || n.Attr().Mtime.Sec != 1e9 {
				t.Errorf("%s: the time of /small is %v, %v", name, n.Attr().Mtime, err)
			}
			if n, err = v.Find("/link/deeper/../deeper/big", true); err != nil || n.Attr().Size != 700_000 {
				t.Errorf("%s: through a link: %v", name, err)
			}
		}
		if strings.HasPrefix(name, "fat") {
			if _, err := v.Find("/DIR/Deep/DEEPER/Big", true); err != nil {
				t.Errorf("%s: in another case: %v", name, err)
			}
			if u.Type != "vfat" || u.Label != "LABEL" {
				t.Errorf("%s: %+v", name, u)
			}
		}
		if err := v.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Open(inMemory(image), true); err == nil || !strings.Contains(err.Error(), "only read") {
			t.Errorf("%s: opened to write: %v", name, err)
		}
	}
}

// firstDifference is the first line in which two texts differ.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "nothing", "nothing"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d: got\n%s\nwant\n%s", i, a, b)
		}
	}
	return "nothing differs"
}

// dropTimes takes out the times, which differ between two trees.
func dropTimes(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		f := strings.Fields(l)
		for j := range f {
			if j > 2 && len(f[j]) == 10 && strings.Trim(f[j], "0123456789") == "" && f[j][0] == '1' {
				f[j] = "T"
			}
		}
		lines[i] = strings.Join(f, " ")
	}
	return strings.Join(lines, "\n")
}

// usable reads all that a filesystem shows, as far as that is sane: no panic, no end
// of memory, and an end of time.
func usable(image []byte) {
	v, err := Open(inMemory(image), false)
	if err != nil {
		return
	}
	defer v.Close()
	_, _ = v.Usage()
	root, err := v.Root()
	if err != nil {
		return
	}
	defer root.Close()
	left := 2000
	var walk func(n Node, depth int)
	walk = func(n Node, depth int) {
		if left--; left < 0 || depth > 40 {
			return
		}
		_, _ = n.Xattrs()
		_, _ = n.Readlink()
		_, _ = n.Runs()
		buf := make([]byte, 64<<10)
		for _, off := range []int64{0, n.Attr().Size / 2, n.Attr().Size - 10, 1 << 50} {
			_, _ = n.ReadAt(buf, off)
		}
		names, err := n.Names()
		if err != nil {
			return
		}
		for _, name := range names {
			if c, err := n.Lookup(name); err == nil {
				walk(c, depth+1)
				c.Close()
			}
		}
	}
	walk(root, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, _ = v.Read(ctx, root, "/")
}

// Damaged images are errors, not panics, and cost no memory to speak of.
func TestMediaDamaged(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	rounds := 40
	if oracle.Nightly() {
		rounds = 4000
	}
	for name, image := range mediaImages(t) {
		r := rand.New(rand.NewPCG(seed, uint64(len(name))))
		for round := range rounds {
			bad := bytes.Clone(image)
			switch round % 4 {
			case 0: // the beginning, where everything is described
				for range 1 + r.IntN(4) {
					bad[r.IntN(min(len(bad), 96))] = byte(r.Uint32())
				}
			case 1:
				bad = bad[:r.IntN(len(bad))]
			case 2: // metadata of ISO 9660 and FAT, of squashfs at the end
				at := []int{512, 0x8000, len(bad) - 4096}[r.IntN(3)]
				for range 1 + r.IntN(8) {
					bad[min(max(at+r.IntN(4096), 0), len(bad)-1)] = byte(r.Uint32())
				}
			default:
				for range 1 + r.IntN(200) {
					bad[r.IntN(len(bad))] = byte(r.Uint32())
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			usable(bad)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 2<<30 {
				t.Errorf("%s, seed %d, round %d: %d bytes of memory", name, seed, round, used)
			}
		}
	}
}

// fuzzMedia patches images: each four bytes of the input are a place, from the beginning or
// the end, and what is put there.
func fuzzMedia(f *testing.F, prefix string) {
	var names []string
	for name := range mediaImages(f) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for i := range names {
		f.Add(byte(i), false, []byte{0, 0, 11, 3, 0, 0, 32, 255})
		f.Add(byte(i), true, []byte{0, 0, 96, 3, 0, 8, 32, 255})
	}
	images := mediaImages(f)
	f.Fuzz(func(_ *testing.T, which byte, end bool, patch []byte) {
		image := bytes.Clone(images[names[int(which)%len(names)]])
		for ; len(patch) >= 4; patch = patch[4:] {
			at := int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])
			if end {
				at = len(image) - 1 - at
			}
			if at >= 0 && at < len(image) {
				image[at] = patch[3]
			}
		}
		usable(image)
	})
}

func FuzzFAT(f *testing.F)      { fuzzMedia(f, "fat") }
func FuzzISO(f *testing.F)      { fuzzMedia(f, "iso") }
func FuzzSquashfs(f *testing.F) { fuzzMedia(f, "squashfs") }
