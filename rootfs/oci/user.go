package oci

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// identity is who a program runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32 // gid among them, as container engines have it since CVE-2022-36109
	home     string
}

// accountsMax bounds the image's passwd and group files, in bytes.
const accountsMax = 4 << 20

// findUser reads a configuration's User, "user" or "user:group" by name or number, as
// container engines do: the image's passwd file gives a user's group, and its group file
// the other groups unless a group is named.
func findUser(t *tree.Tree, text string) (identity, error) {
	user, group, grouped := strings.Cut(text, ":")
	if user == "" {
		user = "0"
	}
	id := identity{home: "/"}
	number, err := strconv.ParseUint(user, 10, 32)
	known := err == nil && number <= idMax
	id.uid = uint32(number)
	var name string
	fields, err := find(t, "/etc/passwd", func(f []string) bool {
		uid, ok := idOf(f, 2)
		return len(f) >= 6 && ok && (f[0] == user || known && uid == id.uid)
	})
	switch {
	case err != nil:
		return id, err
	case fields != nil:
		name, id.home = fields[0], fields[5]
		id.uid, _ = idOf(fields, 2)
		id.gid, _ = idOf(fields, 3)
		if id.home == "" {
			id.home = "/"
		}
	case !known:
		return id, errors.New("there is no such user in the image's /etc/passwd")
	}
	if grouped && group != "" {
		err := id.take(t, group)
		id.groups = []uint32{id.gid}
		return id, err
	}
	id.groups = []uint32{id.gid}
	if name == "" {
		return id, nil
	}
	_, err = find(t, "/etc/group", func(f []string) bool {
		if gid, ok := idOf(f, 2); ok && len(f) >= 4 && gid != id.gid && len(id.groups) < groupsMax {
			for _, member := range strings.Split(f[3], ",") {
				if member == name {
					id.groups = append(id.groups, gid)
					break
				}
			}
		}
		return false
	})
	return id, err
}

// groupsMax is how many groups a process may have.
const groupsMax = 65536

// idMax is the largest number of a user or group; the one after it is nobody's.
const idMax = 1<<32 - 2

// take makes a group, by name or number, the only one.
func (id *identity) take(t *tree.Tree, group string) error {
	fields, err := find(t, "/etc/group", func(f []string) bool {
		_, ok := idOf(f, 2)
		return ok && f[0] == group
	})
	if err != nil {
		return err
	}
	if fields != nil {
		id.gid, _ = idOf(fields, 2)
		return nil
	}
	number, err := strconv.ParseUint(group, 10, 32)
	if err != nil || number > idMax {
		return fmt.Errorf("there is no group %.80q in the image's /etc/group", group)
	}
	id.gid = uint32(number)
	return nil
}

// find is the first line of a file of the image, cut at its colons, that fits; nil when
// none does, or there is no file.
func find(t *tree.Tree, path string, fits func(fields []string) bool) ([]string, error) {
	data, err := t.ReadFile(path, accountsMax)
	if tree.Missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimRight(line, "\r\n"), ":"); fits(f) {
			return f, nil
		}
	}
	return nil, nil
}

// idOf is the number in a field.
func idOf(fields []string, i int) (uint32, bool) {
	if i >= len(fields) {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[i], 10, 32)
	return uint32(n), err == nil && n <= idMax
}
