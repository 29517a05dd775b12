package rootfs

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// layout carries a tree over to a file system that is being built, and remembers what
// is to be copied where.
type layout struct {
	b       *mkfs.Builder
	store   *store // nil for a plan
	options *Options
	sum     Summary
	jobs    []job
	total   int64                     // bytes to copy
	inodes  map[*tree.Node]*mkfs.Node // of files with several names
}

// job is a file whose content is to be copied.
type job struct {
	path    string
	content tree.Content
	size    int64
	extents []mkfs.Extent
}

// run adds everything, then places file content in the same order. Nothing is
// written.
func (l *layout) run(t *tree.Tree) error {
	l.inodes = make(map[*tree.Node]*mkfs.Node)
	root := l.b.Root()
	if err := l.b.SetHeader(root, l.header(t.Root)); err != nil {
		return fmt.Errorf("/: %w", err)
	}
	l.sum.Directories++
	builders := map[*tree.Node]*mkfs.Node{t.Root: root}
	var files []placing
	err := t.Walk(func(path string, dir *tree.Node, name string, n *tree.Node, first bool) error {
		file, err := l.add(builders[dir], name, n, first)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if n.IsDir() {
			builders[n] = file
		}
		if first && n.IsRegular() && n.Size > 0 && !l.placed(n) {
			files = append(files, placing{path, n, file})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if l.store != nil {
		if err := l.store.drop(t); err != nil {
			return err
		}
	}
	if t.Root.Child("lost+found") == nil {
		l.sum.Directories++
		l.sum.Inodes++
		l.sum.Names++
	}
	l.sum.Inodes++
	l.jobs = make([]job, 0, len(files))
	for _, f := range files {
		if err := l.place(f); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return nil
}

// placing is a file that waits for its place.
type placing struct {
	path string
	node *tree.Node
	file *mkfs.Node
}

// placed says whether the content is in the image already.
func (l *layout) placed(n *tree.Node) bool {
	_, ok := n.Content.(*stored)
	return ok && l.store != nil
}

// add gives one name to a node, which is made with its first name.
func (l *layout) add(parent *mkfs.Node, name string, n *tree.Node, first bool) (*mkfs.Node, error) {
	l.sum.Names++
	if !first {
		return nil, l.b.Link(parent, name, l.inodes[n])
	}
	l.sum.Inodes++
	switch n.Type() {
	case unix.S_IFREG:
		l.sum.Files++
		for _, r := range n.Runs() {
			l.sum.Bytes += r.Len
		}
	case unix.S_IFDIR:
		l.sum.Directories++
	case unix.S_IFLNK:
		l.sum.Symlinks++
	default:
		l.sum.Others++
	}
	var file *mkfs.Node
	var err error
	if l.placed(n) {
		file = n.Content.(*stored).node
		if err = l.b.SetHeader(file, l.header(n)); err == nil {
			err = l.b.Link(parent, name, file)
		}
	} else {
		file, err = l.b.Add(parent, name, l.header(n))
	}
	if err == nil && n.Names() > 1 {
		l.inodes[n] = file
	}
	return file, err
}

func (l *layout) place(f placing) error {
	n := f.node
	var regions []mkfs.Region // nil: all of it
	if n.Data != nil || n.Content == nil {
		regions = make([]mkfs.Region, 0, len(n.Data))
		for _, r := range n.Runs() {
			regions = append(regions, mkfs.Region{Offset: r.Off, Length: r.Len})
		}
	}
	extents, err := l.b.Place(f.file, regions)
	if err != nil {
		return err
	}
	for _, e := range extents {
		l.total += e.Length
	}
	if len(extents) > 0 && n.Content != nil {
		l.jobs = append(l.jobs, job{f.path, n.Content, n.Size, extents})
	}
	return nil
}

// beside adds, to a plan, content that has no name in the tree. It took its place, and
// its inode, when it was read.
func (l *layout) beside(contents []*stored) error {
	if len(contents) == 0 {
		return nil
	}
	dir, err := l.b.Add(l.b.Root(), ".replaced-"+rand.Text(), mkfs.Header{Mode: unix.S_IFDIR | 0o700})
	if err != nil {
		return err
	}
	for i, c := range contents {
		n := &tree.Node{Mode: unix.S_IFREG | 0o600, Size: c.size, Data: c.data, Content: c}
		file, err := l.add(dir, strconv.Itoa(i), n, true)
		if err == nil {
			err = l.place(placing{"what was replaced", n, file})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// header is what an inode of the image says.
func (l *layout) header(n *tree.Node) mkfs.Header {
	o := l.options
	return mkfs.Header{
		Mode: uint16(n.Mode), UID: n.UID, GID: n.GID, Major: n.Major, Minor: n.Minor,
		Size: n.Size, Xattrs: n.Xattrs, Target: n.Target,
		Atime: o.atime(n), Mtime: o.stamp(n.Mtime), Ctime: stamp(o.Filesystem.Time), Btime: stamp(o.Filesystem.Time),
	}
}

func (o *Options) atime(n *tree.Node) mkfs.Time {
	if o.Reproducible {
		return o.stamp(n.Mtime)
	}
	return o.stamp(n.Atime)
}

// stamp is a time of the source as it goes into the image.
func (o *Options) stamp(t time.Time) mkfs.Time {
	if t.IsZero() || o.Reproducible && t.After(o.Filesystem.Time) {
		t = o.Filesystem.Time
	}
	return stamp(t)
}

// The range of ext4's times, as the kernel cuts them: 1901-12-13 to 2446-05-10.
const (
	oldest = -1 << 31
	newest = 1<<34 - 1<<31 - 1
)

func stamp(t time.Time) mkfs.Time {
	sec := t.Unix()
	switch {
	case sec < oldest:
		return mkfs.Time{Sec: oldest}
	case sec > newest:
		return mkfs.Time{Sec: newest}
	}
	return mkfs.Time{Sec: sec, Nsec: uint32(t.Nanosecond())}
}
