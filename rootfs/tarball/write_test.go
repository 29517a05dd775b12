package tarball

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// randomTree has what an archive can hold, at the ends of what fields can hold.
func randomTree(r *rand.Rand) *tree.Node {
	name := func() string {
		return strings.Repeat(string(rune('a'+r.IntN(26))), []int{1, 5, 99, 100, 101, 200, 255}[r.IntN(7)])
	}
	stamp := func() time.Time {
		return time.Unix([]int64{0, 1, 1e9, 1 << 33, -5, 1 << 35}[r.IntN(6)], []int64{0, 1, 999_999_999, 500_000_000}[r.IntN(4)])
	}
	id := func() uint32 { return []uint32{0, 1000, 0o7777777, 0o7777777 + 1, 1<<32 - 2}[r.IntN(5)] }
	var linked []*tree.Node
	var dir func(depth int) *tree.Node
	dir = func(depth int) *tree.Node {
		d := &tree.Node{Mode: unix.S_IFDIR | r.Uint32N(0o10000), UID: id(), GID: id(), Mtime: stamp()}
		for range r.IntN(8) {
			n := &tree.Node{Mode: r.Uint32N(0o10000), UID: id(), GID: id(), Mtime: stamp()}
			switch r.IntN(7) {
			case 0:
				if depth > 0 {
					n = dir(depth - 1)
				} else {
					n.Mode |= unix.S_IFIFO
				}
			case 1:
				n.Mode, n.Target = unix.S_IFLNK|0o777, name()
			case 2:
				n.Mode |= unix.S_IFBLK
				n.Major, n.Minor = r.Uint32N(1<<12), r.Uint32N(1<<20)
			case 3:
				if len(linked) > 0 {
					n = linked[r.IntN(len(linked))]
				} else {
					n.Mode |= unix.S_IFCHR
				}
			default:
				n.Mode |= unix.S_IFREG
				data := make([]byte, r.IntN(3000))
				for i := range data {
					data[i] = byte(i)
				}
				n.Size, n.Content = int64(len(data)), tree.Bytes(data)
				if len(data) > 2000 { // with holes
					n.Data = []tree.Region{{Off: 0, Len: 700}, {Off: 1500, Len: 100}}
					clear(data[700:1500])
					clear(data[1600:])
				} else if len(data) > 1900 {
					n.Data = []tree.Region{}
					clear(data)
				}
				linked = append(linked, n)
			}
			if r.IntN(3) == 0 && n.Xattrs == nil && !n.IsSymlink() {
				n.Xattrs = map[string][]byte{"user.a=b%": []byte("x\ny\x00z"), "user." + strings.Repeat("l", 90): bytes.Repeat([]byte("v"), r.IntN(2000))}
			}
			_ = d.Set(name(), n)
		}
		return d
	}
	return dir(4)
}

func listing(t *testing.T, root *tree.Node) string {
	t.Helper()
	var b strings.Builder
	line := func(path string, n *tree.Node, first bool) {
		fmt.Fprintf(&b, "%s %o %d:%d %d,%d %s %q %t", path, n.Mode, n.UID, n.GID, n.Major, n.Minor, n.Mtime.UTC().Format(time.RFC3339Nano), n.Target, first)
		for _, k := range slices.Sorted(maps.Keys(n.Xattrs)) {
			fmt.Fprintf(&b, " %s=%x", k, n.Xattrs[k])
		}
		if n.IsRegular() {
			data, err := n.Read()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, " %d %v %x", n.Size, n.Runs(), data)
		}
		b.WriteByte('\n')
	}
	line("/", root, true)
	err := (&tree.Tree{Root: root}).Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, first bool) error {
		line(path, n, first)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What is written is read back the same.
func TestWriteRead(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 1))
	rounds := 60
	if oracle.Nightly() {
		rounds = 3000
	}
	for round := range rounds {
		root := randomTree(r)
		var archive bytes.Buffer
		w := &Writer{W: &archive}
		if err := w.Write(context.Background(), "", root); err != nil {
			t.Fatal(err)
		}
		got := tree.New()
		src := &Source{Path: "-", Stdin: &archive}
		if err := src.Fill(context.Background(), got, memoryStore{}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		g, want := strings.Split(listing(t, got.Root), "\n"), strings.Split(listing(t, root), "\n")
		for i := range min(len(g), len(want)) {
			if g[i] != want[i] {
				t.Fatalf("round %d:\n%.500s\nbecame\n%.500s", round, want[i], g[i])
			}
		}
		if len(g) != len(want) {
			t.Fatalf("round %d: %d files became %d", round, len(want), len(g))
		}
	}
}

// memoryStore keeps content in memory.
type memoryStore struct{}

func (memoryStore) Put(size int64, data []tree.Region, r io.Reader) (tree.Content, error) {
	all := make([]byte, size)
	if data == nil {
		data = []tree.Region{{Off: 0, Len: size}}
	}
	for _, run := range data {
		for at, end := run.Off, run.Off+run.Len; at < end; {
			n, err := r.Read(all[at:end])
			if at += int64(n); err != nil && at < end {
				return nil, err
			}
		}
	}
	return tree.Bytes(all), nil
}
