package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/volume"
)

// users are the names that an image itself gives to the numbers of users and groups: this
// machine's are others.
type users struct {
	names, groups map[uint32]string
	ids, gids     map[string]uint32
	login         map[string]uint32 // the group of a user
}

// usersMax bounds the files that are read, in bytes.
const usersMax = 4 << 20

// usersOf reads /etc/passwd and /etc/group of a volume. Without them there are no names.
func usersOf(v *volume.Volume) *users {
	u := &users{
		names: make(map[uint32]string), groups: make(map[uint32]string),
		ids: make(map[string]uint32), gids: make(map[string]uint32), login: make(map[string]uint32),
	}
	read := func(path string, names map[uint32]string, ids map[string]uint32, login map[string]uint32) {
		n, err := v.Find(path, true)
		if err != nil {
			return
		}
		defer n.Close()
		if n.Attr().Mode&format.ModeType != format.ModeRegular {
			return
		}
		text, err := io.ReadAll(io.LimitReader(volume.NewReader(n), usersMax))
		if err != nil {
			return
		}
		for _, line := range strings.Split(string(text), "\n") {
			f := strings.Split(line, ":")
			if len(f) < 3 || f[0] == "" {
				continue
			}
			id, err := parseID(f[2])
			if err != nil {
				continue
			}
			if _, had := ids[f[0]]; !had {
				ids[f[0]] = id
			}
			if _, had := names[id]; !had {
				names[id] = f[0]
			}
			if login != nil && len(f) > 3 {
				if gid, err := parseID(f[3]); err == nil {
					login[f[0]] = gid
				}
			}
		}
	}
	read("/etc/passwd", u.names, u.ids, u.login)
	read("/etc/group", u.groups, u.gids, nil)
	return u
}

func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 1<<32-1 { // nobody's: chown takes it as "leave it"
		return 0, errors.New("no number of a user or group")
	}
	return uint32(id), nil
}

// ownership is what chown is to set; nil leaves it.
type ownership struct{ uid, gid *uint32 }

// parse reads USER, USER:GROUP, USER: (with the user's login group) or :GROUP.
func (u *users) parse(text string) (o ownership, err error) {
	user, group, both := strings.Cut(text, ":")
	find := func(what, name string, ids map[string]uint32) (*uint32, error) {
		if id, ok := ids[name]; ok {
			return &id, nil
		}
		id, err := parseID(strings.TrimPrefix(name, "+"))
		if err != nil {
			return nil, fmt.Errorf("%s %q is neither a number nor in the image: %w", what, name, unix.EINVAL)
		}
		return &id, nil
	}
	if user != "" {
		if o.uid, err = find("user", user, u.ids); err != nil {
			return o, err
		}
	}
	switch {
	case group != "":
		o.gid, err = find("group", group, u.gids)
	case both && user != "":
		gid, ok := u.login[user]
		if !ok {
			return o, fmt.Errorf("user %q has no login group in the image: %w", user, unix.EINVAL)
		}
		o.gid = &gid
	}
	if o.uid == nil && o.gid == nil && err == nil {
		err = fmt.Errorf("owner %q names nobody: %w", text, unix.EINVAL)
	}
	return o, err
}
