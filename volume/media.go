package volume

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// disk is what the readers of FAT, ISO 9660 and squashfs need of a disk.
type disk interface {
	io.ReaderAt
	Size() int64
}

// readDisk reads all of p from a place of the disk, which must hold it.
func readDisk(d disk, p []byte, off int64) error {
	if off < 0 || off > d.Size() || int64(len(p)) > d.Size()-off {
		return fmt.Errorf("%d bytes at %d lie outside the disk of %d bytes: %w", len(p), off, d.Size(), unix.EUCLEAN)
	}
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// corrupt says what in a filesystem cannot be right.
func corrupt(kind, text string, a ...any) error {
	return fmt.Errorf("%s: %s: %w", kind, fmt.Sprintf(text, a...), unix.EUCLEAN)
}

// mediaNode is a file of a filesystem that is only read. Which one it is of is in its
// functions.
type mediaNode struct {
	parent *mediaNode
	number uint64
	attr   Attr
	target string
	fold   bool // names of the directory are found in any case

	list   func() (map[string]*mediaNode, error)      // of a directory
	read   func(p []byte, off int64) error            // of a regular file, within its size
	runs   func() ([]tree.Region, error)              // nil: no holes are known
	xattrs func() (xattrs map[string][]byte, e error) // nil: none

	mu       sync.Mutex
	children map[string]*mediaNode
}

// entriesMax bounds the names of one directory.
const entriesMax = 1 << 20

// Number implements Node.
func (n *mediaNode) Number() uint64 { return n.number }

// Attr implements Node.
func (n *mediaNode) Attr() Attr { return n.attr }

// Close implements Node.
func (n *mediaNode) Close() error { return nil }

// entries reads a directory, once.
func (n *mediaNode) entries() (map[string]*mediaNode, error) {
	if n.list == nil {
		return nil, unix.ENOTDIR
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.children != nil {
		return n.children, nil
	}
	children, err := n.list()
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		c.parent, c.fold = n, n.fold
	}
	n.children = children
	return children, nil
}

// Lookup implements Node.
func (n *mediaNode) Lookup(name string) (Node, error) {
	children, err := n.entries()
	if err != nil {
		return nil, err
	}
	switch name {
	case ".":
		return n, nil
	case "..":
		if n.parent == nil {
			return n, nil
		}
		return n.parent, nil
	}
	if c := children[name]; c != nil {
		return c, nil
	}
	if n.fold {
		for _, have := range sortedNames(children) {
			if strings.EqualFold(have, name) {
				return children[have], nil
			}
		}
	}
	return nil, unix.ENOENT
}

func sortedNames(children map[string]*mediaNode) []string {
	names := make([]string, 0, len(children))
	for name := range children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Names implements Node.
func (n *mediaNode) Names() ([]string, error) {
	children, err := n.entries()
	if err != nil {
		return nil, err
	}
	return sortedNames(children), nil
}

// Readlink implements Node.
func (n *mediaNode) Readlink() (string, error) {
	if n.attr.Mode&format.ModeType != format.ModeSymlink {
		return "", unix.EINVAL
	}
	return n.target, nil
}

// ReadAt implements Node.
func (n *mediaNode) ReadAt(p []byte, off int64) (int, error) {
	if n.read == nil {
		if n.list != nil {
			return 0, unix.EISDIR
		}
		return 0, unix.EINVAL
	}
	if off < 0 {
		return 0, unix.EINVAL
	}
	var eof error
	if left := max(n.attr.Size-off, 0); int64(len(p)) > left {
		p, eof = p[:left], io.EOF
	}
	if len(p) == 0 {
		return 0, eof
	}
	if err := n.read(p, off); err != nil {
		return 0, err
	}
	return len(p), eof
}

// Runs implements Node.
func (n *mediaNode) Runs() ([]tree.Region, error) {
	if n.runs == nil {
		return nil, nil
	}
	return n.runs()
}

// Xattrs implements Node.
func (n *mediaNode) Xattrs() (map[string][]byte, error) {
	if n.xattrs == nil {
		return nil, nil
	}
	return n.xattrs()
}

// add puts a file into the list of a directory.
func addEntry(list map[string]*mediaNode, kind, name string, n *mediaNode) error {
	if err := tree.CheckName(name); err != nil {
		return fmt.Errorf("%s: %w", kind, errors.Join(unix.EUCLEAN, err))
	}
	if len(list) >= entriesMax {
		return corrupt(kind, "a directory has more than %d names", entriesMax)
	}
	list[name] = n
	return nil
}
