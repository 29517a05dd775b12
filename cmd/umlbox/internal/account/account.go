// Package account reads the user database of the guest: /etc/passwd,
// /etc/group and /etc/shadow, as passwd(5), group(5) and shadow(5) describe
// them. A line that is not of that form is passed over.
package account

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxLine bounds a line of the databases; a longer one ends the reading.
const maxLine = 64 << 10

// User is an entry of /etc/passwd.
type User struct {
	Name, Password string
	UID, GID       uint32
	Gecos          string
	Home, Shell    string
}

// Group is an entry of /etc/group.
type Group struct {
	Name    string
	GID     uint32
	Members []string
}

// Database is the user database at one moment. Its zero value is empty.
type Database struct {
	Users  []User
	Groups []Group
}

// Load reads the databases of the running system. A missing file is an empty
// one: a guest without /etc/passwd still has numeric owners.
func Load() Database {
	var db Database
	eachLine("/etc/passwd", func(line string) {
		if u, ok := parseUser(line); ok {
			db.Users = append(db.Users, u)
		}
	})
	eachLine("/etc/group", func(line string) {
		if g, ok := parseGroup(line); ok {
			db.Groups = append(db.Groups, g)
		}
	})
	return db
}

// User finds a user by name.
func (db *Database) User(name string) (User, bool) {
	for _, u := range db.Users {
		if u.Name == name {
			return u, true
		}
	}
	return User{}, false
}

// UserName is the name of uid, or its number when it has none.
func (db *Database) UserName(uid uint32) string {
	for _, u := range db.Users {
		if u.UID == uid {
			return u.Name
		}
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// GroupName is the name of gid, or its number when it has none.
func (db *Database) GroupName(gid uint32) string {
	for _, g := range db.Groups {
		if g.GID == gid {
			return g.Name
		}
	}
	return strconv.FormatUint(uint64(gid), 10)
}

// UID resolves a user name or a decimal number.
func (db *Database) UID(name string) (uint32, bool) {
	if u, ok := db.User(name); ok {
		return u.UID, true
	}
	return number(name)
}

// GID resolves a group name or a decimal number.
func (db *Database) GID(name string) (uint32, bool) {
	for _, g := range db.Groups {
		if g.Name == name {
			return g.GID, true
		}
	}
	return number(name)
}

// GroupIDs lists the groups of a user: the primary one first, then those that
// name it as a member.
func (db *Database) GroupIDs(u User) []uint32 {
	ids := []uint32{u.GID}
	for _, g := range db.Groups {
		for _, m := range g.Members {
			if m == u.Name && g.GID != u.GID {
				ids = append(ids, g.GID)
				break
			}
		}
	}
	return ids
}

// Hash is the password hash of a user: the one in /etc/shadow if /etc/passwd
// refers to it, else the one in /etc/passwd. An empty hash means that no
// password is asked for.
func Hash(u User) (string, error) {
	if u.Password != "x" {
		return u.Password, nil
	}
	hash, found := "", false
	err := eachLine("/etc/shadow", func(line string) {
		name, rest, ok := strings.Cut(line, ":")
		if ok && name == u.Name && !found {
			hash, _, _ = strings.Cut(rest, ":")
			found = true
		}
	})
	if err != nil {
		return "", err
	}
	if !found {
		return "", errors.New("/etc/shadow: no entry for " + u.Name)
	}
	return hash, nil
}

func parseUser(line string) (User, bool) {
	f := strings.Split(line, ":")
	if len(f) != 7 || f[0] == "" {
		return User{}, false
	}
	uid, ok1 := number(f[2])
	gid, ok2 := number(f[3])
	return User{f[0], f[1], uid, gid, f[4], f[5], f[6]}, ok1 && ok2
}

func parseGroup(line string) (Group, bool) {
	f := strings.Split(line, ":")
	if len(f) != 4 || f[0] == "" {
		return Group{}, false
	}
	gid, ok := number(f[2])
	g := Group{Name: f[0], GID: gid}
	if f[3] != "" {
		g.Members = strings.Split(f[3], ",")
	}
	return g, ok
}

func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// eachLine calls f for the lines of a file. A missing file has none.
func eachLine(path string, f func(string)) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	return scan(file, f)
}

func scan(r io.Reader, f func(string)) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		f(s.Text())
	}
	return s.Err()
}
