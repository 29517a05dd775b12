// Package tree is what will be in an image, before there is an image: directories,
// files, links and nodes with all their attributes, held in memory by path. Sources
// fill a Tree, settings edit it, and package rootfs lays it out on a disk.
//
// A Node is an inode: a hard link is the same Node under two names. File content is
// not in the Tree; a Content says where it is to be read.
//
// A Tree is not safe for concurrent use; its Contents are.
package tree

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// NameMax is the longest name of a directory entry and PathMax the longest target of
// a symbolic link, in bytes. Both are the kernel's limits.
const (
	NameMax = 255
	PathMax = 4095
)

// maxDepth bounds how deep directories nest. The kernel's own limit on a path of
// one-letter names is 2048.
const maxDepth = 4096

// maxLinks is how many symbolic links Resolve follows, as the kernel does.
const maxLinks = 40

// Node is one inode. The zero value of a time means the time of the build.
type Node struct {
	// Mode is st_mode: the type (unix.S_IFMT) and the permission bits.
	Mode uint32
	UID  uint32
	GID  uint32

	// Major and Minor number the device of a block or character device.
	Major, Minor uint32

	Atime, Mtime, Ctime time.Time

	// Xattrs are extended attributes by full name ("user.note",
	// "security.capability", "system.posix_acl_access"), values as getxattr(2)
	// gives them. It may be nil.
	Xattrs map[string][]byte

	// Target is what a symbolic link points to.
	Target string

	// Size is the length of a regular file in bytes. Data are the runs of it that hold
	// data, in order and apart; all between them is hole. Nil means that all of it
	// is data, an empty slice that all is hole.
	Size int64
	Data []Region

	// Content is what is in the file. It may be nil where nothing is data.
	Content Content

	names    uint32
	children map[string]*Node
}

// Type is the type bits of the mode.
func (n *Node) Type() uint32 { return n.Mode & unix.S_IFMT }

// IsDir says whether the node is a directory.
func (n *Node) IsDir() bool { return n.Type() == unix.S_IFDIR }

// IsRegular says whether the node is a regular file.
func (n *Node) IsRegular() bool { return n.Type() == unix.S_IFREG }

// IsSymlink says whether the node is a symbolic link.
func (n *Node) IsSymlink() bool { return n.Type() == unix.S_IFLNK }

// Names is under how many names the node stands in its tree.
func (n *Node) Names() uint32 { return n.names }

// Child is the node of that name in a directory, or nil.
func (n *Node) Child(name string) *Node { return n.children[name] }

// Len is the number of entries of a directory.
func (n *Node) Len() int { return len(n.children) }

// Entry is a name in a directory and what it names.
type Entry struct {
	Name string
	Node *Node
}

// Entries are a directory's entries, sorted by the bytes of their names.
func (n *Node) Entries() []Entry {
	entries := make([]Entry, 0, len(n.children))
	for name, child := range n.children {
		entries = append(entries, Entry{name, child})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return entries
}

// Reserve makes room for so many entries, so that a large directory is filled
// without growing step by step.
func (n *Node) Reserve(entries int) {
	if n.children == nil && entries > 0 {
		n.children = make(map[string]*Node, entries)
	}
}

// Set puts a node under a name into a directory. What had the name before loses it.
// A directory that is replaced by another directory is the caller's to merge.
func (n *Node) Set(name string, child *Node) error {
	if !n.IsDir() {
		return fmt.Errorf("%q: %w", name, unix.ENOTDIR)
	}
	if err := CheckName(name); err != nil {
		return err
	}
	if child.IsDir() && child.names > 0 {
		return fmt.Errorf("%q: a directory has one name only: %w", name, unix.EPERM)
	}
	n.Remove(name)
	if n.children == nil {
		n.children = make(map[string]*Node)
	}
	n.children[name] = child
	child.names++
	return nil
}

// Remove takes a name out of a directory, with all that is below it.
func (n *Node) Remove(name string) {
	child := n.children[name]
	if child == nil {
		return
	}
	delete(n.children, name)
	child.names--
	// The tree below is let go of iteratively: it may be deep.
	pending := []*Node{child}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if dir.names > 0 {
			continue
		}
		for _, c := range dir.children {
			c.names--
			pending = append(pending, c)
		}
		dir.children = nil
	}
}

