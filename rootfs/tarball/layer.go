package tarball

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Layers puts the layers of a container image one over the other, the lowest first. A
// layer is an archive in which a file ".wh.NAME" hides NAME of the layers below and
// ".wh..wh..opq" all that they have in its directory (OCI image specification, "Image
// Layer Filesystem Changeset").
type Layers struct {
	entries int  // of all layers so far
	below   bool // there are layers below
}

// Add reads one more layer, unpacked, from its beginning to its end. The name is for
// messages.
func (l *Layers) Add(ctx context.Context, name string, t *tree.Tree, store tree.Store, r io.Reader) error {
	s := &Source{Path: name, entries: l.entries, layer: newLayer(l.below)}
	err := s.fill(ctx, t, store, &stream{r: r})
	l.entries, l.below = s.entries, true
	return err
}

// layer is what hiding needs to know of the layer that is being read: a whiteout
// hides nothing of its own layer, whether it comes before or after it.
type layer struct {
	below bool
	names map[entryName]bool  // set by this layer
	dirs  map[*tree.Node]bool // hold, at some depth, what this layer set
	clean map[*tree.Node]bool // hold nothing any more of layers below, at no depth
}

func newLayer(below bool) *layer {
	return &layer{below, map[entryName]bool{}, map[*tree.Node]bool{}, map[*tree.Node]bool{}}
}

// entryName is a name in a directory.
type entryName struct {
	dir  *tree.Node
	name string
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	aufs     = ".wh..wh." // what aufs kept for itself in the root, and old images still hold
)

// mark notes that this layer set a path, which is clean and there. The layer may be nil.
func (l *layer) mark(t *tree.Tree, name string) error {
	if l == nil || !l.below {
		return nil
	}
	parent := path.Dir(name) // "." for the root, where Lookup stays
	dir, err := t.Lookup(parent, true)
	if err != nil {
		return err
	}
	l.names[entryName{dir, path.Base(name)}] = true
	for parent != "." && !l.dirs[dir] {
		l.dirs[dir] = true
		parent = path.Dir(parent)
		if dir, err = t.Lookup(parent, true); err != nil {
			return err
		}
	}
	return nil
}

// hide does what an entry asks that is a whiteout, and says whether it is one or else
// nothing for the tree.
func (l *layer) hide(t *tree.Tree, hdr *tar.Header) (bool, error) {
	name, err := Clean(hdr.Name)
	if err != nil || name == "" {
		return false, err
	}
	parts := strings.Split(name, "/")
	last := len(parts) - 1
	if strings.HasPrefix(parts[0], aufs) && name != opaque {
		return true, nil
	}
	for _, part := range parts[:last] {
		if strings.HasPrefix(part, whiteout) {
			return false, errors.New("an entry below a whiteout")
		}
	}
	base := parts[last]
	hidden, ok := strings.CutPrefix(base, whiteout)
	if !ok {
		return false, nil
	}
	if hdr.Size != 0 {
		return false, fmt.Errorf("a whiteout with a content of %d bytes", hdr.Size)
	}
	if base != opaque {
		if err := tree.CheckName(hidden); err != nil {
			return false, fmt.Errorf("a whiteout that hides no file: %w", err)
		}
	}
	if !l.below {
		return true, nil
	}
	dir, err := t.Lookup(path.Dir(name), true)
	if tree.Missing(err) || errors.Is(err, unix.ENOTDIR) {
		return true, nil // nothing is there to be hidden
	}
	if err != nil {
		return false, err
	}
	if base == opaque {
		l.prune(dir)
	} else {
		l.drop(dir, hidden)
	}
	return true, nil
}

// prune takes all out of a directory that layers below put there.
func (l *layer) prune(dir *tree.Node) {
	if l.clean[dir] {
		return
	}
	l.clean[dir] = true
	for _, e := range dir.Entries() {
		l.drop(dir, e.Name)
	}
}

// drop takes a name out of a directory, or what layers below put below it when the name
// is of this layer.
func (l *layer) drop(dir *tree.Node, name string) {
	child := dir.Child(name)
	switch {
	case child == nil:
	case !l.names[entryName{dir, name}] && !l.dirs[child]:
		dir.Remove(name)
	case child.IsDir():
		l.prune(child)
	}
}
