package ext4

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// patience is a context that ends when it was asked so many times.
type patience struct {
	context.Context
	left int
}

func (p *patience) Err() error {
	if p.left--; p.left < 0 {
		return context.Canceled
	}
	return nil
}

// A kernel lets inodes share a block of attributes whose values lie in inodes: a shrinking
// that ends while some have gone over to the block's copy leaves values that both count.
func TestShrinkSharedValues(t *testing.T) {
	needRoot(t)
	image := makeImage(t, 60<<20, "-t", "ext4", "-b", "1024", "-O", "ea_inode", "-I", "128")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	for i := range 5 {
		check(t, must(root.Create(fmt.Sprint("f", i), regular)).Put())
	}
	check(t, root.Put())
	closeFS(t, fs)
	m, umount := mount(t, image, "")
	for i := range 5 {
		for _, x := range []string{"user.a", "user.b"} {
			check(t, unix.Setxattr(filepath.Join(m, fmt.Sprint("f", i)), x, value(3, 5000), 0))
		}
	}
	umount()
	fs = openFS(t, image, Options{}) // the block goes where it will have to move
	h := must(fs.begin())
	var b *buffer
	for i := range 5 {
		n := must(must(fs.Root()).Lookup(fmt.Sprint("f", i)))
		if b == nil {
			b = fs.cache.fresh(must(h.allocBlock(55 << 10)))
			copy(b.data, must(n.xattrBlock()).data)
			b.seen.Store(uint64(kindXattr) << 32)
			h.dirty(b, kindXattr, 0)
			check(t, h.free(n.d.FileACL, 1, true))
		}
		check(t, n.update(h, true, func(d *format.Inode) { d.FileACL = b.nr }))
	}
	h.end()
	if refs := le.Uint32(b.data[4:]); refs != 5 {
		t.Fatalf("%d inodes share the block", refs)
	}
	closeFS(t, fs)
	fsck(t, image)
	var want []string
	between := 0
	for steps, done := 0, false; !done; steps++ {
		copied := image + ".copy"
		tool(t, "cp", "--sparse=always", image, copied)
		fs := openFS(t, copied, Options{})
		if want == nil {
			want = engineTree(t, fs)
		}
		_, err := fs.Shrink(&patience{t.Context(), steps}, 25<<10)
		if done = err == nil; !done && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		root := must(fs.Root())
		blocks := map[uint64]bool{}
		for i := range 5 {
			n := must(root.Lookup(fmt.Sprint("f", i)))
			blocks[n.d.FileACL] = true
			check(t, n.Put())
		}
		if len(blocks) == 2 {
			between++
		}
		check(t, root.Put())
		sameTrees(t, fmt.Sprint("after ", steps), engineTree(t, fs), want)
		closeFS(t, fs)
		fsck(t, copied)
		if len(blocks) < 2 && !done {
			continue
		}
		fs = openFS(t, copied, Options{})
		root = must(fs.Root())
		for i := range 4 {
			check(t, root.Unlink(fmt.Sprint("f", i)))
		}
		last := must(root.Lookup("f4"))
		if got := must(last.Xattr("user.b")); string(got) != string(value(3, 5000)) {
			t.Error("a value is lost")
		}
		check(t, last.Put())
		check(t, root.Put())
		closeFS(t, fs)
		fsck(t, copied)
	}
	if between == 0 {
		t.Error("it never ended between two inodes that share a block")
	}
}