// Take takes a name out of a directory and leaves what is below it as it is, for another
// directory.
func (n *Node) Take(name string) *Node {
	child := n.children[name]
	if child != nil {
		delete(n.children, name)
		child.names--
	}
	return child
}

// CheckName says what is wrong with the name of a directory entry.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is no name for a file: %w", name, unix.EINVAL)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q holds a slash or a NUL: %w", name, unix.EINVAL)
	case len(name) > NameMax:
		return fmt.Errorf("name %.40q… is %d bytes long, the limit is %d: %w", name, len(name), NameMax, unix.ENAMETOOLONG)
	}
	return nil
}

// Tree is a root directory and all that is below it.
type Tree struct {
	// Root is a directory. It may be replaced by a source before it adds to it.
	Root *Node
}

// New is a tree of an empty root directory, rwxr-xr-x and root's.
func New() *Tree {
	return &Tree{Root: &Node{Mode: unix.S_IFDIR | 0o755}}
}

// split cuts a path at its slashes; empty parts and "." are left out.
func split(path string) []string {
	parts := strings.Split(path, "/")
	return slices.DeleteFunc(parts, func(p string) bool { return p == "" || p == "." })
}

// place is where a path leads: a name in a directory, and the node there if any. The
// root has neither directory nor name.
type place struct {
	dir  *Node
	name string
	node *Node
}

// walk goes along a path from the root, through symbolic links on the way, as chroot(2)
// into the tree would: links stay inside and ".." of the root is the root. The last
// part is followed too when follow is set. With make, missing directories on the way
// are made.
func (t *Tree) walk(path string, follow bool, make func() *Node) (place, error) {
	type step struct {
		dir  *Node
		name string
	}
	var trail []step // how the present directory was reached
	at := place{node: t.Root}
	todo := split(path)
	slices.Reverse(todo)
	links := 0
	for len(todo) > 0 {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if at.node == nil {
			if make == nil {
				return place{}, fmt.Errorf("%s: %w", path, unix.ENOENT)
			}
			dir := make()
			if err := at.dir.Set(at.name, dir); err != nil {
				return place{}, fmt.Errorf("%s: %w", path, err)
			}
			at.node = dir
		}
		if !at.node.IsDir() {
			return place{}, fmt.Errorf("%s: %w", path, unix.ENOTDIR)
		}
		if name == ".." {
			if len(trail) == 0 {
				at = place{node: t.Root}
				continue
			}
			up := trail[len(trail)-1]
			trail = trail[:len(trail)-1]
			at = place{node: up.dir}
			if len(trail) > 0 {
				at.dir, at.name = trail[len(trail)-1].dir, trail[len(trail)-1].name
			}
			continue
		}
		child := at.node.Child(name)
		if child != nil && child.IsSymlink() && (follow || len(todo) > 0) {
			if links++; links > maxLinks {
				return place{}, fmt.Errorf("%s: %w", path, unix.ELOOP)
			}
			if strings.HasPrefix(child.Target, "/") {
				trail, at = nil, place{node: t.Root}
			}
			parts := split(child.Target)
			slices.Reverse(parts)
			todo = append(todo, parts...)
			continue
		}
		if len(trail) >= maxDepth {
			return place{}, fmt.Errorf("%.60s…: directories nest deeper than %d: %w", path, maxDepth, unix.ENAMETOOLONG)
		}
		trail = append(trail, step{at.node, name})
		at = place{dir: at.node, name: name, node: child}
	}
	return at, nil
}

// Lookup is the node at a path inside the tree. Symbolic links on the way are followed
// inside the tree; the last one too when follow is set. A missing node is unix.ENOENT.
func (t *Tree) Lookup(path string, follow bool) (*Node, error) {
	at, err := t.walk(path, follow, nil)
	if err != nil {
		return nil, err
	}
	if at.node == nil {
		return nil, fmt.Errorf("%s: %w", path, unix.ENOENT)
	}
	return at.node, nil
}

// Exists says whether something is at a path, symbolic links followed.
func (t *Tree) Exists(path string) bool {
	n, err := t.Lookup(path, true)
	return err == nil && n != nil
}

