package ext4

import (
	"errors"
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Replace gives the name of a file that is no directory to target, which may have been
// without a name (CreateUnlinked). It is one change: at no moment, and after no crash, the
// name is missing or names anything but one of the two.
func (n *Inode) Replace(name string, target *Inode) error {
	var old *Inode
	err := n.fs.retry(func() (err error) {
		if old != nil {
			if err := old.Put(); err != nil {
				return err
			}
		}
		old, err = n.replace(name, target)
		return err
	})
	return putAlso(old, err)
}

// replace returns the inode that lost its name, for the caller to put.
func (n *Inode) replace(name string, target *Inode) (*Inode, error) {
	if target.fs != n.fs {
		return nil, fmt.Errorf("ext4: replace %q: %w", name, unix.EXDEV)
	}
	if target.isDir() {
		return nil, fmt.Errorf("ext4: replace %q by a directory: %w", name, unix.EPERM)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p, old, err := n.named("replace", name)
	if err != nil {
		return nil, err
	}
	switch {
	case old == target:
		return old, nil
	case old.isDir():
		return old, fmt.Errorf("ext4: replace %q: %w", name, unix.EISDIR)
	case n.crossesProject(target):
		return old, errOtherProject("link", name)
	}
	h, err := n.fs.begin()
	if err != nil {
		return old, err
	}
	defer h.end()
	if err := target.takeLink(h, "replace", name); err != nil {
		return old, err
	}
	if err := n.setEntry(h, p, target.ino, format.TypeOfMode(target.typ)); err != nil {
		return old, errors.Join(err, n.fs.dropLink(h, target))
	}
	if err := n.fs.settleOrphan(h, target); err != nil {
		return old, err
	}
	return old, n.fs.dropLink(h, old)
}
