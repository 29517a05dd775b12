package system

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Id shows who a user is.
func Id(e *applet.Env, args []string) error {
	var user, group, groups, name, real bool
	var o applet.Options
	o.Bool(&user, 'u', "user")
	o.Bool(&group, 'g', "group")
	o.Bool(&groups, 'G', "groups")
	o.Bool(&name, 'n', "name")
	o.Bool(&real, 'r', "real")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if (name || real) && !user && !group && !groups {
		return applet.Usagef("cannot print only names or real IDs in default format")
	}
	db := account.Load()
	if len(names) == 0 {
		names = []string{""}
	}
	for _, n := range names {
		who, err := whoIs(&db, n)
		if err != nil {
			e.Warn(err)
			continue
		}
		uid, gid := who.euid, who.egid
		if real {
			uid, gid = who.uid, who.gid
		}
		show := func(id uint32, kind string, lookup func(uint32) string) string {
			number := strconv.FormatUint(uint64(id), 10)
			if !name {
				return number
			}
			text := lookup(id)
			if text == number {
				e.Warnf("cannot find name for %s ID %s", kind, number)
			}
			return text
		}
		switch {
		case user:
			fmt.Fprintln(e.Stdout, show(uid, "user", db.UserName))
		case group:
			fmt.Fprintln(e.Stdout, show(gid, "group", db.GroupName))
		case groups:
			var list []string
			for _, g := range who.groups {
				list = append(list, show(g, "group", db.GroupName))
			}
			fmt.Fprintln(e.Stdout, strings.Join(list, " "))
		default:
			fmt.Fprintln(e.Stdout, who.full(&db))
		}
	}
	return nil
}

type identityOf struct {
	uid, gid, euid, egid uint32
	groups               []uint32
}

// whoIs describes a user, or this process for "".
func whoIs(db *account.Database, name string) (identityOf, error) {
	if name != "" {
		u, ok := db.User(name)
		if uid, isUID := db.UID(name); !ok && isUID {
			for _, x := range db.Users {
				if x.UID == uid {
					u, ok = x, true
					break
				}
			}
		}
		if !ok {
			return identityOf{}, fmt.Errorf("%s: no such user", applet.Quote(name))
		}
		return identityOf{u.UID, u.GID, u.UID, u.GID, db.GroupIDs(u)}, nil
	}
	w := identityOf{uint32(unix.Getuid()), uint32(unix.Getgid()), uint32(unix.Geteuid()), uint32(unix.Getegid()), nil}
	list, err := os.Getgroups()
	if err != nil {
		return w, err
	}
	w.groups = []uint32{w.egid}
	for _, g := range list {
		if !slices.Contains(w.groups, uint32(g)) {
			w.groups = append(w.groups, uint32(g))
		}
	}
	return w, nil
}

func (w identityOf) full(db *account.Database) string {
	user := func(id uint32) string { return both(id, db.UserName(id)) }
	group := func(id uint32) string { return both(id, db.GroupName(id)) }
	s := "uid=" + user(w.uid) + " gid=" + group(w.gid)
	if w.euid != w.uid {
		s += " euid=" + user(w.euid)
	}
	if w.egid != w.gid {
		s += " egid=" + group(w.egid)
	}
	var list []string
	for _, g := range w.groups {
		list = append(list, group(g))
	}
	return s + " groups=" + strings.Join(list, ",")
}

func both(id uint32, name string) string {
	n := strconv.FormatUint(uint64(id), 10)
	if name == n {
		return n
	}
	return n + "(" + name + ")"
}

// Whoami names the effective user.
func Whoami(e *applet.Env, args []string) error {
	var o applet.Options
	if _, err := o.Parse(args); err != nil {
		return err
	}
	db := account.Load()
	uid := uint32(unix.Geteuid())
	name := db.UserName(uid)
	if _, ok := db.User(name); !ok {
		return fmt.Errorf("cannot find name for user ID %d", uid)
	}
	fmt.Fprintln(e.Stdout, name)
	return nil
}

// Groups names the groups of users.
func Groups(e *applet.Env, args []string) error {
	var o applet.Options
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	db := account.Load()
	show := func(prefix, name string) {
		who, err := whoIs(&db, name)
		if err != nil {
			e.Warn(err)
			return
		}
		var list []string
		for _, g := range who.groups {
			text := db.GroupName(g)
			if text == strconv.FormatUint(uint64(g), 10) {
				e.Warnf("cannot find name for group ID %d", g)
			}
			list = append(list, text)
		}
		fmt.Fprintln(e.Stdout, prefix+strings.Join(list, " "))
	}
	if len(names) == 0 {
		show("", "")
	}
	for _, n := range names {
		show(n+" : ", n)
	}
	return nil
}