// Put sets a node at a path. Missing directories are made (rwxr-xr-x, root's); symbolic
// links on the way are followed, a symbolic link at the end is replaced.
func (t *Tree) Put(path string, node *Node) error {
	at, err := t.walk(path, false, newDir)
	if err != nil {
		return err
	}
	if at.dir == nil {
		return fmt.Errorf("%s: the root cannot be replaced: %w", path, unix.EBUSY)
	}
	if err := at.dir.Set(at.name, node); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func newDir() *Node { return &Node{Mode: unix.S_IFDIR | 0o755} }

// Mkdir is the directory at a path, made (rwxr-xr-x, root's) with those above it where
// it is missing.
func (t *Tree) Mkdir(path string) (*Node, error) {
	at, err := t.walk(path, true, newDir)
	if err != nil {
		return nil, err
	}
	if at.node == nil {
		at.node = newDir()
		if err := at.dir.Set(at.name, at.node); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if !at.node.IsDir() {
		return nil, fmt.Errorf("%s: %w", path, unix.ENOTDIR)
	}
	return at.node, nil
}

// Symlink makes a symbolic link; what was at the path is replaced.
func (t *Tree) Symlink(target, path string) error {
	if target == "" || len(target) > PathMax || strings.ContainsRune(target, 0) {
		return fmt.Errorf("%s: bad symbolic link target %.40q: %w", path, target, unix.EINVAL)
	}
	return t.Put(path, &Node{Mode: unix.S_IFLNK | 0o777, Target: target})
}

// ReadFile is the content of the regular file at a path, symbolic links followed. A
// file longer than limit bytes is refused.
func (t *Tree) ReadFile(path string, limit int64) ([]byte, error) {
	n, err := t.Lookup(path, true)
	if err != nil {
		return nil, err
	}
	if !n.IsRegular() {
		return nil, fmt.Errorf("%s is no regular file: %w", path, unix.EINVAL)
	}
	if n.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d: %w", path, n.Size, limit, unix.EFBIG)
	}
	return n.Read()
}

// WriteFile gives the regular file at a path a new content. A file that is there
// keeps its owner, mode and attributes, and its other names see the content too; a
// missing one is made with the mode, as root's.
func (t *Tree) WriteFile(path string, data []byte, perm uint32) error {
	at, err := t.walk(path, true, newDir)
	if err != nil {
		return err
	}
	n := at.node
	switch {
	case n == nil:
		n = &Node{Mode: unix.S_IFREG | perm&0o7777}
		if err := at.dir.Set(at.name, n); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	case !n.IsRegular():
		return fmt.Errorf("%s is no regular file: %w", path, unix.EINVAL)
	}
	n.Size, n.Data, n.Content = int64(len(data)), nil, Bytes(data)
	n.Mtime, n.Ctime = time.Time{}, time.Time{}
	return nil
}

// Visit is called for a node at a path; dir and name are where it stands. A node with
// several names is visited for each, first is set for one of them.
type Visit func(path string, dir *Node, name string, n *Node, first bool) error

// Walk visits all below the root, a directory before what is in it, names sorted by
// their bytes: two equal trees are visited in one order. The root itself is not
// visited. An error ends the walk.
func (t *Tree) Walk(visit Visit) error {
	seen := make(map[*Node]bool)
	var walk func(prefix string, dir *Node, depth int) error
	walk = func(prefix string, dir *Node, depth int) error {
		if depth > maxDepth {
			return fmt.Errorf("%.60s…: directories nest deeper than %d: %w", prefix, maxDepth, unix.ENAMETOOLONG)
		}
		for _, e := range dir.Entries() {
			path := prefix + "/" + e.Name
			first := true
			if e.Node.names > 1 {
				first = !seen[e.Node]
				seen[e.Node] = true
			}
			if err := visit(path, dir, e.Name, e.Node, first); err != nil {
				return err
			}
			if e.Node.IsDir() {
				if err := walk(path, e.Node, depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return walk("", t.Root, 0)
}

// Missing says whether an error means that nothing is at a path.
func Missing(err error) bool { return errors.Is(err, unix.ENOENT) }
