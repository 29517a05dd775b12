package volume

import (
	"context"
	"fmt"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// maxDepth bounds how deep directories nest, as package tree does.
const maxDepth = 4096

// maxFiles bounds how many files of a volume other than ext4 are read into one tree: a
// damaged one can hold a directory in itself.
const maxFiles = 1 << 20

// Read makes a tree of a file and all below it. Names of one file are one node. Contents
// are read when they are wanted, until the volume is closed.
func (v *Volume) Read(ctx context.Context, n Node, name string) (*tree.Node, error) {
	r := treeReader{ctx: ctx, v: v, seen: make(map[uint64]*tree.Node)}
	return r.read(n, name, 0)
}

type treeReader struct {
	ctx   context.Context
	v     *Volume
	seen  map[uint64]*tree.Node // files of several names
	above []uint64              // directories on the way
	count int
}

func (r *treeReader) read(n Node, name string, depth int) (*tree.Node, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	a := n.Attr()
	shared := a.Links > 1 && a.Mode&format.ModeType != format.ModeDir
	if had := r.seen[n.Number()]; shared && had != nil {
		return had, nil
	}
	if r.count++; r.count > maxFiles && r.v.ext == nil {
		return nil, fmt.Errorf("more than %d files", maxFiles)
	}
	t, err := r.node(n, a)
	if err != nil {
		return nil, &PathError{Path: name, Err: err}
	}
	if shared {
		r.seen[n.Number()] = t
	}
	if !t.IsDir() {
		return t, nil
	}
	if depth >= maxDepth {
		return nil, &PathError{Path: fmt.Sprintf("%.60s…", name), Err: fmt.Errorf("directories nest deeper than %d", maxDepth)}
	}
	for _, up := range r.above {
		if up == n.Number() {
			return nil, &PathError{Path: name, Err: fmt.Errorf("a directory lies in itself: %w", unix.EUCLEAN)}
		}
	}
	r.above = append(r.above, n.Number())
	defer func() { r.above = r.above[:len(r.above)-1] }()
	names, err := n.Names()
	if err != nil {
		return nil, &PathError{Path: name, Err: err}
	}
	t.Reserve(len(names))
	for _, entry := range names {
		full := path.Join(name, entry)
		child, err := n.Lookup(entry)
		if err != nil {
			return nil, &PathError{Path: full, Err: err}
		}
		c, err := r.read(child, full, depth+1)
		if cerr := child.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		if err := t.Set(entry, c); err != nil {
			return nil, &PathError{Path: full, Err: err}
		}
	}
	return t, nil
}

func (r *treeReader) node(n Node, a Attr) (*tree.Node, error) {
	t := &tree.Node{
		Mode: uint32(a.Mode), UID: a.UID, GID: a.GID, Major: a.Major, Minor: a.Minor,
		Atime: hostTime(a.Atime), Mtime: hostTime(a.Mtime), Ctime: hostTime(a.Ctime),
	}
	var err error
	switch t.Type() {
	case unix.S_IFREG:
		t.Size = a.Size
		if t.Data, err = n.Runs(); err != nil {
			return nil, err
		}
		if t.Size > 0 {
			t.Content = r.v.content(n)
		}
	case unix.S_IFLNK:
		if t.Target, err = n.Readlink(); err != nil {
			return nil, err
		}
	case unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return nil, fmt.Errorf("a file of type %#o: %w", t.Type(), unix.EUCLEAN)
	}
	t.Xattrs, err = n.Xattrs()
	return t, err
}

// hostTime is never the zero time, which a tree takes for none.
func hostTime(t format.Time) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// content finds a file again when it is to be read.
func (v *Volume) content(n Node) tree.Content {
	if e, ok := n.(Ext); ok {
		return extContent{v, e.Inode.Number()}
	}
	return mediaContent{n}
}

type extContent struct {
	v   *Volume
	ino uint32
}

// Open implements tree.Content.
func (c extContent) Open() (tree.Reader, error) {
	n, err := c.v.ext.Inode(c.ino)
	if err != nil {
		return nil, err
	}
	return nodeReader{Ext{n}}, nil
}

type mediaContent struct{ n Node }

// Open implements tree.Content.
func (c mediaContent) Open() (tree.Reader, error) { return nodeReader{c.n}, nil }

type nodeReader struct{ Node }

// Host implements tree.Reader.
func (nodeReader) Host(tree.Region) (*os.File, int64) { return nil, 0 }
