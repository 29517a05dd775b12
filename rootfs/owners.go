package rootfs

import (
	"fmt"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// IDs maps Count numbers of users or groups from Host upwards to Image upwards.
type IDs struct{ Host, Image, Count uint32 }

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

// Owners says who owns the files of an image whose source was read by someone who is
// not root, or in a user namespace. The zero value leaves all owners as they are.
type Owners struct {
	// All, where set, owns everything.
	All *Owner

	// Users and Groups map numbers; what no range holds stays as it is. The first range
	// that holds a number counts.
	Users, Groups []IDs
}

func shift(ranges []IDs, id uint32) uint32 {
	for _, r := range ranges {
		if id >= r.Host && id-r.Host < r.Count {
			return r.Image + (id - r.Host)
		}
	}
	return id
}

// apply changes the owners of a tree, also those that access control lists name.
func (o *Owners) apply(t *tree.Tree) error {
	if o.All == nil && len(o.Users) == 0 && len(o.Groups) == 0 {
		return nil
	}
	change := func(path string, n *tree.Node) error {
		n.UID, n.GID = shift(o.Users, n.UID), shift(o.Groups, n.GID)
		if o.All != nil {
			n.UID, n.GID = o.All.UID, o.All.GID
		}
		for _, name := range []string{tree.ACLAccess, tree.ACLDefault} {
			value, ok := n.Xattrs[name]
			if !ok {
				continue
			}
			entries, err := tree.DecodeACL(value)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", path, name, err)
			}
			for i := range entries {
				switch e := &entries[i]; e.Tag {
				case tree.ACLUser:
					e.ID = shift(o.Users, e.ID)
				case tree.ACLGroup:
					e.ID = shift(o.Groups, e.ID)
				}
			}
			n.Xattrs[name] = tree.EncodeACL(entries)
		}
		return nil
	}
	if err := change("/", t.Root); err != nil {
		return err
	}
	return t.Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, first bool) error {
		if !first {
			return nil
		}
		return change(path, n)
	})
}
